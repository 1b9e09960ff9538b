"""Dual activations: what an infinitely wide layer does to the covariance between two inputs.

For jointly Gaussian u, v with variances q, r and covariance c, a layer with activation φ turns c into ``E φ(u) φ(v)``, and gradients are
multiplied by ``E φ'(u) φ'(v)``. At unit variances and correlation ξ this is the dual activation, a power series with coefficients that are
not negative,

    φ̌(ξ) = E φ(u) φ(v) = Σ_i a_i ξ^i,   a_i = (E φ(z) h_i(z))²,   φ̌'(ξ) = E φ'(u) φ'(v),

with the orthonormal Hermite polynomials h_0 = 1, h_1 = z, h_2 = (z² − 1)/√2, … of z ~ N(0, 1).

Closed forms are here for ReLU and its leaky relatives, erf, sin and GELU; every other activation goes by its Hermite coefficients, with
the mass that the series leaves out as a bound of the error.

Sources: Cho, Saul (2009), Kernel Methods for Deep Learning; Williams (1997), Computing with Infinite Networks; Daniely, Frostig, Singer
(2016), Toward Deeper Understanding of Neural Networks; Tsuchida, Pearce, van der Heide, Roosta, Gallagher (2021), Avoiding Kernel Fixed
Points: Computing with ELU and GELU Infinite Networks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from assay.theory.arc_cosine import arc_cosines
from assay.theory.gaussian_expectation import GaussianExpectation, Pointwise, ScalarFunction, check_square

ORDER = 100
CHUNK = 2048
Pair = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""From variances q and r and covariance c to ``E φ(u) φ(v)`` and ``E φ'(u) φ'(v)``, elementwise."""


