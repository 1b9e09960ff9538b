"""`Compaction`: the real positions of every row side by side, so that a convolution never sees the masked ones between them."""

from __future__ import annotations

import torch
from torch import Tensor


class Compaction:
    """Moves the real positions of each row to its front, in order, and back.

    Args:
        mask: (batch, length), True = real.
    """

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask
        self.counts = mask.sum(1)
        """Real positions of each row, (batch,)."""
        self._places = mask.cumsum(1) - 1

    def pack(self, x: Tensor) -> Tensor:
        """``x`` (batch, length, width) with its real positions in front and zeros behind them."""
        batch, length, width = x.shape
        # masked positions share one place more, which is cut off: no sort, so that exporters can follow
        places = torch.where(self.mask, self._places, length)[..., None].expand_as(x)
        return x.new_zeros(batch, length + 1, width).scatter(1, places, x)[:, :length]

    def unpack(self, packed: Tensor) -> Tensor:
        """The packed positions at the places they came from, zeros at masked ones."""
        places = self._places.clamp(min=0)[..., None].expand_as(packed)
        return torch.where(self.mask[..., None], packed.gather(1, places), 0.0)
