"""What more data would bring to a model, and how many directions of its features the data fill."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch import Tensor, nn

from assay.contracts import Finding, Task
from assay.errors import UserError
from assay.inspection.learning_curve import curve_sizes, data_finding, measure_learning_curve, network_learner

_TRIED = (1, 2, 12)  # steps of short trainings: the first warms up, the others tell what a step takes and what a training adds


class Capacity:
    """The learning curve of a run's kind of model on its task, read on to twice the data, and the effective dimension of its features.

    Fresh networks of the run's recipe are trained on nested parts of the training data, all for the same steps; the validation errors
    follow ``a n^{−β} + c``. A curve that is still falling says that more data help; one that has come to its floor, that another model or
    cleaner labels are needed. The features are what the last linear map reads; their effective dimension is the participation ratio
    ``(Σ λ)² / Σ λ²`` of their covariance's eigenvalues: near the number of features, a wider model may use more; far below it, a narrower
    one would do.

    Args:
        sizes: parts of the data that are trained on, from a sixteenth up to all.
        repeats: orders of the data and seeds.
        steps: of each training.
        seconds: of all trainings together, about: a slower model makes fewer repeats, then fewer steps, down to half of them.
        learning_rate: peak learning rate.
        batch_size: examples a step.

    Raises:
        ValueError: an argument below 1, or too few sizes for a curve.
    """

    trains = True

    def __init__(
        self, sizes: int = 6, repeats: int = 2, steps: int = 200, seconds: float = 45.0, learning_rate: float = 3e-3, batch_size: int = 32
    ) -> None:
        if sizes < 4:
            raise ValueError(f"a curve needs at least 4 sizes, got {sizes}")
        if min(repeats, steps, batch_size) < 1 or not min(seconds, learning_rate) > 0:
            raise ValueError(f"repeats, steps and batch_size must be at least 1, the others above 0, got {vars()}")
        self.sizes, self.repeats, self.steps, self.seconds = sizes, repeats, steps, seconds
        self.learning_rate, self.batch_size = learning_rate, batch_size

    def __call__(self, model: nn.Module, task: Task) -> Finding:
        """Train the curve's networks; the model itself is only looked at.

        Raises:
            UserError: the task has no parts to train on or too few examples, or the model no recipe.
        """
        sizes = curve_sizes(task.size("train"), self.sizes)
        steps, repeats = self._affordable(model, task, len(sizes))
        learner = network_learner(model, steps, self.learning_rate, self.batch_size)
        measured = measure_learning_curve(learner, task, sizes, repeats)
        found = data_finding(measured)
        used, width = feature_dimension(model, task)
        found.sentence += f" The data fill {used:.1f} of the {width} directions of its features."
        found.table.append({"effective dimension of features": used, "features": width})
        if steps < self.steps:
            found.sentence += f" Each of its networks was trained for {steps} steps, so that {self.seconds:g} seconds are enough."
        return found

    def _affordable(self, model: nn.Module, task: Task, sizes: int) -> tuple[int, int]:
        """Steps and repeats that the seconds pay for: fewer repeats first, then fewer steps, but half of them are always made."""
        taken = []
        for tried in _TRIED:
            learner = network_learner(model, tried, self.learning_rate, self.batch_size)
            started = time.perf_counter()
            learner(task, 0)
            taken.append(time.perf_counter() - started)
        step = max(taken[-1] - taken[-2], 1e-6) / (_TRIED[-1] - _TRIED[-2])
        possible = int(self.seconds / (step * sizes))
        repeats = max(1, min(self.repeats, possible // self.steps))
        return max(min(self.steps, possible // repeats), math.ceil(self.steps / 2)), repeats


def feature_dimension(model: nn.Module, task: Task, examples: int = 1024) -> tuple[float, int]:
    """The participation ratio of what the model's last linear map reads on training examples, and the number of these features.

    Raises:
        UserError: the model has no linear map.
    """
    last = next((part for part in reversed(list(model.modules())) if isinstance(part, nn.Linear)), None)
    if last is None:
        raise UserError(f"{type(model).__name__} has no linear map, so there are no features before it to look at.")
    seen: list[Tensor] = []
    handle = last.register_forward_pre_hook(lambda _layer, args: seen.append(args[0].detach().flatten(0, -2)))
    training = model.training
    try:
        with torch.no_grad():
            model.eval()(next(iter(task.batches("train", examples))))
    finally:
        handle.remove()
        model.train(training)
    if not seen:
        raise UserError(f"The last linear map of {type(model).__name__} is not used, so there are no features before it to look at.")
    return participation_ratio(torch.cat(seen)), last.in_features


def participation_ratio(features: Tensor) -> float:
    """``(Σ λ)² / Σ λ² = (tr C)² / ‖C‖²`` of the covariance C of rows (n, width): how many directions they fill; 0 where they are all alike.

    Raises:
        ValueError: fewer than two rows, or numbers that are not finite.
    """
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"features must be (rows ≥ 2, width), got {tuple(features.shape)}")
    centred = features.double() - features.double().mean(0)
    if not bool(torch.isfinite(centred).all()):
        raise ValueError("features hold a number that is not finite")
    smaller: Any = centred.T @ centred if centred.shape[1] <= len(centred) else centred @ centred.T
    square = float(smaller.square().sum())
    return float(smaller.trace()) ** 2 / square if square > 0 else 0.0
