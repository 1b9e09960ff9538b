"""Gated linear attention against a loop over its equations, and with its gate wide open."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from assay.nn.recurrent.gated_linear_attention import GatedLinearAttention
from assay.testing import check_mixer

VARIANTS = {
    "plain": GatedLinearAttention,
    "one head": partial(GatedLinearAttention, heads=1, head_width=6, key_width=3, gate_rank=2, bias=True),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_option_keeps_the_contract(name: str) -> None:
    check_mixer(VARIANTS[name])


def loop(layer: GatedLinearAttention, x: torch.Tensor) -> torch.Tensor:
    outputs = []
    for row in x:
        state = torch.zeros(layer.heads, layer.key_width, layer.head_width, dtype=x.dtype)
        for x_t in row:
            *parts, gate = layer.input_projection(x_t).split(layer.sizes)
            query, key, value = (part.view(layer.heads, -1) for part in parts)
            decay = layer.decay_projection(x_t).sigmoid() ** (1 / 16)
            state = decay.view(layer.heads, -1, 1) * state + key[:, :, None] * value[:, None]
            mixed = torch.einsum("hk,hkv->hv", query, state) / layer.key_width**0.5
            mixed = mixed / (mixed.square().mean(-1, keepdim=True) + 1e-6).sqrt()
            outputs.append(layer.output_projection(mixed.flatten() * torch.nn.functional.silu(gate)))
    return torch.stack(outputs).view_as(x)


@pytest.mark.parametrize("bias", [0.0, -2000.0])  # the gates as drawn, and so strong that factors over a chunk would overflow
def test_outputs_are_those_of_a_loop(bias: float) -> None:
    torch.manual_seed(0)
    layer, x = GatedLinearAttention(16, 2).double(), torch.randn(2, 100, 16, dtype=torch.float64)
    with torch.no_grad():
        layer.decay_projection[1].bias += bias
    torch.testing.assert_close(layer(x), loop(layer, x), atol=1e-10, rtol=0)


def test_an_open_gate_forgets_nothing() -> None:
    torch.manual_seed(0)
    layer, x = GatedLinearAttention(8, 2).double(), torch.randn(1, 200, 8, dtype=torch.float64)
    with torch.no_grad():
        layer.decay_projection[1].bias.fill_(1000.0)
    _, state = layer.scan(x, layer.initial_state(1))
    _, keys, values, _ = layer.input_projection(x).split(layer.sizes, -1)
    expected = torch.einsum("bnhk,bnhv->bhkv", keys.unflatten(-1, (2, -1)), values.unflatten(-1, (2, -1)))
    torch.testing.assert_close(state, expected, atol=1e-11, rtol=0)


@pytest.mark.parametrize(
    ("options", "words"), [({"heads": 3}, "got 3"), ({"key_width": 0}, "got 0 and 16"), ({"gate_rank": 0}, "got None and 0")]
)
def test_bad_options_are_refused(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        GatedLinearAttention(8, **options)
