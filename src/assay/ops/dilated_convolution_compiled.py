"""The C++ form of `assay.ops.dilated_convolution`."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from assay.ops import extension

SOURCE = Path(__file__).parent / "kernels" / "dilated_convolution.cpp"
PLAIN, SILU, SILU_GRADIENT = range(3)
"""The ``Ending`` of the C++ source."""

_SIZES = ("batch", "inputs", "outputs", "width", "taps", "dilation", "before", "ending", "threads")
_TENSORS = ("x", "weight", "bias", "residual", "output_gradient", "output", "weight_gradient")


class _Problem(ctypes.Structure):
    """The ``Problem`` of the C++ source."""

    _fields_ = [*((name, ctypes.c_int64) for name in _SIZES), *((name, ctypes.c_void_p) for name in _TENSORS)]


def library() -> ctypes.CDLL | None:
    """The compiled functions, or None where they cannot be had."""
    return extension.compiled(SOURCE)


@torch.compiler.assume_constant_result
def available() -> bool:
    """Whether the compiled functions can be had."""
    return library() is not None


class Place(NamedTuple):
    """Where the taps stand, and whether silu follows."""

    dilation: int
    padding: tuple[int, int]
    activated: bool


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, place: Place) -> Tensor:
    """`assay.ops.dilated_convolution.dilated_convolution` in C++, computed in float32."""
    bias, residual = (None if tensor is None else tensor.float() for tensor in (bias, residual))
    return _Compiled.apply(x.float(), weight.float(), bias, residual, place).to(x.dtype)


class _Compiled(torch.autograd.Function):
    """Only inputs are kept for the backward pass: what silu was taken of is computed once more."""

    @staticmethod
    @torch.compiler.disable
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, place: Place) -> Tensor:
        x, weight = x.detach().contiguous(), weight.detach().contiguous()
        bias = None if bias is None else bias.detach().contiguous()
        residual = None if residual is None else residual.detach().contiguous()
        ctx.save_for_backward(x, weight, bias)
        ctx.place = place
        return _convolved(x, weight, bias, place.dilation, place.padding, SILU if place.activated else PLAIN, residual=residual)

    @staticmethod
    @once_differentiable
    @torch.compiler.disable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, weight, bias = ctx.saved_tensors
        dilation, (before, after), activated = ctx.place
        arriving = gradients[0].contiguous()
        if activated:
            arriving = _convolved(x, weight, bias, dilation, (before, after), SILU_GRADIENT, output_gradient=arriving)
        reach = (weight.shape[0] - 1) * dilation
        x_gradient = weight_gradient = bias_gradient = None
        if ctx.needs_input_grad[0]:
            x_gradient = _convolved(arriving, weight.flip(0), None, dilation, (reach - before, reach - after))
        if ctx.needs_input_grad[1]:
            weight_gradient = torch.zeros_like(weight)
            if arriving.numel():
                sizes = (len(x), x.shape[1], arriving.shape[1], x.shape[2], len(weight), dilation, before, PLAIN)
                _call("convolve_backward", sizes, x=x, weight=weight, output_gradient=arriving, weight_gradient=weight_gradient)
        if ctx.needs_input_grad[2]:
            bias_gradient = arriving.sum((0, 1))
        return x_gradient, weight_gradient, bias_gradient, gradients[0] if ctx.needs_input_grad[3] else None, None


def _convolved(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    dilation: int,
    padding: tuple[int, int],
    ending: int = PLAIN,
    **more: Tensor | None,
) -> Tensor:
    (batch, inputs, width), taps = x.shape, len(weight)
    output = x.new_empty(batch, inputs + sum(padding) - (taps - 1) * dilation, width)
    if output.numel():
        sizes = (batch, inputs, output.shape[1], width, taps, dilation, padding[0], ending)
        _call("convolve", sizes, x=x, weight=weight, bias=bias, output=output, **more)
    return output


def _call(name: str, sizes: tuple[int, ...], **tensors: Tensor | None) -> None:
    functions = library()
    if functions is None:
        raise RuntimeError("a compiled convolution needs a C++ compiler, and this machine has none that works")
    given = (tensors.get(key) for key in _TENSORS)
    addresses = (None if tensor is None else tensor.data_ptr() for tensor in given)
    getattr(functions, name)(ctypes.byref(_Problem(*sizes, torch.get_num_threads(), *addresses)))
