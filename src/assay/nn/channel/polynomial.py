"""Activations that are polynomials: `PolyReLU`, `PolyNorm` and their relatives, for ``order + 1`` numbers a layer."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from assay.nn.channel.activation import activation
from assay.ops.poly_norm import Implementation, poly_norm
from assay.ops.poly_relu import check_coefficients, poly_relu

logger = logging.getLogger(__name__)

ORDERS = range(1, 6)


class PolynomialActivation(nn.Module):
    """``y = Σ_{p=1..r} a_p b_p(x) + a_0`` with learned a and a basis b that a subclass gives, of x's shape.

    ``weight`` holds ``[a_r … a_1]``, **highest power first**, and ``bias`` ``a_0``, as the published checkpoints do; at first
    a_p = 1/r and a_0 = 0. They have one dimension unless each channel has its own.

    Args:
        order: r, from 1 to 5.
        channels: size of the last dimension, to give each channel coefficients of its own; by default all share them.

    Raises:
        ValueError: an argument out of its range.
    """

    def __init__(self, order: int = 3, channels: int | None = None) -> None:
        super().__init__()
        if order not in ORDERS:
            raise ValueError(f"order must be from {ORDERS[0]} to {ORDERS[-1]}, got {order}")
        if channels is not None and channels < 1:
            raise ValueError(f"channels must be at least 1, got {channels}")
        self.order, self.channels = order, channels
        self.weight = nn.Parameter(torch.full((order,) if channels is None else (order, channels), 1 / order))
        self.bias = nn.Parameter(torch.zeros(channels or 1))

    def basis(self, x: Tensor) -> list[Tensor]:
        """``[b_r(x) … b_1(x)]``, each of x's shape."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., size) to y of the same shape."""
        check_coefficients(x, self.weight, self.bias)
        return sum((a * term for a, term in zip(self.weight, self.basis(x), strict=True)), self.bias)

    @torch.no_grad()
    def fit(self, x: Tensor, y: Tensor) -> float:
        """Set the coefficients by least squares so that this activation maps x to y, and return the relative error ``‖f(x) − y‖ / ‖y‖``.

        This is how a trained network changes its activation: x are inputs recorded at the old one, y its outputs. Coefficients that each
        channel has of its own are fitted by themselves.

        Args:
            x: (..., size), recorded inputs, of more numbers than there are coefficients.
            y: what to give for them, of x's shape.

        Raises:
            ValueError: y has another shape.
        """
        if y.shape != x.shape:
            raise ValueError(f"y must have x's shape {tuple(x.shape)}, got {tuple(y.shape)}")
        wide = x.double()
        columns = torch.stack([*self.basis(wide), torch.ones_like(wide)], -1)  # (..., size, order + 1)
        problem = (columns.flatten(0, -2)[None], y.double().flatten()[None, :, None])
        if self.channels is not None:
            problem = (columns.flatten(0, -3).transpose(0, 1), y.double().flatten(0, -2).T[..., None])
        solution = torch.linalg.lstsq(*problem, driver="gelsd").solution[..., 0].T  # (order + 1, channels or 1)
        self.weight.copy_(solution[:-1].view_as(self.weight))
        self.bias.copy_(solution[-1])
        found = self.basis(wide)
        fitted = sum((a.double() * b for a, b in zip(self.weight, found, strict=True)), self.bias.double())
        return float((fitted - y.double()).norm() / y.double().norm())

    def extra_repr(self) -> str:
        """Order, and channels where each has its own."""
        return f"order={self.order}" + (f", channels={self.channels}" if self.channels else "")


