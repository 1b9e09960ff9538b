"""Pooling: maximum then dropout of whole channels (SAF-pooling), and global pooling that leaves out padded positions."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GlobalKind = Literal["max", "average"]


class SAFPool2d(nn.Module):
    """Simple adaptive feature composition: ``y = dropout_channels(max_pool(x))``.

    Dropping whole channels of the strongest responses makes the network compose its answer from several features. With ``p = 0``,
    and always in evaluation, it is max-pooling.

    Source: Hasanpour, Rouhani, Fayyaz, Sabokrou, Lets keep it simple, using simple architectures to outperform deeper ones, 2016.

    Args:
        p: probability of dropping a channel in training; the others are scaled by 1 / (1 − p).
        kernel: side of the pooled square.
        stride: step between squares, by default ``kernel``.

    Shapes: x (batch, channels, height, width) → (batch, channels, height // stride, width // stride).
    """

    def __init__(self, p: float = 0.0, kernel: int = 2, stride: int | None = None) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(kernel, stride)
        self.dropout = nn.Dropout2d(p)

    def forward(self, x: Tensor) -> Tensor:
        """Pool, then drop channels."""
        return self.dropout(self.pool(x))


class SAFPool1d(nn.Module):
    """`SAFPool2d` along one axis: x (batch, channels, length) → (batch, channels, length // stride)."""

    def __init__(self, p: float = 0.0, kernel: int = 2, stride: int | None = None) -> None:
        super().__init__()
        self.pool = nn.MaxPool1d(kernel, stride)
        self.dropout = nn.Dropout1d(p)

    def forward(self, x: Tensor) -> Tensor:
        """Pool, then drop channels."""
        return self.dropout(self.pool(x))


def global_pool(x: Tensor, kind: GlobalKind = "average", mask: Tensor | None = None) -> Tensor:
    """Maximum or mean over all positions: (batch, channels, …) → (batch, channels).

    Args:
        x: a map of one or two spatial dimensions.
        kind: ``"max"`` or ``"average"``.
        mask: (batch, length), True = real, for a series; brought to x's length if that is shorter. Positions without any real
            value do not count; a series without any real position at all gives zero.

    Raises:
        ValueError: an unknown kind.
    """
    if kind not in ("max", "average"):
        raise ValueError(f"global pooling must be 'max' or 'average', got {kind!r}")
    flat = x.flatten(2)
    if mask is None:
        return flat.amax(2) if kind == "max" else flat.mean(2)
    real = shrink_mask(mask, flat.shape[2]).unsqueeze(1)
    if kind == "average":
        return (flat * real).sum(2) / real.sum(2).clamp(min=1)
    return torch.where(real, flat, torch.finfo(flat.dtype).min).amax(2) * real.any(2)


def shrink_mask(mask: Tensor, length: int) -> Tensor:
    """A mask (batch, n) at another length: a position is real if any of those it stands for is."""
    if mask.shape[1] == length:
        return mask.bool()
    return F.adaptive_max_pool1d(mask.float(), length) > 0
