"""`LinearRecurrentUnit`: a diagonal complex linear recurrence whose eigenvalues start in a ring of the unit disc."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from assay.nn.linear import Linear
from assay.nn.mixer import StreamingMixer
from assay.nn.recurrent.cost import register_recurrence
from assay.ops.linear_recurrence import linear_recurrence, paired_linear_recurrence

CHUNK = 1024
"""Positions worked on at once, so that the states of a long sequence are never all there."""


class LinearRecurrentUnit(StreamingMixer):
    """``h_t = λ ∘ h_{t−1} + γ ∘ (B x_t)``, ``y_t = Re(C h_t) + D ∘ x_t`` with ``λ = exp(−e^ν + i e^θ)`` and ``γ = e^{log γ}``.

    |λ| < 1 whatever ν, so the recurrence cannot explode; γ starts at √(1 − |λ|²), so that states are of size 1.

    Source: Orvieto et al. (2023), Resurrecting Recurrent Neural Networks for Long Sequences.

    Args:
        width: numbers per position.
        state: complex numbers of the state; by default ``width``.
        smallest: |λ| is drawn uniform in area between this …
        largest: … and this, below 1.
        largest_phase: the phase of λ is uniform between 0 and this.

    Shapes: x (batch, length, width); mask (batch, length), True = real; state (batch, state, 2), real and imaginary
    parts.

    Raises:
        ValueError: an argument out of its range; an input of another width.
    """

    positional = False  # decay and phase tell positions apart

    def __init__(
        self, width: int, state: int | None = None, *, smallest: float = 0.0, largest: float = 0.999, largest_phase: float = 2 * math.pi
    ) -> None:
        super().__init__()
        size = width if state is None else state
        if width < 1 or size < 1:
            raise ValueError(f"width and state must be at least 1, got {width} and {state}")
        if not 0 <= smallest < largest < 1:
            raise ValueError(f"smallest and largest must be ordered, at least 0 and below 1, got {smallest} and {largest}")
        if not largest_phase > 0:
            raise ValueError(f"largest_phase must be above 0, got {largest_phase}")
        self.width, self.size = width, size
        square = torch.empty(size).uniform_(smallest**2, largest**2).clamp(min=1e-8)
        self.log_rate = nn.Parameter((-0.5 * square.log()).log())
        self.log_phase = nn.Parameter(torch.empty(size).uniform_(1e-4, 1).mul(largest_phase).log())
        self.log_gain = nn.Parameter(0.5 * (1 - square).log())
        self.skip = nn.Parameter(torch.randn(width))
        self.input_projection = Linear(width, 2 * size, bias=False)  # Re B and Im B
        self.output_projection = Linear(2 * size, width, bias=False)  # Re C and −Im C
        nn.init.normal_(self.input_projection.weight, std=1 / math.sqrt(2 * width))
        nn.init.normal_(self.output_projection.weight, std=1 / math.sqrt(size))

    def initial_state(self, batch_size: int) -> Tensor:
        """Zeros, (batch, state, 2)."""
        return torch.zeros(batch_size, self.size, 2, dtype=self._dtype(), device=self.skip.device)

    def eigenvalues(self) -> Tensor:
        """λ, (state,), complex."""
        return torch.polar(*self._modulus_and_phase())

    def scan(self, x: Tensor, state: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mix a chunk (batch, length, width), continuing from ``state``."""
        if x.ndim != 3 or x.shape[-1] != self.width:
            raise ValueError(f"x must have shape (batch, length, {self.width}), got {tuple(x.shape)}")
        if torch.compiler.is_exporting():
            return self._in_pairs(x, state, mask)
        eigenvalues, gain, parts, state = self.eigenvalues(), self.log_gain.exp(), [], torch.view_as_complex(state)
        masks = [None] * -(-x.shape[1] // CHUNK) if mask is None else mask.split(CHUNK, 1)
        for part, real in zip(x.split(CHUNK, 1) if x.shape[1] else (), masks, strict=True):
            driven = self.input_projection(part).unflatten(-1, (2, -1)) * gain
            driven = torch.complex(*driven.to(eigenvalues.real.dtype).unbind(-2))
            states, state = linear_recurrence(eigenvalues, driven, state, real)
            parts.append(self.output_projection(torch.cat([states.real, states.imag], -1).to(x.dtype)))
        return (torch.cat(parts, 1) if parts else torch.zeros_like(x)) + self.skip * x, torch.view_as_real(state)

    def _in_pairs(self, x: Tensor, state: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """The same in real numbers, as a graph for export has it."""
        modulus, phase = self._modulus_and_phase()
        driven = self.input_projection(x).unflatten(-1, (2, -1)) * self.log_gain.exp()
        decay = modulus[:, None] * torch.stack([phase.cos(), phase.sin()], -1)
        states = paired_linear_recurrence(decay, driven.transpose(-1, -2).to(self._dtype()), state, mask)
        return self.output_projection(states.transpose(-1, -2).flatten(-2).to(x.dtype)) + self.skip * x, states[:, -1]

    def _modulus_and_phase(self) -> tuple[Tensor, Tensor]:
        return (-self.log_rate.to(self._dtype()).exp()).exp(), self.log_phase.to(self._dtype()).exp()

    def _dtype(self) -> torch.dtype:
        return torch.promote_types(self.log_rate.dtype, torch.float32)


# per complex state: its multiply-add (8) and the gain (2); and the skip
register_recurrence(LinearRecurrentUnit, lambda module: 10 * module.size + 2 * module.width)
