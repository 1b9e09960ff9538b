"""`S4D`: a diagonal state space on every channel, a nonlinearity, and a gated linear map across channels."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from assay.nn.linear import Linear
from assay.nn.mixer import StreamingMixer
from assay.nn.state_space.diagonal import DiagonalStateSpace


class S4D(StreamingMixer):
    """``y = a ∘ σ(b)`` with ``[a, b] = W gelu(s) + c`` and s the output of a `DiagonalStateSpace` on x.

    Source: Gu, Gupta, Goel, Ré (2022), On the Parameterization and Initialization of Diagonal State Space Models.

    Args:
        width: numbers per position.
        state: real numbers of a channel's state, even.

    Shapes: x (batch, length, width); mask (batch, length), True = real; state (batch, width, state / 2, 2).

    Raises:
        ValueError: an argument out of its range; an input of another width.
    """

    positional = False  # decay and phase tell positions apart
    bfloat16_bound = DiagonalStateSpace.bfloat16_bound

    def __init__(self, width: int, state: int = 64) -> None:
        super().__init__()
        self.width = width
        self.system = DiagonalStateSpace(width, state)
        self.output_projection = Linear(width, 2 * width)

    def initial_state(self, batch_size: int) -> Tensor:
        """The system at rest."""
        return self.system.initial_state(batch_size)

    def scan(self, x: Tensor, state: Any, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mix a chunk (batch, length, width), continuing from ``state``."""
        y, state = self.system.scan(x, state, mask)
        return F.glu(self.output_projection(F.gelu(y)), -1), state
