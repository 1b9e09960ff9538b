"""Folders of recordings: a table of numbers is one series, its sub-folder the class."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from assay.tasks.base import ArrayTask
from assay.tasks.checks import SPLIT_NAMES
from assay.tasks.encoders import finite
from assay.tasks.moments import moments_of
from assay.tasks.options import Options
from assay.tasks.recognition import TARGET_NAMES, TIME_NAMES, find_column
from assay.tasks.roles import Column, detect
from assay.tasks.rules import note, refuse, some
from assay.tasks.series import Collection, collection_task

NUMBERS = ("numeric", "boolean", "constant", "empty")
FEWEST = 3
"""Recordings a class on average: fewer are rather the pieces of one table."""
_YEAR = re.compile(r"(19|20)\d\d")


@dataclass
class _Columns:
    time: str | None
    channels: list[str]


def are_recordings(frames: Mapping[str, pd.DataFrame], options: Options) -> bool:
    """Whether tables in sub-folders are a series each: several a folder, with the same columns, of numbers alone beside a time.

    Sub-folders called like years or parts (train, test …) hold pieces of one table, and so does whatever has a target, a group or another
    task, or a column called like a target: the answer is then in the rows, not in the folder's name.
    """
    if options.task not in (None, "series") or options.target or options.group or options.horizon:
        return False
    folders = {name.rpartition("/")[0] for name in frames}
    last = {folder.rpartition("/")[2] for folder in folders}
    if "" in folders or len(last) < 2 or all(_YEAR.fullmatch(name) or name.lower() in SPLIT_NAMES for name in last):
        return False
    first = set(next(iter(frames.values())).columns)
    if any(name.lower() in TARGET_NAMES and name.lower() != "y" for name in first):  # y is an axis as often as an answer
        return False
    if len(frames) < FEWEST * len(folders) or any(set(frame.columns) != first or len(frame) < 2 for frame in frames.values()):
        return False
    return _columns(detect(_whole(frames)), frames, options) is not None


def open_recordings(
    frames: Mapping[str, pd.DataFrame], labels: Sequence[str] | None, given: np.ndarray | None, options: Options
) -> ArrayTask:
    """The task of recordings, in the order of ``frames``.

    Args:
        frames: a table a recording, by the name that messages call it.
        labels: a class each; None where new data have none.
        given: 0 (train), 1 (validation), 2 (test) a recording, or None.
        options: its path, time, seed and encoding are used.

    Raises:
        UserError: a recording lacks a column, or a value is infinite.
    """
    columns = _Columns(**options.encoding["columns"]) if options.encoding else _columns(detect(_whole(frames)), frames, options)
    assert columns is not None  # what are no recordings does not come here
    folder = options.path if options.path.is_dir() else options.path.parent
    for name, frame in frames.items():
        missing = [column for column in columns.channels if column not in frame.columns]
        if missing:
            raise refuse("lost-column", path=folder / name, column=missing[0], names=some([str(name) for name in frame.columns], 12))
    series = [_numbers(frame, columns, folder / name) for name, frame in frames.items()]
    chosen = None if labels is None else pd.Series(list(labels), dtype=object)
    collection = Collection(options.path, "recordings", series, chosen, columns.channels, list(frames), given=given)
    collection.columns = vars(columns)
    task = collection_task(collection, options.name, options.seed, options.encoding)
    ordered = f"in the order of {columns.time!r}" if columns.time else "in the order of their rows"
    said = [] if options.encoding else [note("recordings", count=len(frames), ordered=ordered, channels=some(columns.channels))]
    task.notes = [*dict.fromkeys(options.notes), *said, *task.notes]
    return task


def _whole(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(list(frames.values()), ignore_index=True)


def _columns(columns: Mapping[str, Column], frames: Mapping[str, pd.DataFrame], options: Options) -> _Columns | None:
    """The time and the channels; None where a column holds words, or none holds numbers."""
    times = [name for name in columns if _is_time(columns[name], frames)]
    if options.time:
        times = [find_column(options.time, list(columns), "time-column", options.path)]
    channels = [name for name in columns if name not in times[:1]]
    if not channels or any(columns[name].role not in NUMBERS or columns[name].is_words for name in channels):
        return None
    return _Columns(times[0] if times else None, channels)


def _is_time(column: Column, frames: Mapping[str, pd.DataFrame]) -> bool:
    if column.role != "date" and (column.name.lower() not in TIME_NAMES or column.is_words):
        return False
    return all(frame[column.name].is_unique and frame[column.name].notna().all() for frame in frames.values())


def _numbers(frame: pd.DataFrame, columns: _Columns, path: object) -> np.ndarray:
    """(steps, channels), NaN where a number is missing."""
    order = np.arange(len(frame))
    if columns.time in frame.columns:
        order = np.argsort(moments_of(frame[columns.time], path, str(columns.time)), kind="stable")
    found = []
    for name in columns.channels:
        values = frame[[name]].apply(pd.to_numeric, errors="coerce").astype(np.float64)[name]
        found.append(finite(Column(name, "numeric", values), path))
    return np.stack(found, 1)[order]
