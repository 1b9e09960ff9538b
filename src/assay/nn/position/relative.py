"""Learned numbers by distance: `RelativeBias`, one a head and bucket of distances, and `OffsetTable`, one a head and offset."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn


def distance_buckets(offsets: Tensor, buckets: int = 32, max_distance: int = 128, causal: bool = False) -> Tensor:
    """The bucket of each offset ``key − query``: near ones have one each, far ones share logarithmically wider ones.

    Half of the buckets of a side are exact; the other half reaches to ``max_distance``, and what is farther falls into the last one.
    Causal, all buckets look back; else the second half of them looks ahead.

    Raffel et al. (2020), Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer.

    Args:
        offsets: integers of any shape.
        buckets: number of buckets, even where offsets have two sides.
        max_distance: where the last bucket begins, more than the exact ones of a side.
        causal: whether only keys at or before the query are seen.

    Raises:
        ValueError: too few buckets, an odd number for two sides, or a max_distance within the exact buckets.
    """
    side = buckets if causal else buckets // 2
    if side < 2 or (not causal and buckets % 2):
        raise ValueError(f"buckets must be {'at least 2' if causal else 'even and at least 4'}, got {buckets}")
    exact = side // 2
    if max_distance <= exact:
        raise ValueError(f"max_distance must be above the {exact} exact buckets of a side, got {max_distance}")
    ahead = 0 if causal else side * (offsets > 0).long()
    distance = (-offsets).clamp(min=0) if causal else offsets.abs()
    growth = torch.log(distance.clamp(min=1).double() / exact) / math.log(max_distance / exact)
    far = (exact + (growth * (side - exact)).long()).clamp(max=side - 1)
    return ahead + torch.where(distance < exact, distance, far)


class RelativeBias(nn.Module):
    """Score bias ``b[h, bucket(j − i)]`` for a query at position i and a key at position j, one learned number a head and bucket.

    Raffel et al. (2020), Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer.

    Args:
        heads: heads of the attention layer.
        causal: whether only keys at or before the query are seen.
        buckets: number of buckets of distances.
        max_distance: where the last bucket begins.
        mean: of the initial numbers.
        deviation: their standard deviation.

    Shapes: positions (batch or 1, queries) and (batch or 1, keys), integers; the bias is (batch or 1, heads, queries, keys).
    """

    def __init__(
        self, heads: int, causal: bool = True, buckets: int = 32, max_distance: int = 128, mean: float = 0.0, deviation: float = 0.02
    ) -> None:
        super().__init__()
        distance_buckets(torch.zeros(1, dtype=torch.long), buckets, max_distance, causal)
        self.heads, self.causal, self.buckets, self.max_distance = heads, causal, buckets, max_distance
        self.weight = nn.Parameter(mean + deviation * torch.randn(buckets, heads))

    def forward(self, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        """The bias between all queries and keys."""
        offsets = key_positions[:, None, :] - query_positions[:, :, None]
        return self.weight[distance_buckets(offsets, self.buckets, self.max_distance, self.causal)].permute(0, 3, 1, 2)


class OffsetTable(nn.Module):
    """A learned number for every head and offset: ``t[h, j − i]`` for a query at position i and a key at position j.

    Args:
        heads: heads of the attention layer.
        length: longest sequence; offsets from −(length − 1) to length − 1 have a number each.
        mean: of the initial numbers.
        deviation: their standard deviation.
        beyond: what an offset that is farther means: ``raise`` an error, or ``clamp`` it to the farthest that is known, as exported graphs
            always do.

    Shapes: positions (batch or 1, queries) and (batch or 1, keys), integers; the result is (batch or 1, heads, queries, keys).

    Raises:
        ValueError: a length below 1, or positions farther apart than the table reaches.
    """

    def __init__(
        self, heads: int, length: int, mean: float = 0.0, deviation: float = 0.02, beyond: Literal["raise", "clamp"] = "raise"
    ) -> None:
        super().__init__()
        if length < 1:
            raise ValueError(f"length must be at least 1, got {length}")
        if beyond not in ("raise", "clamp"):
            raise ValueError(f"beyond must be raise or clamp, got {beyond!r}")
        self.heads, self.length, self.beyond = heads, length, beyond
        self.weight = nn.Parameter(mean + deviation * torch.randn(2 * length - 1, heads))

    def forward(self, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        """The numbers between all queries and keys."""
        offsets = key_positions[:, None, :] - query_positions[:, :, None]
        reach = self.length - 1
        # a graph for an exporter cannot look at numbers: there, what is farther counts as the farthest
        if self.beyond == "raise" and not torch.compiler.is_exporting() and offsets.numel() and int(offsets.abs().max()) > reach:
            raise ValueError(f"positions are {int(offsets.abs().max())} apart, and the table of length {self.length} reaches to {reach}")
        return self.weight[offsets.clamp(-reach, reach) + reach].permute(0, 3, 1, 2)
