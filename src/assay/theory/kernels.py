"""Kernels of infinitely wide fully connected networks: of the prior (NNGP) and of training (NTK).

With weights of variance C_W / fan-in, biases of variance C_b, an identity path γ, and L hidden layers of activation φ:

    K⁰ = C_b + C_W x·x',    K^ℓ = C_b + C_W E φ(u) φ(v) + γ² K^{ℓ−1},                           (u, v) ~ N(0, K^{ℓ−1})
    Θ⁰ = λ_b⁰ + C_W x·x',   Θ^ℓ = λ_b^ℓ + C_W E φ(u) φ(v) + (C_W E φ'(u) φ'(v) + γ²) Θ^{ℓ−1}.

K is the covariance of the outputs at initialisation, Θ the kernel that gradient descent of an infinitesimal rate follows; λ_b^ℓ is the
learning rate of a layer's biases where its weights have C_W / fan-in: C_b unless another is given. x enters as it
is: for a first layer that divides by its fan-in too, divide x by √columns. On the unit sphere with C_W = 1, C_b = γ = 0, E φ² = 1 they are
``Σ^L = φ̌(Σ^{L−1})`` and ``K^L = Σ^L + K^{L−1} φ̌'(Σ^{L−1})``.

Sources: Lee, Bahri, Novak, Schoenholz, Pennington, Sohl-Dickstein (2018), Deep Neural Networks as Gaussian Processes; Jacot, Gabriel,
Hongler (2018), Neural Tangent Kernel; Roberts, Yaida, Hanin (2022), The Principles of Deep Learning Theory, for the identity path.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from assay.theory.dual_activation import DualActivation

Kind = Literal["ntk", "nngp"]
KINDS: tuple[Kind, ...] = ("ntk", "nngp")
BLOCK = 2**18  # numbers of a block: all its temporaries stay in cache
LARGEST_VARIANCE = 1e60  # the next layer's square may not overflow
KEPT = 1e-12  # relative; quadrature is right to 1e-14
SAME = 1e-14  # a cosine nearer to 1 is rounding of 1, where E φ'φ' may have an infinite slope


@dataclass(frozen=True)
class WideNetwork:
    """A fully connected network in the limit of infinite width.

    Args:
        dual: of the activation φ.
        depth: L ≥ 0 hidden layers.
        weight_variance: C_W > 0.
        bias_variance: C_b ≥ 0.
        residual: γ, the identity path around each hidden layer; 0 without.
        bias_rate: λ_b, one for all layers or one for each of L + 1; None: C_b.

    Raises:
        ValueError: an argument out of its range.
    """

    dual: DualActivation
    depth: int
    weight_variance: float = 1.0
    bias_variance: float = 0.0
    residual: float = 0.0
    bias_rate: float | Sequence[float] | None = None

    def __post_init__(self) -> None:
        if self.depth < 0 or self.depth != int(self.depth):
            raise ValueError(f"depth must be a whole number of at least 0, got {self.depth}")
        if not (self.weight_variance > 0 and math.isfinite(self.weight_variance)):
            raise ValueError(f"weight_variance must be above 0, got {self.weight_variance}")
        if not (self.bias_variance >= 0 and math.isfinite(self.bias_variance)):
            raise ValueError(f"bias_variance must be at least 0, got {self.bias_variance}")
        if not math.isfinite(self.residual):
            raise ValueError(f"residual must be finite, got {self.residual}")
        if len(self.bias_rates) != self.depth + 1 or not all(rate >= 0 and math.isfinite(rate) for rate in self.bias_rates):
            raise ValueError(f"bias_rate must be at least 0, one or one for each of {self.depth + 1} layers, got {self.bias_rate}")

    @property
    def bias_rates(self) -> tuple[float, ...]:
        """``λ_b^ℓ``, ℓ = 0 … L."""
        rate = self.bias_variance if self.bias_rate is None else self.bias_rate
        return (float(rate),) * (self.depth + 1) if isinstance(rate, int | float) else tuple(map(float, rate))

    def kernel(self, x: ArrayLike, z: ArrayLike | None = None, kind: Kind = "ntk") -> np.ndarray:
        """Θ or K between rows, float64; a block of rows goes through all layers at a time, so that only the result is large.

        Args:
            x: (n, features).
            z: (m, features); x itself where None, which costs half and is exactly symmetric.
            kind: ``ntk`` or ``nngp``.

        Returns:
            (n, m).

        Raises:
            ValueError: shapes that do not fit, numbers that are not finite, an unknown kind; a variance that goes beyond 1e60.
        """
        left = _rows(x, "x")
        right = left if z is None else _rows(z, "z")
        if left.shape[1] != right.shape[1]:
            raise ValueError(f"x and z must have as many columns, got {left.shape[1]} and {right.shape[1]}")
        check_kind(kind)
        over_x = self.variances(np.square(left).sum(1))
        over_z = over_x if z is None else self.variances(np.square(right).sum(1))
        result = np.empty((len(left), len(right)))
        step = max(1, BLOCK // max(1, len(right)))
        for start in range(0, len(left), step):
            stop = min(start + step, len(left))
            end = stop if z is None else len(right)
            both = self.propagate(left[start:stop] @ right[:end].T, over_x[:, start:stop], over_z[:, :end])
            result[start:stop, :end] = both[kind == "ntk"]
            if z is None:
                result[:start, start:stop] = result[start:stop, :start].T
                result[start:stop, start:stop] = np.tril(result[start:stop, start:stop]) + np.tril(result[start:stop, start:stop], -1).T
        return result

    def variances(self, squared_norms: ArrayLike) -> np.ndarray:
        """``K^ℓ(x, x)``, ℓ = 0 … L, of inputs of given squared norms: (depth + 1, n).

        A variance that a layer keeps to rounding is kept exactly: the map of many activations would drive rounding errors apart.

        Raises:
            ValueError: a variance goes beyond 1e60.
        """
        found = np.empty((self.depth + 1, len(np.atleast_1d(squared_norms))))
        found[0] = self.bias_variance + self.weight_variance * np.atleast_1d(np.asarray(squared_norms, dtype=np.float64))
        found[0][np.abs(found[0] - 1) <= KEPT] = 1.0
        for layer in range(self.depth):
            before = found[layer]
            after = self.bias_variance + self.weight_variance * self.dual.variance(before) + self.residual**2 * before
            found[layer + 1] = np.where(np.abs(after - before) <= KEPT * before, before, after)
            if not (found[layer + 1] < LARGEST_VARIANCE).all():
                raise ValueError(
                    f"the variance exceeds {LARGEST_VARIANCE:g} in layer {layer + 1}: take a smaller weight_variance, or fewer layers"
                )
        return found

    def propagate(self, inner: np.ndarray, over_x: np.ndarray, over_z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """K and Θ of the last layer from inner products.

        Args:
            inner: x·x', (n, m).
            over_x: `variances` of the rows, (depth + 1, n).
            over_z: `variances` of the columns, (depth + 1, m).

        Returns:
            Two arrays (n, m).
        """
        covariance = self.bias_variance + self.weight_variance * inner
        first, *more = (rate - self.bias_variance for rate in self.bias_rates)
        tangent = covariance + first
        for q, r, beside in zip(over_x[:-1, :, None], over_z[:-1, None, :], more, strict=True):
            bound = np.sqrt(q * r)
            covariance = np.where(covariance > (1 - SAME) * bound, bound, covariance)
            value, slope = self.dual.expectations(q, r, covariance)
            layer = self.bias_variance + self.weight_variance * value
            tangent = layer + beside + (self.weight_variance * slope + self.residual**2) * tangent
            covariance = layer + self.residual**2 * covariance
        return covariance, tangent

    def diagonal(self, squared_norms: ArrayLike, kind: Kind = "ntk") -> np.ndarray:
        """The kernel of each input with itself, (n,), from its squared norm."""
        check_kind(kind)
        norms = np.atleast_1d(np.asarray(squared_norms, dtype=np.float64))
        over = self.variances(norms)
        if kind == "nngp":
            return over[-1]
        first, *more = (rate - self.bias_variance for rate in self.bias_rates)
        tangent = over[0] + first
        for (before, after), beside in zip(pairwise(over), more, strict=True):
            slope = self.dual.expectations(before, before, before)[1]
            tangent = after + beside + self.weight_variance * slope * tangent + self.residual**2 * (tangent - before)
        return tangent


def nngp_kernel(dual: DualActivation, x: ArrayLike, z: ArrayLike | None = None, depth: int = 1) -> np.ndarray:
    """``Σ^L`` between rows, without biases and with C_W = 1; see `WideNetwork` for the rest.

    Args:
        dual: of the activation.
        x: (n, features).
        z: (m, features); x itself where None.
        depth: L.

    Returns:
        (n, m).
    """
    return WideNetwork(dual, depth).kernel(x, z, "nngp")


def ntk_kernel(dual: DualActivation, x: ArrayLike, z: ArrayLike | None = None, depth: int = 1) -> np.ndarray:
    """``K^L``, the tangent kernel, with the arguments of `nngp_kernel`."""
    return WideNetwork(dual, depth).kernel(x, z, "ntk")


def check_kind(kind: str) -> None:
    """Refuse a kernel that is neither ``ntk`` nor ``nngp``."""
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")


def _rows(x: ArrayLike, name: str) -> np.ndarray:
    found = np.ascontiguousarray(x, dtype=np.float64)
    if found.ndim != 2:
        raise ValueError(f"{name} must be (rows, features), got shape {found.shape}")
    if not np.isfinite(found).all():
        raise ValueError(f"{name} has numbers that are not finite, first in row {int((~np.isfinite(found)).any(1).argmax())}")
    return found
