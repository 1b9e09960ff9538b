"""How a signal changes from layer to layer of a wide network before training, and the initialisation at which it does not.

Layers are ``z¹ = b + W x``, ``z^{ℓ+1} = b + W σ(z^ℓ) + γ z^ℓ`` with independent Gaussian b and W of variances C_b and C_W / fan-in; γ is 0
but in residual networks. In the limit of width the preactivations are Gaussian, of variance K:

    K¹ = C_b + C_W x·x / n_0,    K' = C_b + C_W ⟨σ²⟩_K + γ² K.

Small differences of the lengths of two inputs grow by χ_∥ a layer; their angles, and gradients, by χ_⊥:

    χ_∥(K) = γ² + C_W ⟨z σ σ'⟩_K / K = dK'/dK,    χ_⊥(K) = γ² + C_W ⟨σ'²⟩_K.

An initialisation is critical where K* is a fixed point and both are 1 there. What activations have such a point, and what it is like, are
their universality classes.

Source: Roberts, Yaida, Hanin (2022), The Principles of Deep Learning Theory, chapters 3 and 5; residual connections: appendix B.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
import torch
from scipy.optimize import brentq

from assay.theory.gaussian_expectation import DTYPE, GaussianExpectation, Pointwise, ScalarFunction, check_square

UniversalityClass = Literal["scale-invariant", "K*=0", "half-stable", "none"]
KERNELS = np.geomspace(1e-3, 1e3, 61)
"""The variances among which critical points are looked for."""
_SMALL = 1e-4  # where the limit K → 0 is read off: its square is still far above rounding
_FLAT = 1e-10  # a relative difference that is rounding


class Susceptibilities(NamedTuple):
    """Growth a layer of small differences: of lengths (``parallel``, χ_∥) and of angles and gradients (``perpendicular``, χ_⊥)."""

    parallel: float
    perpendicular: float


class Decomposed(NamedTuple):
    """The kernel of two inputs ``x ± δx / 2``: at the midpoint, half the difference of the lengths, a quarter of the squared distance."""

    midpoint: float
    lengths: float
    distance: float


@dataclass(frozen=True)
class Criticality:
    """A critical initialisation.

    Args:
        universality_class: ``scale-invariant`` (every K is a fixed point), ``K*=0``, ``half-stable`` (K* > 0, attracts from one side) or
            ``none``.
        kernel: K*; None where any will do: it then keeps that of the inputs.
        weight_variance: C_W; a weight has variance C_W / fan-in.
        bias_variance: C_b.
        stability: what a small departure from K* does, in words.
        parallel_slope: dχ_∥/dK at K*.
        perpendicular_slope: dχ_⊥/dK at K*.
        perpendicular_exponent: p_⊥; angles fall as ``ℓ^{−p_⊥}``, in the class K*=0 only; NaN where they follow no power.
        heuristic: nothing is critical, and the numbers are the nearest that keep gradients or, where that is impossible, lengths.
        others: further critical points of the same activation.
    """

    universality_class: UniversalityClass
    kernel: float | None
    weight_variance: float
    bias_variance: float
    stability: str
    parallel_slope: float = 0.0
    perpendicular_slope: float = 0.0
    perpendicular_exponent: float = 0.0
    heuristic: bool = False
    others: tuple[Criticality, ...] = ()


def as_scalar_function(activation: Pointwise | ScalarFunction) -> ScalarFunction:
    """The activation with its derivatives; what is one already is handed through."""
    return activation if isinstance(activation, ScalarFunction) else ScalarFunction(activation)


def kernel_map(
    activation: Pointwise | ScalarFunction, kernel: float, weight_variance: float, bias_variance: float = 0.0, residual: float = 0.0
) -> float:
    """``K' = C_b + C_W ⟨σ²⟩_K + γ² K``.

    Args:
        activation: σ.
        kernel: K ≥ 0.
        weight_variance: C_W > 0.
        bias_variance: C_b ≥ 0.
        residual: γ in [0, 1).

    Raises:
        ValueError: an argument out of range, or an activation without Gaussian expectation.
    """
    check_variances(weight_variance, bias_variance, residual)
    sigma = as_scalar_function(activation)
    squared = GaussianExpectation(sigma.breakpoints)(lambda z: sigma(z).square(), kernel)
    return bias_variance + weight_variance * squared + residual**2 * kernel


def pair_kernel_map(
    activation: Pointwise | ScalarFunction,
    kernel: tuple[float, float, float],
    weight_variance: float,
    bias_variance: float = 0.0,
    residual: float = 0.0,
) -> tuple[float, float, float]:
    """``(K_11, K_22, K_12)`` of two inputs one layer on: ``K'_12 = C_b + C_W ⟨σ(z_1) σ(z_2)⟩ + γ² K_12``; arguments as `kernel_map`.

    Raises:
        ValueError: as `kernel_map`; a covariance larger than the variances allow.
    """
    sigma = as_scalar_function(activation)
    one, two, both = kernel
    change = partial(kernel_map, sigma, weight_variance=weight_variance, bias_variance=bias_variance, residual=residual)
    correlation = both / math.sqrt(one * two) if one > 0 and two > 0 else 0.0
    dual = GaussianExpectation(sigma.breakpoints).pair(sigma, sigma, (one, two), correlation)
    return change(one), change(two), bias_variance + weight_variance * dual + residual**2 * both


def decompose(kernel: tuple[float, float, float]) -> Decomposed:
    """``(K_11, K_22, K_12)`` as midpoint, lengths and distance: ``K_11 = K + δ + d``, ``K_22 = K − δ + d``, ``K_12 = K − d``."""
    one, two, both = kernel
    return Decomposed((one + two + 2 * both) / 4, (one - two) / 2, (one + two - 2 * both) / 4)


def decomposed_map(
    activation: Pointwise | ScalarFunction, parts: Decomposed, weight_variance: float, bias_variance: float = 0.0, residual: float = 0.0
) -> Decomposed:
    """Two near inputs one layer on: ``δ' = χ_∥ δ``, ``d' = χ_⊥ d + ½ (dχ_⊥/dK) δ²``, to first order in d and δ²; arguments as `kernel_map`.

    Raises:
        ValueError: as `kernel_map`; a midpoint of 0.
    """
    sigma = as_scalar_function(activation)
    midpoint = kernel_map(sigma, parts.midpoint, weight_variance, bias_variance, residual)
    parallel, perpendicular = susceptibilities(sigma, parts.midpoint, weight_variance, residual)
    bend = weight_variance * _slopes(sigma, parts.midpoint)[1] / 2
    return Decomposed(midpoint, parallel * parts.lengths, perpendicular * parts.distance + bend * parts.lengths**2)


def susceptibilities(
    activation: Pointwise | ScalarFunction, kernel: float, weight_variance: float, residual: float = 0.0
) -> Susceptibilities:
    """χ_∥ and χ_⊥ at K; at K = 0 their limits. Where σ itself jumps, χ_⊥ is infinite.

    Raises:
        ValueError: an argument out of range, or an activation without Gaussian expectation.
    """
    check_variances(weight_variance, 0.0, residual)
    _, parallel, perpendicular = _moments(as_scalar_function(activation), kernel)
    return Susceptibilities(residual**2 + weight_variance * parallel, residual**2 + weight_variance * perpendicular)


def critical_initialization(activation: Pointwise | ScalarFunction, residual: float = 0.0) -> Criticality:
    """The critical (C_W, C_b) of any activation, found numerically.

    ``R(K) = ⟨z σ σ'⟩/K − ⟨σ'²⟩`` is 0 everywhere (scale-invariant), at K > 0 with ``C_W = (1 − γ²)/⟨σ'²⟩`` and
    ``C_b = (1 − γ²) K − C_W ⟨σ²⟩ ≥ 0`` (half-stable), or in the limit K → 0 of an activation with σ(0) = 0 and a slope there (K*=0). A
    stable K*=0 is preferred to half-stable points, those to an unstable K*=0; all that were found are in ``others``.

    Args:
        activation: σ.
        residual: γ in [0, 1).

    Returns:
        Where nothing is critical, class ``none``: C_b = 0 and, tagged as heuristic, the C_W with χ_⊥ = 1 at the fixed point nearest to
        K = 1 (at K = 1 itself where there is none; ⟨σ²⟩ kept where σ jumps).

    Raises:
        ValueError: γ out of range; an activation that is constant, or not finite around 0.
    """
    check_variances(1.0, 0.0, residual)
    sigma = as_scalar_function(activation)
    grid = _grid(sigma)
    if any(point.kernel >= 1 for point in grid):  # a steep function may have none there
        check_square(sigma)
    found = _scale_invariant(grid) or [*_vanishing(sigma), *_half_stable(sigma, grid)]
    if not found:
        found = [_nearest(sigma, grid)]
    found.sort(key=lambda point: (point.stability == "unstable", point.universality_class != "K*=0", point.kernel or 0.0))
    first, *others = [_with_residual(point, residual) for point in found]
    return replace(first, others=tuple(others))


def check_variances(weight_variance: float, bias_variance: float, residual: float = 0.0) -> None:
    """Refuse what is no initialisation.

    Raises:
        ValueError: C_W ≤ 0, C_b < 0, γ outside [0, 1), or not finite.
    """
    if not (weight_variance > 0 and math.isfinite(weight_variance)):
        raise ValueError(f"weight_variance must be above 0 and finite, got {weight_variance}")
    if not (bias_variance >= 0 and math.isfinite(bias_variance)):
        raise ValueError(f"bias_variance must be at least 0 and finite, got {bias_variance}")
    if not 0 <= residual < 1:
        raise ValueError(f"residual must lie in [0, 1), got {residual}")


# ------------------------------------------------------------------------------------------------ moments


class _Point(NamedTuple):
    """⟨σ²⟩, its derivative ⟨zσσ'⟩/K and ⟨σ'²⟩ at K."""

    kernel: float
    squared: float
    parallel: float
    perpendicular: float


def _moments(sigma: ScalarFunction, kernel: float) -> tuple[float, float, float]:
    """⟨σ²⟩, ⟨zσσ'⟩/K and ⟨σ'²⟩."""
    expectation = GaussianExpectation(sigma.breakpoints)
    if kernel == 0:
        return _moments_at_zero(sigma)
    z, weight = expectation.nodes(kernel)
    value, slope = sigma.slopes(z)
    squared = expectation.average(value.square(), z, weight)
    if sigma.discontinuous:  # a derivative would lack the jump: integrate by parts, ⟨σ²(z² − K)⟩ / 2K²
        return squared, expectation.average(value.square() * (z.square() - kernel), z, weight) / (2 * kernel**2), math.inf
    parallel = expectation.average(z * value * slope, z, weight) / kernel
    return squared, parallel, expectation.average(slope.square(), z, weight)


def _moments_at_zero(sigma: ScalarFunction) -> tuple[float, float, float]:
    """The limits K → 0: σ_0², the mean of σ'² on both sides + σ_0 σ''; a kink with σ_0 ≠ 0 makes the second grow as 1/√K."""
    value, slopes, second = _around_zero(sigma)
    mean_square = float(slopes.square().mean())
    if value and float(slopes.diff().abs()) > 1e-6:
        return value**2, math.copysign(math.inf, value * float(slopes.diff())), mean_square
    return value**2, mean_square + value * second, mean_square


