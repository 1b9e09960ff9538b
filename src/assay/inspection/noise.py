"""How large gradient noise would be beside the gradients, layer by layer."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from assay.contracts import Finding, Task
from assay.training.methods.gradient_noise import annealed_variance


class NoiseToGradient:
    """The ratio σ_t / RMS(g) of each parameter on one training batch: far below 1 noise does nothing, far above 1 it is all there is.

    Args:
        eta: of the schedule.
        step: t, whose noise is looked at.
    """

    def __init__(self, eta: float = 0.01, step: int = 0) -> None:
        self.eta = eta
        self.step = step

    def __call__(self, model: nn.Module, task: Task) -> Finding:
        """Measure on the first training batch; the model is left as it was."""
        deviation = math.sqrt(annealed_variance(self.step, self.eta))
        kept = [parameter.grad for parameter in model.parameters()]
        batch = next(task.training_batches(64, seed=0))
        with torch.enable_grad():
            parameters = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
            loss = task.loss(model(batch), batch)
            gradients = torch.autograd.grad(loss, [parameter for _, parameter in parameters], allow_unused=True)
        for parameter, gradient in zip(model.parameters(), kept, strict=True):
            parameter.grad = gradient
        table: list[dict[str, Any]] = []
        for (name, _), gradient in zip(parameters, gradients, strict=True):
            size = 0.0 if gradient is None else float(gradient.square().mean().sqrt())
            table.append({"parameter": name, "gradient": size, "ratio": deviation / size if size else math.inf})
        drowned = sum(row["ratio"] > 1 for row in table)
        sentence = (
            f"Noise of η = {self.eta:g} at step {self.step} would be larger than the gradient in {drowned} of {len(table)} parameters."
        )
        return Finding(sentence, table)
