"""`DampedEMA`: several damped moving averages of every channel; a convolution for training, a recurrence for streams."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from assay.nn.mixer import StreamingMixer
from assay.ops.compaction import Compaction
from assay.ops.linear_recurrence import linear_recurrence
from assay.ops.long_convolution import long_convolution

CHUNK = 256
"""Positions a stream works on at once, so that the states of a long chunk are never all there."""


class TruncatedState(NamedTuple):
    """``averages`` s (batch, width, order) over the last positions, and ``inputs`` (batch, reach, width), those that are to leave it."""

    averages: Tensor
    inputs: Tensor


class DampedEMA(StreamingMixer):
    """``y_t = silu(Σ_n γ_n s_{t,n} / √N + ω ∘ x_t)`` with ``s_t = q ∘ s_{t−1} + p ∘ β x_t``, ``p = σ(δ)`` and ``q = 1 − p ∘ σ(α)``.

    Each of N moving averages of a channel forgets at a rate of its own. As a whole, the sum is a convolution with the kernel
    ``k_l = Σ_n p_n β_n γ_n q_nˡ / √N``, done by Fourier transform in O(L log L); a stream carries s. Not causal, a second set of averages
    runs from the end to the beginning and is added; both hold the present input. With a ``reach`` R the kernel ends after R taps, and what
    leaves it is taken out of the averages, ``s_t = q ∘ s_{t−1} + p ∘ β (x_t − q^R x_{t−R})``: a stream gives the same.

    Source: Ma, Zhou, Kong, He, Gui, Neubig, May, Zettlemoyer (2022), Mega: Moving Average Equipped Gated Attention.

    Args:
        width: numbers per position.
        order: N, moving averages of a channel.
        causal: a position sees itself and what is before it; else everything, and there is no state.
        reach: R, taps of the kernel; None for as many as there are positions.

    Shapes: x (batch, length, width); mask (batch, length), True = real; state s (batch, width, order), or `TruncatedState`. A masked
    position is skipped as if it were not there; its output is zero.

    Raises:
        ValueError: a size below 1; an input of another width.
    """

    positional = False  # forgetting tells distances apart

    def __init__(self, width: int, order: int = 16, *, causal: bool = True, reach: int | None = None) -> None:
        super().__init__()
        if min(width, order) < 1:
            raise ValueError(f"width and order must be at least 1, got {width} and {order}")
        if reach is not None and reach < 1:
            raise ValueError(f"reach must be at least 1, got {reach}")
        self.width, self.order, self.causal, self.reach = width, order, causal, reach
        rows = width if causal else 2 * width
        self.delta = nn.Parameter(0.2 * torch.randn(rows, order))
        self.alpha = nn.Parameter(0.2 * torch.randn(rows, order))
        self.beta = nn.Parameter(1.0 - 2.0 * (torch.arange(order) % 2) + 0.02 * torch.randn(rows, order))
        self.gamma = nn.Parameter(torch.randn(rows, order))
        self.omega = nn.Parameter(torch.randn(width))

    def kernel(self, length: int) -> Tensor:
        """``k_0 … k_{length−1}`` of every channel, (width, length), or (2 · width, length) with those of the other direction below.

        Powers are those of two short lists, of a block's start and of the place within it, so that N numbers a position are never there.
        """
        entering, log_decay = self._coefficients()
        block = math.isqrt(max(length - 1, 0)) + 1
        places = torch.arange(block, device=log_decay.device, dtype=log_decay.dtype)
        starts = block * torch.arange(-(-length // block), device=log_decay.device, dtype=log_decay.dtype)
        read = entering * self._reading()
        heads = read[:, None] * (starts[:, None] * log_decay[:, None]).exp()  # (rows, blocks, order)
        return (heads @ (log_decay[..., None] * places).exp()).flatten(1)[:, :length]

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mix the whole sequence (batch, length, width)."""
        self._check(x)
        if mask is None:
            return self._convolved(x)
        compaction = Compaction(mask)
        return compaction.unpack(self._convolved(compaction.pack(x)))

    def initial_state(self, batch_size: int) -> Tensor | TruncatedState:
        """Zeros, (batch, width, order), with a reach beside as many inputs."""
        if not self.causal:
            raise ValueError("DampedEMA(causal=False) sees the future: it has no state and cannot read a stream")
        averages = torch.zeros(batch_size, self.width, self.order, dtype=self._dtype(), device=self.omega.device)
        return averages if self.reach is None else TruncatedState(averages, averages.new_zeros(batch_size, self.reach, self.width))

    def scan(self, x: Tensor, state: Tensor | TruncatedState, mask: Tensor | None = None) -> tuple[Tensor, Tensor | TruncatedState]:
        """Mix a chunk (batch, length, width), continuing from ``state``: by the recurrence, linear in the length."""
        self._check(x)
        if isinstance(state, Tensor):
            return self._averaged(x, state, mask)
        return self._scan_truncated(x, TruncatedState(*state), mask)

    def _scan_truncated(self, x: Tensor, state: TruncatedState, mask: Tensor | None) -> tuple[Tensor, TruncatedState]:
        """Rows are packed first: what leaves is the real position a reach before."""
        compaction = None if mask is None else Compaction(mask)
        packed, counts = (x, None) if compaction is None else (compaction.pack(x), compaction.counts)
        length, reach = x.shape[1], state.inputs.shape[1]
        inputs = torch.cat([state.inputs, packed.to(state.inputs.dtype)], 1)
        real = None if counts is None else torch.arange(length, device=x.device) < counts[:, None]
        y, averages = self._averaged(packed, state.averages, real, inputs[:, :length])
        if counts is None:
            return y, TruncatedState(averages, inputs[:, length:])
        last = (counts[:, None] + torch.arange(reach, device=x.device))[..., None].expand(-1, -1, self.width)
        assert compaction is not None  # it gave the counts
        return compaction.unpack(y), TruncatedState(averages, inputs.gather(1, last))

    def _averaged(self, x: Tensor, state: Tensor, mask: Tensor | None, leaving: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Of x, less what is ``leaving`` (batch, length, width) the averages."""
        entering, log_decay = self._coefficients()
        decay, read, parts = log_decay.exp(), self._reading(), []
        masks = [None] * -(-x.shape[1] // CHUNK) if mask is None else mask.split(CHUNK, 1)
        for start, real in zip(range(0, x.shape[1], CHUNK), masks, strict=True):
            part = x[:, start : start + CHUNK]
            driven = part.to(decay.dtype)[..., None] * entering
            if leaving is not None:
                assert self.reach is not None  # or nothing would leave
                driven = driven - leaving[:, start : start + CHUNK, :, None] * (entering * (self.reach * log_decay).exp())
            states, state = linear_recurrence(decay, driven, state, real)
            parts.append((states * read).sum(-1).to(x.dtype))
        y = self._output(x, torch.cat(parts, 1) if parts else torch.zeros_like(x))
        return (y if mask is None else torch.where(mask[..., None], y, 0.0)), state

    def _convolved(self, x: Tensor) -> Tensor:
        kernel = self.kernel(x.shape[1] if self.reach is None else min(self.reach, x.shape[1]))
        y = long_convolution(x, kernel[: self.width])
        if not self.causal:
            y = y + long_convolution(x.flip(1), kernel[self.width :]).flip(1)
        return self._output(x, y)

    def _output(self, x: Tensor, averages: Tensor) -> Tensor:
        return F.silu(averages + self.omega * x)

    def _coefficients(self) -> tuple[Tensor, Tensor]:
        """``p ∘ β`` and log q, (rows, order); log q as log1p, for q is near 1 where averages are long, and never of 0."""
        p = self.delta.to(self._dtype()).sigmoid()
        forgotten = (p * self.alpha.to(p.dtype).sigmoid()).clamp(max=1 - torch.finfo(p.dtype).eps)
        return p * self.beta.to(p.dtype), torch.log1p(-forgotten)

    def _reading(self) -> Tensor:
        """``γ / √N``."""
        return self.gamma.to(self._dtype()) / math.sqrt(self.order)

    def _dtype(self) -> torch.dtype:
        return torch.promote_types(self.omega.dtype, torch.float32)

    def _check(self, x: Tensor) -> None:
        if x.ndim != 3 or x.shape[-1] != self.width:
            raise ValueError(f"x must have shape (batch, length, {self.width}), got {tuple(x.shape)}")
