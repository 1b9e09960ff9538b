"""`advise`: a plan for a network on some data before anything is trained: every line with its formula and what was measured for it.

What is measured is measured on the training and validation splits; the test split is never read.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from assay import models, tasks
from assay.bench.kernel_trials import ACTIVATIONS, DEPTHS, KernelTrials, Trial, readable
from assay.bench.plan import Plan
from assay.bench.statistics import Comparison, PairedInterval
from assay.contracts import Signature, Task
from assay.errors import UserError
from assay.inspection.learning_curve import MeasuredCurve
from assay.models.kernel import registered_dual
from assay.tasks.options import made_in_python
from assay.theory.advice import DepthAdvice, advise_depth
from assay.theory.criticality import Criticality
from assay.theory.learning_curves import Forecast, fit_learning_curve
from assay.training.step_size import quadratic_learning_rate

ADVISED_MODEL = "mlp"
"""The family that the kernels are the limit of: its depth, activation and initialisation are advised; any network's learning rate is."""

_USUAL = ("relu", 2)
"""The network that `ADVISED_MODEL` is without advice: it is kept unless the examples speak against it."""

_POINTS = 6  # of the learning curve, each √2 times the one before
_LEAST = 16  # examples of the smallest set on it
_REPEATS = 4


class Line(NamedTuple):
    """One thing to decide: what to take, the formula behind it, and what was found on these data."""

    quantity: str
    value: str
    formula: str
    reason: str


@dataclass(frozen=True)
class Advice:
    """A plan for some data.

    Args:
        task: the data's name.
        description: what was recognised.
        notes: what was imputed or is warned of, a sentence each.
        metric: the primary measure.
        direction: ``max`` or ``min``.
        sentence: whether a network is likely to pay.
        lines: the plan.
        settings: axis points for the model `ADVISED_MODEL`: depth, activation, init, learning_rate.
        trials: kernels by activation and depth, on validation.
        limits: what needs no network: no input, nearest neighbour, linear.
        curve: training examples and the mean measure of the chosen kernel after them.
        forecast: the same for twice the training examples, with its interval; None where the curve has too few points.
    """

    task: str
    description: str
    notes: tuple[str, ...]
    metric: str
    direction: str
    sentence: str
    lines: tuple[Line, ...]
    settings: Mapping[str, Any]
    trials: tuple[Trial, ...]
    limits: tuple[Trial, ...]
    curve: tuple[tuple[int, float], ...]
    forecast: Forecast | None


def advise(data: str | Path | Task, *, parameters: int = 200_000, batch_size: int = 32, **opening: Any) -> Advice:
    """Say what depth, width, activation, initialisation and learning rate to take, and what a network may be expected to reach.

    Args:
        data: a path, the name of built-in data, or a task.
        parameters: budget of the network.
        batch_size: examples a step, for the learning rate.
        opening: how the data are opened: task, target, group, time, horizon, tokenizer.

    Raises:
        UserError: unusable data; data that are no rows of numbers (theory has nothing to say of them yet); one class only.
    """
    if parameters < 1 or batch_size < 1:
        raise UserError(f"parameters and batch size must be at least 1, got {parameters} and {batch_size}.")
    task = tasks.open(str(data), **opening) if isinstance(data, (str, Path)) else made_in_python(data, opening)
    trials = KernelTrials(task)
    limits = (trials.constant(), trials.nearest(), trials.linear())
    kernels = tuple(trials.kernel(activation, depth) for activation, depth in itertools.product(ACTIVATIONS, DEPTHS))
    best, chosen = trials.best(kernels), _simplest(kernels, task)
    shape = _shape(task.signature, chosen.activation, chosen.depth, parameters)
    settings: dict[str, Any] = {"depth": shape.hidden, "activation": chosen.activation, "init": "critical"}
    settings["learning_rate"] = learning_rate_for(ADVISED_MODEL, task, parameters, batch_size, settings)
    curve, forecast = _learning_curve(trials, chosen)
    where = "training rows left out one by one" if trials.leaving_out else "the validation split"
    lines = (
        Line("judged on", where, "", f"{len(best.scores):,} examples; the test split is not read"),
        Line("expected", _expected(best, task), "ridge regression with Θ", f"the best of {len(kernels)} tangent kernels Θ: {best.name}"),
        *_limit_lines(limits, task),
        *_patch_lines(trials.patches(), best, task),
        Line("activation", chosen.activation, "Θ of each activation", _against(chosen, kernels, task)),
        *_shape_lines(shape, chosen.activation, parameters),
        _initialisation_line(shape.theory.point, chosen.activation),
        _rate_line(settings["learning_rate"]),
        *_data_lines(curve, forecast, task, len(trials.x), len(trials.held_out)),
    )
    sentence = _pays(best, limits[2], limits[1], task, where)
    recognised = (task.name, task.description, tuple(task.notes), task.metric, task.direction)
    return Advice(*recognised, sentence, lines, settings, kernels, limits, curve, forecast)


