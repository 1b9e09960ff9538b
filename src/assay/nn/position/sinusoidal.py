"""Sinusoidal positions, computed from position numbers, so that a stream may be as long as it likes."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sinusoidal_positions(positions: Tensor, width: int) -> Tensor:
    """Sines and cosines of each position number: ``p[2i] = sin(n / 10000^(2i/width)), p[2i+1] = cos(…)``.

    Vaswani et al., Attention Is All You Need, 2017.

    Args:
        positions: (...), integers from 0.
        width: numbers per position; an odd width drops the last cosine.

    Returns:
        (..., width), float32.
    """
    half = torch.arange((width + 1) // 2, device=positions.device, dtype=torch.float32)
    angles = positions[..., None].float() * torch.exp(half * (-2 * math.log(10_000.0) / width))
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(-2)[..., :width]
