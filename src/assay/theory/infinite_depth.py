"""What an infinitely wide and infinitely deep network classifies by, for any activation, and the activations that make it optimal.

For unit inputs of the non-negative orthant with cosine ξ, no biases and an activation with ``E φ(z)² = 1``, let ``A = E φ``, ``A' = E φ'``,
``B' = E φ'²`` (z ~ N(0, 1)), a = A'², b = B'. As the depth L grows, the minimum-norm regression on labels becomes

- A = 0, A' = 0: the nearest neighbour, for ``log Σ^L`` falls as k^L and the largest ξ wins;
- A = 0, 0 < a < 1: a vote ``Σ y_i ψ(x_i·x)`` of all examples with a singular kernel, the Koenigs function of the dual activation,

      ψ(ξ) = lim Σ^L(ξ) / a^L,   ψ(φ̌(ξ)) = a ψ(ξ),   ψ'(0) = 1,

  which grows towards ξ = 1 as ``‖x − x'‖^{−α}`` with **α = −2 ln a / ln b**;
- A ≠ 0, B' ≥ 1: the majority of all labels, for every pair of different inputs comes to look alike;
- A ≠ 0, B' < 1: not covered.

The vote errs as little as anything can once there are enough examples, for every distribution with a density, if and only if α is the
dimension of the sphere. `optimal_activation` gives such an activation.

Source: Radhakrishnan, Belkin, Uhler (2023), Wide and Deep Neural Networks Achieve Optimality for Classification. The Hilbert estimate
behind it: Devroye, Györfi, Krzyżak (1998), The Hilbert Kernel Regression Estimate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.interpolate import CubicSpline

from assay.theory.dual_activation import DualActivation

LimitKind = Literal["nearest-neighbour", "singular-kernel", "majority", "not-classified"]
LARGEST_DIMENSION = 2000  # 2^{−d/2} must stay a normal number
FEWEST_KNOTS, MOST_KNOTS = 1025, 2**17
ACCURACY = 1e-6
_ZERO = 1e-12  # what quadrature leaves of an expectation that is 0
_ONE = 1e-9
_LEFT_OUT = 1e-9  # of the series; near ξ = 1 the missing coefficients would be all that counts


@dataclass(frozen=True)
class Limit:
    """Where a network's classification goes with depth.

    Args:
        kind: see the module.
        order: α of a singular kernel, else None.
        reason: the numbers that decide, in words.
    """

    kind: LimitKind
    order: float | None
    reason: str


def infinite_depth_limit(dual: DualActivation) -> Limit:
    """Which classifier an activation has in the limit of infinite depth; the activation is normalised to ``E φ² = 1`` first.

    Raises:
        ValueError: the activation is linear: its kernel does not change with depth.
    """
    size = dual.second_moment
    mean, slope = dual.mean / math.sqrt(size), dual.derivative_mean / math.sqrt(size)
    a, b = slope**2, dual.derivative_second_moment / size
    zero = 0.0 if dual.exact is not None else _ZERO
    told = f"A = {mean:.4g}, A' = {slope:.4g}, B' = {b:.4g}"
    if a > 1 - _ZERO:
        raise ValueError(f"the activation is linear ({told}): its kernel is the same at every depth")
    if abs(mean) > zero:
        if b < 1 - _ONE:
            return Limit("not-classified", None, f"{told}: A ≠ 0 and B' < 1, which the theorem leaves out")
        return Limit("majority", None, f"{told}: A ≠ 0 and B' ≥ 1, so all pairs of different inputs come to look alike")
    if abs(slope) <= zero:
        return Limit("nearest-neighbour", None, f"{told}: A = A' = 0, so the nearest example outweighs all others")
    if not math.isfinite(b):
        return Limit("not-classified", None, f"{told}: the activation jumps, which the theorem leaves out")
    order = -2 * math.log(a) / math.log(b)
    return Limit("singular-kernel", order, f"{told}: A = 0 and A' ≠ 0, so all examples vote by distance to the power −{order:.4g}")


def optimal_activation(dimension: float) -> DualActivation:
    """The dual of an activation whose infinitely deep network is consistent on a sphere of dimension d: see `optimal_coefficients`."""
    return DualActivation.from_hermite(optimal_coefficients(dimension))


def optimal_coefficients(dimension: float) -> tuple[float, ...]:
    """Hermite coefficients c_0, c_1, … of an activation whose infinitely deep network is consistent on a sphere of dimension d: α = d.

    With a = φ̌'(0) and b = φ̌'(1), ``a b^{d/2} = 1``:

    - d ≥ 2: ``φ = 2^{−d/4} h_3 + √(1 − 2^{1−d/2}) h_2 + 2^{−d/4} h_1``, b = 2;
    - 1 ≤ d < 2: a = ½ and the rest on the two powers around k = 2 · 4^{1/d} − 1 whose mean is k, so that b = 4^{1/d}; at d = 1
      ``φ = (h_7 + h_1) / √2``.

    Args:
        dimension: d, of the sphere: columns − 1; not necessarily whole.

    Raises:
        ValueError: a dimension below 1, or above 2,000, where a is no longer a number.
    """
    if not 1 <= dimension <= LARGEST_DIMENSION:
        raise ValueError(f"dimension must be from 1 to {LARGEST_DIMENSION}, got {dimension}")
    if dimension >= 2:
        outer = 2 ** (-dimension / 4)
        return 0.0, outer, math.sqrt(1 - 2 ** (1 - dimension / 2)), outer
    power = 2 * 4 ** (1 / dimension) - 1
    low = math.floor(power + _ZERO)
    share = max(0.0, power - low)
    coefficients = [0.0] * (low + 1 + (share > 0))
    coefficients[1], coefficients[low] = math.sqrt(0.5), math.sqrt((1 - share) / 2)
    if share > 0:
        coefficients[low + 1] = math.sqrt(share / 2)
    return tuple(coefficients)


def koenigs(dual: DualActivation, xi: ArrayLike, one_minus_xi: ArrayLike | None = None) -> np.ndarray:
    """ψ(ξ), elementwise; 0 at ξ = 0, infinite at ξ = 1. See `log_koenigs` for the arguments and errors."""
    return np.exp(log_koenigs(dual, xi, one_minus_xi))


def log_koenigs(dual: DualActivation, xi: ArrayLike, one_minus_xi: ArrayLike | None = None) -> np.ndarray:
    """``ln ψ(ξ) = ln ξ + Σ_k ln(φ̌(S_k) / (a S_k))``, ``S_0 = ξ``, ``S_{k+1} = φ̌(S_k)``, in logarithms so that nothing underflows.

    Args:
        dual: of an activation with A = 0 and A' ≠ 0, in any scale.
        xi: cosines in [0, 1], any shape.
        one_minus_xi: ``1 − ξ`` where it is known better than by subtraction (``‖x − x'‖² / 2``).

    Raises:
        ValueError: an activation without a singular kernel, or whose series leaves out more than 1e-9; a ξ outside [0, 1].
    """
    powers, logs = _series(dual)
    limit = infinite_depth_limit(dual)
    if limit.kind != "singular-kernel":
        raise ValueError(f"this activation has no singular kernel ({limit.reason})")
    log_a = float(logs[0])
    given = log_cosine(xi, one_minus_xi)
    start = np.ravel(given)
    total, current = start.copy(), start.copy()
    active = np.isfinite(start) & (start < 0)
    total[start == 0] = np.inf
    while active.any():
        current[active], gained = _log_dual(powers, logs, current[active])
        total[active] += gained
        active[np.flatnonzero(active)[gained <= 1e-17 * (1 - math.exp(log_a))]] = False
    return total.reshape(given.shape)


def log_nngp(dual: DualActivation, xi: ArrayLike, depth: int, one_minus_xi: ArrayLike | None = None) -> np.ndarray:
    """``ln Σ^L(ξ)`` of an activation with A = 0 normalised to ``E φ² = 1``, where Σ^L itself underflows within a few layers.

    Args:
        dual: of the activation, in any scale.
        xi: cosines in [0, 1], any shape.
        depth: L ≥ 0.
        one_minus_xi: ``1 − ξ`` where it is known better than by subtraction.

    Raises:
        ValueError: A ≠ 0, a series that leaves out more than 1e-9, a ξ outside [0, 1], or a negative depth.
    """
    if depth < 0:
        raise ValueError(f"depth must be at least 0, got {depth}")
    powers, logs = _series(dual)
    current = log_cosine(xi, one_minus_xi)
    for _ in range(depth):
        current, _ = _log_dual(powers, logs, current)
    return current


def log_cosine(xi: ArrayLike, one_minus_xi: ArrayLike | None = None) -> np.ndarray:
    """``ln ξ``, from ``1 − ξ`` where ξ is above ½ and it is given.

    Raises:
        ValueError: a ξ that is not in [0, 1]: ψ is not positive elsewhere.
    """
    cosine = _checked_cosine(xi)
    with np.errstate(divide="ignore"):
        if one_minus_xi is None:
            return np.asarray(np.log(cosine))
        below = np.broadcast_to(np.clip(np.asarray(one_minus_xi, dtype=np.float64), 0.0, 1.0), cosine.shape)
        return np.where(cosine > 0.5, np.log1p(-np.where(cosine > 0.5, below, 0.0)), np.log(cosine))


def _checked_cosine(xi: ArrayLike) -> np.ndarray:
    cosine = np.asarray(xi, dtype=np.float64)
    if cosine.size and not (cosine.min() >= -1e-12 and cosine.max() <= 1 + 1e-6):
        bad = cosine[~((cosine >= -1e-12) & (cosine <= 1 + 1e-6))]
        raise ValueError(f"a cosine must lie in [0, 1], got {bad[0]:.6g}: map the inputs to the non-negative orthant of the sphere")
    return np.clip(cosine, 0.0, 1.0)


class KoenigsTable:
    """ln ψ by a cubic spline, for many pairs: one logarithm and one look-up each instead of all layers.

    ``ln ψ(ξ) − ln ξ`` is smooth in ``t = ln(ξ / (1 − ξ))``: flat where ξ is small, and of slope near α/2 where ξ is near 1. Beyond the
    knots it goes on as a straight line. Knots are doubled until the spline is right to 1e-6 half-way between them; where 2¹⁷ do not
    suffice, which takes some hundred dimensions, every value is computed by itself.

    Args:
        dual: as for `log_koenigs`.

    Raises:
        ValueError: as `log_koenigs`.
    """

    def __init__(self, dual: DualActivation) -> None:
        self.dual = dual
        low = float(_series(dual)[1][0]) - 40.0
        places = np.linspace(low, 75.0, FEWEST_KNOTS)
        values = self._exact(places)
        while True:
            middle = (places[1:] + places[:-1]) / 2
            between = self._exact(middle)
            self.spline: CubicSpline | None = CubicSpline(places, values)
            self.error = float(np.abs(self.spline(middle) - between).max())
            if self.error <= ACCURACY or len(places) >= MOST_KNOTS:
                break
            places, values = _interleaved(places, middle), _interleaved(values, between)
        self.places = places
        self._slope = float(self.spline(places[-1], 1))
        if self.error > ACCURACY:
            self.spline, self.error = None, 0.0

    def __call__(self, xi: ArrayLike, one_minus_xi: ArrayLike | None = None) -> np.ndarray:
        """ln ψ(ξ), elementwise; the arguments and errors are those of `log_koenigs`."""
        if self.spline is None:
            return log_koenigs(self.dual, xi, one_minus_xi)
        cosine = _checked_cosine(xi)
        gap = 1.0 - cosine if one_minus_xi is None else np.clip(np.asarray(one_minus_xi, dtype=np.float64), 0.0, 1.0)
        with np.errstate(divide="ignore"):
            log_xi = np.log(cosine)
            t = log_xi - np.log(gap)
        inside = self.spline(np.clip(t, self.places[0], self.places[-1]))
        return log_xi + inside + self._slope * np.maximum(t - self.places[-1], 0.0)

    def _exact(self, places: np.ndarray) -> np.ndarray:
        log_xi = -np.logaddexp(0.0, -places)
        return log_koenigs(self.dual, np.exp(log_xi), np.exp(-np.logaddexp(0.0, places))) - log_xi


def _interleaved(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    found = np.empty(len(outer) + len(inner))
    found[::2], found[1::2] = outer, inner
    return found


def _series(dual: DualActivation) -> tuple[np.ndarray, np.ndarray]:
    """Powers i and ``ln a_i`` of the normalised dual's coefficients above 0, ascending; A = 0 is required."""
    size = dual.second_moment
    left_out = dual.tail() / size
    if left_out > _LEFT_OUT:
        raise ValueError(
            f"the series up to order {dual.order} leaves out {left_out:.2g} of the activation's square: it needs a higher order"
        )
    coefficients = dual.series / dual.series.sum()
    zero = 0.0 if dual.exact is not None else _ZERO**2
    powers = np.flatnonzero(coefficients > zero)
    if powers[0] == 0:
        raise ValueError(f"the activation's mean is {dual.mean:.4g}, not 0: its kernel does not fall to 0 with depth")
    return powers, np.log(coefficients[powers])


def _log_dual(powers: np.ndarray, logs: np.ndarray, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``ln φ̌(e^s)``, and by how much it exceeds its lowest power's logarithm ``m s + ln a_m``, both to relative rounding.

    They come from ``1 − φ̌`` while that is small, else from the lowest power.
    """
    missing, rest = np.zeros_like(s), np.zeros_like(s)
    for power, log in zip(powers, logs, strict=True):
        missing -= math.exp(log) * np.expm1(power * s)
    for power, log in zip(powers[1:], logs[1:], strict=True):
        rest += np.exp(log - logs[0] + (power - powers[0]) * s)
    lowest, high = powers[0] * s + logs[0], missing < 0.5
    near, excess = np.log1p(-np.minimum(missing, 0.5)), np.log1p(rest)
    return np.where(high, near, lowest + excess), np.where(high, near - lowest, excess)
