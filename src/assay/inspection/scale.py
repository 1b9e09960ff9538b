"""The spatial scale of a data set: the size of patches whose kernel learns it best and fastest."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from assay.contracts import Class, Finding, Image, Series, Task, Values
from assay.errors import UserError
from assay.inspection.learning_curve import curve_sizes, nested_order
from assay.models.estimators.base import array, gather
from assay.theory.hierarchical_kernels import hierarchical_kernel
from assay.theory.kernel_regression import nested_predictions
from assay.theory.learning_curves import Curve, fit_learning_curve

LIMIT = 1500
"""Training examples that are looked at: the kernel of all of them is factored."""
LONGEST = 256
"""Positions of a side; a longer one is averaged down to at most so many."""


class Scale:
    """On which scale of space or time the labels of images or series depend, told by kernels of wide convolutional networks.

    A ladder of hierarchies is compared: filters [2], [2, 2], [2, 2, 2] …, each with patches twice as large as the one before and read out
    linearly at every position. A target that lives on patches of one size is learnt fastest by kernels with just such patches: larger ones
    have a larger dimension to pay for, smaller ones cannot tell it. Each is fitted to nested parts of the training data by ridge
    regression, and judged on validation by its error with all data; the slope β of its learning curve stands beside it.

    Source: Cagnetta, Favero, Wyart (2023), What Can Be Learnt With Wide Convolutional Neural Networks?, for the theory.

    Args:
        ridge: λ, a share of the kernel's mean diagonal.
        sizes: nested parts of the data.
        repeats: orders of the data.

    Raises:
        ValueError: a ridge that is not above 0, fewer than four sizes or one repeat.
    """

    def __init__(self, ridge: float = 1e-3, sizes: int = 6, repeats: int = 3) -> None:
        if not ridge > 0:
            raise ValueError(f"ridge must be above 0, got {ridge}")
        if sizes < 4 or repeats < 1:
            raise ValueError(f"there must be at least 4 sizes and 1 repeat, got {sizes} and {repeats}")
        self.ridge, self.sizes, self.repeats = ridge, sizes, repeats

    def __call__(self, model: nn.Module, task: Task) -> Finding:
        """Look at the task's training and validation data; the model is not asked.

        Raises:
            UserError: neither images nor series to classes or values, too few examples, or a side that no filter of 2 divides.
        """
        curves = scale_ladder(task, self.ridge, self.sizes, self.repeats)
        table = [_row(filters, curve) for filters, curve in curves.items()]
        return Finding(_sentence(table, curves), table, _figure(curves))


def scale_ladder(task: Task, ridge: float = 1e-3, sizes: int = 6, repeats: int = 3) -> dict[tuple[int, ...], Curve]:
    """The learning curve of each hierarchy of filters of 2, from one layer up to a patch as large as the input: by filters.

    The error is the share of wrong answers for classes, the mean squared error otherwise. Arguments and errors as `Scale`'s.
    """
    x, held_out = _inputs(task)
    y, truth, labels = _targets(task)
    orders = [nested_order(task, seed)[:LIMIT] for seed in range(repeats)]
    parts = curve_sizes(len(orders[0]), sizes)
    found = {}
    for filters in _ladder(x.shape[2:]):
        errors = np.array([_errors(x[order], y[order], held_out, truth, labels, filters, parts, ridge) for order in orders]).T
        found[filters] = fit_learning_curve(parts, errors)
    return found


def _errors(
    x: NDArray[Any],
    y: NDArray[Any],
    held_out: NDArray[Any],
    truth: NDArray[Any],
    labels: bool,
    filters: tuple[int, ...],
    sizes: tuple[int, ...],
    ridge: float,
) -> list[float]:
    gram = hierarchical_kernel(x, filters=filters)
    across = hierarchical_kernel(held_out, x, filters=filters)
    predictions = nested_predictions(gram, across, y, sizes, ridge * float(np.diag(gram).mean()))
    if not labels:
        return [float(np.square(prediction - truth).mean()) for prediction in predictions]
    least = 0.5 / len(truth)
    return [max(float((prediction.argmax(1) != truth).mean()), least) for prediction in predictions]


def _inputs(task: Task) -> tuple[NDArray[Any], NDArray[Any]]:
    """Training and validation inputs (n, channels, length) or (n, channels, height, width), cut so that 2 divides every side."""
    kind = task.signature.input
    if not isinstance(kind, Image | Series):
        raise UserError(f"The spatial scale is one of images or series, and {task.name} has {type(kind).__name__}: choose another probe.")
    found = []
    for split in ("train", "validation"):
        batch = gather(task, split)
        if isinstance(kind, Image):
            value = array(batch["image"]).astype(np.float64)
        else:
            series = array(batch["series"]).astype(np.float64)
            real = array(batch["mask"])[..., None] if "mask" in batch else np.ones_like(series[..., :1], dtype=bool)
            value = np.where(real, series, 0.0).transpose(0, 2, 1)
        found.append(_fitted(value))
    return found[0], found[1]


def _fitted(value: NDArray[Any]) -> NDArray[Any]:
    """Sides averaged down to at most `LONGEST` positions, then cut to a multiple of the largest power of two that loses an eighth."""
    for axis in range(2, value.ndim):
        side = value.shape[axis]
        step = -(-side // LONGEST)
        if step > 1:
            value = value.take(np.arange(side // step * step), axis)
            value = value.reshape(*value.shape[:axis], side // step, step, *value.shape[axis + 1 :]).mean(axis + 1)
        side = value.shape[axis]
        if side < 2:
            raise UserError(f"The input has {side} position along a side: a scale needs at least 2.")
        span = max(2**power for power in range(1, 10) if side // 2**power * 2**power >= 7 * side / 8 or power == 1)
        start = side % span // 2
        value = value.take(np.arange(start, start + side // span * span), axis)
    return value


def _targets(task: Task) -> tuple[NDArray[Any], NDArray[Any], bool]:
    """Training targets as columns around their mean, validation truth, and whether it is one of classes."""
    output = task.signature.output
    if task.signature.per_position or task.signature.multi_label or not isinstance(output, Class | Values):
        raise UserError(f"The spatial scale is told by one class, or values, for each example, and {task.name} has other targets.")
    y, truth = (array(gather(task, split)["target"]) for split in ("train", "validation"))
    if isinstance(output, Class):
        return np.eye(output.classes)[y] - 1 / output.classes, truth, True
    mean = y.reshape(len(y), -1).mean(0)
    return y.reshape(len(y), -1) - mean, truth.reshape(len(truth), -1) - mean, False


def _ladder(sides: tuple[int, ...]) -> list[tuple[int, ...]]:
    """[2], [2, 2], … as long as every side is divided."""
    found = []
    for depth in range(1, 9):
        if any(side % 2**depth for side in sides):
            break
        found.append((2,) * depth)
    return found


def _sentence(table: list[dict[str, Any]], curves: dict[tuple[int, ...], Curve]) -> str:
    best = min(table, key=lambda row: row["error"])
    examples = int(next(iter(curves.values())).sizes[-1])
    lows = [curve.forecast(examples).low for curve in curves.values()]
    ties = [str(row["patch"]) for row, low in zip(table, lows, strict=True) if row is not best and low <= best["error"]]
    tied = f", from which those of {' and '.join(ties)} cannot be told" if ties else ""
    steepest = max(table, key=lambda row: row["slope"])
    if steepest is best:
        slopes = f"their learning curve is the steepest, too (β = {best['slope']:.2f})"
    elif steepest["slope, low"] > best["slope"]:
        slopes = f"the steepest learning curve is that of patches of {steepest['patch']} (β = {steepest['slope']:.2f})"
    else:
        slopes = "the slopes of the learning curves cannot be told apart"
    return (
        f"Kernels of wide convolutional networks with patches of {best['patch']} positions a side learn these data best "
        f"(error {best['error']:.3g} with {examples:,} examples){tied}; {slopes}."
    )


def _row(filters: tuple[int, ...], curve: Curve) -> dict[str, Any]:
    return {
        "filters": " · ".join(map(str, filters)),
        "patch": int(np.prod(filters)),
        "error": float(curve.errors[-1]),
        "slope": curve.slope,
        "slope, low": curve.interval[0],
        "slope, high": curve.interval[1],
        "floor": curve.offset,
    }


def _figure(curves: dict[tuple[int, ...], Curve]) -> dict[str, Any]:
    data = []
    for filters, curve in curves.items():
        name = f"patches of {int(np.prod(filters))}"
        data.append({"type": "scatter", "name": name, "x": curve.sizes.tolist(), "y": curve.errors.tolist(), "mode": "lines+markers"})
    layout = {
        "xaxis": {"title": {"text": "training examples"}, "type": "log"},
        "yaxis": {"title": {"text": "validation error"}, "type": "log"},
    }
    return {"data": data, "layout": layout}
