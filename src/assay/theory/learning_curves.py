"""How an error falls with the number of examples: a power law is fitted to what was measured, and says what more examples would bring.

``e(n) = a n^{−β} + c`` with a, c ≥ 0: β is the learning curve's slope, c what no number of examples takes away.

Sources: Cortes, Jackel, Solla, Vapnik, Denker (1993), Learning Curves: Asymptotic Values and Rate of Convergence; Hestness et al. (2017),
Deep Learning Scaling is Predictable, Empirically; Efron, Tibshirani (1993), An Introduction to the Bootstrap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
SLOPES = np.geomspace(0.01, 4.0, 120)
"""The slopes that are tried; for each, a and c are a linear least-squares problem."""
FINER = np.geomspace(SLOPES[0] / SLOPES[1], SLOPES[1] / SLOPES[0], 41)
"""Factors on the best of them."""
DRAWS = 1000


@dataclass(frozen=True)
class Forecast:
    """An error that is expected, with its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Curve:
    """A fitted learning curve.

    Args:
        slope: β.
        interval: of β, at the curve's confidence.
        scale: a.
        offset: c.
        noise: relative standard deviation of a measured mean around the curve.
        confidence: of all intervals.
        sizes: n that were measured.
        errors: their means.
        draws: a, β, c of curves fitted to bootstrapped errors, (draws, 3).
    """

    slope: float
    interval: tuple[float, float]
    scale: float
    offset: float
    noise: float
    confidence: float
    sizes: Array = field(repr=False)
    errors: Array = field(repr=False)
    draws: Array = field(repr=False)

    def __call__(self, sizes: ArrayLike) -> Array:
        """The curve at some sizes, of any shape."""
        return self.scale * np.asarray(sizes, dtype=np.float64) ** -self.slope + self.offset

    def forecast(self, size: float) -> Forecast:
        """The error that is expected of so many examples.

        Raises:
            ValueError: a size below 1.
        """
        if not size >= 1:
            raise ValueError(f"size must be at least 1, got {size}")
        scale, slope, offset = self.draws.T
        low, high = np.quantile(scale * size**-slope + offset, _tails(self.confidence))
        value = float(self(size))
        return Forecast(value, min(float(low), value), max(float(high), value))


def fit_learning_curve(
    sizes: Sequence[float] | Array,
    errors: ArrayLike,
    *,
    offset: bool = True,
    draws: int = DRAWS,
    confidence: float = 0.95,
    seed: int = 0,
) -> Curve:
    """Fit ``a n^{−β} + c`` to measured errors by least squares of their relative deviations, with bootstrapped intervals.

    The bootstrap draws errors around the fitted curve. Their spread is that of the residuals or, where it is larger, of residuals and
    repeats pooled; it is drawn with the tails of Student's t, because few points tell it badly.

    Args:
        sizes: n, at least four different ones (three without an offset).
        errors: (sizes,), or (sizes, repeats).
        offset: False holds c at 0.
        draws: bootstrapped curves.
        confidence: of the intervals.
        seed: of the draws.

    Raises:
        ValueError: too few sizes, sizes that span less than a factor of 3 (what bends a curve is then not to be seen), errors that are
            negative, not finite or all zero, or that do not fit the sizes; draws below 1, a confidence outside (0, 1).
    """
    n, e, within = _checked(sizes, errors, 3 if offset else 2)
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    scale, slope, level = _best(n, e[None], offset)[0]
    fitted = scale * n**-slope + level
    free = len(n) - (3 if offset else 2)
    noise, degrees = _noise(e / fitted - 1, within, free)
    generator = np.random.default_rng(seed)
    wobble = noise * generator.standard_t(max(degrees, 1), (draws, len(n)))
    found = _best(n, fitted * np.exp(np.clip(wobble, -3, 3)), offset)
    low, high = np.quantile(found[:, 1], _tails(confidence))
    interval = (min(float(low), float(slope)), max(float(high), float(slope)))
    return Curve(float(slope), interval, float(scale), float(level), noise, confidence, n, e, found)


