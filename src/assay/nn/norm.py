"""Normalisations of a position's numbers, by name, and the scale on a residual branch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

NORMS: dict[str, Callable[[int], nn.Module]] = {"layer": nn.LayerNorm, "rms": lambda width: nn.RMSNorm(width, eps=1e-6)}


def norm(name: str, width: int) -> nn.Module:
    """``layer``: ``γ (x − mean) / √(variance + ε) + β`` (Ba, Kiros, Hinton, 2016, Layer Normalization); ``rms``: ``γ x / √(mean x² + ε)``
    (Zhang, Sennrich, 2019, Root Mean Square Layer Normalization).

    Raises:
        ValueError: neither of the two.
    """
    if name not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {name!r}")
    return NORMS[name](width)


class LayerScale(nn.Module):
    """``y = γ ∘ x`` with a learned γ (width,) that starts small, so that a deep residual network starts near the identity.

    Source: Touvron et al. (2021), Going Deeper with Image Transformers.

    Args:
        width: numbers per position; x is (..., width).
        initial: what every γ starts at.

    Raises:
        ValueError: ``initial`` is not above 0.
    """

    def __init__(self, width: int, initial: float = 1e-4) -> None:
        super().__init__()
        if not initial > 0:
            raise ValueError(f"layer_scale must be above 0, got {initial}")
        self.scale = nn.Parameter(torch.full((width,), float(initial)))

    def forward(self, x: Tensor) -> Tensor:
        """Scale (..., width)."""
        return self.scale * x
