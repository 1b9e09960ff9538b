"""The gated delta rule as a layer: against a loop over its equations, and without its gate."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from assay.nn.recurrent.gated_delta import GatedDelta
from assay.testing import check_mixer

VARIANTS = {
    "plain": GatedDelta,
    "DeltaNet": partial(GatedDelta, gate=False),
    "no convolution": partial(GatedDelta, kernel_size=None, bias=True),
    "wide heads": partial(GatedDelta, heads=2, head_width=6),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_option_keeps_the_contract(name: str) -> None:
    check_mixer(VARIANTS[name])


def loop(layer: GatedDelta, x: torch.Tensor) -> torch.Tensor:
    heads, size, outputs = layer.heads, layer.head_width, []
    projected, gates = layer.input_projection(x).split([3 * heads * size, heads * size], -1)
    projected = F.silu(projected if layer.convolution is None else layer.convolution(projected))
    for row, gate, x_row in zip(projected, gates, x, strict=True):
        state = torch.zeros(heads, size, size, dtype=x.dtype)
        for t, numbers in enumerate(row):
            query, key, value = numbers.view(3, heads, size)
            query, key = (
                query / (query.square().sum(-1, keepdim=True) + 1e-6).sqrt(),
                key / (key.square().sum(-1, keepdim=True) + 1e-6).sqrt(),
            )
            beta = layer.strength_projection(x_row[t]).sigmoid()
            decay = torch.exp(-layer.log_rate.exp() * F.softplus(layer.decay_projection(x_row[t]))) if layer.gate else torch.ones(heads)
            for h in range(heads):
                kept = state[h] - beta[h] * torch.outer(key[h], key[h] @ state[h])
                state = state.clone()
                state[h] = decay[h] * kept + beta[h] * torch.outer(key[h], value[h])
            mixed = torch.einsum("hk,hkv->hv", query, state) / size**0.5
            mixed = mixed / (mixed.square().mean(-1, keepdim=True) + 1e-6).sqrt()
            outputs.append(layer.output_projection(mixed.flatten() * F.silu(gate[t])))
    return torch.stack(outputs).view_as(x)


@pytest.mark.parametrize("options", [{}, {"gate": False}, {"kernel_size": None}])
def test_outputs_are_those_of_a_loop(options: dict) -> None:
    torch.manual_seed(0)
    layer, x = GatedDelta(8, 2, **options).double(), torch.randn(2, 90, 8, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), loop(layer, x), atol=1e-11, rtol=0)


def test_decays_start_between_forgetting_in_a_few_and_in_a_thousand_positions() -> None:
    torch.manual_seed(0)
    layer = GatedDelta(64, 64)
    step = F.softplus(layer.decay_projection.bias)
    assert step.min() >= 1e-3 * 0.999
    assert step.max() <= 1e-1 * 1.001
    assert ((layer.log_rate.exp() >= 1) & (layer.log_rate.exp() <= 16)).all()


def test_without_its_gate_it_has_fewer_parameters() -> None:
    def count(layer: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in layer.parameters())

    assert count(GatedDelta(8, 2)) - count(GatedDelta(8, 2, gate=False)) == 2 * 8 + 2 + 2


@pytest.mark.parametrize(("options", "words"), [({"heads": 3}, "got 3"), ({"kernel_size": 0}, "got 24 and 0")])
def test_bad_options_are_refused(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        GatedDelta(8, **options)
