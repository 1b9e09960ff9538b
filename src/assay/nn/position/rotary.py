"""Rotary positions: queries and keys turned by an angle that grows with their position, so that scores depend on the distance."""

from __future__ import annotations

import torch
from torch import Tensor


def rotate(x: Tensor, positions: Tensor, base: float = 10_000.0) -> Tensor:
    """Turn each pair ``(x[i], x[i + width/2])`` by the angle ``n · base^(−2i / width)`` for position n.

    Su, Lu, Pan, Murtadha, Wen, Liu (2021), RoFormer: Enhanced Transformer with Rotary Position Embedding.

    Args:
        x: (batch, heads, length, width), an even width.
        positions: (batch, length) or (length,), integers.
        base: the longest wavelength is 2π · base.

    Returns:
        x's shape; lengths of vectors are kept.

    Raises:
        ValueError: an odd width.
    """
    if x.shape[-1] % 2:
        raise ValueError(f"rotary positions need an even head width, got {x.shape[-1]}")
    half = x.shape[-1] // 2
    frequency = base ** (-torch.arange(half, device=x.device, dtype=torch.float64) / half)
    angle = positions[..., None, :, None].double() * frequency  # wide: a long stream's angles must keep their fractions
    cosine, sine = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], -1)
