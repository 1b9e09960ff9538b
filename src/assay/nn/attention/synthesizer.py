"""`SynthesizerAttention`: attention whose weights are learned outright or made from the query alone, without looking at keys."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from assay.nn.attention.heads import head_shape
from assay.nn.attention.low_rank import check_length
from assay.nn.attention.packed import packed
from assay.nn.linear import Linear
from assay.ops.compaction import Compaction

Mode = Literal["random", "factorized_random", "dense", "factorized_dense"]


class SynthesizerAttention(nn.Module):
    """Attention ``softmax(R) v`` whose logits R are no products of queries and keys.

    ``random``: R (heads, length, length) is a parameter; ``factorized_random``: ``R = R₁ R₂`` of the rank given; ``dense``: row i is
    ``W_b relu(W_a x_i)``, as long as the longest sequence; ``factorized_dense``: row i is the outer product of two such rows, of lengths a
    and b with ``a · b ≥ length``. A sequence of n positions uses the first n rows and columns; masked positions are seen by nobody. The
    weights of the random modes are the same for every input. Quadratic in the length. Not causal.

    Source: Tay, Bahri, Metzler, Juan, Zhao, Zheng (2021), Synthesizer: Rethinking Self-Attention for Transformer Models.

    Args:
        width: numbers per position.
        heads: heads; by default the largest of 4, 2, 1 that divides the width.
        head_width: numbers per head; by default ``width / heads``.
        length: longest sequence.
        mode: where the logits come from.
        rank: of the factors of ``factorized_random``.
        bias: of the projections.
        dropout: probability of dropping a weight, in training.

    Shapes: x (batch, length, width); mask (batch, length), True = real.

    Raises:
        ValueError: an unknown mode, a size below 1, heads that do not fit, or (when called) a sequence longer than ``length``.
    """

    causal = False

    def __init__(
        self,
        width: int,
        heads: int | None = None,
        head_width: int | None = None,
        *,
        length: int = 1024,
        mode: Mode = "factorized_random",
        rank: int = 32,
        bias: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.heads, self.head_width = head_shape(width, heads, head_width)
        if mode not in get_args(Mode):
            raise ValueError(f"mode must be one of {', '.join(get_args(Mode))}, got {mode!r}")
        if min(length, rank) < 1:
            raise ValueError(f"length and rank must be at least 1, got {length} and {rank}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {dropout}")
        self.width, self.length, self.mode, self.rank, self.dropout = width, length, mode, rank, dropout
        inner = self.heads * self.head_width
        self.value_projection = Linear(width, inner, bias)
        self._make_logits(inner, bias)
        self.output_projection = Linear(inner, width, bias)  # last: edits find a mixer's last map by its place

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mix the whole sequence (batch, length, width)."""
        check_length(x, self.width, self.length)
        return packed(self._mix, x, mask)

    def logits(self, x: Tensor) -> Tensor:
        """R (batch or 1, heads, length, length) of inputs (batch, length, width)."""
        length = x.shape[1]
        if self.mode == "random":
            return self.table[None, :, :length, :length]
        if self.mode == "factorized_random":
            return (self.rows[:, :length] @ self.columns[:, :, :length])[None]
        hidden = F.relu(self.hidden_projection(x)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        if self.mode == "dense":
            return hidden @ self.table[:, :, :length]
        first, second = hidden @ self.rows, hidden @ self.columns
        return (first[..., :, None] * second[..., None, :]).flatten(3)[..., :length]

    def weights(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The attention weights (batch, heads, length, length) of inputs (batch, length, width), for looking at."""
        if mask is None:
            return self._weights(x, None).expand(x.shape[0], -1, -1, -1)
        packing = Compaction(mask)
        weights = self._weights(packing.pack(x), packing.counts)
        place = (mask.cumsum(1) - 1).clamp(min=0)
        weights = torch.stack([row[:, at][:, :, at] for row, at in zip(weights, place, strict=True)])
        return torch.where((mask[:, :, None] & mask[:, None, :])[:, None], weights, 0.0)

    def _make_logits(self, inner: int, bias: bool) -> None:
        heads, length = self.heads, self.length
        if self.mode == "random":
            self.table = nn.Parameter(torch.randn(heads, length, length))
        elif self.mode == "factorized_random":
            scale = self.rank**-0.25  # of the factors, so that entries of the product have deviation one
            self.rows = nn.Parameter(scale * torch.randn(heads, length, self.rank))
            self.columns = nn.Parameter(scale * torch.randn(heads, self.rank, length))
        else:
            self.hidden_projection = Linear(self.width, inner, bias)
            scale = self.head_width**-0.5
            if self.mode == "dense":
                self.table = nn.Parameter(scale * torch.randn(heads, self.head_width, length))
                return
            side = math.isqrt(length - 1) + 1
            self.rows = nn.Parameter(scale * torch.randn(heads, self.head_width, -(-length // side)))
            self.columns = nn.Parameter(scale * torch.randn(heads, self.head_width, side))

    def _mix(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        values = self.value_projection(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        weights = F.dropout(self._weights(x, lengths), self.dropout, self.training)
        return self.output_projection((weights @ values).transpose(1, 2).flatten(2))

    def _weights(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        logits = self.logits(x)
        if lengths is not None:
            there = torch.arange(x.shape[1], device=x.device) < lengths[:, None].clamp(min=1)
            logits = logits.masked_fill(~there[:, None, None], -torch.inf)
        return logits.softmax(-1)
