"""`DiagonalStateSpace`: a linear system with a diagonal complex matrix on every channel, in chunks of matrix products."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from assay.nn.mixer import StreamingMixer
from assay.nn.state_space.step_size import log_uniform
from assay.ops.compaction import Compaction
from assay.ops.linear_recurrence import linear_recurrence, paired_linear_recurrence
from assay.ops.long_convolution import toeplitz

CHUNK = 32
"""Positions a chunk: powers of the eigenvalues are made for one chunk and serve all."""


class DiagonalStateSpace(StreamingMixer):
    """``h' = A h + 1 u``, ``y = 2 Re(C h) + D u`` on every channel alone, held for a step Δ: ``h_t = e^{ΔA} h_{t−1} + (e^{ΔA} − 1)/A u_t``.

    A is diagonal, ``−½ + iπn`` at the start (S4D-Lin), C Gaussian, Δ log-uniform between 0.001 and 0.1, D Gaussian. Over a chunk, y is the
    convolution of u with the impulse response ``K_t = 2 Re(C e^{tΔA} (e^{ΔA} − 1)/A)``, as a triangular matrix, plus what the state before
    it still gives; states between chunks are a `linear_recurrence`. Linear in the length, and unlike a Fourier transform exactly causal.

    Source: Gu, Gupta, Goel, Ré (2022), On the Parameterization and Initialization of Diagonal State Space Models.

    Args:
        channels: numbers per position.
        state: real numbers of a channel's state, even: pairs of conjugate complex ones, of which one is kept.

    Shapes: x (batch, length, channels); mask (batch, length), True = real; state (batch, channels, state / 2, 2), real and
    imaginary parts. The output at a masked position is ``D u``.

    Raises:
        ValueError: an argument out of its range; an input of another width.
    """

    positional = False  # decay and phase tell positions apart
    bfloat16_bound = 0.3  # a step Δ that is rounded by 2⁻⁹ turns fast frequencies by radians over hundreds of positions

    def __init__(self, channels: int, state: int = 64) -> None:
        super().__init__()
        if channels < 1:
            raise ValueError(f"channels must be at least 1, got {channels}")
        if state < 2 or state % 2:
            raise ValueError(f"state must be even and at least 2, got {state}")
        self.channels, self.size = channels, state // 2
        self.log_step = nn.Parameter(log_uniform((channels,), 1e-3, 1e-1).log())
        self.log_rate = nn.Parameter(torch.full((channels, self.size), 0.5).log())
        self.frequency = nn.Parameter(math.pi * torch.arange(self.size).repeat(channels, 1))
        self.output = nn.Parameter(torch.randn(channels, self.size, 2) / math.sqrt(2))  # C; real, so that a change of type is plain
        self.skip = nn.Parameter(torch.randn(channels))

    def exponents(self) -> Tensor:
        """ΔA, (channels, state / 2), complex with negative real part."""
        step, rate, frequency = (x.to(self._dtype()) for x in (self.log_step, self.log_rate, self.frequency))
        return torch.complex(-rate.exp(), frequency) * step.exp()[:, None]

    def kernel(self, length: int) -> Tensor:
        """The impulse response without D, ``K_0 … K_{length−1}``, (channels, length)."""
        exponents = self.exponents()
        return self._taps(exponents, _powers(exponents, length))

    def initial_state(self, batch_size: int) -> Tensor:
        """Zeros, (batch, channels, state / 2, 2)."""
        return torch.zeros(batch_size, self.channels, self.size, 2, dtype=self._dtype(), device=self.skip.device)

    def scan(self, x: Tensor, state: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Convolve a chunk (batch, length, channels), continuing from ``state``."""
        if x.ndim != 3 or x.shape[-1] != self.channels:
            raise ValueError(f"x must have shape (batch, length, {self.channels}), got {tuple(x.shape)}")
        if x.shape[1] == 0:
            return x, state
        if torch.compiler.is_exporting():
            return self._in_pairs(x, state, mask)
        compaction = None if mask is None else Compaction(mask)
        packed = (x if compaction is None else compaction.pack(x)).to(self._dtype())
        y, state = self._run(
            packed,
            torch.view_as_complex(state),
            torch.full((x.shape[0],), x.shape[1], device=x.device) if compaction is None else compaction.counts,
        )
        y = y.to(x.dtype)
        return (y if compaction is None else compaction.unpack(y)) + self.skip * x, torch.view_as_real(state)

    def _in_pairs(self, x: Tensor, state: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """The equations a position at a time in real numbers, as a graph for export has them."""
        step, rate, turn = self.log_step.to(self._dtype()).exp()[:, None], self.log_rate.to(self._dtype()).exp(), self.frequency
        size, angle = (-rate * step).exp(), turn.to(self._dtype()) * step
        decay = size[..., None] * torch.stack([angle.cos(), angle.sin()], -1)
        # e^{ΔA} − 1 without cancellation, then over A = −rate + i turn
        real, imaginary = torch.expm1(-rate * step) * angle.cos() - 2 * (angle / 2).sin().square(), size * angle.sin()
        held = torch.stack([turn * imaginary - rate * real, -rate * imaginary - turn * real], -1) / (rate**2 + turn**2)[..., None]
        states = paired_linear_recurrence(decay, x.to(self._dtype())[..., None, None] * held, state, mask)
        left, right = (self.output.to(self._dtype()) * states).unbind(-1)
        y = 2 * (left - right).sum(-1).to(x.dtype)
        return (y if mask is None else torch.where(mask[..., None], y, 0.0)) + self.skip * x, states[:, -1]

    def _run(self, x: Tensor, state: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of which the first ``counts`` (batch,) positions are real and the rest zero."""
        batch, length, chunk = *x.shape[:2], min(CHUNK, x.shape[1])
        exponents = self.exponents()
        powers = _powers(exponents, chunk)
        # one chunk more: the last real position may be the last of a chunk
        chunks = F.pad(x, (0, 0, 0, chunk - length % chunk)).unflatten(1, (-1, chunk))
        count = chunks.shape[1]
        rows = chunks.permute(3, 0, 1, 2).flatten(1, 2)  # (channels, batch · chunks, chunk)
        held = _held(exponents, self.log_step)
        added = torch.view_as_complex((rows @ _parts(powers.flip(-1))).unflatten(-1, (-1, 2))).unflatten(1, (batch, count))
        added = added.permute(1, 2, 0, 3) * held
        ends = linear_recurrence((chunk * exponents).exp(), added, state)[0]
        starts = torch.cat([state[:, None], ends[:, :-1]], 1)
        left = torch.view_as_real(starts * exponents.exp() * self._read()).permute(2, 0, 1, 3, 4).flatten(3).flatten(1, 2)
        y = rows @ toeplitz(self._taps(exponents, powers)) + left @ _parts(powers.conj()).transpose(1, 2)
        y = y.view(self.channels, batch, count * chunk).permute(1, 2, 0)[:, :length]
        last = (torch.arange(batch, device=x.device), counts // chunk)
        return y, self._after(chunks[last], starts[last], counts % chunk, exponents, powers)

    def _after(self, x: Tensor, state: Tensor, counts: Tensor, exponents: Tensor, powers: Tensor) -> Tensor:
        """``e^{nΔA} h + Σ_i e^{(n−1−i)ΔA} B̄ u_i`` of a chunk's rows with n real positions in front."""
        age = counts[:, None] - 1 - torch.arange(x.shape[1], device=x.device)  # of position i at the last real one
        # reversed, so that a position stands where its age is; those that are not real have none
        aged = x.gather(1, age.clamp(min=0)[..., None].expand_as(x)) * (age >= 0)[..., None]
        summed = torch.view_as_complex((aged.permute(2, 0, 1) @ _parts(powers)).unflatten(-1, (-1, 2))).transpose(0, 1)
        return (counts[:, None, None] * exponents).exp() * state + summed * _held(exponents, self.log_step)

    def _taps(self, exponents: Tensor, powers: Tensor) -> Tensor:
        return ((self._read() * _held(exponents, self.log_step))[:, None] @ powers)[:, 0].real

    def _read(self) -> Tensor:
        """2 C."""
        return 2 * torch.view_as_complex(self.output.to(self._dtype()))

    def _dtype(self) -> torch.dtype:
        return torch.promote_types(self.skip.dtype, torch.float32)


def _powers(exponents: Tensor, length: int) -> Tensor:
    """``e^{tΔA}`` for t = 0 … length − 1, (channels, state / 2, length)."""
    times = torch.arange(length, device=exponents.device, dtype=exponents.real.dtype)
    return (exponents[..., None] * times).exp()


def _held(exponents: Tensor, log_step: Tensor) -> Tensor:
    """B̄ = (e^{ΔA} − 1)/A: what an input that is held for one step adds to the state."""
    return torch.special.expm1(exponents) / exponents * log_step.to(exponents.real.dtype).exp()[:, None]


def _parts(powers: Tensor) -> Tensor:
    """(channels, state / 2, length), complex, as (channels, length, state), real and imaginary parts in turn."""
    return torch.view_as_real(powers.resolve_conj()).transpose(1, 2).flatten(2)
