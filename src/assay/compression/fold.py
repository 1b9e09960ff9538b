"""`Fold`: batch normalisation folded into convolutions."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from assay.contracts import Task, TrailPoint
from assay.measure import count_flops, parameter_count
from assay.models import surgery

TOLERANCE = 1e-3


class Fold:
    """Folds every batch normalisation into the convolution before it: the same predictions, fewer operations and numbers.

    It does one thing, whatever the target; the trail has two points, before and after.

    What it does: `assay.models.vision.folding.fold_batchnorm`. When to use it: before export, always. What it costs: the folded network
    should not be trained further.
    """

    def __call__(self, model: nn.Module, task: Task, target: Mapping[str, float]) -> tuple[nn.Module, list[TrailPoint]]:
        """Fold a copy of the model, and check on validation data that it predicts the same.

        Args:
            model: a trained network.
            task: what it was trained on.
            target: ignored: folding has no degrees.

        Raises:
            ValueError: there is nothing to fold, or the folded network predicts something else.
        """
        original = copy.deepcopy(model).eval()
        folded = surgery.apply(copy.deepcopy(model).eval(), {"edit": "fold"})
        difference = _difference(original, folded, task)
        if difference > TOLERANCE:
            raise ValueError(
                f"folding changed the predictions by {difference:.2g} of their size: normalisation is used in an unforeseen way"
            )
        return folded, [_point(original, task), _point(folded, task, difference=difference)]


def _point(model: nn.Module, task: Task, **more: float) -> TrailPoint:
    """The network as it is: the edits that rebuild it, what it measures on validation, its weights."""
    weights = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        operations = count_flops(model, next(iter(task.batches("validation", 1))))
    measures = {
        "parameters": float(parameter_count(model)),
        "bytes": float(sum(tensor.numel() * tensor.element_size() for tensor in weights.values())),
        "flops": float(operations),
        task.metric: task.evaluate(model, "validation").metrics[task.metric],
        **more,
    }
    config: Any = getattr(model, "config", {"edits": []})
    return TrailPoint(list(config["edits"]), measures, weights)


def _difference(original: nn.Module, folded: nn.Module, task: Task) -> float:
    """Largest difference of predictions on a validation batch, relative to the largest prediction."""
    batch = next(iter(task.batches("validation", 64)))
    with torch.no_grad():
        before, after = original(batch).prediction, folded(batch).prediction
    return float((before - after).abs().max() / before.abs().max().clamp(min=1e-12))
