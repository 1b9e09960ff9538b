"""`StridedSparseAttention`: attention to one's own block and to a regular grid of positions of the others."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from assay.nn.attention.sparse import SparseAttention
from assay.ops.masked_attention import Groups, band_groups

Pattern = Literal["fixed", "strided"]


class StridedSparseAttention(SparseAttention):
    """Attention whose pairs are a neighbourhood and a grid, so that two layers connect any two positions.

    With blocks of l positions, position i sees j where, ``fixed``: ``⌊i / l⌋ = ⌊j / l⌋``, or j is a summary: ``j mod l = 0`` or
    ``j mod l ≥ l − c``; ``strided``: ``|i − j| < l`` or ``(i − j) mod l = 0``. Causal, ``j ≤ i`` besides; not causal, ``fixed`` is made
    symmetric: a summary also sees all. With l near the root of the length n, time is of order n √n; with a fixed l, of n² / l.

    Source: Child, Gray, Radford, Sutskever (2019), Generating Long Sequences with Sparse Transformers.

    Args:
        width: numbers per position.
        heads: heads; by default the largest of 4, 2, 1 that divides the width.
        head_width: numbers per head; by default ``width / heads``.
        pattern: ``fixed`` or ``strided``.
        block: l, positions a block, or the stride.
        summary: c, positions at the end of each block that all later ones see, by default a quarter of it; of ``fixed`` only.
        causal: a position sees nothing that comes later.
        options: as `assay.nn.attention.cached.CachedAttention`, but for the window.

    Shapes: x (batch, length, width); mask (batch, length), True = real.

    Raises:
        ValueError: an unknown pattern, a block below 1, a summary outside 0 … block, or sizes that do not fit each other.
    """

    def __init__(
        self,
        width: int,
        heads: int | None = None,
        head_width: int | None = None,
        *,
        pattern: Pattern = "fixed",
        block: int = 128,
        summary: int | None = None,
        causal: bool = True,
        **options: Any,
    ) -> None:
        if pattern not in get_args(Pattern):
            raise ValueError(f"pattern must be {' or '.join(get_args(Pattern))}, got {pattern!r}")
        if block < 1:
            raise ValueError(f"block must be at least 1, got {block}")
        summary = block // 4 if summary is None else summary
        if not 0 <= summary <= block:
            raise ValueError(f"summary must be 0 to {block} positions of a block, got {summary}")
        self.pattern, self.block, self.summary = pattern, block, summary
        super().__init__(width, heads, head_width, causal=causal, **options)

    def sees(self, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        """Those of the neighbourhood and those of the grid."""
        queries, keys = query_positions[..., :, None], key_positions[..., None, :]
        if self.pattern == "strided":
            seen = ((queries - keys).abs() < self.block) | ((queries - keys) % self.block == 0)
        else:
            seen = (queries // self.block == keys // self.block) | self._is_summary(keys)
            seen = seen if self.causal else seen | self._is_summary(queries)
        return seen & (keys <= queries) if self.causal else seen

    def groups(self, length: int) -> list[Groups]:
        """The neighbourhoods, and the grid without them."""
        if length <= self.block:
            everything = torch.arange(length)[None]
            return [Groups(everything, everything, 1, self.sees if self.causal else None)]
        return self._strided_groups(length) if self.pattern == "strided" else self._fixed_groups(length)

    # -------------------------------------------------------------------------------------------- inside

    def _strided_groups(self, length: int) -> list[Groups]:
        unit = max(1, min(64, self.block // 2))
        after = 0 if self.causal else self.block - 1
        near = band_groups(length, unit, self.block - 1, after, lambda at, to: self._near(at, to) & self.sees(at, to))
        rows = -(-length // self.block)
        columns = torch.arange(rows * self.block).view(rows, self.block).T  # a group is what is a whole number of strides apart
        return [near, Groups(columns, columns, 1, lambda at, to: ~self._near(at, to) & self.sees(at, to))]

    def _fixed_groups(self, length: int) -> list[Groups]:
        blocks = torch.arange(-(-length // self.block))[:, None]
        everything = torch.arange(length)
        summaries = everything[self._is_summary(everything)][None]

        def other_block(at: Tensor, to: Tensor) -> Tensor:
            return ~self._same_block(at, to) & self.sees(at, to)

        own = Groups(blocks, blocks, self.block, self.sees if self.causal else None)
        if self.causal:
            return [own, Groups(everything[None], summaries, 1, other_block)]
        ordinary = everything[~self._is_summary(everything)][None]
        found = [own, Groups(everything[None], summaries, 1, other_block)]
        return [*found, Groups(summaries, ordinary, 1, other_block)] if ordinary.numel() else found

    def _is_summary(self, positions: Tensor) -> Tensor:
        place = positions % self.block
        return (place == 0) | (place >= self.block - self.summary)

    def _near(self, at: Tensor, to: Tensor) -> Tensor:
        return (at[..., :, None] - to[..., None, :]).abs() < self.block

    def _same_block(self, at: Tensor, to: Tensor) -> Tensor:
        return (at // self.block)[..., :, None] == (to // self.block)[..., None, :]
