"""Where models err: confusion tables, recall a class, the examples in groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from assay.bench.report import words

MOST_CLASSES = 12
"""More classes than this are told as a list of the hardest ones and the commonest confusions: a larger table cannot be read."""

GROUP_TITLES = {
    "none": "Both wrong",
    "first": "Only {first} right",
    "second": "Only {second} right",
    "both": "Both right",
    "wrong": "Wrong",
    "right": "Right",
}


@dataclass(frozen=True)
class Cell:
    """One cell of a confusion table: how many, and how strongly it is tinted (0 … 10)."""

    count: int
    tint: int


@dataclass(frozen=True)
class Confusion:
    """A model's confusions: rows are true classes, columns predicted ones."""

    model: str
    labels: list[str]
    cells: list[list[Cell]]
    recalls: list[float | None]
    hardest: list[tuple[str, str, int]]
    pairs: list[tuple[str, str, int]]

    @property
    def as_table(self) -> bool:
        """Whether a table can be read."""
        return len(self.labels) <= MOST_CLASSES


def confusion(model: str, truth: Sequence[int], predicted: Sequence[int], labels: Sequence[str]) -> Confusion:
    """Count true against predicted classes.

    Args:
        model: its name.
        truth: class indices.
        predicted: class indices.
        labels: the classes' names; missing ones are numbers.
    """
    true, guess = np.asarray(truth, dtype=int), np.asarray(predicted, dtype=int)
    classes = max(len(labels), int(true.max(initial=0)) + 1, int(guess.max(initial=0)) + 1)
    names = [labels[index] if index < len(labels) else str(index) for index in range(classes)]
    counts = np.zeros((classes, classes), dtype=int)
    np.add.at(counts, (true, guess), 1)
    sizes = counts.sum(1)
    shares = counts / np.maximum(sizes, 1)[:, None]
    cells = [[Cell(int(counts[i, j]), _tint(shares[i, j])) for j in range(classes)] for i in range(classes)]
    recalls = [float(shares[i, i]) if sizes[i] else None for i in range(classes)]
    order = sorted((i for i in range(classes) if sizes[i]), key=lambda i: shares[i, i])
    hardest = [(names[i], words.quality(shares[i, i], "recall"), int(sizes[i])) for i in order[:10]]
    wrong = counts - np.diag(np.diag(counts))
    ranked = np.argsort(-wrong, axis=None, kind="stable")[:8]
    pairs = [(names[k // classes], names[k % classes], int(wrong.flat[k])) for k in ranked if wrong.flat[k] > 0]
    return Confusion(model, names, cells, recalls, hardest, pairs)


def _tint(share: float) -> int:
    return 0 if share == 0 else max(1, round(10 * float(share)))


def example_groups(samples: dict[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """The examples by who is right, each prepared for display, groups with a disagreement first."""
    models = list(samples.get("models", []))
    titles = {"first": models[0] if models else "", "second": models[1] if len(models) > 1 else ""}
    groups = []
    for key in ("first", "second", "none", "wrong", "both", "right"):
        members = [_prepared(example, samples) for example in samples.get("examples", []) if example.get("group") == key]
        if members:
            groups.append((GROUP_TITLES[key].format(**titles), members))
    order = {"best": 0, "typical": 1, "poor": 2, "worst": 3}
    graded = [example for example in samples.get("examples", []) if example.get("group") in order]
    if graded and samples.get("output") != "forecast":  # forecasts have charts of their own
        groups.append(("From the best to the worst", [_prepared(e, samples) for e in sorted(graded, key=lambda e: order[e["group"]])]))
    return groups


def _prepared(example: dict[str, Any], samples: dict[str, Any]) -> dict[str, Any]:
    labels = samples.get("labels", [])
    judged = samples.get("output") == "class"
    guesses = [
        (name, label_of(value, labels), (value == example["truth"]) if judged else None)
        for name, value in example.get("predictions", {}).items()
    ]
    return example | {"true_label": label_of(example["truth"], labels), "guesses": guesses, "judged": judged}


def label_of(value: Any, labels: Sequence[str]) -> str:
    """A class's name, or the value itself."""
    if isinstance(value, int) and 0 <= value < len(labels):
        return str(labels[value])
    if isinstance(value, float):
        return words.number(value, 4)
    if isinstance(value, list):
        return ", ".join(label_of(item, labels) for item in value[:6]) + (" …" if len(value) > 6 else "")
    return str(value)
