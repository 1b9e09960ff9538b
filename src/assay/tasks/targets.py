"""What is to be predicted: labels into class numbers, numbers into standardised values, the same way for new data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from assay.contracts import Class, SplitName, Values
from assay.tasks.encoders import moments
from assay.tasks.roles import FEW, Column, as_category, as_strings, column_of
from assay.tasks.rules import note, refuse, some
from assay.tasks.splitting import check_classes, label_notes


@dataclass
class Target:
    """A target column, or several columns of numbers.

    Args:
        output: Class or Values.
        names: the columns' names.
        codes: (examples,) class numbers, or None.
        values: (examples, count) numbers as written, or None.
        labels: class names, or [].
        mean, deviation: of the training part's values, per column.
    """

    output: Class | Values
    names: list[str]
    codes: np.ndarray | None = None
    values: np.ndarray | None = None
    labels: list[str] = field(default_factory=list)
    mean: list[float] = field(default_factory=list)
    deviation: list[float] = field(default_factory=list)

    def standardise(self, training: np.ndarray) -> None:
        """Learn mean and deviation of the values from the training rows."""
        if self.values is not None:
            pairs = [moments(column[training]) for column in self.values.T]
            self.mean, self.deviation = [pair[0] for pair in pairs], [pair[1] for pair in pairs]

    def tensor(self) -> Tensor:
        """(examples,) long, or (examples, count) float in training deviations."""
        if self.codes is not None:
            return torch.from_numpy(self.codes.astype(np.int64))
        assert self.values is not None  # a target has codes or values
        return torch.from_numpy(((self.values - np.array(self.mean)) / np.array(self.deviation)).astype(np.float32))

    def to_json(self) -> dict[str, Any]:
        """The part of a task's encoding that says how to read a target."""
        kind = "class" if self.codes is not None else "values"
        return {"kind": kind, "names": self.names, "mean": self.mean, "deviation": self.deviation}

    def words(self) -> str:
        """For the description: ``class 'species' of 3``."""
        if self.codes is not None:
            return f"{len(self.labels)} classes of {self.names[0]!r}"
        return "values of " + ", ".join(repr(name) for name in self.names)

    def notes(self, splits: dict[SplitName, np.ndarray]) -> list[str]:
        """Warnings of labels, and the units of values."""
        if self.codes is not None:
            return label_notes(self.codes, self.labels, splits)
        said = [
            f"{name!r} has mean {mean:.6g}, deviation {dev:.6g}"
            for name, mean, dev in zip(self.names, self.mean, self.deviation, strict=True)
        ]
        return [f"Errors are in training deviations of the target: {'; '.join(said)}."]


