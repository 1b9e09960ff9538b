"""`NeuralTuringMachine`: a controller with a memory matrix, addressed by content and by place; the addressing as functions of its own.

Graves, Wayne, Danihelka, Neural Turing Machines, 2014. Memories are (batch, slots, width), weights over them (batch, …, slots).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from assay.nn.linear import Linear
from assay.nn.mixer import StreamingMixer
from assay.ops.loop import Tensors, walk

SMALL = 1e-16
EMPTY = 1e-6
"""What every number of an empty memory is: equal slots are alike to any key, and no slot has length zero."""
SHIFTS = 3

State = dict[str, Tensor]


def content_weights(memory: Tensor, key: Tensor, strength: Tensor) -> Tensor:
    """``softmax_i(β cos(k, M_i))``: memory (batch, slots, width), key (batch, heads, width), strength (batch, heads, 1)."""
    lengths = memory.norm(dim=-1)[:, None] * key.norm(dim=-1, keepdim=True)
    return (strength * (key @ memory.transpose(1, 2)) / (lengths + SMALL)).softmax(-1)


def interpolate(content: Tensor, before: Tensor, gate: Tensor) -> Tensor:
    """``γ w^c + (1 − γ) w_{t−1}``: by content, or where the head was; gate (batch, heads, 1)."""
    return before + gate * (content - before)


def shift_weights(weights: Tensor, shift: Tensor) -> Tensor:
    """Circular convolution: ``w̃_i = s₋₁ w_{i+1} + s₀ w_i + s₊₁ w_{i−1}``; shift (batch, heads, 3) for −1, 0, +1."""
    return sum(shift[..., place, None] * weights.roll(place - 1, -1) for place in range(SHIFTS))  # pyright: ignore[reportReturnType]


def sharpen(weights: Tensor, power: Tensor) -> Tensor:
    """``w_i^γ / Σ_j w_j^γ``, in logarithms; power (batch, heads, 1), at least 1."""
    return (power * (weights + SMALL).log()).softmax(-1)


def read(memory: Tensor, weights: Tensor) -> Tensor:
    """``Σ_i w_i M_i`` of every head, (batch, heads, width)."""
    return weights @ memory


def write(memory: Tensor, weights: Tensor, erase: Tensor, add: Tensor) -> Tensor:
    """``M ← M ∘ Π_heads (1 − w eᵀ) + Σ_heads w aᵀ``; weights (batch, heads, slots), erase and add (batch, heads, width)."""
    kept = (1 - weights[..., None] * erase[:, :, None]).prod(1)
    return memory * kept + weights.transpose(1, 2) @ add


class NeuralTuringMachine(StreamingMixer):
    """A recurrent network with a memory of ``slots`` vectors that it reads and writes at every position.

    The controller sees x_t and what was read before. From its output every head emits a key k, a strength ``β = softplus``, a gate
    ``γ = σ``, shifts ``s = softmax`` over −1, 0, 1 and a sharpening ``1 + softplus``; its weights are `content_weights` → `interpolate` →
    `shift_weights` → `sharpen`. Write heads then erase (σ) and add, read heads read what is left, and ``y_t = W [controller, reads] + b``.
    Every sequence begins with an empty memory and learned first weights; nothing is clipped but the gradients by whoever trains it.

    Source: Graves, Wayne, Danihelka (2014), Neural Turing Machines.

    Args:
        width: numbers per position, and of an LSTM controller's state.
        slots: N.
        slot_width: numbers a slot.
        heads: of reading, and as many of writing.
        controller: ``lstm`` or ``feed-forward``.

    Shapes: x (batch, length, width); mask (batch, length), True = real, elsewhere the output is zero; state: ``memory`` (batch, slots,
    slot_width), ``weights`` (batch, 2 · heads, slots; reading, then writing), ``reads`` (batch, heads · slot_width), and an LSTM's ``h``
    and ``c`` (batch, width).

    Raises:
        ValueError: a size below 1, fewer slots than shifts, an unknown controller, an input of another width.
    """

    def __init__(self, width: int, slots: int = 32, slot_width: int = 8, heads: int = 1, controller: str = "lstm") -> None:
        super().__init__()
        if min(width, slot_width, heads) < 1 or slots < SHIFTS:
            numbers = f"width={width}, slot_width={slot_width}, heads={heads}, slots={slots}"
            raise ValueError(f"width, slot_width and heads must be at least 1 and slots at least {SHIFTS}, got {numbers}")
        if controller not in ("lstm", "feed-forward"):
            raise ValueError(f"controller must be lstm or feed-forward, got {controller!r}")
        self.width, self.slots, self.slot_width, self.heads = width, slots, slot_width, heads
        seen = width + heads * slot_width
        self.controller: nn.Module = nn.LSTMCell(seen, width) if controller == "lstm" else Linear(seen, width)
        self.address = Linear(width, 2 * heads * (slot_width + 3 + SHIFTS))
        self.change = Linear(width, heads * 2 * slot_width)
        self.output = Linear(seen, width)
        self.first_weights = nn.Parameter(torch.randn(2 * heads, slots))

    def initial_state(self, batch_size: int) -> State:
        """An empty memory, the learned first weights, and zeros."""
        zeros: Callable[..., Tensor] = self.first_weights.new_zeros
        state = {
            "memory": zeros(batch_size, self.slots, self.slot_width) + EMPTY,
            "weights": self.first_weights.softmax(-1).expand(batch_size, -1, -1),
            "reads": zeros(batch_size, self.heads * self.slot_width),
        }
        if isinstance(self.controller, nn.LSTMCell):
            state |= {"h": zeros(batch_size, self.width), "c": zeros(batch_size, self.width)}
        return state

    def scan(self, x: Tensor, state: State, mask: Tensor | None = None) -> tuple[Tensor, State]:
        """Mix a chunk (batch, length, width), continuing from ``state``."""
        if x.ndim != 3 or x.shape[-1] != self.width:
            raise ValueError(f"x must have shape (batch, length, {self.width}), got {tuple(x.shape)}")
        if x.shape[1] == 0:
            return x, state
        names = list(state)

        def step(before: Tensors, now: tuple[Any, ...]) -> tuple[Tensors, Tensors]:
            x_t, real = now
            y, found = self.step(x_t, dict(zip(names, before, strict=True)))
            after = tuple(found[name] for name in names)
            if real is None:
                return after, (y,)
            kept = tuple(torch.where(_like(real, new), new, old) for new, old in zip(after, before, strict=True))
            return kept, (torch.where(real[:, None], y, 0.0),)

        after, (y,) = walk(step, tuple(state.values()), (x, mask))
        return y, dict(zip(names, after, strict=True))

    def step(self, x_t: Tensor, state: State, **inputs: Tensor) -> tuple[Tensor, State]:
        """Mix one position (batch, width)."""
        seen = torch.cat([x_t, state["reads"]], -1)
        if isinstance(self.controller, nn.LSTMCell):
            hidden, cell = self.controller(seen, (state["h"], state["c"]))
            after: dict[str, Any] = {"h": hidden, "c": cell}
        else:
            hidden, after = torch.tanh(self.controller(seen)), {}
        weights = self._addressed(hidden, state)
        erase, add = self.change(hidden).unflatten(-1, (self.heads, 2 * self.slot_width)).chunk(2, -1)
        memory = write(state["memory"], weights[:, self.heads :], erase.sigmoid(), add)
        reads = read(memory, weights[:, : self.heads]).flatten(1)
        return self.output(torch.cat([hidden, reads], -1)), {"memory": memory, "weights": weights, "reads": reads, **after}

    def _addressed(self, hidden: Tensor, state: State) -> Tensor:
        """The weights of all heads, (batch, 2 · heads, slots)."""
        emitted = self.address(hidden).unflatten(-1, (2 * self.heads, self.slot_width + 3 + SHIFTS))
        key, strength, gate, power, shift = emitted.split([self.slot_width, 1, 1, 1, SHIFTS], -1)
        content = content_weights(state["memory"], key, F.softplus(strength))
        weights = interpolate(content, state["weights"], gate.sigmoid())
        return sharpen(shift_weights(weights, shift.softmax(-1)), 1 + F.softplus(power))


def _like(real: Tensor, value: Tensor) -> Tensor:
    """``real`` (batch,) with as many dimensions as ``value``."""
    return real.view(-1, *[1] * (value.ndim - 1))
