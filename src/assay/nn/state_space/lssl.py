"""`LSSL`: a linear state space on every channel, a nonlinearity, and a linear map across channels."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from assay.nn.channel.activation import activation as make_activation
from assay.nn.linear import Linear
from assay.nn.mixer import StreamingMixer
from assay.nn.state_space.discretisation import Rule
from assay.nn.state_space.linear import Learned, LinearStateSpace


class LSSL(StreamingMixer):
    """``y = W φ(s) + c`` with s the output of a `LinearStateSpace` on x and φ = gelu, dropped out in training.

    A recurrence of constant state in a stream, a convolution in training, and a differential equation, which another sampling rate only
    discretises anew: `assay.nn.set_rate(model, 2)` reads a signal that is sampled half as often.

    Source: Gu, Johnson, Goel, Saab, Dao, Rudra, Ré (2021), Combining Recurrent, Convolutional, and Continuous-time Models with Linear
    State-Space Layers.

    Args:
        width: numbers per position.
        state: numbers of a channel's state.
        outputs: numbers that each channel gives to the linear map.
        measure: of `assay.theory.hippo.MEASURES`.
        learned: A and B: ``none``, ``shared`` by all channels, or one of ``each`` channel.
        learned_step: whether the steps are learned; ``learned="none", learned_step=False`` is LSSL-fixed.
        shortest: least step at the start: about one over the longest memory in positions.
        longest: largest step at the start.
        alpha: of the generalised bilinear transform, in [0, 1], or ``zoh``.
        activation: φ, a name of `assay.nn.channel.activation.activation`.
        dropout: on φ(s).
        system: further options of `LinearStateSpace`: ``even``, ``stabilise``.

    Shapes: x (batch, length, width); mask (batch, length), True = real; state (batch, width, state).

    Raises:
        ValueError: an argument out of its range; an input of another width.
    """

    positional = False  # what was read longer ago has left other coefficients

    def __init__(
        self,
        width: int,
        state: int = 64,
        outputs: int = 1,
        measure: str = "legs",
        learned: Learned = "shared",
        learned_step: bool = True,
        shortest: float = 1e-3,
        longest: float = 1e-1,
        alpha: Rule = 0.5,
        *,
        activation: str = "gelu",
        dropout: float = 0.0,
        **system: Any,
    ) -> None:
        super().__init__()
        self.system = LinearStateSpace(width, state, outputs, measure, learned, learned_step, shortest, longest, alpha, **system)
        self.activation, self.dropout = make_activation(activation), nn.Dropout(dropout)
        self.output_projection = Linear(width * outputs, width)

    def initial_state(self, batch_size: int) -> Tensor:
        """The systems at rest."""
        return self.system.initial_state(batch_size)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mix the whole sequence (batch, length, width)."""
        return self._joined(self.system(x, mask))

    def scan(self, x: Tensor, state: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mix a chunk (batch, length, width), continuing from ``state``."""
        y, state = self.system.scan(x, state, mask)
        return self._joined(y), state

    def step(self, x_t: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Mix one position (batch, width)."""
        y, state = self.system.step(x_t, state)
        return self._joined(y), state

    def _joined(self, y: Tensor) -> Tensor:
        return self.output_projection(self.dropout(self.activation(y)))
