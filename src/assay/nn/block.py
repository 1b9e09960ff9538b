"""The residual block every sequence model is made of: a mixer along positions, then a feed-forward net on each position."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from assay.contracts import State


class FeedForward(nn.Module):
    """Two linear maps with a GELU between: ``y = W₂ gelu(W₁ x + b₁) + b₂``, on each position alone.

    Args:
        width: size of x and y; x is (..., width).
        hidden: size between the maps.
        dropout: probability of dropping a hidden unit.
    """

    def __init__(self, width: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.expand = nn.Linear(width, hidden)
        self.activation = nn.GELU()
        self.dropout = nn.Dropout(dropout)
        self.contract = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., width) to (..., width)."""
        return self.contract(self.dropout(self.activation(self.expand(x))))


class ResidualBlock(nn.Module):
    """A mixer and a feed-forward net, each in a residual sum.

    Pre-norm: ``x ← x + mixer(norm₁(x));  x ← x + feed_forward(norm₂(x))``.
    Post-norm (Vaswani et al. 2017): ``x ← norm₁(x + mixer(x));  x ← norm₂(x + feed_forward(x))``.
    Streams whenever its mixer does; the block's state is the mixer's.

    Args:
        mixer: any module with the mixer contract; x is (batch, length, width).
        width: size of x.
        hidden: hidden size of the feed-forward net.
        dropout: on both residual branches.
        post_norm: normalise after the sums instead of before the branches.
    """

    def __init__(self, mixer: nn.Module, width: int, hidden: int, dropout: float = 0.0, post_norm: bool = False) -> None:
        super().__init__()
        self.mixer = mixer
        self.feed_forward = FeedForward(width, hidden, dropout)
        self.mixer_norm = nn.LayerNorm(width)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.post_norm = post_norm

    def forward(self, x: Tensor, mask: Tensor | None = None, **inputs: Tensor) -> Tensor:
        """Mix the whole sequence (batch, length, width)."""
        return self._after_mixing(x, self.mixer(self._before_mixing(x), mask, **inputs))

    def initial_state(self, batch_size: int) -> State:
        """The mixer's state before the first position."""
        return _streaming(self.mixer).initial_state(batch_size)

    def scan(self, x: Tensor, state: State, mask: Tensor | None = None) -> tuple[Tensor, State]:
        """Mix a chunk (batch, length, width), continuing from ``state``."""
        mixed, state = _streaming(self.mixer).scan(self._before_mixing(x), state, mask)
        return self._after_mixing(x, mixed), state

    def step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        """Mix one position (batch, width)."""
        mixed, state = _streaming(self.mixer).step(self._before_mixing(x_t), state)
        return self._after_mixing(x_t, mixed), state

    def _before_mixing(self, x: Tensor) -> Tensor:
        return x if self.post_norm else self.mixer_norm(x)

    def _after_mixing(self, x: Tensor, mixed: Tensor) -> Tensor:
        x = x + self.dropout(mixed)
        if self.post_norm:
            x = self.mixer_norm(x)
            return self.feed_forward_norm(x + self.dropout(self.feed_forward(x)))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


def _streaming(mixer: Any) -> Any:
    if not getattr(mixer, "causal", False):
        raise ValueError(f"{type(mixer).__name__} is not causal: it has no state and cannot read a stream")
    return mixer
