"""The Synthesizer: what its weights depend on, and what they are."""

from __future__ import annotations

from functools import partial
from typing import Any, get_args

import pytest
import torch

from assay.measure import parameter_count
from assay.nn.attention.synthesizer import Mode, SynthesizerAttention
from assay.testing import check_mixer

MODES: Any = get_args(Mode)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_keeps_the_contract(mode: Mode) -> None:
    check_mixer(partial(SynthesizerAttention, mode=mode, length=150, rank=3))


@pytest.mark.parametrize("mode", MODES)
def test_the_output_is_the_softmax_of_the_logits_over_the_values(mode: Mode) -> None:
    torch.manual_seed(0)
    layer, x = SynthesizerAttention(8, 2, length=20, mode=mode).double(), torch.randn(2, 13, 8, dtype=torch.float64)
    values = layer.value_projection(x).view(2, 13, 2, 4)
    weights = layer.logits(x).exp()
    weights = weights / weights.sum(-1, keepdim=True)
    expected = torch.einsum("bhij,bjhd->bihd", weights.expand(2, -1, -1, -1), values).flatten(2)
    torch.testing.assert_close(layer(x), layer.output_projection(expected), atol=1e-12, rtol=0)


@pytest.mark.parametrize("mode", ["random", "factorized_random"])
def test_random_weights_are_the_same_for_every_input(mode: Mode) -> None:
    # the layer is then linear in x, up to its biases
    torch.manual_seed(0)
    layer = SynthesizerAttention(8, mode=mode, length=20, bias=False).double()
    x, y = torch.randn(2, 1, 20, 8, dtype=torch.float64)
    torch.testing.assert_close(layer(2 * x - 3 * y), 2 * layer(x) - 3 * layer(y), atol=1e-12, rtol=0)


@pytest.mark.parametrize("mode", ["dense", "factorized_dense"])
def test_dense_weights_depend_on_their_own_position_alone(mode: Mode) -> None:
    torch.manual_seed(0)
    layer, x = SynthesizerAttention(8, mode=mode, length=20).double(), torch.randn(1, 20, 8, dtype=torch.float64)
    changed = x.clone()
    changed[:, 7] += 1
    before, after = layer.weights(x), layer.weights(changed)
    others = torch.arange(20) != 7
    assert torch.equal(before[:, :, others], after[:, :, others])
    assert not torch.equal(before[:, :, 7], after[:, :, 7])


def test_numbers_of_parameters() -> None:
    # values and output 2·(64 + 8); R: 2·10·10; R₁ and R₂: 2·2·10·3; dense: 64 + 8 and 2·4·10; factorised: 64 + 8 and 2·4·(3 + 4)
    counts = {mode: parameter_count(SynthesizerAttention(8, 2, length=10, mode=mode, rank=3)) - 144 for mode in MODES}
    assert counts == {"random": 200, "factorized_random": 120, "dense": 152, "factorized_dense": 128}


@pytest.mark.parametrize("mode", MODES)
def test_masked_positions_may_stand_anywhere(mode: Mode) -> None:
    torch.manual_seed(0)
    layer, x = SynthesizerAttention(8, length=30, mode=mode).double(), torch.randn(2, 30, 8, dtype=torch.float64)
    mask = torch.rand(2, 30) < 0.5
    found, weights = layer(x, mask), layer.weights(x, mask)
    for row in range(2):
        alone = layer.weights(x[row : row + 1, mask[row]])[0]
        torch.testing.assert_close(weights[row][:, mask[row]][:, :, mask[row]], alone, atol=1e-12, rtol=0)
        assert not weights[row][:, :, ~mask[row]].any()
        torch.testing.assert_close(found[row, mask[row]], layer(x[row : row + 1, mask[row]])[0], atol=1e-12, rtol=0)


def test_bad_options_are_refused() -> None:
    unknown: Any = "learned"
    with pytest.raises(ValueError, match="mode must be one of random, factorized_random, dense, factorized_dense, got 'learned'"):
        SynthesizerAttention(8, mode=unknown)
    with pytest.raises(ValueError, match="up to 16 positions, got 17"):
        SynthesizerAttention(8, length=16)(torch.zeros(1, 17, 8))
