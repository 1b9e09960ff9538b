"""How much data a model needs: its error on nested parts of the training data, and what twice the data would bring."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from assay import registry
from assay.contracts import Class, Finding, Predictor, Signature, Task
from assay.errors import UserError
from assay.models import build, build_network
from assay.models.surgery import replay
from assay.tasks.base import ArrayTask, training_part
from assay.theory.learning_curves import Curve, fit_learning_curve
from assay.training import fit, predictor

SMALLEST = 16
"""Examples of the smallest part that a network is trained on."""
Learner = Callable[[Task, int], Predictor]
"""``learner(task, seed)`` trains on the task's training split and predicts."""


@dataclass(frozen=True)
class MeasuredCurve:
    """Errors on the validation split, (sizes, repeats), of models trained on nested parts; the curve fitted to them.

    Args:
        sizes: of the parts; the last is all of the training data.
        errors: the share of wrong answers where the measure is accuracy, the measure itself otherwise.
        curve: their power law.
        metric: the task's.
        direction: ``max`` where the measure is one minus the error.
    """

    sizes: tuple[int, ...]
    errors: np.ndarray
    curve: Curve
    metric: str
    direction: str

    def at(self, size: float) -> tuple[float, float, float]:
        """The measure expected of so many examples: low end, value, high end of the interval."""
        forecast = self.curve.forecast(size)
        ends = (forecast.low, forecast.value, forecast.high)
        if self.direction == "min":
            return ends
        low, value, high = (1 - min(end, 1.0) for end in reversed(ends))
        return low, value, high


def nested_order(task: Task, seed: int) -> np.ndarray:
    """An order of the training examples whose every beginning is a fair sample: classes in their shares, groups kept together.

    Raises:
        UserError: the task does not hold its examples one by one.
    """
    if not isinstance(task, ArrayTask) or task.size("train") < 2:
        raise UserError(f"{task.name} does not hold its training data example by example, so there are no parts of it to train on.")
    generator = np.random.default_rng(seed)
    count = task.size("train")
    shuffled = generator.permutation(count)
    groups = task.groups.get("train")
    if groups is not None:
        names = np.unique(groups)
        place = dict(zip(names.tolist(), generator.permutation(len(names)).tolist(), strict=True))
        return shuffled[np.argsort([place[group] for group in np.asarray(groups)[shuffled].tolist()], kind="stable")]
    target = task.splits["train"].get("target")
    if not isinstance(task.signature.output, Class) or target is None or target.ndim != 1:
        return shuffled
    labels = target.numpy()[shuffled]
    key = np.empty(count)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        key[members] = (np.arange(len(members)) + generator.random(len(members))) / len(members)
    return shuffled[np.argsort(key, kind="stable")]


