"""`poly_relu`: a polynomial of the rectified input, with a backward pass that keeps nothing but the input.

    y = Σ_{p=1..r} a_p max(x, 0)^p + a_0,   dy/dx = 1[x > 0] Σ p a_p x^{p−1},   dy/da_p = max(x, 0)^p

Source: Zhuo et al. (2024), Polynomial Composition Activations: Unleashing the Dynamics of Large Language Models.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

Implementation = Literal["auto", "reference", "closed"]
IMPLEMENTATIONS: tuple[Implementation, ...] = ("auto", "reference", "closed")


def poly_relu(x: Tensor, weight: Tensor, bias: Tensor, implementation: Implementation = "auto") -> Tensor:
    """A polynomial of ``max(x, 0)``, of x's shape and type; unbounded, growing as x^order.

    Args:
        x: (..., size).
        weight: (order,) or, a channel each, (order, size): **highest power first**, ``[a_r … a_1]``.
        bias: (1,) or (size,): ``a_0``.
        implementation: ``reference`` differentiates as often as wanted and exports; ``closed`` has its own backward pass, once
            differentiable, that keeps only x; ``auto`` is the second outside of compilers and exporters.

    Raises:
        ValueError: shapes that do not fit, or an unknown implementation.
    """
    check_coefficients(x, weight, bias)
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"implementation must be one of {', '.join(IMPLEMENTATIONS)}, got {implementation!r}")
    if implementation == "reference" or (implementation == "auto" and torch.compiler.is_compiling()):
        return _forward(x, weight, bias)
    return _Closed.apply(x, weight, bias)  # pyright: ignore[reportReturnType]


def check_coefficients(x: Tensor, weight: Tensor, bias: Tensor) -> None:
    """Whether coefficients (order,) with (1,), or (order, size) with (size,), fit x.

    Raises:
        ValueError: they do not.
    """
    size = x.shape[-1] if x.ndim else 0
    fits = (weight.ndim == 1 and bias.shape == (1,)) or (weight.ndim == 2 and weight.shape[1] == size and bias.shape == (size,))
    if not fits or not len(weight):
        raise ValueError(
            f"weight and bias must have shapes (order,) and (1,), or (order, {size}) and ({size},), got {tuple(weight.shape)} and "
            f"{tuple(bias.shape)}"
        )


def horner(coefficients: Sequence[Tensor], z: Tensor) -> Tensor:
    """``c_1 z^{n−1} + … + c_n``; coefficients broadcast with z."""
    y = coefficients[0]
    for coefficient in coefficients[1:]:
        y = torch.addcmul(coefficient, y, z)
    return y


def _forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return horner([*weight, bias], F.relu(x)).to(x.dtype)


class _Closed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _forward(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight = ctx.saved_tensors
        order, channels, positive = len(weight), weight.ndim == 2, F.relu(x)
        flow, moments = gradient, []
        for _ in range(order):
            flow = flow * positive  # g max(x, 0)^p
            moments.append(summed(flow, channels))
        derivative = horner([(order - place) * a for place, a in enumerate(weight)], positive)
        change = torch.where(x > 0, derivative * gradient, 0.0).to(x.dtype)
        return change, torch.stack(moments[::-1]).to(weight.dtype), summed(gradient, channels).to(weight.dtype).view(-1)


def summed(gradient: Tensor, channels: bool) -> Tensor:
    """The sum over all rows of a gradient (..., size): (size,) if each channel has its own, else a number; in float32 or wider."""
    wide = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
    return wide.flatten(0, -2).sum(0) if channels else wide.sum()
