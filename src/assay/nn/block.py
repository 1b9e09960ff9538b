"""The residual block every sequence model is made of: a mixer along positions, then a channel mixer on each position."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from assay.contracts import State
from assay.nn.channel.experts import MixtureOfExperts
from assay.nn.channel.feed_forward import FeedForward
from assay.nn.norm import LayerScale
from assay.nn.norm import norm as make_norm

HYBRID_NORMS = ("output",)


class ResidualBlock(nn.Module):
    """A mixer and a feed-forward net, each in a residual sum.

    Pre-norm: ``x ← x + mixer(norm₁(x));  x ← x + feed_forward(norm₂(x))``.
    Post-norm (Vaswani et al. 2017): ``x ← norm₁(x + mixer(x));  x ← norm₂(x + feed_forward(x))``.
    Streams whenever its mixer does; the block's state is the mixer's. What the mixer names in its attribute ``inputs`` beside x is
    handed on to it from the keyword arguments, and no other. A mixer that says ``normalises`` has a norm of its own in place of norm₁:
    pre-norm, it is handed x as it is.

    Args:
        mixer: any module with the mixer contract; x is (batch, length, width).
        width: size of x.
        hidden: hidden size of the feed-forward net; 0 leaves the net and its norm out.
        dropout: on both residual branches.
        post_norm: normalise after the sums instead of before the branches.
        activation: of the feed-forward net, by name.
        experts: more than one makes the net a `MixtureOfExperts`, each of ``hidden / active`` hidden units, so that a position costs
            what it costs in one net.
        active: experts that a position uses.
        layer_scale: initial value of a learned scale on each number of both branches (`LayerScale`); none by default.
        hybrid_norm: ``output`` adds a norm at the end of the mixer's branch: ``x + norm(mixer(norm₁(x)))``.
        norm: ``layer`` or ``rms``.

    Raises:
        ValueError: an argument out of its range, or (when called) an input that the mixer names is not there.
    """

    def __init__(
        self,
        mixer: nn.Module,
        width: int,
        hidden: int,
        dropout: float = 0.0,
        post_norm: bool = False,
        *,
        activation: str = "gelu",
        experts: int = 1,
        active: int = 2,
        layer_scale: float | None = None,
        hybrid_norm: str | None = None,
        norm: str = "layer",
    ) -> None:
        super().__init__()
        if hybrid_norm not in (None, *HYBRID_NORMS):
            raise ValueError(f"hybrid_norm must be one of {', '.join(HYBRID_NORMS)} or none, got {hybrid_norm!r}")
        self.mixer = mixer
        self.feed_forward = _channel_mixer(width, hidden, dropout, activation, experts, active) if hidden else None
        own_norm = not post_norm and getattr(mixer, "normalises", False)
        self.mixer_norm = nn.Identity() if own_norm else make_norm(norm, width)
        self.feed_forward_norm = make_norm(norm, width) if hidden else None
        self.mixer_output_norm = make_norm(norm, width) if hybrid_norm else nn.Identity()
        self.mixer_scale = nn.Identity() if layer_scale is None else LayerScale(width, layer_scale)
        self.feed_forward_scale = nn.Identity() if layer_scale is None or not hidden else LayerScale(width, layer_scale)
        self.dropout = nn.Dropout(dropout)
        self.post_norm = post_norm

    def forward(self, x: Tensor, mask: Tensor | None = None, **inputs: Tensor) -> Tensor:
        """Mix the whole sequence (batch, length, width)."""
        return self._after_mixing(x, self.mixer(self._before_mixing(x), mask, **self._wanted(inputs)))

    def initial_state(self, batch_size: int) -> State:
        """The mixer's state before the first position."""
        return _streaming(self.mixer).initial_state(batch_size)

    def scan(self, x: Tensor, state: State, mask: Tensor | None = None, **inputs: Tensor) -> tuple[Tensor, State]:
        """Mix a chunk (batch, length, width), continuing from ``state``."""
        mixed, state = _streaming(self.mixer).scan(self._before_mixing(x), state, mask, **self._wanted(inputs))
        return self._after_mixing(x, mixed), state

    def step(self, x_t: Tensor, state: State, **inputs: Tensor) -> tuple[Tensor, State]:
        """Mix one position (batch, width); its inputs are (batch,) where those of a sequence are (batch, length)."""
        mixed, state = _streaming(self.mixer).step(self._before_mixing(x_t), state, **self._wanted(inputs))
        return self._after_mixing(x_t, mixed), state

    def _wanted(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        names = getattr(self.mixer, "inputs", ())
        missing = [name for name in names if name not in inputs]
        if missing:
            raise ValueError(f"{type(self.mixer).__name__} needs {' and '.join(missing)} beside x, which this block was not given")
        return {name: inputs[name] for name in names}

    def _before_mixing(self, x: Tensor) -> Tensor:
        return x if self.post_norm else self.mixer_norm(x)

    def _after_mixing(self, x: Tensor, mixed: Tensor) -> Tensor:
        x = x + self.dropout(self.mixer_scale(self.mixer_output_norm(mixed)))
        if self.post_norm:
            x = self.mixer_norm(x)
        if self.feed_forward is None or self.feed_forward_norm is None:
            return x
        change = self.feed_forward(x if self.post_norm else self.feed_forward_norm(x))
        x = x + self.dropout(self.feed_forward_scale(change))
        return self.feed_forward_norm(x) if self.post_norm else x


def own_losses(module: nn.Module) -> dict[str, Tensor]:
    """The losses that parts left in their attribute ``losses`` in the last call, summed by name; taken out, so that none counts twice."""
    total: dict[str, Tensor] = {}
    for part in module.modules():
        found = getattr(part, "losses", None)
        if not isinstance(found, dict):
            continue
        for name in list(found):
            loss = found.pop(name)
            total[name] = total[name] + loss if name in total else loss
    return total


def _channel_mixer(width: int, hidden: int, dropout: float, activation: str, experts: int, active: int) -> nn.Module:
    if experts == 1:
        return FeedForward(width, hidden, dropout, activation)
    size = max(1, hidden // max(1, active))
    return MixtureOfExperts(width, lambda: FeedForward(width, size, dropout, activation), experts, active)


def _streaming(mixer: Any) -> Any:
    if not getattr(mixer, "causal", False):
        raise ValueError(f"{type(mixer).__name__} is not causal: it has no state and cannot read a stream")
    return mixer