def _best(n: Array, errors: Array, offset: bool) -> Array:
    """a, β, c of each row of errors (draws, sizes): the best of all slopes, and then of finer ones around it."""
    weights = np.square(1 / np.maximum(errors, 1e-3 * errors.mean(1, keepdims=True)))
    first = _best_of(np.broadcast_to(SLOPES, (len(errors), len(SLOPES))), n, errors, weights, offset)
    return _best_of(np.clip(first[:, 1:2] * FINER, SLOPES[0], SLOPES[-1]), n, errors, weights, offset)


def _best_of(slopes: Array, n: Array, errors: Array, weights: Array, offset: bool) -> Array:
    """a, β, c of each row with the one of its slopes (draws, slopes) that leaves the least weighted square."""
    power = n ** -slopes[..., None]
    moments = (np.einsum("dm,dsm->ds", part, factor) for part, factor in ((weights, power**2), (weights, power), (weights * errors, power)))
    xx, x1, xe = moments
    one, e1 = weights.sum(1, keepdims=True), (weights * errors).sum(1, keepdims=True)
    scale, level = _linear(xx, x1, xe, one, e1, offset)
    deviation = scale[..., None] * power + level[..., None] - errors[:, None]
    best = np.einsum("dm,dsm->ds", weights, np.square(deviation)).argmin(1)[:, None]
    return np.concatenate([np.take_along_axis(part, best, 1) for part in (scale, slopes, level)], 1)


def _linear(xx: Array, x1: Array, xe: Array, one: Array, e1: Array, offset: bool) -> tuple[Array, Array]:
    """The a, c ≥ 0 that bring ``a x + c`` nearest to e, from weighted sums of x², x, x e, 1 and e."""
    alone = xe / xx
    if not offset:
        return alone, np.zeros_like(alone)
    determinant = xx * one - x1 * x1
    safe = np.where(determinant > 1e-12 * xx * one, determinant, np.inf)  # a slope of almost 0 cannot be told from the offset
    scale, level = (one * xe - x1 * e1) / safe, (xx * e1 - x1 * xe) / safe
    inside = (scale >= 0) & (level >= 0) & np.isfinite(safe)
    flat = ~inside & (scale < 0)
    return np.where(inside, scale, np.where(flat, 0.0, alone)), np.where(inside, level, np.where(flat, e1 / one, 0.0))


def _noise(residuals: Array, within: tuple[float, int], free: int) -> tuple[float, int]:
    """The relative standard deviation of a mean, and how many numbers tell it."""
    square, degrees = float(np.square(residuals).sum()), max(free, 0)
    of_repeats, repeats = within
    alone = square / degrees if degrees else 0.0
    pooled = (square + of_repeats * repeats) / max(degrees + repeats, 1)
    return (float(np.sqrt(alone)), degrees) if alone > pooled else (float(np.sqrt(pooled)), degrees + repeats)


def _checked(sizes: Sequence[float] | Array, errors: ArrayLike, parameters: int) -> tuple[Array, Array, tuple[float, int]]:
    """Sizes, mean errors, and the relative variance of a mean by its repeats with its degrees of freedom."""
    n, e = np.asarray(sizes, dtype=np.float64), np.asarray(errors, dtype=np.float64)
    e = e[:, None] if e.ndim == 1 else e
    if n.ndim != 1 or e.ndim != 2 or len(e) != len(n) or not e.shape[1]:
        raise ValueError(f"errors must be (sizes,) or (sizes, repeats), got {np.shape(errors)} for {n.shape} sizes")
    if len(np.unique(n)) <= parameters:
        raise ValueError(f"a curve of {parameters} parameters needs at least {parameters + 1} sizes, got {len(np.unique(n))}")
    if not (np.isfinite(n).all() and n.min() >= 1) or n.max() < 3 * n.min():
        raise ValueError(f"sizes must be at least 1 and span a factor of 3 or more, got {n.min():g} to {n.max():g}")
    if not np.isfinite(e).all() or (e < 0).any() or (e.mean(1) == 0).any():
        raise ValueError("errors must be finite and not negative, and above 0 in the mean of every size: an error of 0 has no logarithm")
    mean, repeats = e.mean(1), e.shape[1]
    variance = float((e.var(1, ddof=1) / repeats / mean**2).mean()) if repeats > 1 else 0.0
    return n, mean, (variance, len(n) * (repeats - 1))


def _tails(confidence: float) -> list[float]:
    return [(1 - confidence) / 2, (1 + confidence) / 2]
