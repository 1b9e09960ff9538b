"""LSTM, GRU and Elman mixers: PyTorch's layers, compiled where it pays, and masks of any shape."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from assay.measure import count_flops
from assay.nn.recurrent.reference import GRU, LSTM, Elman
from assay.testing import check_mixer

VARIANTS = {
    "lstm": LSTM,
    "gru": GRU,
    "lstm, two layers": partial(LSTM, layers=2),
    "gru, no bias": partial(GRU, bias=False),
    "elman, logistic": partial(Elman, nonlinearity="sigmoid"),
    "elman, logistic, two layers": partial(Elman, nonlinearity="sigmoid", layers=2, bias=False),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_option_keeps_the_contract(name: str) -> None:
    check_mixer(VARIANTS[name])


@pytest.mark.parametrize(("mixer", "peer"), [(LSTM, nn.LSTM), (GRU, nn.GRU), (Elman, nn.RNN)])
def test_outputs_are_pytorchs(mixer: type, peer: type) -> None:
    """To rounding in float32, where GRU and Elman run compiled, and to the last bit in float64."""
    torch.manual_seed(0)
    ours, theirs = mixer(8, layers=2), peer(8, 8, 2, batch_first=True)
    theirs.load_state_dict(ours.recurrence.state_dict())
    for dtype, bound in ((torch.float32, 1e-6), (torch.float64, 0)):
        ours, theirs, x = ours.to(dtype), theirs.to(dtype), torch.randn(3, 20, 8, dtype=dtype)
        expected, final = theirs(x)
        y, state = ours.scan(x, ours.initial_state(3))
        torch.testing.assert_close(y, expected, atol=bound, rtol=0)
        hidden = final[0] if isinstance(final, tuple) else final
        torch.testing.assert_close(state[0].transpose(0, 1), hidden, atol=bound, rtol=0)


def test_a_layer_that_runs_compiled_can_be_differentiated_forwards() -> None:
    """`torch.func` knows nothing of compiled forms: PyTorch's own layer runs there."""
    torch.manual_seed(0)
    mixer, x, change = GRU(8), torch.randn(2, 20, 8), torch.randn(2, 20, 8)
    _, found = torch.func.jvp(mixer, (x,), (change,))
    expected = (mixer.double()(x.double() + 1e-6 * change) - mixer(x.double() - 1e-6 * change)) / 2e-6
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("mixer", [LSTM, GRU, partial(Elman, nonlinearity="sigmoid")])
def test_masks_with_holes_skip_positions_in_state_and_output(mixer: type) -> None:
    torch.manual_seed(0)
    layer, x = mixer(8).double(), torch.randn(4, 30, 8, dtype=torch.float64)
    mask = torch.rand(4, 30) < 0.5
    mask[3] = False  # a row without anything real keeps its state
    start = tuple(torch.randn_like(part) for part in layer.initial_state(4))
    y, state = layer.scan(x, start, mask)
    for row in range(3):
        alone, final = layer.scan(x[row : row + 1, mask[row]], tuple(part[row : row + 1] for part in start))
        torch.testing.assert_close(y[row, mask[row]], alone[0], atol=1e-12, rtol=0)
        for mine, theirs in zip(state, final, strict=True):
            torch.testing.assert_close(mine[row], theirs[0], atol=1e-12, rtol=0)
    for mine, theirs in zip(state, start, strict=True):
        assert torch.equal(mine[3], theirs[3])
    assert y[~mask].eq(0).all()


def test_every_nonlinearity_is_its_own_and_costs_the_same() -> None:
    """One step by hand for each; the same parameters, of one name, and the same count of operations."""
    torch.manual_seed(0)
    x, layers = torch.randn(2, 1, 8), {name: Elman(8, nonlinearity=name) for name in ("tanh", "relu", "sigmoid")}
    for name, layer in layers.items():
        layer.load_state_dict(layers["tanh"].state_dict())
        weights = {key.removeprefix("recurrence."): value for key, value in layer.state_dict().items()}
        sums = x[:, 0] @ weights["weight_ih_l0"].T + weights["bias_ih_l0"] + weights["bias_hh_l0"]
        torch.testing.assert_close(layer(x)[:, 0], getattr(torch, name)(sums), rtol=1e-6, atol=1e-6)
        assert count_flops(layer, x.expand(2, 6, 8)) == count_flops(layers["tanh"], x.expand(2, 6, 8))
    with pytest.raises(ValueError, match="tanh, relu or sigmoid, got 'selu'"):
        Elman(8, nonlinearity="selu")


@pytest.mark.parametrize(("options", "words"), [({"width": 0}, "width"), ({"layers": 0}, "layers"), ({"dropout": 0.5}, "one layer")])
def test_bad_options_are_refused(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        LSTM(**{"width": 8, **options})
