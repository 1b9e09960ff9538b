"""`RegainCurve`: how accuracy falls when weights are pruned, and how many updates bring it back."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from assay.compression.pruning import Scope, prune_recurrent, sparsity
from assay.contracts import SplitName, Task
from assay.training import fit
from assay.training.methods.clipping import Clipping


@dataclass
class RegainPoint:
    """One pruned fraction.

    Args:
        fraction: part of the chosen weights that was dropped.
        sparsity: part of all maskable entries that is masked.
        at_once: the metric right after pruning.
        curve: (updates, metric on validation) while retraining, the first at 0 updates.
        regained: updates after which the validation metric was back within the tolerance, 0 where it never left, None if it did not.
        value: the metric after retraining.
        model: the retrained network.
    """

    fraction: float
    sparsity: float
    at_once: float
    curve: list[tuple[int, float]]
    regained: int | None
    value: float
    model: nn.Module = field(repr=False)


class RegainCurve:
    """Prunes one trained network by each fraction afresh, measures, retrains with the masks held.

    Every fraction starts from the same trained weights with a fresh Adam; surviving weights go on from their values.

    Args:
        fractions: parts of the chosen weights to drop.
        steps: updates of retraining; 0 only prunes.
        i2h: prune input-to-hidden weights.
        h2h: prune hidden-to-hidden weights.
        scope: of the threshold; see `prune_recurrent`.
        gates: only these gates, None is all.
        tolerance: the metric counts as regained when it is within this of the unpruned network's.
        validate_every: updates between validations while retraining.
        learning_rate: of Adam, constant.
        batch_size: examples an update.
        clip: largest gradient norm.
        seed: of the order of the batches.
        split: where ``at_once`` and ``value`` are measured; the curve is always of the validation split.

    Source: Darji 2024, Investigating Sparsity in Recurrent Neural Networks (there counted in epochs; updates tell more).
    """

    def __init__(
        self,
        fractions: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
        *,
        steps: int = 0,
        i2h: bool = True,
        h2h: bool = True,
        scope: Scope = "global",
        gates: Sequence[str] | None = None,
        tolerance: float = 0.005,
        validate_every: int | None = None,
        learning_rate: float = 1e-3,
        batch_size: int = 32,
        clip: float = 5.0,
        seed: int = 0,
        split: SplitName = "validation",
    ) -> None:
        self.fractions, self.steps = fractions, steps
        self.pruning: dict[str, Any] = {"i2h": i2h, "h2h": h2h, "scope": scope, "gates": gates}
        self.training: dict[str, Any] = {"learning_rate": learning_rate, "batch_size": batch_size, "clip": clip, "seed": seed}
        self.tolerance, self.validate_every = tolerance, validate_every
        self.split: SplitName = split

    def __call__(self, model: nn.Module, task: Task) -> list[RegainPoint]:
        """One point a fraction; the model itself is left as it is."""
        base = _metric(model, task, "validation")
        return [self._point(model, task, fraction, base) for fraction in self.fractions]

    def _point(self, model: nn.Module, task: Task, fraction: float, base: float) -> RegainPoint:
        pruned = copy.deepcopy(model)
        prune_recurrent(pruned, fraction, **self.pruning)
        at_once = _metric(pruned, task, self.split)
        curve = [(0, _metric(pruned, task, "validation"))]
        if self.steps:
            curve += retrain(pruned, task, self.steps, self.validate_every, **self.training)
        sign = 1 if task.direction == "max" else -1
        regained = next((step for step, value in curve if sign * (base - value) <= self.tolerance), None)
        value = _metric(pruned, task, self.split) if self.steps else at_once
        return RegainPoint(fraction, sparsity(pruned), at_once, curve, regained, value, pruned)


def retrain(
    model: nn.Module,
    task: Task,
    steps: int,
    validate_every: int | None = None,
    *,
    learning_rate: float = 1e-3,
    batch_size: int = 32,
    clip: float = 5.0,
    seed: int = 0,
) -> list[tuple[int, float]]:
    """Train a pruned network on with a fresh Adam at a constant rate; masks act at every forward, so what is pruned stays pruned.

    Returns:
        (updates, validation metric) at every validation.
    """
    history = fit(
        model,
        task,
        steps=steps,
        learning_rate=learning_rate,
        batch_size=batch_size,
        seed=seed,
        methods=[Clipping(clip)],
        optimizer=lambda parameters, rate: torch.optim.Adam(parameters, lr=rate),
        schedule="constant",
        validate_every=validate_every,
        select="last",
    )
    name = f"validation_{task.metric}"
    return [(int(entry["step"]), entry[name]) for entry in history.curve if name in entry]


def _metric(model: nn.Module, task: Task, split: SplitName) -> float:
    training = model.training
    model.eval()
    value = task.evaluate(model, split).metrics[task.metric]
    model.train(training)
    return value
