"""Clipping the global gradient norm, as a method that composes with the others.

Pascanu, Mikolov & Bengio, On the difficulty of training recurrent neural networks, 2013.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from assay.contracts import Gradients, Method


class Clipping(Method):
    """Scale all gradients by ``min(1, norm / ‖g‖₂)`` after the backward pass.

    Args:
        norm: the largest global L2 norm that may remain.

    Raises:
        ValueError: the norm is not positive.
    """

    def __init__(self, norm: float = 1.0) -> None:
        if not norm > 0:
            raise ValueError(f"norm must be positive, got {norm}")
        self.norm = norm

    def gradients(self, next: Gradients) -> Gradients:
        """Clip what the backward pass left."""

        def clipped(model: nn.Module, batch: dict[str, Tensor]) -> Any:
            output = next(model, batch)
            nn.utils.clip_grad_norm_(model.parameters(), self.norm)
            return output

        return clipped
