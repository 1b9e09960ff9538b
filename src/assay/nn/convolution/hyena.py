"""`Hyena`: long convolutions and gates by turns."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from assay.nn.convolution.filters import SineFilter
from assay.nn.convolution.long import LongConvolution
from assay.nn.convolution.short import ShortConvolution
from assay.nn.linear import Linear
from assay.nn.mixer import StreamingMixer
from assay.ops.long_convolution import ConvolutionState


class HyenaState(NamedTuple):
    """The short convolution's last inputs, and all inputs of every long one."""

    short: Tensor
    long: tuple[ConvolutionState, ...]


class Hyena(StreamingMixer):
    """``(x₁, …, x_N, v) = short(W x + b)``; ``v ← x₁ ∘ v``, then for i = 2 … N ``v ← x_i ∘ (h_i ∗ v + d_i ∘ v)``; ``y = W_o v + b_o``.

    The short convolution has three taps. Each h is a network of sines of the position under a decaying window (`SineFilter`), each d a
    learned skip. The products are what a plain convolution lacks, but what is multiplied is fixed by the distance, not by the content.
    The state holds all inputs of the long convolutions: it grows with the position.

    Source: Poli, Massaroli, Nguyen, Fu, Dao, Baccus, Bengio, Ermon, Ré (2023), Hyena Hierarchy: Towards Larger Convolutional Language
    Models.

    Args:
        width: numbers per position.
        length: the longest sequence.
        order: N, products of inputs; N − 1 long convolutions.
        filter_width: units of the filters' hidden layers.

    Shapes: x (batch, length, width).

    Raises:
        ValueError: an order below 2, another size below 1; an input of another width, or longer than the filters.
    """

    positional = False  # its taps tell distances apart

    def __init__(self, width: int, length: int = 1024, order: int = 2, filter_width: int = 64) -> None:
        super().__init__()
        if order < 2:
            raise ValueError(f"order must be at least 2, got {order}")
        self.width, self.order = width, order
        self.input_projection = Linear(width, (order + 1) * width)
        self.short = ShortConvolution((order + 1) * width, 3)
        self.length = length
        self.long = nn.ModuleList(LongConvolution(width, length, SineFilter(width, length, filter_width)) for _ in range(order - 1))
        self.skip = nn.Parameter(torch.randn(order - 1, width))
        self.output_projection = Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mix the whole sequence (batch, length, width)."""
        first, *gates, v = self.short(self.input_projection(x), mask).chunk(self.order + 1, -1)
        v = first * v
        for gate, convolution, skip in zip(gates, self.long, self.skip, strict=True):
            v = gate * (convolution(v, mask) + skip * v)
        return self.output_projection(v)

    def initial_state(self, batch_size: int) -> HyenaState:
        """Nothing was read."""
        return HyenaState(self.short.initial_state(batch_size), tuple(part.initial_state(batch_size) for part in self._convolutions()))

    def scan(self, x: Tensor, state: HyenaState, mask: Tensor | None = None) -> tuple[Tensor, HyenaState]:
        """Mix a chunk (batch, length, width), continuing from ``state``."""
        mixed, short = self.short.scan(self.input_projection(x), state[0], mask)
        first, *gates, v = mixed.chunk(self.order + 1, -1)
        v, states = first * v, []
        for gate, convolution, skip, before in zip(gates, self._convolutions(), self.skip, state[1], strict=True):
            convolved, after = convolution.scan(v, before, mask)
            v = gate * (convolved + skip * v)
            states.append(after)
        return self.output_projection(v), HyenaState(short, tuple(states))

    def _convolutions(self) -> list[LongConvolution]:
        return [part for part in self.long if isinstance(part, LongConvolution)]
