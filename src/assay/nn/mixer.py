"""`StreamingMixer`: a causal mixer from ``initial_state`` and ``scan`` alone."""

from __future__ import annotations

from torch import Tensor, nn

from assay.contracts import State


class StreamingMixer(nn.Module):
    """Supplies ``forward`` and ``step`` of a causal mixer from its ``initial_state`` and ``scan``.

    ``forward(x) = scan(x, initial_state)[0]`` and ``step(x_t) = scan`` of a chunk of one. A subclass with a faster way for either
    overrides it; `assay.testing.check_mixer` holds the two against each other.

    Shapes: ``x`` (batch, length, width), ``mask`` (batch, length) with True = real, ``x_t`` (batch, width).
    """

    causal = True

    def initial_state(self, batch_size: int) -> State:
        """The state before the first position: a pytree of tensors."""
        raise NotImplementedError(f"{type(self).__name__} must define initial_state(batch_size)")

    def scan(self, x: Tensor, state: State, mask: Tensor | None = None) -> tuple[Tensor, State]:
        """Mix a chunk, continuing from ``state``; a masked position leaves the state unchanged."""
        raise NotImplementedError(f"{type(self).__name__} must define scan(x, state, mask)")

    def forward(self, x: Tensor, mask: Tensor | None = None, **inputs: Tensor) -> Tensor:
        """Mix the whole sequence; ``inputs`` are what the mixer names in its attribute of that name."""
        return self.scan(x, self.initial_state(x.shape[0]), mask, **inputs)[0]

    def step(self, x_t: Tensor, state: State, **inputs: Tensor) -> tuple[Tensor, State]:
        """Mix one position (batch, width)."""
        y, state = self.scan(x_t[:, None], state, **{name: value[:, None] for name, value in inputs.items()})
        return y[:, 0], state


def padded_right(mask: Tensor) -> bool:
    """Whether padding only ends rows of ``mask`` (batch, length): what a causal mixer makes of the real positions does not depend on it."""
    return not bool((mask[:, 1:] & ~mask[:, :-1]).any())
