"""H3 against its equations with one and with several numbers per head."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from assay.measure import state_bytes
from assay.nn.state_space.h3 import H3
from assay.testing import check_mixer

VARIANTS = {"plain": partial(H3, state=8), "heads of two": partial(H3, state=4, head_width=2, bias=False)}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_option_keeps_the_contract(name: str) -> None:
    check_mixer(VARIANTS[name])


@pytest.mark.parametrize("head_width", [1, 3])
def test_outputs_are_those_of_its_equations(head_width: int) -> None:
    torch.manual_seed(0)
    layer, x = H3(6, 4, head_width).double(), torch.randn(1, 40, 6, dtype=torch.float64)
    queries, keys, values = layer.input_projection(x)[0].chunk(3, -1)
    shifted = torch.stack([sum(layer.shift.weight[3 - s] * keys[t - s] for s in range(4) if s <= t) for t in range(40)])
    kernel, mixed = layer.system.kernel(40), torch.zeros(40, 6, dtype=torch.float64)
    for head in range(6 // head_width):
        part = slice(head * head_width, (head + 1) * head_width)
        products = shifted[:, part, None] * values[:, None, part]
        for t in range(40):
            summed = sum(kernel[head, t - s] * products[s] for s in range(t + 1)) + layer.system.skip[head] * products[t]
            mixed[t, part] = queries[t, part] @ summed
    torch.testing.assert_close(layer(x)[0], layer.output_projection(mixed), atol=1e-12, rtol=0)


def test_state_is_constant() -> None:
    layer = H3(8, 16, 2)
    assert state_bytes(layer.initial_state(1)) == 4 * 15 * 8 + 8 * 4 * 4 * 8


@pytest.mark.parametrize(
    ("options", "words"), [({"head_width": 3}, "head_width must divide width 8, got 3"), ({"state": 5}, "even and at least 2, got 5")]
)
def test_bad_options_are_refused(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        H3(8, **options)
