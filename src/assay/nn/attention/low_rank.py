"""`LowRankAttention`: attention to a few learned mixtures of all positions."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from assay.nn.attention.heads import head_shape
from assay.nn.attention.packed import packed
from assay.nn.linear import Linear


class LowRankAttention(nn.Module):
    """Attention ``softmax(q (Eᵀ k)ᵀ / √head_width) Eᵀ v``, with one matrix E (length, rank) for keys, values and all heads.

    A sequence of n positions uses the first n rows of E; masked positions are left out of the mixtures. Linear in the length. Every output
    depends on all positions, so it is not causal.

    Source: Wang, Li, Khabsa, Fang, Ma (2020), Linformer: Self-Attention with Linear Complexity.

    Args:
        width: numbers per position.
        heads: heads; by default the largest of 4, 2, 1 that divides the width.
        head_width: numbers per head; by default ``width / heads``.
        length: longest sequence.
        rank: mixtures.
        bias: of the projections of positions.
        dropout: probability of dropping a weight, in training.

    Shapes: x (batch, length, width); mask (batch, length), True = real.

    Raises:
        ValueError: a size below 1, heads that do not fit, or (when called) a sequence longer than ``length``.
    """

    causal = False

    def __init__(
        self,
        width: int,
        heads: int | None = None,
        head_width: int | None = None,
        *,
        length: int = 1024,
        rank: int = 32,
        bias: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.heads, self.head_width = head_shape(width, heads, head_width)
        if min(length, rank) < 1:
            raise ValueError(f"length and rank must be at least 1, got {length} and {rank}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {dropout}")
        self.width, self.length, self.rank, self.dropout = width, length, rank, dropout
        inner = self.heads * self.head_width
        self.input_projection = Linear(width, 3 * inner, bias)
        self.length_projection = nn.Parameter(torch.randn(length, rank) / math.sqrt(length))
        self.output_projection = Linear(inner, width, bias)  # last: edits find a mixer's last map by its place

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mix the whole sequence (batch, length, width)."""
        check_length(x, self.width, self.length)
        return packed(self._mix, x, mask)

    def _mix(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        projected = self.input_projection(x)
        if lengths is not None:
            there = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
            projected = torch.where(there[..., None], projected, 0.0)
        queries, keys, values = projected.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixtures = self.length_projection[: x.shape[1]].T
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(queries, mixtures @ keys, mixtures @ values, dropout_p=dropout)
        return self.output_projection(mixed.transpose(1, 2).flatten(2))


def check_length(x: Tensor, width: int, length: int) -> None:
    """Refuse what is not (batch, length, width), or longer than a layer was made for.

    Raises:
        ValueError: with both shapes or both lengths.
    """
    if x.ndim != 3 or x.shape[-1] != width:
        raise ValueError(f"x must have shape (batch, length, {width}), got {tuple(x.shape)}")
    if x.shape[1] > length:
        raise ValueError(f"this layer was made for sequences of up to {length} positions, got {x.shape[1]}")