def advised_settings(plan: Plan, task: Task) -> dict[str, dict[str, Any]]:
    """For each network of a study, the axis points of its advised configuration; what cannot be advised is left as it is."""
    found: dict[str, dict[str, Any]] = {}
    for model in plan.models:
        if model == ADVISED_MODEL and readable(task.signature) is None:
            found[model] = dict(advise(task, parameters=plan.parameters, batch_size=plan.batch_size).settings)
        else:
            found[model] = {"learning_rate": learning_rate_for(model, task, plan.parameters, plan.batch_size)}
    return found


def learning_rate_for(model: str, task: Task, parameters: int, batch_size: int, options: Mapping[str, Any] | None = None) -> float:
    """Twice the `quadratic_learning_rate` of a fresh network with seed 0, to two digits: a cosine schedule's mean is half its peak.

    Raises:
        UserError: no learning rate follows, because the network's output does not move.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = models.build(model, task.signature, parameters, **(options or {}))
        try:
            return float(f"{2 * quadratic_learning_rate(network, task, batch_size):.2g}")
        except ValueError as error:
            raise UserError(f"No learning rate follows for {model} on {task.name}: {error}.") from error


# ------------------------------------------------------------------------------------------------ choosing


def _simplest(kernels: Sequence[Trial], task: Task) -> Trial:
    """The usual kernel if the examples cannot tell it from the best, else the best of the shallowest that they cannot tell from it."""
    sign = 1 if task.direction == "max" else -1
    best = max(kernels, key=lambda trial: sign * trial.value)
    equals = [trial for trial in kernels if trial is best or not _worse(_paired(trial, best), sign)]
    usual = [trial for trial in equals if (trial.activation, trial.depth) == _USUAL]
    if usual:
        return usual[0]
    shallowest = min(trial.depth for trial in equals)
    return max((trial for trial in equals if trial.depth == shallowest), key=lambda trial: sign * trial.value)


def _paired(first: Trial, second: Trial) -> PairedInterval:
    scores = {"first": {0: first.scores}, "second": {0: second.scores}}
    return Comparison(scores, first.groups, resamples=999).paired("first", "second")


def _worse(interval: PairedInterval, sign: int) -> bool:
    return (interval.high if sign > 0 else -interval.low) < 0


class _Shape(NamedTuple):
    """A network's hidden layers, as wished for and as advised, with what theory says of it."""

    wished: int
    hidden: int
    width: int
    theory: DepthAdvice


def _shape(signature: Signature, activation: str, wished: int, parameters: int) -> _Shape:
    """The wished hidden layers, or the most below them at which the network does not fluctuate too much; at least one."""
    outputs = signature.output.size * (signature.horizon or 1)
    for hidden in range(wished, 0, -1):
        width = _width(signature, parameters, hidden)
        theory = advise_depth(registered_dual(activation).sigma, hidden + 1, width, outputs)
        if hidden == 1 or theory.best_ratio is None or theory.ratio <= theory.best_ratio:
            return _Shape(wished, hidden, width, theory)
    raise ValueError(f"a network needs at least one hidden layer, got {wished}")


def _width(signature: Signature, parameters: int, depth: int) -> int:
    with torch.device("meta"):
        network: Any = models.build(ADVISED_MODEL, signature, parameters, depth=depth)
    return network.config["build"]["coarse"]


# ------------------------------------------------------------------------------------------------ words


def _shown(value: float, task: Task) -> str:
    return f"{value:.3f}" if task.direction == "max" else f"{value:.4g}"


def _expected(best: Trial, task: Task) -> str:
    low, high = Comparison({"best": {0: best.scores}}, best.groups, resamples=999).interval("best")
    return f"{task.metric.replace('_', ' ')} {_shown(best.value, task)} (95 % interval {_shown(low, task)} to {_shown(high, task)})"


def _limit_lines(limits: Sequence[Trial], task: Task) -> list[Line]:
    formulas = ("the mean target", "the target of the nearest training row", "ridge regression on the features")
    reasons = ("what any model must beat", "the limit of infinite depth of some activations", "what a network must beat to pay")
    return [Line(trial.name, _shown(trial.value, task), f, r) for trial, f, r in zip(limits, formulas, reasons, strict=True)]


def _pays(best: Trial, linear: Trial, nearest: Trial, task: Task, where: str) -> str:
    """Whether the best kernel is above what needs no network."""
    sign = 1 if task.direction == "max" else -1
    rival = max((linear, nearest), key=lambda trial: sign * trial.value)
    interval = _paired(best, rival)
    ends = sorted((sign * interval.low, sign * interval.high))
    values = f"{_shown(best.value, task)} against {_shown(rival.value, task)} of the {rival.name} model on {where}"
    size = f"95 % interval of the gain {ends[0]:.3g} to {ends[1]:.3g}".replace("-", "−")
    if ends[0] > 0:
        return f"A network is likely to pay: its infinitely wide limit reaches {values} ({size})."
    if ends[1] < 0:
        return f"A fully connected network is not likely to pay: its infinitely wide limit reaches {values} ({size})."
    return f"Whether a fully connected network pays cannot be told before training: its infinitely wide limit reaches {values} ({size})."


