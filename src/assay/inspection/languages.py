"""Which algorithm does a model run in context? Its predictions beside those of n-gram models and of the true automaton."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from assay.contracts import Batch, Finding, NextTokens, Predictor, Task, Tokens
from assay.errors import UserError
from assay.models.estimators.backoff import backoff_probabilities
from assay.tasks.synthetic.in_context_languages import InContextLanguages
from assay.training import predictor

STRINGS = (1, 2, 3, 5, 8, 12, 16)
"""First strings of the groups that positions are shown in."""


def distances(
    model: Predictor, batches: Iterable[Batch], task: Task, orders: tuple[int, ...] = (1, 2, 3)
) -> tuple[dict[str, Tensor], Tensor]:
    """The total variation ½ Σ |p − r| between a model's p and each reference r at every scored position.

    References: ``uniform`` over the symbols that the row has had so far; ``1-gram``, ``2-gram`` … with back-off, counted on the row so far;
    ``automaton``, the truth, where the task knows it.

    Args:
        model: predicts logits (batch, length, vocabulary).
        batches: of the task.
        task: next tokens; ``encoding["separator"]`` ends a string, where there is one.
        orders: of the n-gram models.

    Returns:
        For each reference (positions,), and the number of the string that a position is in, from 1 (positions,).

    Raises:
        ValueError: there are no batches.
    """
    separator = task.encoding.get("separator")
    candidates = _candidates(task)
    parts: dict[str, list[Tensor]] = {}
    for batch in batches:
        tokens = batch["tokens"].cpu()
        with torch.no_grad():
            p = model(batch).prediction.double().cpu().softmax(2)
        references = {"uniform": _seen_so_far(tokens, candidates)}
        references |= {f"{n}-gram": backoff_probabilities(tokens, n, candidates, separator) for n in orders}
        if isinstance(task, InContextLanguages):
            references["automaton"] = task.truth(batch).double()
        scored = batch["target_mask"].cpu() if "target_mask" in batch else torch.ones_like(tokens, dtype=torch.bool)
        for name, reference in references.items():
            parts.setdefault(name, []).append(((p - reference).abs().sum(2) / 2)[scored])
        string = 1 + (tokens == (-1 if separator is None else separator)).cumsum(1)
        parts.setdefault("string", []).append(string[scored])
    if not parts:
        raise ValueError("there must be at least one batch")
    joined = {name: torch.cat(part) for name, part in parts.items()}
    string = joined.pop("string")
    return joined, string


class InContextAlgorithm:
    """Probe that says which n-gram model a network's predictions are nearest to, string by string.

    Args:
        orders: of the n-gram models.
        rows: test rows that are looked at.
    """

    def __init__(self, orders: tuple[int, ...] = (1, 2, 3), rows: int = 200) -> None:
        self.orders = orders
        self.rows = rows

    def __call__(self, model: nn.Module, task: Task) -> Finding:
        """Mean distances over all positions, and over groups of strings; nothing is changed.

        Raises:
            UserError: the task does not predict next tokens.
        """
        if not isinstance(task.signature.input, Tokens) or not isinstance(task.signature.output, NextTokens):
            raise UserError(f"N-gram models are compared on next tokens, and {task.name} predicts something else: choose another probe.")
        batches = itertools.islice(task.batches("test", 8), max(1, self.rows // 8))
        found, string = distances(predictor(model.eval()), batches, task, self.orders)
        table: list[dict[str, Any]] = [{"strings": "all", **{name: float(value.mean()) for name, value in found.items()}}]
        for low, high in zip(STRINGS, (*STRINGS[1:], 10**9), strict=True):
            here = (string >= low) & (string < high)
            if here.any():
                table.append({"strings": f"from {low}", **{name: float(value[here].mean()) for name, value in found.items()}})
        return Finding(_sentence(table[0]), table, _figure(table))


def _candidates(task: Task) -> Tensor:
    assert isinstance(task.signature.output, NextTokens)  # the callers have checked it
    candidates = torch.zeros(task.signature.output.vocabulary, dtype=torch.bool)
    candidates[: task.encoding.get("symbols", len(candidates))] = True
    return candidates


def _seen_so_far(tokens: Tensor, candidates: Tensor) -> Tensor:
    """Equal probabilities of the candidates that have occurred up to each position (of all, where none has)."""
    seen = (torch.nn.functional.one_hot(tokens, len(candidates)).cumsum(1) > 0) & candidates
    seen = torch.where(seen.any(2, keepdim=True), seen, candidates).double()
    return seen / seen.sum(2, keepdim=True)


def _sentence(overall: dict[str, Any]) -> str:
    references = {name: value for name, value in overall.items() if name not in ("strings", "automaton")}
    nearest = min(references, key=references.__getitem__)
    words = f"The model's predictions are nearest to the {nearest} model counted on the context (total variation {references[nearest]:.3f}"
    second = sorted(references, key=references.__getitem__)[1]
    words += f"; {second}: {references[second]:.3f})"
    if "automaton" not in overall:
        return words + "."
    side = (
        "nearer to the true automaton than to any of them" if overall["automaton"] < references[nearest] else "further from the automaton"
    )
    return f"{words}; they are {side} ({overall['automaton']:.3f})."


def _figure(table: list[dict[str, Any]]) -> dict[str, Any]:
    groups = table[1:]
    data = [
        {
            "type": "scatter",
            "name": name,
            "x": [row["strings"].removeprefix("from ") for row in groups],
            "y": [row[name] for row in groups],
            "mode": "lines+markers",
        }
        for name in table[0]
        if name != "strings"
    ]
    layout = {
        "xaxis": {"title": {"text": "string of the row"}},
        "yaxis": {"title": {"text": "total variation from the model"}, "rangemode": "tozero"},
    }
    return {"data": data, "layout": layout}
