"""Columns into numbers: each encoder learns from the training rows only, and writes itself down as JSON."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from assay.tasks.roles import Column
from assay.tasks.rules import note, refuse

KEPT_CATEGORIES = 32
TEXT_WIDTH = 64
LARGEST = 1e6  # deviations; new data may lie anywhere, and float32 must hold the square
Spec = dict[str, Any]


def learn(column: Column, training: np.ndarray, path: object) -> tuple[Spec, list[str]]:
    """What the training rows say of a column, and what must be told of it.

    Returns:
        ``{"name", "role", "detail", "width", …}``, JSON-serialisable, for `encode`; and sentences.

    Raises:
        UserError: a number is infinite (anywhere in the column).
    """
    spec, notes = _LEARNERS[column.role](column, training, path)
    return {"name": column.name, "role": column.role, "detail": column.detail, **spec}, [*column.notes, *notes]


def encode(spec: Spec, column: Column, path: object, out: np.ndarray) -> None:
    """Write the column's features into ``out`` (rows, ``spec["width"]``), float32.

    Raises:
        UserError: a number is infinite.
    """
    _ENCODERS[spec["role"]](spec, column, path, out)


def finite(column: Column, path: object) -> np.ndarray:
    """The column's float64 values; NaN where missing.

    Raises:
        UserError: ``infinite-value`` applies.
    """
    values = column.values.to_numpy(dtype="float64")
    infinite = np.isinf(values)
    if infinite.any():
        raise refuse("infinite-value", path=path, row=int(infinite.argmax()) + 1, column=column.name, count=int(infinite.sum()))
    return values


def moments(values: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation (1 where it would be 0), safe for numbers as large as floats go."""
    scale = float(np.abs(values).max(initial=0.0)) or 1.0
    if 1e-100 < scale < 1e100:
        mean, deviation = float(values.mean()), float(values.std())
    else:
        mean, deviation = float((values / scale).mean() * scale), float((values / scale).std() * scale)
    return mean, deviation if deviation > 1e-12 * max(abs(mean), 1e-300) else 1.0


# ------------------------------------------------------------------------------------------------ numbers and truth values


