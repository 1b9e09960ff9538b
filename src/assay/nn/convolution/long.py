"""`LongConvolution`: a filter as long as the sequence on every channel; `LongConvolutionMixer`: that as a layer."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from assay.nn.convolution.filters import FILTERS
from assay.nn.kept import Kept
from assay.nn.linear import Linear
from assay.nn.mixer import StreamingMixer
from assay.ops.compaction import Compaction
from assay.ops.long_convolution import ConvolutionState, initial_convolution_state, long_convolution, long_convolution_scan

FilterKind = Literal["explicit", "implicit", "sine"]


class LongConvolution(StreamingMixer):
    """Causal depthwise convolution ``y_t = Σ_{s≤t} h_s ∘ x_{t−s}``, counted over real positions, by Fourier transform.

    A masked position is skipped as if it were not there; its own output is zero. The state holds all inputs, so its bytes grow with the
    position; a step costs O(log² position) amortised where no gradient is recorded.

    Args:
        width: numbers per position.
        length: taps, and so the longest sequence.
        filter: how the taps are made: ``explicit`` (a parameter each), ``implicit`` (a small network of the position), ``sine`` (Hyena's),
            or a module of your own that returns them, (width, length).

    Shapes: x (batch, length, width); state `assay.ops.long_convolution.ConvolutionState`.

    Raises:
        ValueError: a width or length below 1, an unknown filter; an input of another width, or longer than the filter.
    """

    positional = False  # its taps tell distances apart

    def __init__(self, width: int, length: int = 1024, filter: FilterKind | nn.Module = "implicit") -> None:
        super().__init__()
        if not isinstance(filter, nn.Module) and filter not in FILTERS:
            raise ValueError(f"filter must be a module or one of {', '.join(FILTERS)}, got {filter!r}")
        self.width, self.length = width, length
        self.filter = filter if isinstance(filter, nn.Module) else FILTERS[filter](width, length)
        self._kept = Kept()

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Convolve the whole sequence (batch, length, width)."""
        self._check(x)
        if x.shape[1] > self.length:
            raise ValueError(f"the input has {x.shape[1]} positions, but the filter was made for a length of {self.length}")
        if mask is None:
            return long_convolution(x, self.filter())
        compaction = Compaction(mask)
        return compaction.unpack(long_convolution(compaction.pack(x), self.filter()))

    def initial_state(self, batch_size: int) -> ConvolutionState:
        """Nothing was read."""
        taps = self._taps()
        return initial_convolution_state(batch_size, self.width, taps.dtype, taps.device)

    def scan(self, x: Tensor, state: ConvolutionState, mask: Tensor | None = None) -> tuple[Tensor, ConvolutionState]:
        """Convolve a chunk (batch, length, width), continuing from ``state``."""
        self._check(x)
        return long_convolution_scan(x, state, self._taps(), mask)

    def _taps(self) -> Tensor:
        """The filter; between the steps of a stream it is kept until a parameter changes, for making it costs more than a step."""
        return self._kept.get("taps", self.filter, self.filter)

    def _check(self, x: Tensor) -> None:
        if x.ndim != 3 or x.shape[-1] != self.width:
            raise ValueError(f"x must have shape (batch, length, {self.width}), got {tuple(x.shape)}")


class LongConvolutionMixer(StreamingMixer):
    """A long convolution, a nonlinearity, a linear map, and no gate: ``y = W_o gelu(h ∗ x + d ∘ x) + b_o``.

    Without a product of inputs it cannot look anything up: what a position gives to later ones does not depend on what they hold.

    Source: the Long Conv baseline of Arora, Eyuboglu, Timalsina, Johnson, Poli, Zou, Rudra, Ré (2023), Zoology, after Fu, Epstein, Nguyen,
    Thomas, Zhang, Dao, Rudra, Ré (2023), Simple Hardware-Efficient Long Convolutions for Sequence Modeling.

    Args:
        width: numbers per position.
        length: the longest sequence.
        filter: as `LongConvolution`'s.

    Shapes: x (batch, length, width); state as `LongConvolution`'s.

    Raises:
        ValueError: as `LongConvolution`.
    """

    positional = False  # its taps tell distances apart

    def __init__(self, width: int, length: int = 1024, filter: FilterKind | nn.Module = "explicit") -> None:
        super().__init__()
        self.convolution = LongConvolution(width, length, filter)
        self.skip = nn.Parameter(torch.ones(width))
        self.output_projection = Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mix the whole sequence (batch, length, width)."""
        return self._output(x, self.convolution(x, mask))

    def initial_state(self, batch_size: int) -> ConvolutionState:
        """The convolution's."""
        return self.convolution.initial_state(batch_size)

    def scan(self, x: Tensor, state: ConvolutionState, mask: Tensor | None = None) -> tuple[Tensor, ConvolutionState]:
        """Mix a chunk (batch, length, width), continuing from ``state``."""
        convolved, state = self.convolution.scan(x, state, mask)
        return self._output(x, convolved), state

    def _output(self, x: Tensor, convolved: Tensor) -> Tensor:
        return self.output_projection(F.gelu(convolved + self.skip * x))
