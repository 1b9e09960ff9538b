"""Hopfield retrieval: its limit to plain attention, the energy that never rises, patterns that are found again."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from assay.nn.attention.cached import Scope
from assay.nn.attention.hopfield import HopfieldRetrieval
from assay.nn.attention.softmax import SoftmaxAttention
from assay.testing import check_mixer


@pytest.mark.parametrize(
    "make",
    [
        HopfieldRetrieval,
        partial(HopfieldRetrieval, causal=True, beta=2.0),
        partial(HopfieldRetrieval, causal=True, window=5, key_value_heads=2, iterations=2),
    ],
)
def test_every_option_keeps_the_contract(make) -> None:
    check_mixer(make)


def test_one_iteration_is_plain_attention() -> None:
    torch.manual_seed(0)
    layer, plain = HopfieldRetrieval(8, iterations=1).double(), SoftmaxAttention(8, causal=False).double()
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(2, 20, 8, dtype=torch.float64)
    torch.testing.assert_close(layer(x), plain(x), atol=1e-12, rtol=0)


def retrieved(layer: HopfieldRetrieval, queries: Tensor, patterns: Tensor) -> Tensor:
    """The queries after the layer's iterations over some patterns, (queries, width)."""
    scope = Scope(torch.arange(len(queries))[None], torch.arange(len(patterns))[None])
    return layer.attend(queries[None, None], patterns[None, None], patterns[None, None], scope)[0, 0]


def test_the_energy_never_rises_and_settles() -> None:
    torch.manual_seed(0)
    patterns, beta = torch.randn(10, 6, dtype=torch.float64), 0.8
    queries = torch.randn(30, 6, dtype=torch.float64)
    energies, steps = [], []
    for _ in range(60):
        energies.append(-(beta * queries @ patterns.T).logsumexp(1) / beta + queries.square().sum(1) / 2)
        after = retrieved(HopfieldRetrieval(6, 1, beta=beta, iterations=1), queries, patterns)
        steps.append(float((after - queries).abs().max()))
        queries = after
    assert bool((torch.stack(energies).diff(dim=0) <= 1e-12).all())
    assert steps[-1] < 1e-3 * steps[0]


def test_iterations_are_repeated_updates() -> None:
    torch.manual_seed(0)
    patterns, queries = torch.randn(7, 6, dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64)
    expected = queries
    for _ in range(3):
        expected = (1.3 * expected @ patterns.T).softmax(-1) @ patterns
    torch.testing.assert_close(retrieved(HopfieldRetrieval(6, 1, beta=1.3, iterations=3), queries, patterns), expected, atol=1e-12, rtol=0)


def test_a_spoiled_pattern_is_found_again() -> None:
    torch.manual_seed(0)
    patterns = torch.randn(50, 32, dtype=torch.float64)
    spoiled = patterns + 0.5 * torch.randn_like(patterns)
    found = retrieved(HopfieldRetrieval(32, 1, beta=4.0, iterations=2), spoiled, patterns)
    torch.testing.assert_close(found, patterns, atol=1e-3, rtol=0)


def test_weights_are_those_of_the_last_iteration() -> None:
    torch.manual_seed(0)
    layer, x = HopfieldRetrieval(8, 2, beta=1.5).double(), torch.randn(2, 9, 8, dtype=torch.float64)
    values = layer.projected(x, torch.arange(9)[None])[2]
    torch.testing.assert_close(layer.joined(layer.weights(x) @ values), layer(x), atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("options", "words"), [({"iterations": 0}, "iterations must be at least 1"), ({"beta": -1.0}, "beta must be positive, got -1.0")]
)
def test_bad_options_are_refused(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        HopfieldRetrieval(8, **options)
