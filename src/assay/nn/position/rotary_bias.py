"""`RotaryBias`: a bias on scores from two learned vectors that positions turn."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from assay.nn.position.rotary import rotate


class RotaryBias(nn.Module):
    """Score bias ``⟨R_i a, R_j b⟩`` for a query at position i and a key at position j, with learned a and b and R_n as `rotate` turns.

    A turn keeps products, so the bias is ``⟨a, R_{j−i} b⟩``: it depends on the offset alone, and any offset has one.

    Source: Ma, Zhou, Kong, He, Gui, Neubig, May, Zettlemoyer (2022), Mega: Moving Average Equipped Gated Attention.

    Args:
        width: numbers of a and of b, even.
        deviation: standard deviation that both start with.

    Shapes: positions (batch or 1, queries) and (batch or 1, keys), integers; the bias is (batch or 1, 1, queries, keys).

    Raises:
        ValueError: an odd width.
    """

    def __init__(self, width: int, deviation: float = 0.02) -> None:
        super().__init__()
        if width < 2 or width % 2:
            raise ValueError(f"a rotary bias needs an even width of at least 2, got {width}")
        self.query_vector = nn.Parameter(deviation * torch.randn(width))
        self.key_vector = nn.Parameter(deviation * torch.randn(width))

    def forward(self, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        """The bias between all queries and keys."""
        turned = [
            rotate(vector.expand(*positions.shape, -1)[:, None], positions)
            for vector, positions in ((self.query_vector, query_positions), (self.key_vector, key_positions))
        ]
        return turned[0] @ turned[1].transpose(-1, -2)
