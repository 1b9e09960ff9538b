"""`HierarchicalConvolution1d`, `HierarchicalConvolution2d`: networks of patches that do not overlap, whose wide limit has exact kernels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Convolve = Callable[..., Tensor]


class _Hierarchical(nn.Module):
    """What one and two dimensions share; see `HierarchicalConvolution1d`."""

    axes: int
    convolve: Convolve

    def __init__(self, filters: Sequence[int], width: int, size: int, channels: int = 1, outputs: int = 1) -> None:
        super().__init__()
        filters = tuple(filters)
        if not filters or min(filters) < 1:
            raise ValueError(f"filters must be whole numbers of at least 1, got {list(filters)}")
        if min(width, channels, outputs) < 1:
            raise ValueError(f"width, channels and outputs must be at least 1, got {width}, {channels} and {outputs}")
        span = math.prod(filters)
        if size < 1 or size % span:
            raise ValueError(f"filters {list(filters)} take patches of {span}, which does not divide a size of {size}")
        self.filters, self.width, self.size, self.channels, self.outputs = filters, width, size, channels, outputs
        inputs = (channels, *[width] * (len(filters) - 1))
        self.weights = nn.ParameterList(
            nn.Parameter(torch.randn(width, before, *[filter] * self.axes)) for before, filter in zip(inputs, filters, strict=True)
        )
        self.readout = nn.Parameter(torch.randn(outputs, width * (size // span) ** self.axes))

    @property
    def kernel_share(self) -> float:
        """What the mean of K(x, x') over networks is a share of `assay.theory.hierarchical_kernels`': 1 / (2^L · numbers of a patch)."""
        return 1 / (2 ** len(self.filters) * self.channels * self.filters[0] ** self.axes)

    def forward(self, x: Tensor) -> Tensor:
        """Answer inputs (batch, channels, size) or (batch, channels, size, size): (batch, outputs)."""
        expected = (self.channels, *[self.size] * self.axes)
        if x.shape[1:] != expected:
            raise ValueError(f"x must have shape (batch, {', '.join(map(str, expected))}), got {tuple(x.shape)}")
        for weight, filter in zip(self.weights, self.filters, strict=True):
            x = type(self).convolve(x, weight, stride=filter).relu() / math.sqrt(weight[0].numel())
        return x.flatten(1) @ self.readout.T / math.sqrt(self.readout.shape[1])


class HierarchicalConvolution1d(_Hierarchical):
    """A convolutional network whose every filter is as long as its stride, in the parameterisation of the tangent kernel.

    ``h^l = relu(w^l ∗_{s_l} h^{l−1}) / √(fan-in)`` for l = 1 … L, and ``f = a · h^L / √(width · positions)`` over all that is left; weights
    are standard normal, without biases. The width to infinity, the mean over networks of ``∇f(x) · ∇f(x')`` is the ntk of
    `assay.theory.hierarchical_kernels.hierarchical_kernel` times `kernel_share`, and that of ``f(x) f(x')`` its rfk.

    Source: Cagnetta, Favero, Wyart (2023), What Can Be Learnt With Wide Convolutional Neural Networks?

    Args:
        filters: s_1 … s_L; their product divides the size.
        width: channels of every layer.
        size: positions of an input.
        channels: of an input.
        outputs: numbers answered.

    Raises:
        ValueError: an argument below 1, or filters that do not divide the size; an input of another shape.
    """

    axes = 1
    convolve = staticmethod(F.conv1d)


class HierarchicalConvolution2d(_Hierarchical):
    """`HierarchicalConvolution1d` over squares: inputs (batch, channels, size, size), filters s_l × s_l."""

    axes = 2
    convolve = staticmethod(F.conv2d)