def _learn_number(column: Column, training: np.ndarray, path: object) -> tuple[Spec, list[str]]:
    values = finite(column, path)
    missing = np.isnan(values)
    trained = values[training]
    present = trained[~missing[training]] if missing.any() else trained
    median = float(np.median(present)) if missing.any() and len(present) else 0.0
    filled = np.where(np.isnan(trained), median, trained) if missing.any() else trained
    mean, deviation = moments(filled)
    indicator = bool(len(present) < len(trained))
    spec = {"median": median, "mean": mean, "deviation": deviation, "indicator": indicator, "width": 1 + indicator}
    if not missing.any():
        spec["median"] = float(np.median(present[:: max(1, len(present) // 10_001)]))
    notes = [note("missing-numbers", column=column.name, count=int(missing.sum()), value=f"{median:.6g}")] if missing.any() else []
    return spec, notes


def _encode_number(spec: Spec, column: Column, path: object, out: np.ndarray) -> None:
    values = finite(column, path)
    missing = np.isnan(values)
    if missing.any():
        values = np.where(missing, spec["median"], values)
    standardised = values - spec["mean"]
    standardised /= spec["deviation"]
    if max(standardised.max(initial=0.0), -standardised.min(initial=0.0)) > LARGEST:
        np.clip(standardised, -LARGEST, LARGEST, out=standardised)
    out[:, 0] = standardised
    if spec["indicator"]:
        out[:, 1] = missing


# ------------------------------------------------------------------------------------------------ categories


def _learn_category(column: Column, training: np.ndarray, path: object) -> tuple[Spec, list[str]]:
    counts = column.values.iloc[training].value_counts()
    distinct = len(counts)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))
    kept = [str(value) for value, _ in ordered[:KEPT_CATEGORIES]]
    missing = column.missing()
    others, indicator = distinct > len(kept), bool(missing[training].any())
    notes = []
    if missing.any() and kept:
        notes.append(note("missing-categories", column=column.name, count=int(missing.sum()), value=kept[0]))
    if others:
        notes.append(note("many-categories", column=column.name, count=distinct, kept=len(kept)))
    return {"values": kept, "others": others, "indicator": indicator, "width": len(kept) + others + indicator}, notes


def _encode_category(spec: Spec, column: Column, path: object, out: np.ndarray) -> None:
    kept = spec["values"]
    place = {value: index for index, value in enumerate(kept)}
    values, uniques = pd.factorize(column.values)
    of_unique = np.array([place.get(str(unique), len(kept)) for unique in uniques] + [0 if kept else -1])  # missing: the most frequent
    codes = of_unique[values]
    out[:] = 0
    width = len(kept) + spec["others"]
    usable = np.flatnonzero((codes >= 0) & (codes < width))  # a category never seen in training is all zeros
    out[usable, codes[usable]] = 1
    if spec["indicator"]:
        out[:, width] = column.missing()


# ------------------------------------------------------------------------------------------------ dates


def _learn_date(column: Column, training: np.ndarray, path: object) -> tuple[Spec, list[str]]:
    missing = column.missing()
    median = column.values.iloc[training].median()
    filled = column.values.fillna(median)
    mean, deviation = moments(_days(filled).to_numpy()[training])
    clock = bool(np.any(_days(filled).to_numpy() % 1 != 0))
    notes = [note("missing-numbers", column=column.name, count=int(missing.sum()), value=str(median)[:19])] if missing.any() else []
    return {"median": str(median), "mean": mean, "deviation": deviation, "clock": clock, "width": 5 + 2 * clock}, notes


def _days(values: pd.Series) -> pd.Series:
    return (values - pd.Timestamp("2000-01-01")) / pd.Timedelta(days=1)


def _encode_date(spec: Spec, column: Column, path: object, out: np.ndarray) -> None:
    values = column.values.fillna(pd.Timestamp(spec["median"]))
    days = _days(values)
    out[:, 0] = (days - spec["mean"]) / spec["deviation"]
    turns = [values.dt.dayofyear / 365.25, values.dt.dayofweek / 7]  # the year and the week come round again
    if spec["clock"]:
        turns.append(days % 1)
    for index, turn in enumerate(turns):
        out[:, 1 + 2 * index] = np.sin(2 * np.pi * turn)
        out[:, 2 + 2 * index] = np.cos(2 * np.pi * turn)


# ------------------------------------------------------------------------------------------------ text beside other columns


def _learn_text(column: Column, training: np.ndarray, path: object) -> tuple[Spec, list[str]]:
    told = f"Column {column.name!r} holds text: beside other columns its words count as {TEXT_WIDTH} hashed frequencies."
    return {"width": TEXT_WIDTH}, [told]


def _encode_text(spec: Spec, column: Column, path: object, out: np.ndarray) -> None:
    from sklearn.feature_extraction.text import HashingVectorizer

    vectorizer = HashingVectorizer(n_features=spec["width"], norm="l2")
    counted: Any = vectorizer.transform(column.values.fillna("").tolist())  # SciPy's sparse rows
    out[:] = counted.toarray()


_LEARNERS: dict[str, Callable[[Column, np.ndarray, object], tuple[Spec, list[str]]]] = {
    "numeric": _learn_number,
    "boolean": _learn_number,
    "categorical": _learn_category,
    "date": _learn_date,
    "text": _learn_text,
}
_ENCODERS: dict[str, Callable[[Spec, Column, object, np.ndarray], None]] = {
    "numeric": _encode_number,
    "boolean": _encode_number,
    "categorical": _encode_category,
    "date": _encode_date,
    "text": _encode_text,
}