def without_missing(frame: pd.DataFrame, names: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Row numbers that have every target, and what is said of the others."""
    kept = np.ones(len(frame), dtype=bool)
    notes = []
    for name in names:
        values = frame[name]
        words = values.dtype == object or isinstance(values.dtype, (pd.StringDtype, pd.CategoricalDtype))
        missing = (as_category(values) if words else values).isna().to_numpy()
        if missing.any():
            notes.append(note("no-target", count=int(missing.sum()), total=len(frame), column=name, row=int(missing.argmax()) + 1))
        kept &= ~missing
    return np.flatnonzero(kept), notes


def learn_target(frame: pd.DataFrame, names: list[str], task: str | None, path: object) -> Target:
    """Decide whether the columns are classes or values, and read them; ``task`` "classes" or "values" decides.

    Raises:
        UserError: one class, fewer rows than classes, values that are no numbers or infinite.
    """
    columns = [column_of(name, frame[name]) for name in names]
    if len(columns) == 1 and is_class(columns[0], task):
        codes, labels = class_codes(frame[names[0]])
        place = f"column {names[0]!r}"
        check_classes(codes, labels, path, place)
        return Target(Class(len(labels)), names, codes=codes, labels=labels)
    for column in columns:
        _refuse_unusable(column, path)
    values = np.stack([_floats(column, path) for column in columns], axis=1)
    return Target(Values(len(names)), names, values=values)


def read_target(frame: pd.DataFrame, encoding: dict[str, Any], path: object) -> Target:
    """Read a target of new data as the encoding says.

    Raises:
        UserError: a label that training did not have, or values that are no numbers.
    """
    said = encoding["target"]
    names = list(said["names"])
    if said["kind"] == "class":
        strings = as_strings(frame[names[0]])
        return known_classes(strings, encoding["labels"], names, path)
    columns = [column_of(name, frame[name]) for name in names]
    for column in columns:
        _refuse_unusable(column, path, constant_too=False)
    values = np.stack([_floats(column, path) for column in columns], axis=1)
    return Target(Values(len(names)), names, values=values, mean=said["mean"], deviation=said["deviation"])


def known_classes(strings: pd.Series, labels: Sequence[str], names: list[str], path: object, places: Sequence[str] | None = None) -> Target:
    """Labels of new data as the class numbers of training.

    Raises:
        UserError: ``unknown-label`` applies.
    """
    codes = strings.map({label: index for index, label in enumerate(labels)})
    if codes.isna().any():
        row = int(codes.isna().to_numpy().argmax())
        place = places[row] if places is not None else f"row {row + 1:,}"
        raise refuse("unknown-label", path=path, place=place, label=str(strings.iloc[row]), known=some(list(labels)))
    return Target(Class(len(labels)), names, codes=codes.to_numpy(dtype=np.int64), labels=list(labels))


def in_units(prediction: np.ndarray, encoding: dict[str, Any]) -> np.ndarray:
    """Predicted values (…, count) in the target's own units: ``prediction · deviation + mean``; unchanged where none are known."""
    said = encoding.get("target")
    if isinstance(said, dict) and said.get("deviation"):
        mean, deviation = np.array(said["mean"]), np.array(said["deviation"])
    elif isinstance(said, list) and encoding.get("deviation"):  # a forecast's target columns are among its channels
        chosen = [encoding["channels"].index(name) for name in said]
        mean, deviation = np.array(encoding["mean"])[chosen], np.array(encoding["deviation"])[chosen]
    else:
        return prediction
    return prediction * deviation + mean


def value_names(encoding: dict[str, Any], count: int, horizon: int | None) -> list[str]:
    """A column name for each predicted value: the target's names, with ``+step`` for each step of a forecast."""
    said = encoding.get("target")
    names = said.get("names") if isinstance(said, dict) else said
    if not isinstance(names, list) or len(names) != count:
        names = ["prediction"] if count == 1 else [f"prediction_{index}" for index in range(count)]
    return names if horizon is None else [f"{name} +{step}" for step in range(1, horizon + 1) for name in names]


def is_class(column: Column, task: str | None) -> bool:
    """Classes, unless the column holds numbers that are many or not whole."""
    if task in ("classes", "values"):
        return task == "classes"
    if column.role != "numeric":
        return column.role != "date"
    distinct = pd.unique(column.values.dropna())
    few = len(distinct) <= FEW and len(column.values) >= 5 * len(distinct)
    return (bool((distinct == np.floor(distinct)).all()) and few) or len(distinct) == 2


def class_codes(values: pd.Series) -> tuple[np.ndarray, list[str]]:
    """Class numbers and names; names in the order of numbers where they are numbers, else of the alphabet."""
    if pd.api.types.is_integer_dtype(values.dtype):
        codes, numbers = pd.factorize(values)
        uniques = [str(number) for number in numbers]
    else:
        categories = as_category(values)
        codes, uniques = categories.cat.codes.to_numpy(), list(categories.cat.categories)
    try:
        order = sorted(range(len(uniques)), key=lambda index: float(uniques[index]))
    except ValueError:
        order = sorted(range(len(uniques)), key=lambda index: str(uniques[index]))
    new = np.empty(len(order), dtype=np.int64)
    new[order] = np.arange(len(order))
    return new[codes], [str(uniques[index]) for index in order]


def _refuse_unusable(column: Column, path: object, constant_too: bool = True) -> None:
    reason = {"date": "it holds dates", "categorical": "its values are not numbers", "text": "it holds text", "empty": "it is empty"}
    if constant_too:
        reason["constant"] = "it is always the same"
    if column.role in reason or column.is_words:
        raise refuse("unusable-target", path=path, column=column.name, reason=reason.get(column.role, "its values are not numbers"))


def _floats(column: Column, path: object) -> np.ndarray:
    values = column.values.to_numpy(dtype="float64")
    wrong = ~np.isfinite(values)
    if np.isinf(values).any():
        row = int(np.isinf(values).argmax()) + 1
        raise refuse("infinite-value", path=path, row=row, column=column.name, count=int(np.isinf(values).sum()))
    if wrong.any():
        raise refuse("unusable-target", path=path, column=column.name, reason=f"row {int(wrong.argmax()) + 1:,} is not a number")
    return values
