"""Retention against its parallel form, and its limits."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from assay.measure import state_bytes
from assay.nn.recurrent.retention import Retention
from assay.testing import check_mixer

VARIANTS = {
    "plain": Retention,
    "rotary": partial(Retention, heads=2, rotary=True),
    "wide heads": partial(Retention, heads=3, head_width=4, bias=True),
    "strong decay": partial(Retention, heads=2, decays=(1e-30, 1.0)),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_option_keeps_the_contract(name: str) -> None:
    check_mixer(VARIANTS[name])


def parallel(layer: Retention, x: torch.Tensor, decays: list[float]) -> torch.Tensor:
    """``(q kᵀ ∘ D) v`` with D written out, then norm, gate and output map."""
    *parts, gate = layer.input_projection(x).chunk(4, -1)
    queries, keys, values = (part.unflatten(-1, (layer.heads, -1)).transpose(1, 2) for part in parts)
    age = (torch.arange(x.shape[1])[:, None] - torch.arange(x.shape[1])).double()
    weights = torch.stack([torch.where(age >= 0, decay ** age.clamp(min=0), 0.0) for decay in decays])
    mixed = (queries @ keys.transpose(-1, -2) / math.sqrt(layer.head_width) * weights) @ values
    mixed = mixed / (mixed.square().mean(-1, keepdim=True) + 1e-6).sqrt() * layer.norm.norm.weight
    return layer.output_projection(mixed.transpose(1, 2).flatten(2) * gate * gate.sigmoid())


def test_outputs_are_those_of_the_parallel_form() -> None:
    torch.manual_seed(0)
    layer, x = Retention(12, 3).double(), torch.randn(2, 150, 12, dtype=torch.float64)
    assert layer.decays == (31 / 32, 63 / 64, 127 / 128)
    torch.testing.assert_close(layer(x), parallel(layer, x, [31 / 32, 63 / 64, 127 / 128]), atol=1e-11, rtol=0)


def test_without_decay_it_is_unnormalised_linear_attention() -> None:
    torch.manual_seed(0)
    layer, x = Retention(8, 2, decays=(1.0, 1.0)).double(), torch.randn(2, 90, 8, dtype=torch.float64)
    torch.testing.assert_close(layer(x), parallel(layer, x, [1.0, 1.0]), atol=1e-11, rtol=0)


def test_the_norm_takes_out_any_scale_of_the_scores() -> None:
    # why the published normalisations of the scores need not be computed
    torch.manual_seed(0)
    layer, x = Retention(8, 2).double(), torch.randn(2, 50, 8, dtype=torch.float64)
    expected = layer(x)
    with torch.no_grad():
        layer.input_projection.weight[:8] *= 1000.0  # queries
    # beside ε = 1e-6, which is nothing beside the enlarged outputs
    torch.testing.assert_close(layer(x), expected, atol=0.05, rtol=0)
    larger = layer(x)
    with torch.no_grad():
        layer.input_projection.weight[:8] *= 1000.0
    torch.testing.assert_close(layer(x), larger, atol=1e-6, rtol=0)


def test_rotary_outputs_depend_on_distances_alone() -> None:
    torch.manual_seed(0)
    layer, x = Retention(8, 2, rotary=True).double(), torch.randn(1, 30, 8, dtype=torch.float64)
    state = layer.initial_state(1)
    later = state._replace(lengths=state.lengths + 1000)
    torch.testing.assert_close(layer.scan(x, later)[0], layer(x), atol=1e-9, rtol=0)
    assert not torch.allclose(Retention.forward(layer, x.flip(1)).flip(1), layer(x))


def test_state_is_a_matrix_a_head() -> None:
    assert state_bytes(Retention(32, 4).initial_state(1)) == 4 * 4 * 8 * 8 + 8


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"heads": 3}, "heads must divide width 8, got 3"),
        ({"heads": 8, "rotary": True}, "even head width, got 1"),
        ({"heads": 2, "decays": (0.5,)}, r"decays must be 2 numbers above 0 and at most 1, got \(0.5,\)"),
        ({"heads": 1, "decays": (1.5,)}, "at most 1, got"),
    ],
)
def test_bad_options_are_refused(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Retention(8, **options)
