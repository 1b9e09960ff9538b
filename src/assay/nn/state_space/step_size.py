"""How state-space layers draw their step sizes: evenly in the logarithm, and through a softplus."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def log_uniform(shape: Sequence[int], low: float, high: float) -> Tensor:
    """Numbers whose logarithm is uniform between those of ``low`` and ``high``.

    Raises:
        ValueError: not ``0 < low ≤ high < ∞``.
    """
    if not 0 < low <= high < math.inf:
        raise ValueError(f"the shortest and longest step must be ordered, above 0 and finite, got {low} and {high}")
    return torch.empty(*shape).uniform_(math.log(low), math.log(high)).exp()


def inverse_softplus(y: Tensor) -> Tensor:
    """The x with ``log(1 + e^x) = y``, for y > 0; accurate for small y, where the naive form cancels."""
    return y + torch.log(-torch.expm1(-y))
