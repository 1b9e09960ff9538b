"""`LocalAttention`: attention within blocks of neighbouring positions, none across."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from assay.nn.attention.sparse import SparseAttention
from assay.ops.masked_attention import Groups


class LocalAttention(SparseAttention):
    """Attention in which position i sees j where ``⌊i / block⌋ = ⌊j / block⌋``, and causal, ``j ≤ i``.

    Linear in the length. Causal, the state holds no more than the block that is being read needs.

    Source: Tay, Dehghani, Abnar, Shen, Bahri, Pham, Rao, Yang, Ruder, Metzler (2021), Long Range Arena; there, neighbours in a block are
    positions a whole number of blocks apart, here they are neighbours in the sequence.

    Args:
        width: numbers per position.
        heads: heads; by default the largest of 4, 2, 1 that divides the width.
        head_width: numbers per head; by default ``width / heads``.
        block: positions a block.
        causal: a position sees nothing that comes later.
        options: as `assay.nn.attention.cached.CachedAttention`, but for the window.

    Shapes: x (batch, length, width); mask (batch, length), True = real.

    Raises:
        ValueError: ``block`` is below 1, or sizes do not fit each other.
    """

    def __init__(
        self,
        width: int,
        heads: int | None = None,
        head_width: int | None = None,
        *,
        block: int = 50,
        causal: bool = True,
        **options: Any,
    ) -> None:
        if block < 1:
            raise ValueError(f"block must be at least 1, got {block}")
        self.block = block
        super().__init__(width, heads, head_width, causal=causal, window=block if causal else None, **options)

    def sees(self, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        """Those of the same block."""
        same = (query_positions // self.block)[..., :, None] == (key_positions // self.block)[..., None, :]
        return same & (key_positions[..., None, :] <= query_positions[..., :, None]) if self.causal else same

    def groups(self, length: int) -> list[Groups]:
        """A group a block."""
        unit = max(1, min(self.block, length))
        blocks = torch.arange(-(-length // unit))[:, None]
        return [Groups(blocks, blocks, unit, self.sees if self.causal else None)]
