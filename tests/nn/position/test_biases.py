"""Biases on attention scores: ALiBi's published slopes, and the buckets of distances."""

from __future__ import annotations

import pytest
import torch

from assay.nn.position.alibi import Alibi, alibi_slopes
from assay.nn.position.relative import RelativeBias, distance_buckets


def test_slopes_are_the_published_ones() -> None:
    assert alibi_slopes(8) == [2.0**-n for n in range(1, 9)]
    assert alibi_slopes(6) == [2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8, 2.0**-1, 2.0**-3]  # four heads' slopes, then every second of eight


def test_the_penalty_is_symmetric_in_the_distance() -> None:
    bias = Alibi(2)(torch.tensor([[3]]), torch.tensor([[1, 3, 5]]))
    torch.testing.assert_close(bias[0, :, 0], -torch.tensor([[2.0**-4], [2.0**-8]]) * torch.tensor([2.0, 0.0, 2.0]))


def test_near_distances_have_buckets_of_their_own_and_far_ones_share() -> None:
    offsets = torch.arange(-200, 1)
    found = distance_buckets(offsets, 32, 128, causal=True)
    assert found.flip(0)[:16].tolist() == list(range(16))
    assert bool((found.diff() <= 0).all())
    assert found[offsets == -128].item() == 31
    assert found.min() >= 0
    assert found.max() == 31


def test_two_sides_use_different_halves() -> None:
    back, ahead = (distance_buckets(sign * torch.arange(1, 300), 32, 128) for sign in (-1, 1))
    assert torch.equal(ahead, back + 16)


def test_the_learned_bias_depends_on_the_offset_alone() -> None:
    bias = RelativeBias(3, causal=False)
    here, there = bias(torch.tensor([[0, 4]]), torch.tensor([[2]])), bias(torch.tensor([[50, 54]]), torch.tensor([[52]]))
    assert torch.equal(here, there)
    assert not torch.equal(here[:, :, 0], here[:, :, 1])  # ahead and behind differ


@pytest.mark.parametrize(("buckets", "distance", "causal"), [(1, 128, True), (5, 128, False), (32, 8, False)])
def test_bad_buckets_are_refused(buckets: int, distance: int, causal: bool) -> None:
    with pytest.raises(ValueError, match="buckets"):
        distance_buckets(torch.zeros(1, dtype=torch.long), buckets, distance, causal)
