"""Arc-cosine functions: what a ReLU layer does to the cosine between two inputs.

For (u, v) jointly Gaussian with unit variances and correlation t = cos θ:

- order 0: ``κ_0(t) = 2 E 1[u > 0] 1[v > 0] = (π − θ) / π``, the step function's kernel;
- order 1: ``κ_1(t) = 2 E max(u, 0) max(v, 0) = (t (π − θ) + sin θ) / π``, the rectifier's; ``κ_1' = κ_0``.

Both are 1 at t = 1 and 0 at t = −1. κ_0 has an infinite slope at both ends, so that a cosine near 1 loses half of its digits; where
``1 − t`` is known directly, as ``‖x − x'‖² / 2`` of unit vectors, it is passed beside t.

Source: Cho, Saul (2009), Kernel Methods for Deep Learning.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

ROUNDING = 1e-6  # a cosine outside [−1, 1] by no more than this is rounding; further out it is no cosine
_SMALL_ANGLE = 0.05  # below this, four terms of sin θ − θ cos θ are exact and the difference is not


def arc_cosine(order: int, cosine: ArrayLike, one_minus_cosine: ArrayLike | None = None) -> np.ndarray:
    """κ_0 or κ_1 of cosines, float64, elementwise.

    Args:
        order: 0 or 1.
        cosine: t, any shape; clipped to [−1, 1] where rounding took it out.
        one_minus_cosine: ``1 − t`` where it is known better than by subtraction; broadcasts against ``cosine``.

    Raises:
        ValueError: another order, or a cosine that is not finite or outside [−1, 1] by more than rounding.
    """
    if order not in (0, 1):
        raise ValueError(f"order must be 0 or 1, got {order}")
    t = _checked(cosine)
    below_one = 1.0 - t if one_minus_cosine is None else np.clip(np.asarray(one_minus_cosine, dtype=np.float64), 0.0, 2.0)
    above = 1.0 + t
    supplement = 2.0 * np.arctan2(np.sqrt(above), np.sqrt(below_one))  # π − θ, exact at both ends
    if order == 0:
        return supplement / math.pi
    return (t * supplement + np.sqrt(below_one * above)) / math.pi


def arc_cosines(cosine: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """κ_0 and κ_1 of the same cosines with one arc cosine, to absolute rounding; arguments and errors as `arc_cosine`."""
    t = _checked(cosine)
    supplement = math.pi - np.arccos(t)
    order_one = t * supplement
    order_one += np.sqrt((1.0 - t) * (1.0 + t))
    order_one /= math.pi
    supplement /= math.pi
    return supplement, order_one


def one_minus_arc_cosine(one_minus_cosine: ArrayLike) -> np.ndarray:
    """``1 − κ_1(1 − ε) = ε − (sin θ − θ cos θ) / π`` of ``ε = 1 − t`` in [0, 2], float64, to relative rounding also for tiny ε.

    Raises:
        ValueError: an ε that is not finite or outside [0, 2] by more than rounding.
    """
    below_one = 1.0 - _checked(1.0 - np.asarray(one_minus_cosine, dtype=np.float64))
    below_one = np.where(below_one < 0.5, np.maximum(one_minus_cosine, 0.0), below_one)  # 1 − (1 − ε) is not ε
    angle = 2.0 * np.arctan2(np.sqrt(below_one), np.sqrt(2.0 - below_one))
    square = np.square(angle)
    series = angle * square * (1 / 3 - square * (1 / 30 - square * (1 / 840 - square / 45360)))
    excess = np.where(angle < _SMALL_ANGLE, series, np.sin(angle) - angle * np.cos(angle))
    return below_one - excess / math.pi


def _checked(cosine: ArrayLike) -> np.ndarray:
    t = np.asarray(cosine, dtype=np.float64)
    if t.size and not (np.abs(t).max() <= 1.0 + ROUNDING):  # also true of NaN
        worst = t.flat[np.argmax(np.where(np.isnan(t), np.inf, np.abs(t)))]
        raise ValueError(f"a cosine must be finite and between -1 and 1, got {worst}")
    return np.clip(t, -1.0, 1.0)
