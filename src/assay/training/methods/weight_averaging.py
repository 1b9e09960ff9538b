"""An exponential moving average of the weights.

Polyak & Juditsky, Acceleration of stochastic approximation by averaging, 1992.

What it does: keeps ``w̄ ← β w̄ + (1 − β) w`` after every step and leaves the average in the model at the end. When to use it: where the
learning rate stays high to the end, so that the last weights are noisy; after a cosine schedule there is little left to average. What it
costs: one more copy of the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from assay.contracts import Method, Task, Update


class WeightAveraging(Method):
    """Average the weights over steps t = 1, 2, …: ``w̄_t = w̄_{t−1} + (1 − β_t)(w_t − w̄_{t−1})``, ``β_t = min(β, (t − 1) / (t + 9))``.

    The first average is the first step's weights, and early ones forget faster, so that the initialisation is soon gone. Buffers (running
    statistics of norms) stay the last ones. Validation during training sees the weights, not their average: train with
    ``select="last"``, for the average replaces whatever weights were selected.

    Args:
        decay: β.

    Raises:
        ValueError: the decay is not in [0, 1).
    """

    def __init__(self, decay: float = 0.98) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be at least 0 and below 1, got {decay}")
        self.decay = decay
        self.step = 0
        self.average: list[Tensor] = []
        self._parameters: list[nn.Parameter] = []

    def setup(self, model: nn.Module, task: Task | None = None) -> None:
        """Remember whose weights are averaged: every trained parameter."""
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def add(self) -> None:
        """Take this step's weights into the average."""
        self.step += 1
        weights = [parameter.detach() for parameter in self._parameters]
        if not self.average:
            self.average = [weight.clone() for weight in weights]
        torch._foreach_lerp_(self.average, weights, 1 - min(self.decay, (self.step - 1) / (self.step + 9)))

    def update(self, next: Update) -> Update:
        """Average after the optimiser's step."""

        def averaged(optimizer: torch.optim.Optimizer) -> None:
            next(optimizer)
            self.add()

        return averaged

    def register(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Any:
        """Use the method in a plain PyTorch loop: average after every ``optimizer.step()``; returns the hook's handle."""
        self.setup(model)
        return optimizer.register_step_post_hook(lambda *_: self.add())

    def finish(self, model: nn.Module) -> None:
        """Put the average into the model."""
        with torch.no_grad():
            for parameter, average in zip(self._parameters, self.average, strict=False):  # no step, no average
                parameter.copy_(average)

    def state_dict(self) -> dict[str, Any]:
        """The step and the average."""
        return {"step": self.step, "average": self.average}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on averaging from a saved step."""
        self.step, self.average = state["step"], list(state["average"])
