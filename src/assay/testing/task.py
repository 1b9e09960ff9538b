"""`check_task`: the contract of tasks."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from assay.contracts import Batch, Graph, Output, Signature, Task, TokenSequence
from assay.testing.examples import prediction_shape
from assay.testing.rules import Report, Rule, require, run_rules

SPLITS: tuple[Any, ...] = ("train", "validation", "test")


def check_task(task: Task | Callable[[], Task]) -> Report:
    """Hold a task to its contract: batches as its signature declares, the same order for the same seed, honest scores.

    Args:
        task: a task, or a function without required arguments that makes one.

    Raises:
        CheckFailed: with every broken rule, and by how much.
    """
    return task_report(task).raise_if_failed(getattr(task, "name", getattr(task, "__name__", "the task")))


def task_report(task: Any) -> Report:
    """The rules of `check_task`, kept or broken, without raising."""
    made: dict[str, Any] = {}

    def makes() -> str:
        made["task"] = task if hasattr(task, "training_batches") else task()
        missing = [name for name in _ATTRIBUTES if not hasattr(made["task"], name)]
        require(not missing, f"it lacks {', '.join(missing)}")
        return made["task"].description

    report = run_rules([("has the attributes of a task", makes)], fatal=1)
    if report.failed:
        return report
    checks = _Task(made["task"])
    rules: list[Rule] = [
        ("every split has examples", checks.sizes),
        ("its words, signature and encoding are plain JSON", checks.words),
        ("training batches are the same for the same seed", checks.reproducible),
        ("batches have the signature's tensors", checks.keys),
        ("a pass over a split has every example once", checks.whole_pass),
        ("shards of a batch add up to the batch", checks.shards),
        ("the loss of a prediction is finite and has a gradient", checks.loss),
        ("scores: one an example, and their mean is the metric", checks.scores),
    ]
    return Report([*report, *run_rules(rules)])


_ATTRIBUTES = ("name", "description", "notes", "signature", "metric", "direction", "encoding", "size", "training_batches", "batches")


class _Task:
    def __init__(self, task: Any) -> None:
        self.task = task
        self.signature: Signature = task.signature
        self.graph = isinstance(self.signature.input, Graph)

    def first(self, seed: int = 0, size: int = 8) -> Batch:
        return next(iter(self.task.training_batches(size, seed)))

    def sizes(self) -> str:
        sizes = {split: self.task.size(split) for split in SPLITS}
        require(all(size > 0 for size in sizes.values()), f"sizes are {sizes}")
        return ", ".join(f"{size} {split}" for split, size in sizes.items())

    def words(self) -> str:
        require(bool(self.task.name) and bool(self.task.description), "name and description must say something")
        require(self.task.direction in ("max", "min"), f"direction must be 'max' or 'min', it is {self.task.direction!r}")
        json.dumps([self.task.encoding, self.task.notes])
        require(
            Signature.from_json(json.loads(json.dumps(self.signature.to_json()))) == self.signature, "the signature changes through JSON"
        )
        return ""

    def reproducible(self) -> str:
        first, again, other = self.first(0), self.first(0), self.first(1)
        for key, value in first.items():
            require(torch.equal(_dense(value), _dense(again[key])), f"{key} differs between two runs with the same seed")
        same = all(torch.equal(_dense(value), _dense(other[key])) for key, value in first.items() if value.shape == other[key].shape)
        return "in a fixed order" if same else ""

    def keys(self) -> str:
        batch = self.first()
        expected = _EXPECTED[type(self.signature.input).__name__]
        missing = [name for name in expected if name not in batch]
        require(not missing, f"a batch has {', '.join(batch)}, but the signature asks for {', '.join(missing)}")
        require("target" in batch or "target_gaps" in batch, f"a batch has no target, only {', '.join(batch)}")
        for key, value in batch.items():
            if value.is_floating_point():
                require(bool(torch.isfinite(_dense(value)).all()), f"{key} holds a value that is not finite")
        return ""

    def whole_pass(self) -> str:
        for split in SPLITS:
            count = sum(_examples(batch) for batch in self.task.batches(split, 64))
            require(count == self.task.size(split), f"{split}: batches hold {count} examples, size says {self.task.size(split)}")
        return ""

    def shards(self) -> str:
        batch = self.first()
        parts = [self.task.shard(batch, rank, 2) for rank in (0, 1)]
        if self.graph and all(_examples(part) == _examples(batch) for part in parts):
            return "the whole graph on every process"
        require(sum(map(_examples, parts)) == _examples(batch), "two shards do not hold the batch's examples")
        return ""

    def loss(self) -> str:
        batch = self.first()
        prediction = _random_prediction(self.signature, batch).requires_grad_()
        loss = self.task.loss(Output(prediction), batch)
        require(loss.ndim == 0 and bool(torch.isfinite(loss)), f"the loss of a random prediction is {loss}")
        (gradient,) = torch.autograd.grad(loss, prediction)
        require(bool(torch.isfinite(gradient).all()), "the gradient of the loss is not finite")
        return ""

    def scores(self) -> str:
        evaluation = self.task.evaluate(lambda batch: Output(_random_prediction(self.signature, batch)), "validation")
        size, metric = self.task.size("validation"), self.task.metric
        require(metric in evaluation.metrics, f"the primary metric {metric} is not among {', '.join(evaluation.metrics)}")
        value = evaluation.metrics[metric]
        require(math.isfinite(value), f"{metric} of a random prediction is {value}")
        groups = evaluation.groups
        require(len(evaluation.scores) == size or groups is not None, f"{len(evaluation.scores)} scores for {size} examples")
        mean = float(evaluation.scores.mean())
        require(abs(mean - value) <= 1e-4 * max(1.0, abs(value)), f"the scores' mean is {mean:.6g} but {metric} is {value:.6g}")
        return f"{metric} of a random prediction: {value:.4g}"


_EXPECTED = {
    "Table": ("table",),
    "Tokens": ("tokens",),
    "Series": ("series",),
    "Events": ("gaps", "marks"),
    "Image": ("image",),
    "Video": ("video",),
    "Graph": ("nodes", "edges", "selected"),
    "Pair": (),
}


def _random_prediction(signature: Signature, batch: Batch) -> Tensor:
    size = _examples(batch)
    shape = prediction_shape(signature, size)
    if len(shape) == 3 and signature.horizon is None and not isinstance(signature.output, TokenSequence):  # as many as the batch has
        shape = (size, batch["target" if "target" in batch else "target_gaps"].shape[1], shape[2])
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _examples(batch: Batch) -> int:
    # a task that has its answers written freely hides the target, and its other tensors are by example
    return len(batch.get("target", batch.get("target_gaps", next(iter(batch.values())))))


def _dense(value: Tensor) -> Tensor:
    return value if value.layout == torch.strided else value.to_dense()
