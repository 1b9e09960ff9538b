"""How alike each layer of a network sees the data to each other one, of the same network or of another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from assay.contracts import Batch, Finding, Task
from assay.measure import parameter_count
from assay.models.activations import Layer, example_count, record
from assay.models.reference import referred
from assay.ops.similarities import LEAST, PROJECTED, AccumulatedAlignment, check_projection


class Alignment:
    """The debiased CKA of every two hidden layers, on validation data, as a heat map.

    Neighbouring layers that are nearly the same do the same work; a network whose layers are all alike uses its depth for nothing. Beside a
    guide or another run it shows which layer of the one does what which of the other does.

    Source: Kornblith, Norouzi, Lee, Hinton (2019), Similarity of Neural Network Representations Revisited; Nguyen, Raghu, Kornblith (2021),
    Do Wide and Deep Networks Learn the Same Things?

    Args:
        other: the folder of another run, or the name of a registered model, made with random weights; by default the network itself.
        examples: of the validation split.
        batch_size: examples of which the similarities are taken together; over batches their unbiased estimates average.
        seed: of a network that is made.
        project_to: numbers that wider layers are projected to at random where that saves work; 0: never. The finding then says what error
            that makes at most (root mean square: `assay.ops.similarities`).

    Raises:
        ValueError: fewer than eight examples, or in a batch; a negative number to project to.
        UserError: there is no such other network, or it reads other data.
    """

    def __init__(
        self, other: str | None = None, examples: int = 512, batch_size: int = 128, seed: int = 0, project_to: int = PROJECTED
    ) -> None:
        if min(examples, batch_size) < LEAST:
            raise ValueError(f"examples and batch_size must be at least {LEAST}, got {examples} and {batch_size}")
        check_projection(project_to)
        self.other, self.examples, self.batch_size, self.seed, self.project_to = other, examples, batch_size, seed, project_to

    def __call__(self, model: nn.Module, task: Task) -> Finding:
        """Compare the layers; the model is left as it was."""
        second = model if self.other is None else referred(self.other, task.signature, parameter_count(model), self.seed)
        total, rows, columns = _accumulated(model, second, self._batches(task), self.project_to)
        matrix, error = total.matrix(), total.error()
        if self.other is None:
            sentence, others = _within(matrix, rows), matrix - 2 * torch.eye(len(rows), dtype=matrix.dtype)
        else:
            sentence, others = _between(matrix, rows, columns, self.other), matrix
        best = others.max(1)
        table = [
            {"layer": name, "most like": columns[int(index)], "similarity": float(value)}
            for name, index, value in zip(rows, best.indices, best.values, strict=True)
            if float(value) > -1  # a single layer has no other beside it
        ]
        if bool(error.any()):
            sentence = f"{sentence} {_projected(error, self.project_to)}"
            table = [{**row, "error": float(error[rows.index(row["layer"]), columns.index(row["most like"])])} for row in table]
        return Finding(sentence, table, _figure(matrix, rows, columns))

    def _batches(self, task: Task) -> list[Batch]:
        kept, seen = [], 0
        for batch in task.batches("validation", self.batch_size):
            kept.append(batch)
            seen += example_count(batch)
            if seen >= self.examples:
                break
        return kept


def alignment_matrix(
    first: nn.Module, second: nn.Module, batches: Iterable[Any], project_to: int = 0
) -> tuple[Tensor, list[str], list[str]]:
    """The debiased CKA of the hidden layers of two networks on the same data, and the layers' names.

    Args:
        first: a network; its layers are those that `assay.models.activations.Activations` records.
        second: another, or the same.
        batches: named tensors or tensors, each of at least eight examples; a smaller one, as the last may be, is left out.
        project_to: numbers that wider layers are projected to at random where that saves work; 0: never.

    Returns:
        (layers of the first, layers of the second), float64, and the names of both. Both networks are left as they were.

    Raises:
        ValueError: no batch is large enough, a network has no hidden layer, a layer's activations are not finite, or a negative number to
            project to.
    """
    total, rows, columns = _accumulated(first, second, batches, project_to)
    return total.matrix(), rows, columns


def _accumulated(
    first: nn.Module, second: nn.Module, batches: Iterable[Any], project_to: int
) -> tuple[AccumulatedAlignment, list[str], list[str]]:
    total = AccumulatedAlignment(project_to)
    rows: list[Layer] = []
    columns: list[Layer] = []
    for batch in batches:
        if example_count(batch) < LEAST:
            continue
        rows = record(first, batch)
        columns = rows if second is first else record(second, batch)
        for layers in (rows, columns):
            _check_finite(layers)
        total.add([layer.output for layer in rows], [layer.output for layer in columns])
    return total, _named(rows), _named(columns)


def _check_finite(layers: Sequence[Layer]) -> None:
    broken = next((layer.name for layer in layers if not bool(torch.isfinite(layer.output).all())), None)
    if broken is not None:
        raise ValueError(f"the activations of {broken} are not finite: there is nothing to compare")


def _named(layers: Sequence[Layer]) -> list[str]:
    """The layers' names; a module that ran more than once has the number of the call behind it."""
    names: list[str] = []
    for layer in layers:
        calls = sum(name.split(" ")[0] == layer.name for name in names)
        names.append(f"{layer.name} {calls + 1}" if calls else layer.name)
    return names


def _within(matrix: Tensor, names: Sequence[str]) -> str:
    if len(names) == 1:
        return f"The network has one hidden layer, {names[0]}: there is nothing to compare it with."
    steps = matrix.diagonal(1)
    same, change = int((steps > 0.95).sum()), int(steps.argmin())
    doubled = f"{same} of {len(steps)} layers are nearly the same as the one before (above 0.95)" if same else "no layer repeats another"
    return (
        f"Neighbouring layers are alike by {float(steps.mean()):.2f} on average: {doubled}; "
        f"most changes from {names[change]} to {names[change + 1]} ({float(steps[change]):.2f})."
    )


def _between(matrix: Tensor, rows: Sequence[str], columns: Sequence[str], other: str) -> str:
    best = matrix.max(1)
    row = int(best.values.argmax())
    return (
        f"A layer is alike by {float(best.values.mean()):.2f} on average to the one of {other} that is most like it; "
        f"most of all {rows[row]} to {columns[int(best.indices[row])]} ({float(best.values[row]):.2f})."
    )


def _projected(error: Tensor, width: int) -> str:
    return (
        f"Layers of more than {width:,} numbers were projected to so many at random, which puts a similarity off by "
        f"{float(error.max()):.2g} at most (root mean square)."
    )


def _figure(matrix: Tensor, rows: Sequence[str], columns: Sequence[str]) -> dict[str, Any]:
    data = [{"type": "heatmap", "name": "debiased CKA", "z": matrix.tolist(), "x": list(columns), "y": list(rows), "zmin": 0, "zmax": 1}]
    return {"data": data, "layout": {"xaxis": {"title": {"text": "layer"}}, "yaxis": {"title": {"text": "layer"}}}}