def curve_sizes(count: int, steps: int = 6, smallest: int = SMALLEST) -> tuple[int, ...]:
    """Sizes from a sixteenth of the data, or ``smallest``, up to all of it, each about as many times larger than the one before.

    Raises:
        UserError: so few examples that the sizes do not span a factor of three.
    """
    first = max(smallest, count // 16)
    if count < 3 * first:
        raise UserError(f"{count} training examples are too few for a learning curve: it takes at least {3 * smallest}.")
    return tuple(sorted({round(size) for size in np.geomspace(first, count, steps)}))


def measure_learning_curve(
    learner: Learner, task: Task, sizes: Sequence[int] | None = None, repeats: int = 2, seed: int = 0
) -> MeasuredCurve:
    """Train on nested parts of the training split, with another order each repeat, and fit the validation errors.

    The test split is not looked at. All sizes share the validation examples, so the forecast is of the measure on these.

    Args:
        learner: trains on a task.
        task: of rows of tensors.
        sizes: of the parts, by default `curve_sizes`.
        repeats: orders, and seeds of the learner.
        seed: the first of them.

    Raises:
        UserError: the task has no parts, or too few examples.
        ValueError: sizes beyond the data, or fewer than one repeat.
    """
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    orders = [nested_order(task, seed + repeat) for repeat in range(repeats)]
    assert isinstance(task, ArrayTask)  # nested_order has checked it
    chosen = tuple(sizes or curve_sizes(task.size("train")))
    if min(chosen) < 1 or max(chosen) > task.size("train"):
        raise ValueError(f"sizes must lie between 1 and the {task.size('train')} training examples, got {list(chosen)}")
    errors = np.array([[_error(learner(training_part(task, order[:n]), seed + r), task) for r, order in enumerate(orders)] for n in chosen])
    return MeasuredCurve(chosen, errors, fit_learning_curve(chosen, errors, seed=seed), task.metric, task.direction)


def network_learner(model: nn.Module, steps: int, learning_rate: float, batch_size: int) -> Learner:
    """Fresh networks of a network's own recipe, its edits replayed, trained for so many steps.

    The last weights are kept: choosing the best on validation would use the examples that the curve is measured on.

    Raises:
        UserError: the network has no recipe.
    """
    config = getattr(model, "config", None)
    if config is None:
        raise UserError(f"{type(model).__name__} has no recipe to build it afresh from: only models made by assay.models.build have one.")
    recipe = config["build"]

    def learn(task: Task, seed: int) -> Predictor:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            signature, dials = Signature.from_json(recipe["signature"]), (recipe["coarse"], recipe["fine"])
            fresh = build_network(recipe["name"], signature, *dials, **recipe["options"])
            for edit in config["edits"]:
                fresh = replay(fresh, edit)
            options: dict[str, Any] = {"validate_every": steps, "select": "last"}
            fit(fresh, task, steps=steps, learning_rate=learning_rate, batch_size=batch_size, seed=seed, **options)
        return predictor(fresh.eval())

    return learn


def data_needed(
    task: Task, name: str, *, parameters: int = 200_000, steps: int = 200, learning_rate: float = 3e-3, repeats: int = 2
) -> Finding:
    """What twice the data would bring to a model that is named: its learning curve measured on the task, read on and drawn.

    Args:
        task: of rows of tensors.
        name: a registered estimator, or a model or mixer, of which fresh networks are trained.
        parameters: budget of a network.
        steps: of each training.
        learning_rate: peak learning rate.
        repeats: orders of the data and seeds.

    Raises:
        UserError: an unknown name, a model that cannot serve the task, a task without parts or with too few examples.
    """
    learner = estimator_learner(name) if registry.known("estimator", name) else None
    if learner is None:
        learner = network_learner(build(name, task.signature, parameters), steps, learning_rate, batch_size=32)
    return data_finding(measure_learning_curve(learner, task, repeats=repeats))


def estimator_learner(name: str) -> Learner:
    """A registered estimator, fitted to each part afresh; it chooses its settings on validation, where its errors are measured too."""
    return lambda task, seed: registry.resolve("estimator", name)().fit(task, seed)


def curve_figure(measured: MeasuredCurve, ahead: float) -> dict[str, Any]:
    """The measured errors, the curve up to ``ahead`` times the data, and the ends of its interval; both axes logarithmic."""
    sizes = np.geomspace(measured.sizes[0], ahead * measured.sizes[-1], 40)
    forecasts = [measured.curve.forecast(float(size)) for size in sizes]
    x = [float(size) for size in sizes]
    lines = {"curve": [f.value for f in forecasts], "low": [f.low for f in forecasts], "high": [f.high for f in forecasts]}
    repeated = np.repeat(np.array(measured.sizes, dtype=float), measured.errors.shape[1])
    data: list[dict[str, Any]] = [{"type": "scatter", "name": name, "x": x, "y": y, "mode": "lines"} for name, y in lines.items()]
    data.append({"type": "scatter", "name": "measured", "x": repeated.tolist(), "y": measured.errors.ravel().tolist(), "mode": "markers"})
    layout = {
        "xaxis": {"title": {"text": "training examples"}, "type": "log"},
        "yaxis": {"title": {"text": "error" if measured.direction == "max" else measured.metric}, "type": "log"},
    }
    return {"data": data, "layout": layout}


def curve_table(measured: MeasuredCurve, multiples: Sequence[float] = (2, 4)) -> list[dict[str, Any]]:
    """A row a size: the measure, and at multiples of the data what is expected with its interval."""
    sign = (lambda error: 1 - error) if measured.direction == "max" else (lambda error: error)
    rows: list[dict[str, Any]] = [
        {"examples": size, measured.metric: float(sign(errors.mean())), "kind": "measured"}
        for size, errors in zip(measured.sizes, measured.errors, strict=True)
    ]
    for multiple in multiples:
        low, value, high = measured.at(multiple * measured.sizes[-1])
        examples = round(multiple * measured.sizes[-1])
        rows.append({"examples": examples, measured.metric: value, "kind": "expected", "low": low, "high": high})
    return rows


def data_finding(measured: MeasuredCurve) -> Finding:
    """A measured curve in one sentence, a table and a figure."""
    now = float(measured.errors[-1].mean())
    now = 1 - now if measured.direction == "max" else now
    low, _, high = measured.at(2 * measured.sizes[-1])
    curve = measured.curve
    name = measured.metric.replace("_", " ").capitalize()
    sentence = (
        f"{name} is {now:.3g} with {measured.sizes[-1]:,} training examples; twice as many would give {low:.3g} to {high:.3g} "
        f"({curve.confidence:.0%} interval): the error falls as n^−{curve.slope:.2g} ({curve.interval[0]:.2g} to {curve.interval[1]:.2g}) "
        f"towards {curve.offset:.2g}."
    )
    return Finding(sentence, curve_table(measured), curve_figure(measured, 4))


def _error(answers: Predictor, task: ArrayTask) -> float:
    """One minus accuracy, or the measure; no mistake at all counts as half a one, for an error of 0 has no place on a power law."""
    value = task.evaluate(answers, "validation").metrics[task.metric]
    return max(1 - value, 0.5 / task.size("validation")) if task.direction == "max" else value
