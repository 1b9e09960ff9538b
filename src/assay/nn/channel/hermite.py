"""Activations that are sums of Hermite polynomials, among them those that make wide and deep networks optimal classifiers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from assay.theory.dual_activation import hermite_sum
from assay.theory.infinite_depth import optimal_coefficients


class HermiteActivation(nn.Module):
    """``y = Σ c_i h_i(x)`` with fixed c and the orthonormal Hermite polynomials h_0 = 1, h_1 = x, h_2 = (x² − 1)/√2 and so on.

    For x ~ N(0, 1) the mean is c_0 and the mean square ``Σ c_i²``, so inputs should have about unit variance. Beyond ±limit it goes on as
    its tangent: a polynomial of degree three would let a few large inputs outweigh all others.

    Args:
        coefficients: c_0, c_1, …
        limit: where the tangents begin; infinite for the polynomial itself.

    Raises:
        ValueError: no coefficients, one that is not finite, or a limit that is not above 0.

    Source: Radhakrishnan, Belkin, Uhler (2023), Wide and Deep Neural Networks Achieve Optimality for Classification.
    """

    def __init__(self, coefficients: Sequence[float], limit: float = 3.0) -> None:
        super().__init__()
        if not len(coefficients) or not all(math.isfinite(value) for value in coefficients):
            raise ValueError(f"coefficients must be finite numbers, at least one, got {coefficients}")
        if not limit > 0:
            raise ValueError(f"limit must be above 0, got {limit}")
        self.coefficients, self.limit = coefficients, limit

    def forward(self, x: Tensor) -> Tensor:
        """Map x (any shape) to y of the same shape."""
        held = x.clamp(-self.limit, self.limit)
        slope = hermite_sum([math.sqrt(i) * c for i, c in enumerate(self.coefficients)][1:] or [0.0], held.detach())
        beyond = x - held
        return hermite_sum(self.coefficients, held) + torch.where(beyond == 0, 0.0, slope * beyond)

    def extra_repr(self) -> str:
        """Coefficients and limit."""
        return f"coefficients={tuple(round(float(value), 4) for value in self.coefficients)}, limit={self.limit:g}"


class OptimalActivation(HermiteActivation):
    """The activation whose infinitely wide and deep network is an optimal classifier on a sphere of a dimension d; mean square 1.

    For d ≥ 2 ``φ = 2^{−d/4} h_3 + √(1 − 2^{1−d/2}) h_2 + 2^{−d/4} h_1``; at d = 2 it is odd, ``(h_3 + h_1) / √2``. The tangents beyond ±3
    take 3 % off its mean square there. It drives apart what is not of unit variance, so a deep network needs a norm before it
    (``norm=layer`` of an MLP); He's initialisation, made for ReLU, alone is twice too large.

    Args:
        dimension: d, from 1 to 2,000.
        limit: as `HermiteActivation`.

    Raises:
        ValueError: an argument out of its range.

    Source: Radhakrishnan, Belkin, Uhler (2023), Wide and Deep Neural Networks Achieve Optimality for Classification.
    """

    def __init__(self, dimension: float = 2, limit: float = 3.0) -> None:
        super().__init__(optimal_coefficients(dimension), limit)
        self.dimension = dimension
