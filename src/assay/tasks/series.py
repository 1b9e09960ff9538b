"""Series with one label each become a task: files of archives (.ts, .arff, .tsv), wide tables, long tables, aeon's own sets."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from assay.contracts import Class, Series, Signature, Values
from assay.errors import UserError, require
from assay.tasks.base import ArrayTask
from assay.tasks.checks import check_path
from assay.tasks.forecasts import co2, open_forecast, weather
from assay.tasks.moments import moments_of
from assay.tasks.options import Options
from assay.tasks.recognition import wide_columns
from assay.tasks.roles import column_of
from assay.tasks.rules import note, refuse, some
from assay.tasks.splitting import check_classes, contradictions, divide, label_notes
from assay.tasks.targets import class_codes, known_classes

__all__ = ["aeon_series", "co2", "open_forecast", "open_long", "open_ts", "open_wide", "weather"]

SUFFIXES = (".ts", ".arff", ".tsv")
_HALVES = re.compile(r"^(.*)_(TRAIN|TEST)$", re.IGNORECASE)


@dataclass
class Collection:
    """Series as they were read.

    Args:
        path: named in messages.
        opener: name of the opener, for the encoding.
        series: each (steps, channels), float64, NaN where missing.
        labels: one a series, strings or numbers; None where new data have none.
        channels: names.
        places: where each series stands, for messages and the report ("row 12").
        numeric: the labels are values, not classes.
        given: 0 (train), 1 (validation), 2 (test) a series, or None.
        groups: (series,) integers, or None.
        columns: what further files of this form must have, for the encoding.
    """

    path: object
    opener: str
    series: list[np.ndarray]
    labels: pd.Series | None
    channels: list[str]
    places: list[str]
    numeric: bool = False
    given: np.ndarray | None = None
    groups: np.ndarray | None = None
    columns: dict[str, Any] = field(default_factory=dict)


# ------------------------------------------------------------------------------------------------ openers


def open_ts(source: str | Path, options: Options) -> ArrayTask:
    """A file of an archive (.ts, .arff, .tsv; needs aeon); ``NAME_TRAIN`` and ``NAME_TEST`` side by side keep their division.

    Args:
        source: one file, one of two halves, or a folder that holds one set.
        options: its path, seed and encoding are used.

    Raises:
        UserError: the file does not read, has no labels, or a value is infinite.
    """
    halves = _halves(Path(source)) if options.encoding is None else {2: _one_file(Path(source))}
    parts = {code: _read_archive(file) for code, file in halves.items()}
    series = [one for part in parts.values() for one in part[0]]
    channels = sorted({one.shape[1] for one in series})
    if len(channels) > 1:
        raise refuse("other-channels", path=options.path, found=channels[-1], wanted=channels[0])
    numeric = any(part[2] for part in parts.values())
    labels = pd.Series(np.concatenate([part[1] for part in parts.values()]))
    places = [f"{halves[code].name}, series {row + 1:,}" for code, part in parts.items() for row in range(len(part[0]))]
    given = np.concatenate([np.full(len(part[0]), code) for code, part in parts.items()]) if len(parts) > 1 else None
    names = [f"channel {index + 1}" for index in range(channels[0])]
    collection = Collection(options.path, "ts", series, labels, names, places, numeric, given)
    name = _HALVES.sub(r"\1", next(iter(halves.values())).stem)
    return collection_task(collection, name, options.seed, options.encoding)


def open_wide(frame: pd.DataFrame, options: Options) -> ArrayTask:
    """A table with one series a row: columns ``t0, t1, …`` hold the steps, another one the label.

    Args:
        frame: the table.
        options: its path, target (by default the last other column), group, seed and encoding are used.

    Raises:
        UserError: no such columns, an infinite value, one class, or too few rows.
    """
    path, target, group, encoding = options.path, options.target, options.group, options.encoding
    if encoding is not None:
        steps, target = encoding["columns"]["steps"], encoding["columns"]["target"]
        missing = [name for name in steps if name not in frame.columns]
        if missing:
            raise refuse("lost-column", path=path, column=missing[0], names=some([str(name) for name in frame.columns], 12))
    else:
        steps = wide_columns([str(name) for name in frame.columns if name not in (target, group)])
        left = [str(name) for name in frame.columns if name not in (*steps, group)]
        target = target or (left[-1] if left else None)
        if len(steps) < 2 or target is None:
            raise refuse("no-value-column", path=path, others=repr(target))
    values = frame[steps].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
    labels = frame[target] if target in frame.columns else None
    kept = np.ones(len(frame), dtype=bool) if labels is None or encoding is not None else labels.notna().to_numpy()
    rows = np.flatnonzero(kept)
    series = [_without_end(row[:, None]) for row in values[rows]]
    groups = pd.factorize(frame[group].iloc[rows])[0] if group and group in frame.columns else None
    collection = Collection(path, "wide", series, _taken(labels, rows), ["value"], [f"row {row + 1:,}" for row in rows], groups=groups)
    collection.columns = {"steps": steps, "target": target}
    return collection_task(collection, path.stem, options.seed, encoding)


def open_long(frame: pd.DataFrame, options: Options) -> ArrayTask:
    """A table with one step a row: ``group`` says which series, ``time`` the order, ``target`` the label of the whole series.

    By default the first column is the series, the second the time, the last the label; every other column of numbers is a channel.

    Args:
        frame: the table.
        options: its path, group, time, target, seed and encoding are used.

    Raises:
        UserError: a label changes within a series, a moment occurs twice, a value is infinite, or no channel is left.
    """
    path, encoding = options.path, options.encoding
    names = [str(name) for name in frame.columns]
    if encoding is not None:
        group, time, target, channels = (encoding["columns"][key] for key in ("group", "time", "target", "channels"))
    else:
        group, time, target = options.group or names[0], options.time or names[1], options.target or names[-1]
        chosen = [name for name in names if name not in (group, time, target)]
        channels = [name for name in chosen if column_of(name, frame[name]).role in ("numeric", "boolean", "constant")]
    missing = [name for name in (group, time, *channels) if name not in names]
    assert isinstance(time, str)  # given, found or taken from the encoding
    if missing or not channels:
        raise refuse("no-value-column", path=path, others=", ".join(repr(name) for name in missing or (group, time, target)))
    moments = moments_of(frame[time], path, time)
    codes, ids = pd.factorize(frame[group])
    values = frame[channels].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
    order = np.lexsort((moments, codes))
    double = np.flatnonzero((np.diff(codes[order]) == 0) & (np.diff(moments[order]) == 0))
    if len(double):
        row = int(order[double[0] + 1])
        raise refuse("double-moment", path=path, row=row + 1, column=time, value=str(frame[time].iloc[row]))
    labels = _labels_of_series(frame[target], codes, ids, path) if target in names else None
    starts = np.flatnonzero(np.append(True, np.diff(codes[order]) != 0))
    series = list(np.split(values[order], starts[1:]))
    places = [f"series {identity}" for identity in ids]
    collection = Collection(path, "long", series, labels, list(channels), places)
    collection.columns = {"group": group, "time": time, "target": target, "channels": list(channels)}
    return collection_task(collection, path.stem, options.seed, encoding)


def aeon_series(name: str, seed: int = 0) -> ArrayTask:
    """A set that ships in aeon, with the archive's own division; validation is a fifth of its training part, by class.

    Args:
        name: as aeon spells it: ACSF1, ArrowHead, BasicMotions, GunPoint, ItalyPowerDemand, JapaneseVowels, OSULeaf.
        seed: of the choice of validation series.
    """
    require("aeon", extra="series", purpose="The series set " + name)
    from aeon.datasets import load_classification

    parts: list[Any] = [load_classification(name, split=split) for split in ("train", "test")]
    series = [np.asarray(one, dtype=np.float64).T for X, _ in parts for one in X]
    labels = pd.Series(np.concatenate([np.asarray(y).astype(str) for _, y in parts]))
    given = np.repeat([0, 2], [len(y) for _, y in parts])
    places = [f"{half} {row + 1}" for half, (_, y) in zip(("train", "test"), parts, strict=True) for row in range(len(y))]
    channels = [f"channel {index + 1}" for index in range(series[0].shape[1])]
    return collection_task(Collection(name, "ts", series, labels, channels, places, given=given), name, seed, None)


# ------------------------------------------------------------------------------------------------ reading


def _halves(source: Path) -> dict[int, Path]:
    """The files of a set by part: 0 training, 2 test; a single file is 0."""
    check_path(source)
    if source.is_dir():
        files = sorted(
            file for file in source.iterdir() if file.suffix.lower() in (".ts", ".arff", ".tsv") and not file.name.startswith(".")
        )
        if not files:
            raise UserError(f"{source} holds no .ts, .arff or .tsv file: name a folder with one set of series.")
        whole = [file for file in files if len(_siblings(file)) == 2]  # a form that has both halves before one that has not
        source = (whole or files)[0]
    return _siblings(source)


def _siblings(source: Path) -> dict[int, Path]:
    """Both halves where they lie side by side in one form, else the file alone."""
    match = _HALVES.match(source.stem)
    if match is None:
        return {0: source}
    found: dict[int, Path] = {}
    for file in sorted(source.parent.iterdir()):
        other = _HALVES.match(file.stem)
        if other and other.group(1) == match.group(1) and file.suffix.lower() == source.suffix.lower():
            found[0 if other.group(2).upper() == "TRAIN" else 2] = file
    return dict(sorted(found.items())) if len(found) == 2 else {0: source}


def _one_file(source: Path) -> Path:
    check_path(source)
    return source if source.is_file() else _halves(source)[2 if 2 in _halves(source) else 0]


def _read_archive(file: Path) -> tuple[list[np.ndarray], np.ndarray, bool]:
    """Series (steps, channels), labels, and whether the labels are values."""
    require("aeon", extra="series", purpose=f"Opening a {file.suffix} file")
    from aeon.datasets import load_from_arff_file, load_from_ts_file, load_from_tsv_file

    check_path(file)
    numeric = False
    try:
        if file.suffix.lower() == ".ts":
            loaded: Any = load_from_ts_file(str(file), return_meta_data=True)
            if len(loaded) != 3 or not (loaded[2].get("classlabel") or loaded[2].get("targetlabel")):
                raise refuse("unlabelled-series", path=file)
            X, y, meta = loaded
            numeric = bool(meta.get("targetlabel"))
        else:
            X, y = (load_from_arff_file if file.suffix.lower() == ".arff" else load_from_tsv_file)(str(file))
    except UserError:
        raise
    except Exception as error:  # aeon raises whatever its parser meets: OSError, ValueError, IndexError, TypeError …
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise refuse("broken-series-file", path=file, suffix=file.suffix, reason=reason) from error
    if len(X) == 0:
        raise refuse("broken-series-file", path=file, suffix=file.suffix, reason="it holds no series")
    series = [np.asarray(one, dtype=np.float64) for one in X]
    return [one.T if one.ndim == 2 else one[:, None] for one in series], np.asarray(y).astype(float if numeric else str), numeric


def _without_end(series: np.ndarray) -> np.ndarray:
    """A wide row without its empty cells at the end: they are how a shorter series looks in a table."""
    real = np.flatnonzero(~np.isnan(series).all(1))
    return series[: real[-1] + 1] if len(real) else series[:1]


def _taken(labels: pd.Series | None, rows: np.ndarray) -> pd.Series | None:
    return None if labels is None or labels.isna().all() else labels.iloc[rows].reset_index(drop=True)


def _labels_of_series(labels: pd.Series, codes: np.ndarray, ids: Any, path: object) -> pd.Series | None:
    """One label a series, in the order of ``ids``."""
    if labels.isna().all():
        return None
    first = labels.groupby(codes).transform("first")
    wrong = (labels != first) & labels.notna()
    if wrong.any():
        row = int(wrong.to_numpy().argmax())
        known = {"found": str(labels.iloc[row]), "wanted": str(first.iloc[row])}
        raise refuse("varying-label", path=path, row=row + 1, series=str(ids[codes[row]]), **known)
    return labels.groupby(codes).first().reset_index(drop=True)


# ------------------------------------------------------------------------------------------------ the task


def collection_task(collection: Collection, name: str, seed: int, encoding: dict[str, Any] | None) -> ArrayTask:
    """The task of a collection: checked, filled, divided, standardised, padded."""
    _refuse_infinite(collection)
    notes = _fill(collection.series)
    if encoding is not None:
        return _new_task(collection, name, notes, encoding)
    assert collection.labels is not None or len(collection.series) == 0  # openers without encoding demand labels
    labels = collection.labels if collection.labels is not None else pd.Series([], dtype=object)
    codes, classes = (np.asarray(labels, dtype=np.float64), []) if collection.numeric else class_codes(labels)
    if not collection.numeric:
        check_classes(codes, classes, collection.path, "the labels")
    prints = np.array([hash(one.tobytes()) for one in collection.series])
    kinds = None if collection.numeric else codes
    archive = collection.given is not None  # an archive's own halves are kept whole, copies and all
    splits, said = divide(
        len(prints),
        path=collection.path,
        seed=seed,
        labels=kinds,
        groups=collection.groups,
        given=collection.given,
        fingerprints=None if archive else prints,
    )
    notes += said
    if not collection.numeric:
        notes += [*label_notes(codes, classes, splits), *contradictions(prints, codes, "series")]
    mean, deviation = _moments(collection, splits["train"], notes)
    target: dict[str, Any] = {"kind": "values" if collection.numeric else "class", "names": ["target"], "mean": [], "deviation": []}
    if collection.numeric:
        target |= {"mean": [float(codes[splits["train"]].mean())], "deviation": [float(codes[splits["train"]].std()) or 1.0]}
    learned: dict[str, Any] = {
        "opener": collection.opener,
        "labels": classes,
        "target": target,
        "channels": collection.channels,
        "columns": collection.columns,
        "mean": mean.tolist(),
        "deviation": deviation.tolist(),
        "length": max(len(one) for one in collection.series),
    }
    tensors, padded = _tensors(collection, learned, notes)
    tensors["target"] = _target(codes, target)
    output = Values(1) if collection.numeric else Class(len(classes))
    return ArrayTask(
        name,
        Signature(Series(len(collection.channels), learned["length"]), output),
        {split: {key: tensor[torch.from_numpy(rows)] for key, tensor in tensors.items()} for split, rows in splits.items()},
        description=_words(collection, classes, padded),
        notes=notes,
        encoding=learned,
        groups=None if collection.groups is None else {split: collection.groups[rows] for split, rows in splits.items()},
        source={"kind": "series", "names": [collection.places[row] for row in splits["test"]]},
    )


def _new_task(collection: Collection, name: str, notes: list[str], encoding: dict[str, Any]) -> ArrayTask:
    """New series, read as the encoding says; all of them are test examples."""
    if collection.series and collection.series[0].shape[1] != len(encoding["channels"]):
        raise refuse("other-channels", path=collection.path, found=collection.series[0].shape[1], wanted=len(encoding["channels"]))
    tensors, _ = _tensors(collection, encoding, notes)
    numeric = encoding["target"]["kind"] == "values"
    if collection.labels is not None:
        if numeric:
            codes = collection.labels.to_numpy(dtype=np.float64)
        else:
            strings = collection.labels.map(_as_label)
            found = known_classes(strings, encoding["labels"], encoding["target"]["names"], collection.path, collection.places)
            codes = found.codes
            assert codes is not None  # classes have codes
        tensors["target"] = _target(codes, encoding["target"])
    output = Values(1) if numeric else Class(len(encoding["labels"]))
    return ArrayTask(
        name,
        Signature(Series(len(encoding["channels"]), encoding["length"]), output),
        {"test": tensors},
        description=f"{len(collection.series):,} new series{'' if collection.labels is not None else ' without labels'}",
        notes=notes,
        encoding=encoding,
        source={"kind": "series", "names": collection.places},
    )


def _as_label(value: object) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _target(codes: np.ndarray, target: dict[str, Any]) -> Tensor:
    if target["kind"] == "class":
        return torch.from_numpy(np.array(codes, dtype=np.int64))
    return torch.from_numpy(((np.asarray(codes) - target["mean"][0]) / target["deviation"][0]).astype(np.float32))[:, None]


def _refuse_infinite(collection: Collection) -> None:
    for series, place in zip(collection.series, collection.places, strict=True):
        if np.isinf(series).any():
            step, channel = np.argwhere(np.isinf(series))[0]
            raise refuse("infinite-step", path=collection.path, place=place, channel=collection.channels[channel], step=int(step) + 1)


def _fill(series: list[np.ndarray]) -> list[str]:
    """Fill missing steps in place by straight lines; a channel without any value stays missing and later becomes the mean."""
    count, touched = 0, 0
    for index, one in enumerate(series):
        missing = np.isnan(one)
        if not missing.any():
            continue
        filled = one.copy()
        for channel in range(one.shape[1]):
            gaps = missing[:, channel]
            if gaps.any() and not gaps.all():
                filled[gaps, channel] = np.interp(np.flatnonzero(gaps), np.flatnonzero(~gaps), one[~gaps, channel])
        series[index] = filled
        count, touched = count + int(missing.sum()), touched + 1
    return [note("missing-steps", count=count, series=touched)] if count else []


def _moments(collection: Collection, training: np.ndarray, notes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each channel over the training part's steps."""
    steps = np.concatenate([collection.series[row] for row in training])
    real = np.where(np.isnan(steps).all(0), 0.0, steps)
    mean, deviation = np.nanmean(real, axis=0), np.nanstd(real, axis=0)
    constant = deviation <= 1e-12 * np.maximum(np.abs(mean), 1.0)
    notes += [note("constant-channel", channel=collection.channels[index]) for index in np.flatnonzero(constant)]
    return mean, np.where(constant, 1.0, deviation)


