"""What a finite width adds: how far the signals, the tangent kernel and its change at the first step of training stray, layer by layer.

With hidden layers of equal width n, for a single input and i ≠ j, at first order in 1/n:

    Cov(z_i², z_j²) = V/n          E[z²] = K + G/n           E[z⁴] = 3K² + (6KG + 3V)/n
    Cov(z_i², H_jj) = D/n          E[z_i z_j H_ij] = F/n     Cov(H_ii, H_jj) = A/n      E[H_ij²] = B/n
    E[z_i dH_{i;jj}] = P/n         E[z_j dH_{i;ij}] = Q/n     E[z_i² z_j] = T/n

``H_ij = Σ_μ λ_μ ∂z_i/∂θ_μ ∂z_j/∂θ_μ`` is the tangent kernel, of mean Θ; ``dH_{i;jk} = Σ_μν λ_μ λ_ν ∂²z_i/∂θ_μ∂θ_ν ∂z_j/∂θ_μ ∂z_k/∂θ_ν`` is
what it changes by in training: without it no representation is learned. λ is λ_b for biases and λ_W / fan-in for weights.

At a critical initialisation ``V / K² → ν ℓ``: everything depends on depth over width, and 1/n formulas hold while ν L / n is small.

T is 0 without residual connections. With them a sign survives from layer to layer, so that an activation whose square is not even makes
``T' = γ (χ_∥ T + C_W ⟨zσ²⟩)`` and adds ``2 χ_∥ C_W ⟨zσ²⟩ T / K`` to V' (own derivation; sampled networks agree with it, and not with the
recursion without: for ReLU and γ = 0.9 it is two thirds of all fluctuations).

Source: Roberts, Yaida, Hanin (2022), The Principles of Deep Learning Theory, chapters 4, 5, 8, 9, 11 and appendices A and B.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import torch
from scipy.optimize import brentq

from assay.theory.criticality import (
    Criticality,
    as_scalar_function,
    check_variances,
    critical_initialization,
)
from assay.theory.gaussian_expectation import GaussianExpectation, Pointwise, ScalarFunction

Validity = Literal["perturbative", "strained", "outside"]
STRAINED, OUTSIDE = 0.5, 1.0
"""V / (n K²) from which first-order figures are rough, and from which they mean nothing."""
UNKNOWN_WITH_RESIDUAL = ("cross", "flow", "diagonal", "off_diagonal", "first_change", "second_change")


@dataclass(frozen=True)
class DepthProfile:
    """The theory's quantities at layers 1 … L, each (L,) float64; see the module for what they are.

    Args:
        kernel: K.
        tangent: Θ.
        vertex: V.
        correction: G.
        cross: D.
        flow: F.
        diagonal: A.
        off_diagonal: B.
        first_change: P.
        second_change: Q.
        third: T.
        parallel: χ_∥ at K of each layer.
        perpendicular: χ_⊥ at K of each layer.
    """

    kernel: np.ndarray
    tangent: np.ndarray
    vertex: np.ndarray
    correction: np.ndarray
    cross: np.ndarray
    flow: np.ndarray
    diagonal: np.ndarray
    off_diagonal: np.ndarray
    first_change: np.ndarray
    second_change: np.ndarray
    third: np.ndarray
    parallel: np.ndarray
    perpendicular: np.ndarray

    @property
    def depth(self) -> int:
        """L."""
        return len(self.kernel)

    def fluctuation(self, width: int) -> np.ndarray:
        """``V / (n K²)`` (L,): the relative variance of a layer's mean square, and how far kurtosis / 3 is above 1.

        Raises:
            ValueError: a width below 2.
        """
        return self.vertex / (_checked_width(width) * self.kernel**2)

    def validity(self, width: int) -> Validity:
        """Whether first order in 1/n can be trusted at the last layer: ``perturbative``, ``strained`` or ``outside``."""
        worst = float(self.fluctuation(width)[-1])
        return "outside" if worst >= OUTSIDE else "strained" if worst >= STRAINED else "perturbative"


class _State(NamedTuple):
    """What one layer hands to the next, in the order of `DepthProfile`."""

    kernel: float
    tangent: float
    vertex: float = 0.0
    correction: float = 0.0
    cross: float = 0.0
    flow: float = 0.0
    diagonal: float = 0.0
    off_diagonal: float = 0.0
    first_change: float = 0.0
    second_change: float = 0.0
    third: float = 0.0


def propagate(
    activation: Pointwise | ScalarFunction,
    depth: int,
    input_square: float | None = None,
    weight_variance: float | None = None,
    bias_variance: float | None = None,
    weight_rate: float | Sequence[float] = 1.0,
    bias_rate: float | Sequence[float] = 1.0,
    residual: float = 0.0,
) -> DepthProfile:
    """Every quantity of the theory at every layer, by its recursions: O(depth · points).

    Args:
        activation: σ.
        depth: L ≥ 1 layers of weights; hidden layers are L − 1.
        input_square: x·x / n_0; by default that with K¹ = K*, or 1 where K* is 0 or any.
        weight_variance: C_W; by default critical.
        bias_variance: C_b; by default critical, or 0 where C_W is given.
        weight_rate: λ_W, one for all or one a layer.
        bias_rate: λ_b, alike.
        residual: γ of ``z' = b + W σ(z) + γ z``; above 0 only K, Θ, V, G and T are known, the others are NaN from layer 2.

    Raises:
        ValueError: an argument out of range; a signal that vanishes (no input and no bias); an activation without Gaussian expectation.
    """
    if depth < 1:
        raise ValueError(f"depth must be at least 1, got {depth}")
    sigma = as_scalar_function(activation)
    scale, bias, square = _start(sigma, input_square, weight_variance, bias_variance, residual)
    weights, biases = _rates("weight_rate", weight_rate, depth), _rates("bias_rate", bias_rate, depth)
    state = _State(bias + scale * square, biases[0] + weights[0] * square)
    if state.kernel <= 0:
        raise ValueError("input_square and bias_variance are both 0: no signal enters the network")
    rows, growth = [state], []
    moments = _Moments(sigma, state.kernel, scale, residual)
    for layer in range(1, depth + 1):
        if abs(state.kernel - moments.kernel) > 1e-12 * moments.kernel:  # at a fixed point one evaluation serves all layers
            moments = _Moments(sigma, state.kernel, scale, residual)
        growth.append((moments.parallel, moments.perpendicular))
        if layer < depth:
            state = _next(moments, state, scale, bias, weights[layer], biases[layer], residual)
            rows.append(state)
    return DepthProfile(*np.array(rows).T, *np.array(growth).T)


def layer_contributions(
    profile: DepthProfile,
    weight_variance: float,
    bias_variance: float,
    weight_rate: float | Sequence[float] = 1.0,
    bias_rate: float | Sequence[float] = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """What each layer's biases and weights add to the last layer's Θ: ``λ_b Π χ_⊥`` and ``λ_W ⟨σ²⟩ Π χ_⊥``, two of (L,), of sum Θ^L.

    The product is over the layers from there to the last but one; ``⟨σ²⟩ = (K − C_b) / C_W``. Without residual connections.

    Raises:
        ValueError: C_W or C_b out of range, or rates of another length than the profile.
    """
    check_variances(weight_variance, bias_variance)
    weights, biases = _rates("weight_rate", weight_rate, profile.depth), _rates("bias_rate", bias_rate, profile.depth)
    onwards = np.append(np.cumprod(profile.perpendicular[:-1][::-1])[::-1], 1.0)
    entering = (profile.kernel - bias_variance) / weight_variance
    return np.array(biases) * onwards, np.array(weights) * entering * onwards


def equal_rates(depth: int, perpendicular_exponent: float = 0.0, weight_rate: float = 1.0, bias_rate: float = 1.0) -> np.ndarray:
    """λ_b and λ_W a layer (2, L), with which all layers add about equally to Θ^L.

    ``λ_b^ℓ = λ̃_b ℓ^{−p} L^{p−1}``, ``λ_W^ℓ = λ̃_W (L/ℓ)^{p−1}`` in the class K*=0; ``λ̃ / L`` (where p = 0) in the others.

    Args:
        depth: L.
        perpendicular_exponent: p_⊥ of the activation's `Criticality`.
        weight_rate: λ̃_W.
        bias_rate: λ̃_b.

    Raises:
        ValueError: depth below 1, a rate that is not positive, or an exponent that is not finite.
    """
    if depth < 1:
        raise ValueError(f"depth must be at least 1, got {depth}")
    if not (weight_rate > 0 and bias_rate > 0):
        raise ValueError(f"rates must be positive, got weight_rate {weight_rate} and bias_rate {bias_rate}")
    if not math.isfinite(perpendicular_exponent):
        raise ValueError(f"perpendicular_exponent must be finite, got {perpendicular_exponent}: the activation's angles follow no power")
    if perpendicular_exponent == 0:
        return np.outer([bias_rate / depth, weight_rate / depth], np.ones(depth))
    layer, p = np.arange(1, depth + 1), perpendicular_exponent
    return np.stack([bias_rate * layer**-p * depth ** (p - 1), weight_rate * (depth / layer) ** (p - 1)])


def fluctuation_rate(activation: Pointwise | ScalarFunction, residual: float = 0.0, point: Criticality | None = None) -> float:
    """``ν = lim V / (K² ℓ)`` at a critical initialisation: ReLU 5, linear 2, tanh 2/3.

    ``ν = c (1 − γ²) [(1 − γ²) r + 4γ² + 2γ (1 + γ) t]`` with ``r = C_W² (⟨σ⁴⟩ − ⟨σ²⟩²) / K²`` and ``t = C_W² ⟨zσ²⟩² / K³`` of the network
    without residual connections, at K* (K → 0 in the class K*=0); c is ⅓ in the class K*=0, where K falls, else 1. It is reached after
    about 1 / (1 − γ) layers.

    Args:
        activation: σ.
        residual: γ.
        point: its `critical_initialization` without residual connection, where that is known already.

    Raises:
        ValueError: γ out of range, or an activation that has no critical initialisation.
    """
    check_variances(1.0, 0.0, residual)
    sigma = as_scalar_function(activation)
    point = point or critical_initialization(sigma)
    if point.heuristic:
        raise ValueError("the activation has no critical initialisation: fluctuations follow no power of the depth")
    falls = point.universality_class == "K*=0"
    kernel = 1e-10 if falls else point.kernel or 1.0
    expectation = GaussianExpectation(sigma.breakpoints)
    z, weight = expectation.nodes(kernel)
    square = sigma(z) ** 2 * point.weight_variance / kernel
    mean, fourth, third = (expectation.average(values, z, weight) for values in (square, square**2, square * z / math.sqrt(kernel)))
    share = 1 - residual**2
    spread = share * (fourth - mean**2) + 4 * residual**2 + 2 * residual * (1 + residual) * third**2
    return share * spread * (1 / 3 if falls else 1.0)


def optimal_aspect_ratio(
    activation: Pointwise | ScalarFunction, outputs: int = 1, residual: float = 0.0, point: Criticality | None = None
) -> float:
    """``r* = (L/n)* = 4 / ((20 + 3 n_L) ν)``, the depth over width of most information between outputs, in the truncated series.

    It is the maximum of `output_information`'s two terms; the untruncated information grows on. So r* marks the edge of the regime in which
    the theory holds, and is no proven optimum.

    Args:
        activation: σ.
        outputs: n_L ≥ 1.
        residual: γ.
        point: as in `fluctuation_rate`.

    Raises:
        ValueError: as `fluctuation_rate`; fewer than one output.
    """
    return 4 / ((20 + 3 * _checked_outputs(outputs)) * fluctuation_rate(activation, residual, point))


def output_information(fluctuation: float, first: int, second: int) -> float:
    """Mutual information of two groups of outputs in nats: ``m_1 m_2 v² / 8 − m_1 m_2 (20 + 3 (m_1 + m_2)) v³ / 48``, v = ν L / n.

    Raises:
        ValueError: v < 0, or an empty group.
    """
    if fluctuation < 0:
        raise ValueError(f"fluctuation must not be negative, got {fluctuation}")
    pairs = _checked_outputs(first) * _checked_outputs(second)
    return pairs * fluctuation**2 / 8 - pairs * (20 + 3 * (first + second)) * fluctuation**3 / 48


def residual_scale_for(
    depth: int, width: int, activation: Pointwise | ScalarFunction, outputs: int = 1, point: Criticality | None = None
) -> float:
    """The γ that brings a network of depth L and width n to r*: ``V^L / (n K²) (20 + 3 n_L) = 4``; 0 where it is below that without.

    V^L is the recursion's at that depth; ``ν(γ) L`` stands for it in networks deeper than 1 / (1 − γ).

    Args:
        depth: L.
        width: n.
        activation: σ.
        outputs: n_L.
        point: as in `fluctuation_rate`.

    Raises:
        ValueError: a depth below 1, a width below 2, fewer than one output, or an activation that has no critical initialisation.
    """
    if depth < 1:
        raise ValueError(f"depth must be at least 1, got {depth}")
    wanted = 4 * _checked_width(width) / (20 + 3 * _checked_outputs(outputs))
    sigma = as_scalar_function(activation)
    point = point or critical_initialization(sigma)
    if point.heuristic:
        raise ValueError("the activation has no critical initialisation: fluctuations follow no power of the depth")
    square = (point.kernel - point.bias_variance) / point.weight_variance if point.kernel else 1.0

    def excess(residual: float) -> float:
        share = 1 - residual**2
        profile = propagate(sigma, depth, square, share * point.weight_variance, share * point.bias_variance, residual=residual)
        return float(profile.vertex[-1] / profile.kernel[-1] ** 2) - wanted

    if excess(0.0) <= 0:
        return 0.0
    return float(brentq(excess, 0.0, 1 - 1e-12, xtol=1e-10))  # pyright: ignore[reportArgumentType]


def scale_invariant_kurtosis(activation: Pointwise | ScalarFunction, depth: int, width: int) -> float:
    """``E[z⁴] / (3 E[z²]²) = (1 + (3A_4/A_2² − 1)/n)^{L−1}``, to all orders in 1/n, for ``σ = a_± z`` without biases.

    Raises:
        ValueError: an activation that is not scale-invariant, a depth below 1, or a width below 2.
    """
    if depth < 1:
        raise ValueError(f"depth must be at least 1, got {depth}")
    sigma = as_scalar_function(activation)
    point = critical_initialization(sigma)
    if point.universality_class != "scale-invariant":
        raise ValueError(f"the activation is of class {point.universality_class}, and the exact formula holds for scale-invariant ones")
    return (1 + fluctuation_rate(sigma, 0.0, point) / _checked_width(width)) ** (depth - 1)


# ------------------------------------------------------------------------------------------------ one layer


class _Moments:
    """The expectations over N(0, K) that the recursions of one layer need."""

    def __init__(self, sigma: ScalarFunction, kernel: float, weight_variance: float, residual: float) -> None:
        self.expectation = GaussianExpectation(sigma.breakpoints)
        self.sigma, self.kernel, self.residual = sigma, kernel, residual
        self.z, self.weight = self.expectation.nodes(kernel)
        self.value, self.slope = sigma.slopes(self.z)
        self.squared = self.mean(self.value**2)
        self.gain = self.mean(self.z * self.value * self.slope) / kernel  # dg/dK
        self.parallel = residual**2 + weight_variance * self.gain
        self.perpendicular = residual**2 + weight_variance * self.mean(self.slope**2)

    @cached_property
    def second(self) -> torch.Tensor:
        return self.sigma.derivatives(self.z)[2]

    def mean(self, values: torch.Tensor) -> float:
        return self.expectation.average(values, self.z, self.weight)

    def bend(self) -> float:
        """d²⟨σ²⟩/dK²."""
        k, z = self.kernel, self.z
        return self.mean(self.value**2 * (z**4 - 6 * k * z**2 + 3 * k**2)) / (4 * k**4)

    def third_derivative(self) -> float:
        """The mean of the third derivative of σ²."""
        return self.mean(self.value**2 * (self.z**3 - 3 * self.kernel * self.z)) / self.kernel**3

    def curved(self, factor: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]) -> float:
        """`GaussianExpectation.curvature`, with one evaluation of σ'' for all factors."""
        smooth = self.mean(self.second * factor(self.z, self.value, self.slope))
        return smooth + self.expectation.at_jumps(self.sigma, factor, self.kernel)


def _next(m: _Moments, s: _State, scale: float, bias: float, weight_rate: float, bias_rate: float, residual: float) -> _State:
    """One layer on."""
    fourth = m.mean(m.value**4)
    kernel = bias + scale * m.squared + residual**2 * s.kernel
    tangent = bias_rate + weight_rate * m.squared + m.perpendicular * s.tangent
    tilt = scale * m.mean(m.z * m.value**2)
    spread = (
        scale**2 * (fourth - m.squared**2) + 4 * residual**2 * scale * s.kernel**2 * m.gain + 2 * m.parallel * tilt * s.third / s.kernel
    )
    vertex = m.parallel**2 * s.vertex + spread
    correction = m.parallel * s.correction + scale * (m.bend() * s.vertex + m.third_derivative() * s.third) / 2
    third = residual * (m.parallel * s.third + tilt)
    state = _State(kernel, tangent, vertex, correction, third=third)
    if residual:
        return state._replace(**dict.fromkeys(UNKNOWN_WITH_RESIDUAL, math.nan))
    return state._replace(**_tangent_statistics(m, s, scale, weight_rate))


def _tangent_statistics(m: _Moments, s: _State, scale: float, weight_rate: float) -> dict[str, float]:
    """D, F, A, B, P and Q one layer on; Ω = λ_W σ² + C_W Θ σ'² is what a neuron adds to the kernel."""
    theta, parallel, perpendicular = s.tangent, m.parallel, m.perpendicular
    omega = weight_rate * m.value**2 + scale * theta * m.slope**2
    mean = m.mean(omega)
    tilt = m.mean(omega * (m.z**2 - m.kernel)) / (2 * m.kernel**2)  # d⟨Ω⟩/dK
    both = m.mean(m.value**2 * m.slope**2)
    bent = m.curved(lambda z, value, slope: value * slope**2)
    curved = m.curved(lambda z, value, slope: value)
    turned = m.curved(lambda z, value, slope: z * slope) / m.kernel
    return {
        "cross": scale * (m.mean(m.value**2 * omega) - m.squared * mean) + parallel * tilt * s.vertex + parallel * perpendicular * s.cross,
        "flow": scale**2 * both * theta + parallel**2 * s.flow,
        "diagonal": m.mean(omega**2) - mean**2 + tilt**2 * s.vertex + 2 * perpendicular * tilt * s.cross + perpendicular**2 * s.diagonal,
        "off_diagonal": scale**2 * m.mean(m.slope**4) * theta**2 + perpendicular**2 * s.off_diagonal,
        "first_change": scale**2 * bent * theta**2
        + scale * curved * perpendicular * s.off_diagonal
        + parallel * perpendicular * s.first_change,
        "second_change": weight_rate * scale * both * theta
        + weight_rate / scale * parallel**2 * s.flow
        + scale**2 * bent * theta**2
        + scale * parallel * turned * theta * s.flow
        + parallel * perpendicular * s.second_change,
    }


