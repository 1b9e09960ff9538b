"""Whether attention can tell positions apart at all: row sums that differ, and outputs that differ on identical tokens.

A mixture whose weights sum to one gives identical tokens identical outputs at every position, whatever the weights are; residual sums,
norms and feed-forward nets act on each position alone. So a network of such layers is constant over positions on identical tokens, at any
depth, and no function of the absolute position can be learned. Weights whose row sums differ escape this.

Source: Luo, Li, Zheng, Liu, Wang, He (2022), Your Transformer May Not be as Powerful as You Expect.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def positional_spread(mix: Callable[[Tensor], Tensor], width: int, length: int = 16, start: bool = False, seed: int = 0) -> float:
    """How far apart outputs of identical tokens are: ``max_ij ‖y_i − y_j‖_∞ / max |y|``, zero where positions cannot be told apart.

    Args:
        mix: maps (1, length, width) to the same shape, in float64.
        width: numbers per position.
        length: identical tokens.
        start: put one other token before them; then a causal average can count its share, even without positions.
        seed: of the tokens.

    Raises:
        ValueError: fewer than two tokens.
    """
    if length < 2:
        raise ValueError(f"length must be at least 2 to compare positions, got {length}")
    generator = torch.Generator().manual_seed(seed)
    token, other = torch.randn(2, width, generator=generator, dtype=torch.float64)
    x = token.expand(length, width)
    with torch.no_grad():
        y = mix(torch.cat([other[None], x])[None] if start else x[None])[0]
    y = y[1:] if start else y
    return float((y.amax(0) - y.amin(0)).max() / y.abs().max().clamp(min=1e-300))


def row_sums(multiplier: Tensor) -> Tensor:
    """Row sums of uniform attention times a multiplier (…, length, length): what a constant value becomes at each position."""
    return multiplier.mean(-1)