def _around_zero(sigma: ScalarFunction) -> tuple[float, torch.Tensor, float]:
    """σ(0), σ' just below and above 0, and the mean of σ'' there."""
    below, above = torch.stack(sigma.derivatives(torch.tensor([-1e-13, 1e-13], dtype=DTYPE)), -1)
    value = float(sigma(torch.zeros(1, dtype=DTYPE)))
    return value if abs(value) > 1e-12 else 0.0, torch.stack([below[1], above[1]]), float(below[2] + above[2]) / 2


def _slopes(sigma: ScalarFunction, kernel: float) -> tuple[float, float]:
    """d/dK of ⟨zσσ'⟩/K and of ⟨σ'²⟩, without higher derivatives: ⟨σ²(z⁴ − 6Kz² + 3K²)⟩/4K⁴ and ⟨σ'²(z² − K)⟩/2K²."""
    if not kernel > 0:
        raise ValueError(f"kernel must be above 0, got {kernel}")
    expectation = GaussianExpectation(sigma.breakpoints)
    z, weight = expectation.nodes(kernel)
    value, slope = sigma.slopes(z)
    fourth = z**4 - 6 * kernel * z.square() + 3 * kernel**2
    parallel = expectation.average(value.square() * fourth, z, weight) / (4 * kernel**4)
    return parallel, expectation.average(slope.square() * (z.square() - kernel), z, weight) / (2 * kernel**2)