def _start(
    sigma: ScalarFunction, input_square: float | None, weight_variance: float | None, bias_variance: float | None, residual: float
) -> tuple[float, float, float]:
    """C_W, C_b and x·x / n_0, with what was left out filled in."""
    kernel = None
    if weight_variance is None:
        point = critical_initialization(sigma, residual)
        kernel, weight_variance = point.kernel, point.weight_variance
        bias_variance = point.bias_variance if bias_variance is None else bias_variance
    bias_variance = bias_variance or 0.0
    check_variances(weight_variance, bias_variance, residual)
    if input_square is None:
        input_square = (kernel - bias_variance) / weight_variance if kernel and kernel > bias_variance else 1.0
    if not (input_square >= 0 and math.isfinite(input_square)):
        raise ValueError(f"input_square must be finite and not negative, got {input_square}")
    return weight_variance, bias_variance, input_square


def _rates(name: str, rate: float | Sequence[float], depth: int) -> list[float]:
    rates = [float(rate)] * depth if isinstance(rate, int | float) else [float(value) for value in rate]
    if len(rates) != depth or not all(value >= 0 and math.isfinite(value) for value in rates):
        raise ValueError(f"{name} must be a number that is not negative, or one for each of {depth} layers, got {rate}")
    return rates


def _checked_width(width: int) -> int:
    if width < 2:
        raise ValueError(f"width must be at least 2, got {width}")
    return width


def _checked_outputs(outputs: int) -> int:
    if outputs < 1:
        raise ValueError(f"outputs must be at least 1, got {outputs}")
    return outputs
