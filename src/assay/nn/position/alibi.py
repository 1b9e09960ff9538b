"""`Alibi`: a fixed penalty on attention scores that grows with the distance, another slope for every head."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def alibi_slopes(heads: int) -> list[float]:
    """One slope a head: ``2^(−8 h / heads)`` for h = 1 … heads where heads is a power of two.

    For other numbers the slopes of the next smaller power of two come first, and after them every second slope of twice as many heads.

    Raises:
        ValueError: fewer than one head.
    """
    if heads < 1:
        raise ValueError(f"heads must be at least 1, got {heads}")
    power = 2 ** int(math.log2(heads))
    slopes = [2.0 ** (-8.0 * head / power) for head in range(1, power + 1)]
    if power == heads:
        return slopes
    return slopes + alibi_slopes(2 * power)[::2][: heads - power]


class Alibi(nn.Module):
    """Score bias ``−slope_h · |i − j|`` for a query at position i and a key at position j.

    Press, Smith, Lewis (2022), Train Short, Test Long: Attention with Linear Biases Enables Input Length Extrapolation.

    Args:
        heads: heads of the attention layer.

    Shapes: positions (batch or 1, queries) and (batch or 1, keys), integers; the bias is (batch or 1, heads, queries, keys).
    """

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.slopes: Tensor
        self.register_buffer("slopes", torch.tensor(alibi_slopes(heads)), persistent=False)

    def forward(self, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        """The bias between all queries and keys."""
        distance = (query_positions[:, :, None] - key_positions[:, None, :]).abs()
        return -self.slopes[:, None, None] * distance[:, None]