class PolyReLU(PolynomialActivation):
    """``y = a_3 max(x, 0)³ + a_2 max(x, 0)² + a_1 max(x, 0) + a_0`` (order 3).

    It grows as x^order: without a norm before the layer and clipping of gradients it can explode.

    Source: Zhuo et al. (2024), Polynomial Composition Activations: Unleashing the Dynamics of Large Language Models.
    """

    @classmethod
    def from_relu(cls, order: int = 3) -> PolyReLU:
        """One that is ReLU at first, a = (0, …, 0, 1, 0): exchanged in a trained network it changes nothing."""
        made = cls(order)
        with torch.no_grad():
            made.weight.zero_()
            made.weight[-1] = 1
        return made

    def basis(self, x: Tensor) -> list[Tensor]:
        """Powers of ``max(x, 0)``."""
        return [F.relu(x) ** power for power in range(self.order, 0, -1)]

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., size) to y of the same shape."""
        return poly_relu(x, self.weight, self.bias)


class PolyNorm(PolynomialActivation):
    """``y = a_3 N(x³) + a_2 N(x²) + a_1 N(x) + a_0``, ``N(z) = z / √(mean(z²) + ε)`` over one dimension (order 3).

    N does not centre: the quadratic branch is never negative. ε switches the higher branches off where all inputs are small
    (`assay.ops.poly_norm`). Its statistics need the whole dimension: split over devices it would be another function.

    Source: Zhuo et al. (2024), Polynomial Composition Activations: Unleashing the Dynamics of Large Language Models.

    Args:
        order: r, from 1 to 5.
        eps: ε ≥ 0.
        channels: size of the normalised dimension, to give each channel coefficients of its own.
        dim: the dimension that is normalised: the last, or 1 for pictures (batch, channels, height, width).
        implementation: see `assay.ops.poly_norm.poly_norm`.

    Raises:
        ValueError: an argument out of its range; or the input is split over devices along ``dim``.
    """

    def __init__(
        self, order: int = 3, eps: float = 1e-6, channels: int | None = None, dim: int = -1, implementation: Implementation = "auto"
    ) -> None:
        super().__init__(order, channels)
        if not eps >= 0:
            raise ValueError(f"eps must be at least 0, got {eps}")
        self.eps, self.dim = eps, dim
        self.implementation: Implementation = implementation

    def basis(self, x: Tensor) -> list[Tensor]:
        """Normalised powers along the last dimension."""
        one = torch.eye(self.order, dtype=x.dtype, device=x.device)
        return [poly_norm(x, row, x.new_zeros(1), self.eps, "reference") for row in one]

    def forward(self, x: Tensor) -> Tensor:
        """Map x to y of the same shape."""
        _check_whole(x, self.dim)
        y = poly_norm(x.movedim(self.dim, -1), self.weight, self.bias, self.eps, self.implementation)
        return y.movedim(-1, self.dim)


class PolynomialComposition(PolynomialActivation):
    """The family that both belong to, with ρ any activation.

    Kind I, a polynomial of an activation: ``y = Σ a_p ρ(x)^p + a_0``. Kind II, an activation of powers: ``y = Σ a_p ρ(x^p) + a_0``.

    Source: Zhuo et al. (2024), Polynomial Composition Activations: Unleashing the Dynamics of Large Language Models.

    Args:
        base: ρ, an activation by name, or a module or function of a tensor.
        order: r, from 1 to 5.
        kind: ``I`` or ``II``.
        channels: size of the last dimension, to give each channel coefficients of its own.

    Raises:
        ValueError: an argument out of its range.
        UserError: no activation has that name.
    """

    def __init__(
        self, base: str | Callable[[Tensor], Tensor] = "relu", order: int = 3, kind: str = "I", channels: int | None = None
    ) -> None:
        super().__init__(order, channels)
        if kind not in ("I", "II"):
            raise ValueError(f"kind must be I or II, got {kind!r}")
        self.kind = kind
        self.base: Any = activation(base) if isinstance(base, str) else base

    def basis(self, x: Tensor) -> list[Tensor]:
        """Powers of ρ(x), or ρ of powers of x."""
        if self.kind == "II":
            return [self.base(x**power) for power in range(self.order, 0, -1)]
        value = self.base(x)
        return [value**power for power in range(self.order, 0, -1)]


def _check_whole(x: Tensor, dim: int) -> None:
    for placement in getattr(x, "placements", ()):
        if placement.is_shard(dim % x.ndim):
            raise ValueError(f"PolyNorm needs the whole of dimension {dim}, but x is split over devices along it: gather it first")
    if x.ndim and x.shape[dim] == 1:
        _warn_of_one()


@cache  # once is enough
def _warn_of_one() -> None:
    logger.warning("PolyNorm of a dimension of size 1 is nearly the sign of its input")
