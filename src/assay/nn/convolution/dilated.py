"""`DilatedConvolution`, `DilatedTCN`: few taps far apart, so that few layers see far; `receptive_field`, `choose_tcn`: how far."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from assay.measure import register_flops
from assay.nn.attention.cache import CacheState, append, empty_cache, is_even, trimmed
from assay.nn.mixer import StreamingMixer
from assay.ops.compaction import Compaction
from assay.ops.dilated_convolution import dilated_convolution

PIECE = 8192
"""Positions of a long sequence that go through all layers together where no gradient is recorded: what is between layers stays small."""


class TCNShape(NamedTuple):
    """The arguments of `DilatedTCN` beside its width."""

    kernel: int
    factor: int
    blocks: int


def receptive_field(kernel: int, factor: int, blocks: int) -> int:
    """``1 + 2 (K − 1) Σ_b fᵇ``: inputs that an output of a causal `DilatedTCN` sees, itself among them.

    Raises:
        ValueError: a kernel below 2, or a factor or number of blocks below 1.
    """
    if kernel < 2:
        raise ValueError(f"kernel must be at least 2, got {kernel}")
    if min(factor, blocks) < 1:
        raise ValueError(f"factor and blocks must be at least 1, got {factor} and {blocks}")
    return 1 + 2 * (kernel - 1) * sum(factor**block for block in range(blocks))


def choose_tcn(length: int, parameters: int = 102) -> TCNShape:
    """The fewest blocks that see ``length`` inputs without a gap, with at most so many taps a channel.

    A block's two convolutions have ``2 K`` taps a channel. There is no gap while the factor is at most ``2 K − 1``, what the first block
    sees. Of the kernels the largest is taken, and of the factors the smallest that reaches.

    Args:
        length: inputs to see.
        parameters: taps a channel, of all convolutions together.

    Raises:
        ValueError: a length below 1, or so few taps that no depth reaches.
    """
    if length < 1:
        raise ValueError(f"length must be at least 1, got {length}")
    for blocks in range(1, parameters // 4 + 1):
        kernel = parameters // (2 * blocks)
        for factor in range(1, 2 * kernel):
            if receptive_field(kernel, factor, blocks) >= length:
                return TCNShape(kernel, factor, blocks)
    raise ValueError(f"{parameters} taps a channel cannot see {length} inputs without a gap: allow more")


class DilatedConvolution(StreamingMixer):
    """``y_t = b + Σ_k w_k ∘ x_{t − (K−1−k) · dilation}`` with ``w = g ∘ v / ‖v‖``, the norm taken over a channel's taps.

    Not causal, the taps stand around t. The state holds the last (K − 1) · dilation real inputs, and is written in place where no gradient
    is recorded, so a step costs O(K).

    Source: Salimans, Kingma (2016), Weight Normalization, for w; Bai, Kolter, Koltun (2018), An Empirical Evaluation of Generic
    Convolutional and Recurrent Networks for Sequence Modeling, for its use in dilated convolutions.

    Args:
        width: numbers per position.
        kernel: K, taps.
        dilation: positions between two taps.
        depthwise: each channel has taps of its own; else every output channel has taps on every input channel.
        causal: an output sees its own input and those before it; else K is odd, and there is no state.

    Shapes: x (batch, length, width); the direction v (taps, width), or (taps, width out, width in).

    Raises:
        ValueError: a width or dilation below 1, a kernel below 2, an even one that is not causal; an input of another width.
    """

    positional = False  # its taps tell distances apart

    def __init__(self, width: int, kernel: int, dilation: int = 1, *, depthwise: bool = True, causal: bool = True) -> None:
        super().__init__()
        if min(width, dilation) < 1:
            raise ValueError(f"width and dilation must be at least 1, got {width} and {dilation}")
        if kernel < 2:
            raise ValueError(f"kernel must be at least 2, got {kernel}")
        if not causal and kernel % 2 == 0:
            raise ValueError(f"kernel must be odd where taps stand around a position, got {kernel}")
        self.width, self.kernel, self.dilation, self.depthwise, self.causal = width, kernel, dilation, depthwise, causal
        shape = (kernel, width) if depthwise else (kernel, width, width)
        bound = 1 / math.sqrt(kernel if depthwise else kernel * width)  # as torch.nn.Conv1d draws them
        self.direction = nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
        self.gain = nn.Parameter(self._norm())
        self.bias = nn.Parameter(torch.empty(width).uniform_(-bound, bound))

    @property
    def reach(self) -> int:
        """How far the first tap is from the last."""
        return (self.kernel - 1) * self.dilation

    def weight(self) -> Tensor:
        """The taps, the oldest input's first, of the direction's shape."""
        scale = self.gain / self._norm()
        return self.direction * (scale if self.depthwise else scale[:, None])

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Convolve the whole sequence (batch, length, width)."""
        self._check(x)
        if mask is None:
            return self.whole(x)
        compaction = Compaction(mask)
        return compaction.unpack(self.whole(compaction.pack(x)))

    def initial_state(self, batch_size: int) -> CacheState:
        """Nothing was read."""
        if not self.causal:
            raise ValueError("DilatedConvolution(causal=False) sees the future: it has no state and cannot read a stream")
        return empty_cache(batch_size, 1, self.width, self.bias, value_width=0)

    def scan(self, x: Tensor, state: CacheState, mask: Tensor | None = None) -> tuple[Tensor, CacheState]:
        """Convolve a chunk (batch, length, width), continuing from the last inputs ``state``."""
        self._check(x)
        if mask is None:
            return self.advance(x, state)
        compaction = Compaction(mask)
        y, state = self.advance(compaction.pack(x), state, compaction.counts)
        return compaction.unpack(y), state

    def whole(self, x: Tensor, **ending: Any) -> Tensor:
        """`forward` of rows without masked positions, or with zeros behind the real ones; ``ending``: of `dilated_convolution`."""
        reach = self.reach
        return self._convolved(x, (reach, 0) if self.causal else (reach // 2, reach // 2), **ending)

    def follow(self, before: Tensor, x: Tensor, **ending: Any) -> tuple[Tensor, Tensor]:
        """`whole` of a piece x behind the last inputs ``before`` (batch, reach, width), and the last inputs after it."""
        seen = torch.cat([before, x], 1)
        return self._convolved(seen, (0, 0), **ending), seen[:, x.shape[1] :]

    def advance(self, x: Tensor, state: CacheState, counts: Tensor | None = None, **ending: Any) -> tuple[Tensor, CacheState]:
        """`scan` of rows of which the first ``counts`` (batch,) positions are real; by default all."""
        if counts is None and torch.compiler.is_exporting():
            return self._advance_filled(x, CacheState(*state), **ending)
        length, even = x.shape[1], counts is None and is_even(CacheState(*state))
        real = None
        if not even:
            counts = torch.full((x.shape[0],), length, device=x.device) if counts is None else counts
            real = torch.arange(length, device=x.device) < counts[:, None]
        before = CacheState(*state).lengths
        state = append(CacheState(*state), x[:, None], x.new_empty(x.shape[0], 1, length, 0), real)
        inputs = state.keys[:, 0]
        if even:
            first = (int(before[0]) if len(before) else 0) - self.reach
            y = self._convolved(inputs[:, max(0, first) : first + self.reach + length], (max(0, -first), 0), **ending)
        else:
            places = before[:, None] - self.reach + torch.arange(self.reach + length, device=x.device)
            padded = F.pad(inputs, (0, 0, self.reach, length))  # so that every place is there
            seen = padded.gather(1, (places + self.reach)[..., None].expand(-1, -1, self.width))
            y = self._convolved(seen, (0, 0), **ending)
        return y, trimmed(state, self.reach)

    def _advance_filled(self, x: Tensor, state: CacheState, **ending: Any) -> tuple[Tensor, CacheState]:
        """`advance` in a graph that cannot look at numbers: the buffer holds what was read and no more, up to its reach."""
        length, held = x.shape[1], torch.cat([state.keys[:, 0], x], 1)
        seen = F.pad(held, (0, 0, self.reach, 0))[:, held.shape[1] - length :]
        passed = torch.sym_max(0, held.shape[1] - self.reach)  # one graph for a buffer that is full and one that is not
        values = torch.cat([state.values, x.new_zeros(x.shape[0], 1, length, 0)], 2)[:, :, passed:]
        lengths = state.lengths + (length - passed)
        after = CacheState(held[:, None, passed:], values, lengths, state.dropped + passed, lengths.clone())
        return self._convolved(seen, (0, 0), **ending), after

    def _convolved(self, x: Tensor, padding: tuple[int, int], activated: bool = False, residual: Tensor | None = None) -> Tensor:
        if self.depthwise:
            return dilated_convolution(x, self.weight(), self.bias, self.dilation, padding, activated=activated, residual=residual)
        padded = F.pad(x.transpose(1, 2), padding)
        if padded.shape[2] <= self.reach and not torch.compiler.is_exporting():
            return x.new_zeros(x.shape[0], 0, self.width)
        y = F.conv1d(padded, self.weight().permute(1, 2, 0), self.bias, dilation=self.dilation).transpose(1, 2)
        y = F.silu(y) if activated else y
        return y if residual is None else residual + y

    def _norm(self) -> Tensor:
        return self.direction.norm(dim=0 if self.depthwise else (0, 2))

    def _check(self, x: Tensor) -> None:
        if x.ndim != 3 or x.shape[-1] != self.width:
            raise ValueError(f"x must have shape (batch, length, {self.width}), got {tuple(x.shape)}")


class DilatedTCN(StreamingMixer):
    """``y = silu(h + ω ∘ x)``, where h goes from x through blocks ``h ← h + silu(C₂ silu(C₁ h))`` of two `DilatedConvolution`s each.

    Those of block b are fᵇ apart, so the last layer sees `receptive_field` (kernel, factor, blocks) inputs: with f far above the usual 2,
    three blocks see thousands, where a Fourier transform would be needed for as long a filter. Linear in the length.

    Source: Terzic, Hersche, Karunaratne, Benini, Sebastian, Rahimi (2023), TCNCA: Temporal Convolution Network with Chunked Attention for
    Scalable Sequence Processing. The paper leaves open what is normalised and how channels mix: depthwise, with normalised weights, and
    silu as the activation are choices made here.

    Args:
        width: numbers per position.
        kernel: K, taps of each convolution.
        factor: f, by which a block's dilation exceeds that of the block before.
        blocks: number of blocks.
        depthwise: as `DilatedConvolution`'s.
        dropout: after each activation.
        causal: as `DilatedConvolution`'s.

    Shapes: x (batch, length, width); mask (batch, length), True = real. A masked position is skipped as if it were not there; its output is
    zero. The state holds 2 (K − 1) Σ_b fᵇ inputs of a channel or up to twice as many.

    Raises:
        ValueError: as `receptive_field` and `DilatedConvolution`.
    """

    positional = False  # its taps tell distances apart

    def __init__(
        self,
        width: int,
        kernel: int = 17,
        factor: int = 8,
        blocks: int = 3,
        *,
        depthwise: bool = True,
        dropout: float = 0.0,
        causal: bool = True,
    ) -> None:
        super().__init__()
        self.receptive_field = receptive_field(kernel, factor, blocks)
        self.width, self.kernel, self.factor, self.blocks, self.causal = width, kernel, factor, blocks, causal
        dilations = (factor**block for block in range(blocks) for _ in range(2))
        self.convolutions = nn.ModuleList(
            DilatedConvolution(width, kernel, dilation, depthwise=depthwise, causal=causal) for dilation in dilations
        )
        self.omega = nn.Parameter(torch.randn(width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mix the whole sequence (batch, length, width)."""
        if self.causal and not torch.is_grad_enabled() and x.shape[1] > PIECE and mask is None:
            return self._in_pieces(x)
        if mask is None:
            return self._whole(x, None)
        compaction = Compaction(mask)
        real = torch.arange(x.shape[1], device=x.device) < compaction.counts[:, None]
        return compaction.unpack(self._whole(compaction.pack(x), real))

    def initial_state(self, batch_size: int) -> tuple[CacheState, ...]:
        """Every convolution's."""
        return tuple(self._layer(place).initial_state(batch_size) for place in range(2 * self.blocks))

    def scan(self, x: Tensor, state: tuple[CacheState, ...], mask: Tensor | None = None) -> tuple[Tensor, tuple[CacheState, ...]]:
        """Mix a chunk (batch, length, width), continuing from ``state``."""
        compaction = None if mask is None else Compaction(mask)
        packed, counts = (x, None) if compaction is None else (compaction.pack(x), compaction.counts)
        after = list(state)

        def convolved(place: int, h: Tensor, **ending: Any) -> Tensor:
            y, after[place] = self._layer(place).advance(h, after[place], counts, **ending)
            return y

        y = self._through(packed, convolved)
        return (y if compaction is None else compaction.unpack(y)), tuple(after)

    def _whole(self, x: Tensor, real: Tensor | None) -> Tensor:
        """Rows without masked positions, or with the real ones in front. What is behind them must not come back where taps look ahead."""
        hidden = None if real is None or self.causal else ~real[..., None]

        def convolved(place: int, h: Tensor, **ending: Any) -> Tensor:
            y = self._layer(place).whole(h, **ending)
            return y if hidden is None else y.masked_fill(hidden, 0.0)

        return self._through(x, convolved)

    def _in_pieces(self, x: Tensor) -> Tensor:
        before = [x.new_zeros(x.shape[0], self._layer(place).reach, self.width) for place in range(2 * self.blocks)]
        y = torch.empty_like(x)

        def convolved(place: int, h: Tensor, **ending: Any) -> Tensor:
            y, before[place] = self._layer(place).follow(before[place], h, **ending)
            return y

        for start in range(0, x.shape[1], PIECE):
            y[:, start : start + PIECE] = self._through(x[:, start : start + PIECE], convolved)
        return y

    def _through(self, x: Tensor, convolved: Callable[..., Tensor]) -> Tensor:
        """All blocks, with ``convolved(place, h, …)`` for the convolution of that place."""
        if x.ndim != 3 or x.shape[-1] != self.width:
            raise ValueError(f"x must have shape (batch, length, {self.width}), got {tuple(x.shape)}")
        h = x
        for block in range(self.blocks):
            inner = self.dropout(convolved(2 * block, h, activated=True))
            if self.training and self.dropout.p:
                h = h + self.dropout(convolved(2 * block + 1, inner, activated=True))
            else:
                h = convolved(2 * block + 1, inner, activated=True, residual=h)
        return F.silu(torch.addcmul(h, self.omega, x))

    def _layer(self, place: int) -> DilatedConvolution:
        layer = self.convolutions[place]
        assert isinstance(layer, DilatedConvolution)  # nothing else is put there
        return layer


def _flops(module: Any, args: tuple[Any, ...], _output: Any) -> int:
    taps = sum(part.direction.numel() for part in module.modules() if isinstance(part, DilatedConvolution))
    return 2 * args[0].shape[0] * args[0].shape[1] * taps


register_flops(DilatedConvolution, _flops)
register_flops(DilatedTCN, _flops)
