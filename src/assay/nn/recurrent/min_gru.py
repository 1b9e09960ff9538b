"""`MinGRU` and `MinLSTM`: gated recurrences whose gates see the input alone, so that a whole sequence is one linear recurrence."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from assay.nn.linear import Linear
from assay.nn.mixer import StreamingMixer
from assay.nn.recurrent.cost import register_recurrence
from assay.nn.recurrent.gates import Gate
from assay.ops.linear_recurrence import linear_recurrence


class _MinimalRecurrence(StreamingMixer):
    """``h_t = keep_t ∘ h_{t−1} + write_t ∘ h̃_t`` with everything but h linear in x_t or a gate of such."""

    positional = False  # the gates forget, so positions differ
    maps: int

    def __init__(self, width: int, *, bias: bool = True) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width must be at least 1, got {width}")
        self.width = width
        self.input_projection = Linear(width, self.maps * width, bias)

    def gates(self, *parts: Tensor) -> tuple[Tensor, Tensor]:
        """What is kept and what is written, from the maps before the candidate's."""
        raise NotImplementedError

    def initial_state(self, batch_size: int) -> Tensor:
        """Zeros, (batch, width)."""
        weight = self.input_projection.weight
        return weight.new_zeros(batch_size, self.width, dtype=torch.promote_types(weight.dtype, torch.float32))

    def scan(self, x: Tensor, state: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mix a chunk (batch, length, width), continuing from ``state``; a masked position repeats the state before it."""
        *parts, candidate = self._mapped(x, state)
        kept, written = self.gates(*parts)
        states, state = linear_recurrence(kept, written * candidate, state, mask)
        return states.to(x.dtype), state

    def gate_values(self, x: Tensor, state: Tensor, mask: Tensor | None = None) -> list[Gate]:
        """What is kept, as the forget gate, and what is written, as the input gate, over a chunk: together 1; the state decides neither."""
        kept, written = self.gates(*self._mapped(x, state)[:-1])
        return [Gate("input", written), Gate("forget", kept, kept)]

    def _mapped(self, x: Tensor, state: Tensor) -> tuple[Tensor, ...]:
        if x.ndim != 3 or x.shape[-1] != self.width:
            raise ValueError(f"x must have shape (batch, length, {self.width}), got {tuple(x.shape)}")
        return self.input_projection(x).to(state.dtype).chunk(self.maps, -1)


class MinGRU(_MinimalRecurrence):
    """``z = σ(W_z x + b_z)``, ``h_t = (1 − z_t) ∘ h_{t−1} + z_t ∘ (W_h x_t + b_h)``, ``y = h``.

    Source: Feng, Tung, Ahmed, Bengio, Hajimirsadeghi (2024), Were RNNs All We Needed?

    Args:
        width: numbers per position, and of the state.
        bias: of the maps.

    Shapes: x (batch, length, width); mask (batch, length), True = real; state (batch, width).

    Raises:
        ValueError: a width below 1; an input of another width.
    """

    maps = 2

    def gates(self, *parts: Tensor) -> tuple[Tensor, Tensor]:
        """1 − z and z."""
        return (-parts[0]).sigmoid(), parts[0].sigmoid()


class MinLSTM(_MinimalRecurrence):
    """``f, i = σ(W_f x + b_f), σ(W_i x + b_i)``, ``h_t = f/(f+i) ∘ h_{t−1} + i/(f+i) ∘ (W_h x_t + b_h)``, ``y = h``.

    Source, arguments, shapes and errors as `MinGRU`.
    """

    maps = 3

    def gates(self, *parts: Tensor) -> tuple[Tensor, Tensor]:
        """The two gates as shares of their sum, which cannot vanish: ``f/(f+i) = σ(log f − log i)``."""
        difference = nn.functional.logsigmoid(parts[0]) - nn.functional.logsigmoid(parts[1])
        return difference.sigmoid(), (-difference).sigmoid()


register_recurrence(_MinimalRecurrence, lambda module: 3 * module.width)