# ------------------------------------------------------------------------------------------------ critical points


def _grid(sigma: ScalarFunction) -> list[_Point]:
    """Moments at the variances at which they exist: a steep function has none for large K.

    Raises:
        ValueError: not even the smallest exists, or the function is constant.
    """
    points = []
    for kernel in KERNELS:
        try:
            points.append(_Point(float(kernel), *_moments(sigma, float(kernel))))
        except ValueError:
            if not points:
                raise
            break
    moving = [point for point in points if point.perpendicular > 1e-24]
    if not moving:
        raise ValueError("the activation is constant: no signal passes it")
    return moving


def _scale_invariant(grid: list[_Point]) -> list[Criticality]:
    first = grid[0].perpendicular
    linear = [(point.squared / point.kernel, point.parallel, point.perpendicular) for point in grid]
    if max(abs(value - first) for values in linear for value in values) > _FLAT * first or not math.isfinite(first):
        return []
    return [Criticality("scale-invariant", None, 1 / first, 0.0, "neutral: every kernel stays")]


def _vanishing(sigma: ScalarFunction) -> list[Criticality]:
    """K* = 0: the mean of σ'² on both sides of 0 is 1 / C_W."""
    value, slopes, _ = _around_zero(sigma)
    mean_square = float(slopes.square().mean())
    if value or sigma.discontinuous or mean_square <= 1e-12:
        return []
    scale = 1 / mean_square
    order, exponent, limits = _approach(sigma, scale)
    drift = _drift(sigma, scale)
    stability = "stable" if drift < 0 else "unstable" if drift > 0 else "neutral"
    return [Criticality("K*=0", 0.0, scale, 0.0, stability, limits[0], limits[1], exponent if order else math.nan)]


