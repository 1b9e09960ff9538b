"""`poly_norm`: a polynomial whose powers are each normalised over the last dimension.

    y = Σ_{p=1..r} a_p N(x^p) + a_0,   N(z) = z / √(mean(z²) + ε)

Powers overflow (x³ squared is too large for float16 from x = 6.4 on), so they are taken of ``x / M``, M = max |x| of the row:
``N(x^p) = (x/M)^p / √(mean (x/M)^{2p} + ε / M^{2p})``, which is the same number and cannot overflow. Statistics are float32 or wider.

With g = dL/dy, r_p = 1 / √(mean x^{2p} + ε) and S_p = Σ_j a_p g_j x_j^p over a row of D numbers, the gradient is

    dL/dx = Σ_p p x^{p−1} r_p a_p g − (p/D) x^{2p−1} r_p³ S_p,   dL/da_p = Σ r_p g x^p,   dL/da_0 = Σ g.

Source: Zhuo et al. (2024), Polynomial Composition Activations: Unleashing the Dynamics of Large Language Models.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from assay.ops.poly_relu import check_coefficients, horner, summed

logger = logging.getLogger(__name__)

Implementation = Literal["auto", "reference", "closed", "compiled", "triton"]
IMPLEMENTATIONS: tuple[Implementation, ...] = ("auto", "reference", "closed", "compiled", "triton")


def poly_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-6, implementation: Implementation = "auto") -> Tensor:
    """The polynomial of normalised powers, of x's shape and type.

    ε breaks scale invariance for small rows: N(x³) is 0.12 for a row of 0.05s and 0.001 for one of 0.01s, not 1. With ε = 0 only a row
    of zeros is special: its normalised powers are 0.

    Args:
        x: (..., size); each row is normalised over its ``size`` numbers.
        weight: (order,) or, a channel each, (order, size): **highest power first**, ``[a_r … a_1]``.
        bias: (1,) or (size,): ``a_0``.
        eps: ε.
        implementation: ``reference`` is the formula, differentiable as often as wanted, and what exporters and compilers see;
            ``closed`` has its own backward pass (once differentiable) that keeps x and ``order`` + 1 numbers a row; ``compiled`` is that in
            kernels fused by `torch.compile`, which takes seconds on the first call; ``triton`` is one kernel a pass, on a GPU;
            ``auto`` is ``triton`` on a GPU, else ``closed``. A fast one that cannot run says so once in the log, and ``closed`` runs.

    Raises:
        ValueError: shapes that do not fit, a negative ε, or an unknown implementation.
    """
    check_coefficients(x, weight, bias)
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"implementation must be one of {', '.join(IMPLEMENTATIONS)}, got {implementation!r}")
    if not eps >= 0:
        raise ValueError(f"eps must be at least 0, got {eps}")
    if implementation == "auto":
        implementation = "reference" if torch.compiler.is_compiling() else "triton" if x.is_cuda else "closed"
    if implementation == "reference":
        return _forward(x, weight, bias, eps)[0]
    fast = {"compiled": _compiled, "triton": lambda: _triton_kernels(x, weight)}.get(implementation, lambda: None)()
    forward, backward = fast or (_forward, _backward)
    return _Closed.apply(x, weight, bias, eps, forward, backward)  # pyright: ignore[reportReturnType]


def _forward(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """The result, M (..., 1), and the factors ``M^p r_p`` (..., order), highest power first."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    largest = _largest(wide.detach(), eps)
    z, order = wide * largest.reciprocal(), len(weight)
    power, factors = z, []
    for exponent in range(1, order + 1):
        square = (power * power).mean(-1, keepdim=True) + eps / largest ** (2 * exponent)
        factors.append(torch.where(square == 0, 1.0, square).rsqrt())
        power = power * z if exponent < order else power
    factor = torch.cat(factors[::-1], -1)
    return (horner([a * f for a, f in _with(weight, factor)], z) * z + bias).to(x.dtype), largest, factor


def _backward(gradient: Tensor, x: Tensor, weight: Tensor, largest: Tensor, factors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias from what `_forward` kept; in z = x / M both sums over powers are polynomials."""
    size, channels = x.shape[-1], weight.ndim == 2
    inverse, wide = largest.reciprocal(), gradient.to(factors.dtype)
    z, exponents = x.to(factors.dtype) * inverse, range(len(weight), 0, -1)
    flow, flows = wide, []
    for _ in exponents:
        flow = flow * z
        flows.append(flow)  # g z^p
    weights, outer, inner = [], [], []
    for exponent, flow, (a, factor) in zip(exponents, flows[::-1], _with(weight, factors), strict=True):
        if channels:
            weights.append((flow * factor).flatten(0, -2).sum(0))
            total = (flow * a).sum(-1, keepdim=True)
        else:
            moment = flow.sum(-1, keepdim=True)
            weights.append((moment * factor).sum())
            total = moment * a
        outer.append(exponent * a * factor)
        inner.append(exponent / size * total * factor**3)
    change = (horner(outer, z) * wide - horner(inner, z * z) * z) * inverse
    return change.to(x.dtype), torch.stack(weights).to(weight.dtype), summed(wide, channels).to(weight.dtype).view(-1)


def _with(weight: Tensor, factors: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Each power's coefficient with its factor (..., 1)."""
    return list(zip(weight, factors.split(1, -1), strict=True))


def _largest(x: Tensor, eps: float) -> Tensor:
    """M: max |x| of each row, kept off zero: at √ε and below the plain formula has no trouble."""
    largest = x.abs().amax(-1, keepdim=True) if x.shape[-1] else x.new_ones(*x.shape[:-1], 1)
    return largest.clamp(min=math.sqrt(eps)) if eps else torch.where(largest == 0, 1.0, largest)


class _Closed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, forward: Callable[..., Any], backward: Any) -> Tensor:
        y, largest, factors = forward(x, weight, bias, eps)
        ctx.save_for_backward(x, weight, largest, factors)
        ctx.backward_pass = backward
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return (*ctx.backward_pass(gradient, *ctx.saved_tensors), None, None, None)


# ------------------------------------------------------------------------------------------------ fast forms


@cache
def _compiled() -> tuple[Callable[..., Any], Callable[..., Any]] | None:
    """Both passes fused by the compiler, or None where it does not work."""
    forward, backward = torch.compile(_forward, dynamic=True), torch.compile(_backward, dynamic=True)
    try:
        x, one = torch.ones(2, 4), torch.ones(1)
        y, largest, factors = forward(x, one, one, 1e-6)
        backward(y, x, one, largest, factors)
    except Exception as error:  # the compiler raises whatever its toolchain does
        logger.warning("poly_norm cannot be compiled here (%s): using the closed form", str(error).splitlines()[0])
        return None
    return forward, backward


def _triton_kernels(x: Tensor, weight: Tensor) -> tuple[Callable[..., Any], Callable[..., Any]] | None:
    """The Triton kernels, or None where they cannot serve this call."""
    kernels = _triton_module(x.is_cuda)
    if kernels is None or weight.ndim == 2 or x.dtype == torch.float64 or not x.numel() or x.shape[-1] > kernels.WIDEST:
        return None
    return kernels.forward, kernels.backward


@cache
def _triton_module(on_gpu: bool) -> Any:
    try:
        if not on_gpu and os.environ.get("TRITON_INTERPRET") != "1":
            raise ImportError("the tensors are on the CPU")
        from assay.ops import poly_norm_triton
    except ImportError as error:
        logger.warning("poly_norm cannot use Triton here (%s): using the closed form", error)
        return None
    return poly_norm_triton
