"""`check_compressor`: the contract of compressors."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from assay.contracts import Compressor, Task
from assay.models import build, build_network
from assay.models.surgery import replay
from assay.testing.examples import tiny_task
from assay.testing.rules import CheckFailed, Report, Rule, copied, require, run_rules
from assay.training import fit


def check_compressor(compressor: Callable[[], Compressor], model: nn.Module | None = None, task: Task | None = None) -> Report:
    """Hold a compressor to its contract: it leaves its input whole, and every point of its trail can be rebuilt.

    Args:
        compressor: the class, or a function that makes one.
        model: a trained network made by `assay.models.build` that it can compress; by default the first of a small MLP and a small
            convolutional network that it does not refuse with a ValueError.
        task: what the model was trained on; by default two clouds of points.

    Raises:
        CheckFailed: with every broken rule, and by how much.
    """
    return compressor_report(compressor, model, task).raise_if_failed(getattr(compressor, "__name__", "the compressor"))


def compressor_report(compressor: Any, model: nn.Module | None = None, task: Task | None = None) -> Report:
    """The rules of `check_compressor`, kept or broken, without raising."""
    checks = _Compressor(compressor, model, task)
    rules: list[Rule] = [
        ("gives (best, trail) for a target", checks.runs),
        ("leaves the given model as it was", checks.input_whole),
        ("each point has JSON edits and finite measures", checks.points),
        ("each point is rebuilt from its edits and weights", checks.rebuilt),
    ]
    return run_rules(rules, fatal=1)


class _Compressor:
    def __init__(self, maker: Any, model: nn.Module | None, task: Any) -> None:
        self.compressor = maker() if isinstance(maker, type) else maker
        self.given = (model, task)
        self.model: Any = None
        self.task: Any = None
        self.before: dict[str, torch.Tensor] = {}
        self.best: Any = None
        self.trail: Any = None

    def runs(self) -> str:
        refusals = []
        for model, task in [self.given] if self.given[0] is not None else _candidates():
            self.model, self.task = model, task or tiny_task()
            self.before = copied(self.model.state_dict())
            try:
                return self._run()
            except ValueError as error:
                refusals.append(f"{type(model).__name__}: {error}")
        raise CheckFailed("it refused " + "; ".join(refusals))

    def _run(self) -> str:
        result = self.compressor(self.model, self.task, {"parameters": 0.5})
        require(isinstance(result, tuple) and len(result) == 2, f"it gave a {type(result).__name__}, not (best, trail)")
        self.best, self.trail = result
        require(isinstance(self.best, nn.Module), f"best is a {type(self.best).__name__}, not a torch.nn.Module")
        require(len(self.trail) > 0, "the trail is empty")
        evaluation = self.task.evaluate(self.best, "validation")
        return f"{len(self.trail)} points, {self.task.metric} {evaluation.metrics[self.task.metric]:.3g} on validation"

    def input_whole(self) -> str:
        after = self.model.state_dict()
        require(after.keys() == self.before.keys(), f"the given model's state is now {', '.join(after)}")
        for name, weight in self.before.items():
            require(torch.equal(after[name], weight), f"{name} of the given model was changed: work on a copy")
        return ""

    def points(self) -> str:
        for number, point in enumerate(self.trail):
            json.dumps(point.edits)
            wrong = [name for name, value in point.measures.items() if not math.isfinite(value)]
            require(not wrong, f"point {number}: {', '.join(wrong)} is not finite")
            require(bool(point.measures), f"point {number} has no measures")
        return ", ".join(self.trail[-1].measures)

    def rebuilt(self) -> str:
        batch = next(iter(self.task.batches("validation", 16)))
        worst = math.inf
        for number, point in enumerate(self.trail):
            recipe = self.model.config["build"]
            network = build_network(recipe["name"], self.task.signature, recipe["coarse"], recipe["fine"], **recipe["options"])
            for edit in point.edits:
                network = replay(network, edit)
            network.load_state_dict(point.weights)
            with torch.no_grad():
                found, expected = network.eval()(batch).prediction, self.best.eval()(batch).prediction
            require(bool(torch.isfinite(found).all()), f"point {number}, rebuilt, does not predict finite numbers")
            worst = min(worst, float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-12)))
        require(worst <= 1e-4, f"no rebuilt point predicts as the best model does: the nearest differs by {worst:.1e}")
        return ""


def _candidates() -> Iterator[tuple[nn.Module, Task]]:
    for name, parameters, image in (("mlp", 500, False), ("simplenet", 3000, True)):
        torch.manual_seed(0)
        task = tiny_task(image=image)
        network = build(name, task.signature, parameters)
        fit(network, task, steps=20, learning_rate=1e-2, batch_size=16)
        yield network, task