def _against(chosen: Trial, kernels: Sequence[Trial], task: Task) -> str:
    others = [trial for trial in kernels if trial.depth == chosen.depth and trial is not chosen]
    return f"{_shown(chosen.value, task)} at depth {chosen.depth}; " + ", ".join(f"{t.activation} {_shown(t.value, task)}" for t in others)


def _rate_line(rate: float) -> Line:
    formula = "2 ‖g‖₁ / (sᵀ Jᵀ H J s), s = sign g"
    return Line("learning rate", f"{rate:.2g}", formula, "the peak for that network, fresh, on 8 training batches; nothing was searched")


def _shape_lines(shape: _Shape, activation: str, parameters: int) -> list[Line]:
    layers = f"{shape.hidden} hidden layer{'s' if shape.hidden > 1 else ''}"
    kind = "usual" if (activation, shape.wished) == _USUAL else "shallowest"
    reason = f"the {kind} one whose kernel these examples cannot tell from the best"
    if shape.hidden < shape.wished:
        reason += f"; with {shape.wished} a network of this size would fluctuate too much"
    theory, edge = shape.theory, ""
    if theory.best_ratio is not None and theory.fluctuation is not None:
        side = "within" if theory.ratio <= theory.best_ratio else "beyond"
        edge = (
            f"L/n {theory.ratio:.2g}, {side} r* {theory.best_ratio:.2g}, the edge of the theory; fluctuations νL/n {theory.fluctuation:.2g}"
        )
    return [
        Line("depth", layers, "Θ^L as good as any, L/n ≤ r* = 4 / ((20 + 3 n_L) ν)", reason),
        Line("width", f"{shape.width} units", f"the widest within {parameters:,} parameters", edge),
    ]


def _initialisation_line(point: Criticality, activation: str) -> Line:
    value = f"weights of variance {point.weight_variance:.4g}/fan-in, biases of {max(point.bias_variance, 0.0):.4g}"
    return Line(
        "initialisation",
        value,
        "χ_∥ = χ_⊥ = 1",
        f"{activation} is {point.universality_class}: lengths and gradients keep through the layers",
    )


def _patch_lines(patches: Trial | None, best: Trial, task: Task) -> list[Line]:
    """Whether convolutions are likely to pay, for inputs that have places."""
    if patches is None:
        return []
    sign = 1 if task.direction == "max" else -1
    interval = _paired(patches, best)
    ends = sorted((sign * interval.low, sign * interval.high))
    reason = (
        "take a convolutional network"
        if ends[0] > 0
        else "places carry nothing for it"
        if ends[1] < 0
        else "it cannot be told from the best above"
    )
    return [Line("convolutions", f"{_shown(patches.value, task)} with {patches.name}", "Θ of non-overlapping patches", reason)]


def _learning_curve(trials: KernelTrials, chosen: Trial) -> tuple[tuple[tuple[int, float], ...], Forecast | None]:
    """The chosen kernel's measure after nested training sets, and what twice as many examples are likely to give."""
    count = len(trials.x)
    sizes = [size for power in range(_POINTS - 1, -1, -1) if (size := int(count / 2 ** (power / 2))) >= _LEAST]
    if len(sizes) < 2:
        return (), None
    values = trials.learning_curve(chosen, sizes, _REPEATS)
    points = tuple(zip(sizes, values.mean(1).tolist(), strict=True))
    task = trials.task
    errors = 1 - values if task.direction == "max" else values
    try:
        measured = MeasuredCurve(tuple(sizes), errors, fit_learning_curve(sizes, errors), task.metric, task.direction)
    except ValueError:  # too few sizes, or nothing left to err
        return points, None
    low, value, high = measured.at(2 * count)
    return points, Forecast(value, low, high)


def _data_lines(curve: Sequence[tuple[int, float]], forecast: Forecast | None, task: Task, count: int, judged: int) -> list[Line]:
    if len(curve) < 2:
        return []
    last = f"{_shown(curve[-1][1], task)} at {curve[-1][0]:,} examples, {_shown(curve[0][1], task)} at {curve[0][0]:,}"
    last += f", on {judged:,} validation examples"
    if forecast is None:
        return [Line("more data", last, "Θ on nested training sets", "the curve is too short or too flat to be carried on")]
    value = f"twice the data: {_shown(forecast.low, task)} to {_shown(forecast.high, task)}"
    return [Line("more data", value, "error = a n^{−β} + c of Θ on nested training sets", f"{last}; {2 * count:,} would be twice as many")]
