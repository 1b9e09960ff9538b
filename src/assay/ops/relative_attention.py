"""`relative_attention`: softmax attention with a score bias before, and a multiplier after the softmax.

``A = softmax(q kᵀ / √d + B) ∘ C;  o = A v``. Softmax rows sum to one, so whatever B is, identical tokens get identical outputs; C, which
multiplies afterwards, gives every row a sum of its own. Where B and C depend on the offset ``j − i`` alone (Toeplitz), their rows are
cut out of one table each and the (queries, keys) matrices never exist as a whole.

Source: Luo, Li, Zheng, Liu, Wang, He (2022), Your Transformer May Not be as Powerful as You Expect.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Implementation = Literal["auto", "dense", "blocked"]
BLOCK = 128  # queries a block: its weights are all of the matrix that exists at a time
DENSE_UP_TO = 256  # keys: below, blocks cost more calls than they save bytes


@dataclass(frozen=True)
class Toeplitz:
    """A matrix a head whose entry (i, j) is ``table[h, centre + first + j − i]``: one number an offset of key and query.

    Args:
        table: (heads, offsets).
        centre: the place of offset zero in the table.
        first: position of the first key minus position of the first query.
    """

    table: Tensor
    centre: int
    first: int = 0

    def rows(self, start: int, stop: int, keys: int) -> Tensor:
        """Rows start … stop − 1, (1, heads, stop − start, keys).

        Raises:
            ValueError: an offset that the table does not hold.
        """
        low, high = self.centre + self.first - (stop - 1), self.centre + self.first - start
        if low < 0 or high + keys > self.table.shape[1]:
            reach = f"{-self.centre} … {self.table.shape[1] - 1 - self.centre}"
            raise ValueError(f"offsets reach from {low - self.centre} to {high + keys - 1 - self.centre}, and the table holds {reach}")
        return self.table.unfold(1, keys, 1)[:, low : high + 1].flip(1)[None]


Matrix: TypeAlias = Tensor | Toeplitz


def relative_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    bias: Matrix | None = None,
    multiplier: Matrix | None = None,
    visible: Tensor | None = None,
    causal: bool = False,
    dropout: float = 0.0,
    implementation: Implementation = "auto",
) -> Tensor:
    """Attention with a bias before and a multiplier after the softmax.

    Args:
        queries: (batch, heads, queries, width).
        keys: (batch, heads, keys, width).
        values: (batch, heads, keys, value width).
        bias: added to the scores; broadcastable to (batch, heads, queries, keys), or Toeplitz.
        multiplier: of the weights; the same shapes.
        visible: (batch or 1, 1, queries, keys), True where a query sees a key; a query that sees nothing gives zeros.
        causal: without ``visible``: key j is seen by the queries at or after it, the last query being at the last key.
        dropout: probability of dropping a weight after the multiplication.
        implementation: ``dense`` writes the whole matrix; ``blocked`` works on some queries at a time, and in training computes their
            weights once more in the backward pass instead of keeping them; ``auto`` takes what is faster.

    Returns:
        (batch, heads, queries, value width).
    """
    count = keys.shape[2]
    if count == 0:
        return values.new_zeros(*queries.shape[:3], values.shape[-1])
    if implementation == "dense" or (implementation == "auto" and count <= DENSE_UP_TO):
        return _rows(queries, keys, values, bias, multiplier, visible, causal, dropout, 0, queries.shape[2])
    parts = []
    for start in range(0, queries.shape[2], BLOCK):
        stop = min(start + BLOCK, queries.shape[2])
        arguments = (queries, keys, values, bias, multiplier, visible, causal, dropout, start, stop)
        parts.append(checkpoint(_rows, *arguments, use_reentrant=False) if torch.is_grad_enabled() else _rows(*arguments))
    return torch.cat(parts, 2) if parts else values.new_zeros(*queries.shape[:3], values.shape[-1])


def _rows(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    bias: Matrix | None,
    multiplier: Matrix | None,
    visible: Tensor | None,
    causal: bool,
    dropout: float,
    start: int,
    stop: int,
) -> Tensor:
    """The outputs of queries start … stop − 1."""
    count, total = keys.shape[2], queries.shape[2]
    if visible is None and causal:
        count = count - total + stop  # later keys are seen by none of these queries
        keys, values = keys[:, :, :count], values[:, :, :count]
    scores = queries[:, :, start:stop] @ keys.transpose(-1, -2) / math.sqrt(queries.shape[-1])
    if bias is not None:
        scores = scores + _cut(bias, start, stop, count)
    if visible is not None:
        scores = torch.where(visible[:, :, start:stop, :count], scores, -torch.inf)
    elif causal:
        last = torch.arange(count - (stop - start), count, device=scores.device)
        scores = torch.where(torch.arange(count, device=scores.device) <= last[:, None], scores, -torch.inf)
    # The maximum is subtracted by hand: a row without any key would make the softmax of −∞ alone undefined.
    shift = scores.detach().amax(-1, keepdim=True).clamp(min=torch.finfo(scores.dtype).min)
    weights = torch.exp(scores - shift)
    total_weight = weights.sum(-1, keepdim=True)
    weights = weights / torch.where(total_weight == 0, 1.0, total_weight)
    if multiplier is not None:
        weights = weights * _cut(multiplier, start, stop, count)
    return F.dropout(weights, dropout) @ values


def _cut(matrix: Matrix, start: int, stop: int, keys: int) -> Tensor:
    if isinstance(matrix, Toeplitz):
        return matrix.rows(start, stop, keys)
    return matrix[..., start:stop, :keys] if matrix.shape[-2] > 1 else matrix[..., :keys]