@dataclass(frozen=True, eq=False)
class DualActivation:
    """The dual of ``φ = factor · σ``; made by `from_hermite`, `from_callable` or `closed_form`.

    Args:
        sigma: σ with its derivative and breakpoints.
        order: last Hermite coefficient of the series.
        pair: the expectations in closed form, where there is one.
        factor: what σ is multiplied by.
        exact: σ's Hermite coefficients, where it is a polynomial.

    Raises:
        ValueError: an order below 1, or a factor that is 0 or not finite.
    """

    sigma: ScalarFunction
    order: int = ORDER
    pair: Pair | None = None
    factor: float = 1.0
    exact: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.order < 1:
            raise ValueError(f"order must be at least 1, got {self.order}")
        if not (math.isfinite(self.factor) and self.factor != 0):
            raise ValueError(f"factor must be finite and not 0, got {self.factor}")

    @classmethod
    def from_hermite(cls, coefficients: Sequence[float]) -> DualActivation:
        """The dual of ``φ = Σ c_i h_i``: ``φ̌(ξ) = Σ c_i² ξ^i``, exactly.

        Args:
            coefficients: c_0, c_1, …

        Raises:
            ValueError: there are none, all are 0, or one is not finite.
        """
        values = np.asarray(coefficients, dtype=np.float64)
        if values.ndim != 1 or not len(values) or not np.isfinite(values).all() or not values.any():
            raise ValueError(f"coefficients must be finite numbers, not all 0, got {coefficients}")
        held = tuple(values.tolist())
        return cls(ScalarFunction(lambda z: hermite_sum(held, z), breakpoints=()), max(1, len(held) - 1), exact=held)

    @classmethod
    def from_callable(cls, function: Pointwise, order: int = ORDER, breakpoints: Sequence[float] | None = None) -> DualActivation:
        """The dual of any φ, by its Hermite coefficients up to an order.

        Args:
            function: φ, a module or a function of float64 tensors, element by element.
            order: last coefficient.
            breakpoints: where φ or a derivative jumps; looked for where None.

        Raises:
            ValueError: φ is no function of a single number, has no finite Gaussian expectation, or is 0 everywhere.
        """
        made = cls(ScalarFunction(function, breakpoints=breakpoints), order)
        if not made.second_moment > 0:
            raise ValueError("the activation is 0 everywhere: it has no dual")
        check_square(made.sigma)
        return made

    @classmethod
    def closed_form(cls, name: str, **options: float) -> DualActivation:
        """A dual in closed form: ``relu``, ``leaky-relu`` (slope), ``erf``, ``sine`` (frequency) or ``gelu``.

        Raises:
            ValueError: another name, or an option that is not finite.
        """
        if name not in CLOSED_FORMS:
            raise ValueError(f"name must be one of {', '.join(CLOSED_FORMS)}, got {name!r}")
        if not all(math.isfinite(value) for value in options.values()):
            raise ValueError(f"options of {name} must be finite, got {options}")
        return CLOSED_FORMS[name](**options)

    # -------------------------------------------------------------------------------------------- unit variance

    def __call__(self, xi: ArrayLike) -> np.ndarray:
        """``φ̌(ξ)`` of correlations of any shape."""
        return self.expectations(1.0, 1.0, xi)[0]

    def derivative(self, xi: ArrayLike) -> np.ndarray:
        """``φ̌'(ξ)`` of correlations of any shape."""
        return self.expectations(1.0, 1.0, xi)[1]

    @cached_property
    def series(self) -> np.ndarray:
        """``a_i``, i = 0 … order, at unit variance."""
        return np.square(self.coefficients(1.0)[0])

    @property
    def mean(self) -> float:
        """``A = E φ(z)``; ``a_0 = A²``."""
        return float(self.coefficients(1.0)[0, 0])

    @property
    def derivative_mean(self) -> float:
        """``A' = E φ'(z) = E z φ(z)``; ``a_1 = A'²``."""
        return float(self.coefficients(1.0)[0, 1])

    @cached_property
    def second_moment(self) -> float:
        """``E φ(z)² = φ̌(1)``, by quadrature and not by the series."""
        return float(self.variance(1.0))

    @cached_property
    def derivative_second_moment(self) -> float:
        """``B' = E φ'(z)² = φ̌'(1)``, by quadrature; infinite where φ itself jumps."""
        if self.exact is not None:
            return float(np.arange(len(self.exact)) @ np.square(np.multiply(self.factor, self.exact)))
        if self.sigma.breakpoints:
            below, above = self.sigma.sides()
            if float((above[:, 0] - below[:, 0]).abs().max()) > 1e-6:
                return math.inf
        z, weight = self._rule.nodes(1.0)
        return self.factor**2 * self._rule.average(self.sigma.derivatives(z)[1].square(), z, weight)

    def tail(self, variance: float = 1.0) -> float:
        """``E φ² − Σ_{i ≤ order} a_i``: no value of the series is further off than this; 0 for a polynomial.

        Args:
            variance: q; the wider the pre-activations, the slower the series.
        """
        if self.exact is not None:
            return 0.0
        return max(0.0, float(self.variance(variance)) - float(np.square(self.coefficients(variance)).sum()))

    def normalised(self) -> DualActivation:
        """The same activation with a factor that makes ``E φ(z)² = 1``."""
        return replace(self, factor=self.factor / math.sqrt(self.second_moment))

    def activation(self, z: Tensor) -> Tensor:
        """φ itself, any shape."""
        return self.factor * self.sigma(z)

    # -------------------------------------------------------------------------------------------- any variance

    def variance(self, variance: ArrayLike) -> np.ndarray:
        """``E φ(u)²`` for u of variance q, any shape.

        Raises:
            ValueError: a variance is negative or not finite.
        """
        q = _variances(variance)
        if self.pair is not None:
            return self.factor**2 * self.pair(q, q, q)[0]
        distinct, where = np.unique(q, return_inverse=True)
        found = np.concatenate([(np.square(values) * weight).sum(1) for values, _, weight in self._sampled(distinct)] or [np.empty(0)])
        return self.factor**2 * found[where].reshape(q.shape)

    def expectations(self, variance: ArrayLike, other: ArrayLike, covariance: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """``E φ(u) φ(v)`` and ``E φ'(u) φ'(v)``.

        Args:
            variance: q of u.
            other: r of v.
            covariance: c; all three broadcast. Beyond ±√(qr) it is clipped.

        Raises:
            ValueError: a variance is negative or not finite.
        """
        q, r = _variances(variance), _variances(other)
        bound = np.sqrt(q * r)
        c = np.clip(np.asarray(covariance, dtype=np.float64), -bound, bound)
        value, slope = self.pair(q, r, c) if self.pair is not None else self._by_series(q, r, c)
        return self.factor**2 * value, self.factor**2 * slope

    def coefficients(self, variance: ArrayLike) -> np.ndarray:
        """``c_i = E φ(√q z) h_i(z)``: (variances, order + 1)."""
        q = np.atleast_1d(_variances(variance))
        if self.exact is not None and (q == 1).all():
            row = np.zeros(self.order + 1)
            row[: len(self.exact)] = self.exact
            return np.tile(self.factor * row, (len(q), 1))
        return np.concatenate(
            [self.factor * (values * weight) @ hermite_polynomials(self.order, u).T for values, u, weight in self._sampled(q)]
        )

    @cached_property
    def _rule(self) -> GaussianExpectation:
        return GaussianExpectation(self.sigma.breakpoints)

    def _sampled(self, q: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Blocks of ``σ(√q u)`` (variances, points), with the points u and their weights."""
        together = CHUNK if not any(self.sigma.breakpoints) else 1  # a kink beside 0 lies elsewhere in u for each q
        for start in range(0, len(q), together):
            deviation = torch.from_numpy(np.sqrt(q[start : start + together]))
            u, weight = self._rule_in_u(float(deviation[0])).nodes(1.0)
            values = self.sigma(deviation[:, None] * u)
            if not bool(values.isfinite().all()):
                raise ValueError(f"the activation is not finite on ±{12 * float(deviation.max()):.3g} and has no Gaussian expectation")
            yield values.numpy(), u.numpy(), weight.numpy()

    def _rule_in_u(self, scale: float) -> GaussianExpectation:
        if scale in (0, 1) or not any(self.sigma.breakpoints):
            return self._rule
        return GaussianExpectation(tuple(place / scale for place in self.sigma.breakpoints))

    def _by_series(self, q: np.ndarray, r: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Horner in the correlation, value and derivative together; without the factor."""
        bound = np.sqrt(q * r)
        safe = np.where(bound > 0, bound, 1.0)
        rho = np.where(bound > 0, c / safe, 0.0)
        left, right = self._table(q), self._table(r)
        value, slope = np.zeros(rho.shape), np.zeros(rho.shape)
        for i in range(self.order, -1, -1):
            slope *= rho
            slope += value
            value *= rho
            value += left[i] * right[i]
        return value / self.factor**2, slope / (safe * self.factor**2)

    def _table(self, variance: np.ndarray) -> np.ndarray:
        """Coefficients (order + 1, *variance's shape), or of size 1 where there is one variance, as on a sphere."""
        distinct, where = np.unique(variance, return_inverse=True)
        if len(distinct) == 1:
            return self.coefficients(distinct).T.reshape(self.order + 1, *[1] * variance.ndim)
        return self.coefficients(distinct).T[:, where.ravel()].reshape(self.order + 1, *variance.shape)


def hermite_polynomials(order: int, z: np.ndarray) -> np.ndarray:
    """h_0 … h_order, orthonormal under N(0, 1), at points (points,): (order + 1, points).

    ``h_{i+1} = (z h_i − √i h_{i−1}) / √(i + 1)``.
    """
    found = np.ones((order + 1, len(z)))
    for i in range(order):
        before = math.sqrt(i) * found[i - 1] if i else 0.0
        found[i + 1] = (z * found[i] - before) / math.sqrt(i + 1)
    return found


def hermite_sum(coefficients: Sequence[float], z: Tensor) -> Tensor:
    """``Σ c_i h_i(z)``, elementwise, by the recurrence of `hermite_polynomials`; differentiable."""
    before, current = torch.zeros_like(z), torch.ones_like(z)
    total = coefficients[0] * current
    for i, coefficient in enumerate(coefficients[1:]):
        before, current = current, (z * current - math.sqrt(i) * before) / math.sqrt(i + 1)
        total = total + coefficient * current
    return total


def _variances(variance: ArrayLike) -> np.ndarray:
    q = np.asarray(variance, dtype=np.float64)
    if q.size and not (np.isfinite(q).all() and q.min() >= 0):
        raise ValueError(f"a variance must be finite and not negative, got {q.min() if np.isfinite(q).all() else 'one that is not finite'}")
    return q


# ------------------------------------------------------------------------------------------------ closed forms


def _leaky(slope: float = 0.01) -> DualActivation:
    """``max(z, 0) + slope · min(z, 0)``; ReLU at slope 0, |z| at −1, the identity at 1."""

    def pair(q: np.ndarray, r: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        bound = np.sqrt(q * r)
        cosine = c / np.where(bound > 0, bound, 1.0)
        change, value = arc_cosines(cosine)
        if slope == 0:
            return bound / 2 * value, change / 2
        opposite_change, opposite_value = arc_cosines(-cosine)
        same = (1 + slope**2) / 2
        return bound * (same * value - slope * opposite_value), same * change + slope * opposite_change

    sigma = ScalarFunction(lambda z: torch.where(z > 0, z, slope * z), breakpoints=() if slope == 1 else (0.0,))
    return DualActivation(sigma, pair=pair)


def _relu() -> DualActivation:
    return _leaky(0.0)


def _erf() -> DualActivation:
    def pair(q: np.ndarray, r: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        product = (1 + 2 * q) * (1 + 2 * r)
        value = 2 / math.pi * np.arcsin(2 * c / np.sqrt(product))
        return value, 4 / math.pi / np.sqrt(product - 4 * np.square(c))

    return DualActivation(ScalarFunction(torch.erf, breakpoints=()), pair=pair)


def _sine(frequency: float = 1.0) -> DualActivation:
    """``sin(ω z)``: ``e^{−ω²(q+r)/2} sinh(ω² c)``."""

    def pair(q: np.ndarray, r: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        square, middle = frequency**2, (q + r) / 2
        near, far = np.exp(square * (c - middle)), np.exp(-square * (c + middle))  # |c| ≤ (q + r)/2: neither overflows
        return (near - far) / 2, square * (near + far) / 2

    return DualActivation(ScalarFunction(lambda z: torch.sin(frequency * z), breakpoints=()), pair=pair)


def _gelu() -> DualActivation:
    """``z Φ(z)``, by Gaussian integration by parts; D is ``E n(u) n(v)`` with the standard normal density n."""

    def pair(q: np.ndarray, r: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        determinant = (1 + q) * (1 + r) - np.square(c)
        both = 0.25 + np.arcsin(c / np.sqrt((1 + q) * (1 + r))) / (2 * math.pi)  # E Φ(u) Φ(v)
        density = 1 / (2 * math.pi * np.sqrt(determinant))
        shares = 1 / (1 + q) + 1 / (1 + r)
        value = c * both + density * (q * r - np.square(c) + np.square(c) * shares)
        return value, both + c * density * (shares + 1 / determinant)

    return DualActivation(ScalarFunction(torch.nn.functional.gelu, breakpoints=()), pair=pair)


CLOSED_FORMS: dict[str, Callable[..., DualActivation]] = {
    "relu": _relu,
    "leaky-relu": _leaky,
    "erf": _erf,
    "sine": _sine,
    "gelu": _gelu,
}
