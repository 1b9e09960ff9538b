"""`BaseConv` and `ShortBaseConv`: a convolution times a linear gate, the simplest of the gated convolutions."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from assay.contracts import State
from assay.nn.convolution.long import LongConvolution
from assay.nn.convolution.short import ShortConvolution
from assay.nn.linear import Linear
from assay.nn.mixer import StreamingMixer


class _GatedConvolution(StreamingMixer):
    """What both have in common: everything but the convolution."""

    positional = False  # its taps tell distances apart

    def __init__(self, convolution: StreamingMixer, width: int, residual: bool, activation: bool) -> None:
        super().__init__()
        self.residual, self.activation = residual, activation
        self.convolution = convolution
        self.gate_projection = Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mix the whole sequence (batch, length, width)."""
        return self._output(x, self.convolution(x, mask))

    def initial_state(self, batch_size: int) -> State:
        """The convolution's."""
        return self.convolution.initial_state(batch_size)

    def scan(self, x: Tensor, state: State, mask: Tensor | None = None) -> tuple[Tensor, State]:
        """Mix a chunk (batch, length, width), continuing from ``state``."""
        convolved, state = self.convolution.scan(x, state, mask)
        return self._output(x, convolved), state

    def _output(self, x: Tensor, convolved: Tensor) -> Tensor:
        gate, convolved = self.gate_projection(x), self._convolved(x, convolved)
        y = F.silu(convolved) * F.silu(gate) if self.activation else convolved * gate
        return y + x if self.residual else y

    def _convolved(self, x: Tensor, convolved: Tensor) -> Tensor:
        return convolved


class BaseConv(_GatedConvolution):
    """A long convolution times a linear gate: ``y = (h ∗ x + x) ∘ (W x + b) + x``.

    Two such layers, the first of them `ShortBaseConv`, can simulate any gated convolution with a constant number of layers more; to
    recall by content they need a width that grows with the length. The state holds all inputs.

    Source: Arora, Eyuboglu, Timalsina, Johnson, Poli, Zou, Rudra, Ré (2023), Zoology: Measuring and Improving Recall in Efficient Language
    Models.

    Args:
        width: numbers per position.
        length: the longest sequence.
        filter: ``implicit`` or ``explicit``, as `LongConvolution`'s.
        residual: add x within the mixer, beside the residual sum of the block around it, as the published code does.
        activation: SiLU on both factors.

    Shapes: x (batch, length, width); state as `LongConvolution`'s.

    Raises:
        ValueError: as `LongConvolution`.
    """

    def __init__(
        self,
        width: int,
        length: int = 1024,
        filter: Literal["explicit", "implicit"] = "implicit",
        residual: bool = True,
        activation: bool = False,
    ) -> None:
        super().__init__(LongConvolution(width, length, filter), width, residual, activation)
        self.length = length

    def _convolved(self, x: Tensor, convolved: Tensor) -> Tensor:
        return convolved + x


class ShortBaseConv(_GatedConvolution):
    """A short convolution times a linear gate: ``y = (w ∗ x + c) ∘ (W x + b) + x``; the odd layers of published BaseConv networks.

    Source: as `BaseConv`.

    Args:
        width: numbers per position.
        kernel_size: inputs that an output sees.
        residual: as `BaseConv`'s.
        activation: as `BaseConv`'s.

    Shapes: x (batch, length, width); state as `ShortConvolution`'s.

    Raises:
        ValueError: as `ShortConvolution`.
    """

    def __init__(self, width: int, kernel_size: int = 3, residual: bool = True, activation: bool = False) -> None:
        super().__init__(ShortConvolution(width, kernel_size), width, residual, activation)