def _drift(sigma: ScalarFunction, weight_variance: float) -> float:
    """χ_∥ − 1 at the smallest K at which it can be told from rounding."""
    for kernel in (_SMALL, *KERNELS[: len(KERNELS) * 3 // 5]):
        parallel = susceptibilities(sigma, float(kernel), weight_variance).parallel - 1
        if abs(parallel) > 1e-9:
            return parallel
    return 0.0


def _approach(sigma: ScalarFunction, weight_variance: float) -> tuple[float, float, tuple[float, float]]:
    """The power s of ``χ_∥ − 1 ∝ K^s`` as K → 0, p_⊥, and the slopes of χ_∥ and χ_⊥ at 0.

    ``K' = K (1 + c K^s)`` falls as ``K^s = 1 / (s |c| ℓ)``, so that χ_∥ = 1 − (1 + 1/s)/ℓ and χ_⊥ = 1 − p_⊥/ℓ. s = 1 for smooth
    activations, ½ where σ' or σ'' jumps at 0; 0 stands for no power.
    """
    near = [susceptibilities(sigma, kernel, weight_variance) for kernel in (_SMALL, _SMALL / 4)]
    parallel, perpendicular = ([point[part] - 1 for point in near] for part in (0, 1))
    if min(map(abs, parallel)) < 1e-9:
        return 0.0, math.nan, (0.0, 0.0)
    order = round(2 * math.log(abs(parallel[0] / parallel[1]), 4)) / 2
    if order not in (0.5, 1.0):
        return 0.0, math.nan, (0.0, 0.0)
    share = 4.0 ** -min(order, 1.0)  # one step of Richardson: the next term is smaller by K^s
    ratios = [low / high for low, high in zip(perpendicular, parallel, strict=True)]
    ratio = (ratios[1] - share * ratios[0]) / (1 - share)
    if order < 1:
        return order, ratio * (1 + 1 / order), (math.copysign(math.inf, parallel[0]), math.copysign(math.inf, perpendicular[0]))
    limits = [(4 * part[1] / _SMALL - 0.25 * part[0] / _SMALL) / 0.75 for part in (parallel, perpendicular)]
    return order, ratio * (1 + 1 / order), (limits[0], limits[1])


def _half_stable(sigma: ScalarFunction, grid: list[_Point]) -> list[Criticality]:
    if sigma.discontinuous:
        return []
    roots = _roots(lambda kernel: _excess(_moments(sigma, kernel)), [(point.kernel, _excess(point[1:])) for point in grid])
    return [point for kernel in roots if (point := _at_root(sigma, kernel)) is not None]


def _excess(moments: tuple[float, ...]) -> float:
    """R(K) relative to ⟨σ'²⟩."""
    return moments[1] / moments[2] - 1


def _at_root(sigma: ScalarFunction, kernel: float) -> Criticality | None:
    squared, _, perpendicular = _moments(sigma, kernel)
    scale = 1 / perpendicular
    bias = kernel - scale * squared
    if bias < -_FLAT:
        return None
    parallel_slope, perpendicular_slope = (scale * slope for slope in _slopes(sigma, kernel))
    side = "above" if parallel_slope < 0 else "below"
    return Criticality(
        "half-stable", kernel, scale, max(bias, 0.0), f"attracts from {side}", parallel_slope, perpendicular_slope
    )  # fmt: skip


def _roots(function: Callable[[float], float], samples: list[tuple[float, float]]) -> list[float]:
    """Roots between neighbouring samples of different sign, leaving out signs that may be rounding."""
    roots = []
    for (low, before), (high, after) in pairwise(samples):
        if before * after < 0 and min(abs(before), abs(after)) > 1e-9:
            roots.append(float(brentq(function, low, high, xtol=1e-13 * high)))  # pyright: ignore[reportArgumentType]
    return roots


def _nearest(sigma: ScalarFunction, grid: list[_Point]) -> Criticality:
    if sigma.discontinuous:
        squared = _moments(sigma, 1.0)[0]
        return Criticality("none", 1.0, 1 / squared, 0.0, "keeps the kernel at 1; gradients explode", heuristic=True)

    def balance(kernel: float, squared: float, perpendicular: float) -> float:
        return squared / (kernel * perpendicular) - 1  # C_b = 0 and χ_⊥ = 1 give K = ⟨σ²⟩ / ⟨σ'²⟩

    def at(kernel: float) -> float:
        squared, _, perpendicular = _moments(sigma, kernel)
        return balance(kernel, squared, perpendicular)

    roots = _roots(at, [(point.kernel, balance(point.kernel, point.squared, point.perpendicular)) for point in grid])
    kernel = min(roots, key=lambda root: abs(math.log(root)), default=1.0)
    return Criticality(
        "none", kernel, 1 / _moments(sigma, kernel)[2], 0.0, "gradients keep their size, lengths do not", heuristic=True
    )  # fmt: skip


def _with_residual(point: Criticality, residual: float) -> Criticality:
    """``z + …`` keeps a share γ² of K, so the layer must give 1 − γ² of what it gave: C_W, C_b and the slopes shrink by it."""
    share = 1 - residual**2
    return replace(
        point,
        weight_variance=share * point.weight_variance,
        bias_variance=share * point.bias_variance,
        parallel_slope=share * point.parallel_slope,
        perpendicular_slope=share * point.perpendicular_slope,
    )
