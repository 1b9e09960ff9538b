"""Clipping gradients, by their global norm or value by value, as a method that composes with the others.

Pascanu, Mikolov & Bengio, On the difficulty of training recurrent neural networks, 2013.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from assay.contracts import Gradients, Method


def clip_gradients_(parameters: Iterable[nn.Parameter], norm: float | None = 1.0, value: float | None = None) -> float:
    """Clip gradients in place, to ``[−value, value]`` first and then by ``min(1, norm / ‖g‖₂)``; call it before the optimiser's step.

    Args:
        parameters: whose ``.grad`` is changed.
        norm: the largest global L2 norm that may remain, or None.
        value: the largest absolute entry that may remain, or None.

    Returns:
        The norm before it was limited.

    Raises:
        FloatingPointError: the norm is not finite: scaling by it would make every weight so.
    """
    parameters = list(parameters)
    if value is not None:
        nn.utils.clip_grad_value_(parameters, value)
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    before = nn.utils.get_total_norm(gradients)
    if not torch.isfinite(before):
        raise FloatingPointError(f"the gradient's norm is {float(before)}: nothing was clipped")
    if norm is not None:
        nn.utils.clip_grads_with_norm_(parameters, norm, before)
    return float(before)


class Clipping(Method):
    """Scale all gradients by ``min(1, norm / ‖g‖₂)`` after the backward pass, or limit each entry to ``[−value, value]``, or both.

    Args:
        norm: the largest global L2 norm that may remain; None leaves the norm alone.
        value: the largest absolute entry that may remain.

    Raises:
        ValueError: a limit is not positive, or there is none.
        FloatingPointError: (while training) the gradient's norm is not finite; `assay.training.fit` then ends as diverged.
    """

    def __init__(self, norm: float | None = 1.0, value: float | None = None) -> None:
        if norm is None and value is None:
            raise ValueError("clipping needs a limit: norm, value or both, got None for both")
        if norm is not None and not norm > 0:
            raise ValueError(f"norm must be positive, got {norm}")
        if value is not None and not value > 0:
            raise ValueError(f"value must be positive, got {value}")
        self.norm, self.value = norm, value

    def gradients(self, next: Gradients) -> Gradients:
        """Clip what the backward pass left."""

        def clipped(model: nn.Module, batch: dict[str, Tensor]) -> Any:
            output = next(model, batch)
            clip_gradients_(model.parameters(), self.norm, self.value)
            return output

        return clipped
