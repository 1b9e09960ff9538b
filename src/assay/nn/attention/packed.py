"""`packed`: run a mixer of whole sequences on real positions alone, wherever the masked ones stand."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from assay.ops.compaction import Compaction


def packed(mix: Callable[[Tensor, Tensor | None], Tensor], x: Tensor, mask: Tensor | None) -> Tensor:
    """``mix(x, lengths)`` with the real positions of every row moved to its front, its outputs moved back; zero at masked positions.

    Args:
        mix: takes x (batch, length, width) and how many positions of each row are real, (batch,), or None for all.
        x: (batch, length, width).
        mask: (batch, length), True = real, or None.
    """
    if mask is None:
        return mix(x, None)
    packing = Compaction(mask)
    return packing.unpack(mix(packing.pack(x), packing.counts))