def _tensors(collection: Collection, encoding: dict[str, Any], notes: list[str]) -> tuple[dict[str, Tensor], bool]:
    """``series`` (examples, length, channels), standardised, and ``mask`` where lengths differ; whether they do."""
    length, lengths = encoding["length"], [len(one) for one in collection.series]
    longer = sum(size > length for size in lengths)
    if longer:
        notes.append(note("cut-series", count=longer, length=length))
    values = np.zeros((len(lengths), length, len(encoding["channels"])), dtype=np.float32)
    mask = np.zeros(values.shape[:2], dtype=bool)
    for row, one in enumerate(collection.series):
        standardised = (one[:length] - np.array(encoding["mean"])) / np.array(encoding["deviation"])
        values[row, : len(standardised)] = np.nan_to_num(standardised)
        mask[row, : len(standardised)] = True
    if mask.all():
        return {"series": torch.from_numpy(values)}, False
    notes.append(note("unequal-lengths", shortest=min(lengths), longest=max(lengths)))
    return {"series": torch.from_numpy(values), "mask": torch.from_numpy(mask)}, True


def _words(collection: Collection, classes: Sequence[str], padded: bool) -> str:
    lengths = [len(one) for one in collection.series]
    steps = f"{min(lengths):,}–{max(lengths):,}" if padded else f"{max(lengths):,}"
    channels = "1 channel" if len(collection.channels) == 1 else f"{len(collection.channels):,} channels"
    wanted = f"{len(classes):,} classes" if classes else "one value each"
    return f"{len(lengths):,} series, {channels} × {steps} steps, {wanted}"
