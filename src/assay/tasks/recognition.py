"""What a table is for: which column is the target, the group, the split and the time, and which kind of task follows."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd

from assay.tasks.options import Options
from assay.tasks.roles import FEW, Column, is_group_name
from assay.tasks.rules import refuse, some
from assay.tasks.splitting import split_codes

Kind = Literal["table", "text", "pair", "forecast", "wide", "long"]
TARGET_NAMES = ("target", "label", "labels", "class", "y", "outcome", "category", "response", "score", "rating", "sentiment")
_SPLIT_NAMES = {"split", "set", "subset", "partition", "part"}
TIME_NAMES = {"time", "t", "timestamp", "datetime", "date", "step", "timestep", "time_step", "tick", "year"}
_SERIES_NAMES = re.compile(r"^(series|sample|instance|sequence|case|unique|item|recording|dim)?([_ -]?(id|no|nr))?$", re.IGNORECASE)
_NUMBERED = re.compile(r"^(t|time|step|ts|v|value|lag)?[_ -]?(\d+)$", re.IGNORECASE)


@dataclass
class Plan:
    """How a table is to be used.

    Args:
        kind: which opener takes it.
        target: names of the target columns (several numbers can be predicted together).
        features: names of the columns to predict from.
        group, time: names of those columns, or None.
        split: name of the column that divides the rows, or None.
        dropped: columns left out, with the reason.
        notes: how the choices came about.
    """

    kind: Kind
    target: list[str]
    features: list[str]
    group: str | None = None
    time: str | None = None
    split: str | None = None
    dropped: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def find_column(name: str, names: list[str], option: str, path: object) -> str:
    """The column that an option names.

    Raises:
        UserError: there is none; the message offers near names.
    """
    if name in names:
        return name
    near = difflib.get_close_matches(name, names, n=3) or [other for other in names if other.lower() == name.lower()]
    offer = f"did you mean {some(near)}?" if near else f"it has {some(names, 12)}"
    raise refuse("unknown-column", path=path, column=name, option=option, near=offer)


def plan(frame: pd.DataFrame, columns: dict[str, Column], options: Options) -> Plan:
    """Decide what the table is for; what the person said decides first, names next, positions last.

    Raises:
        UserError: an option names a column that is not there, or nothing can be the target.
    """
    names = list(columns)
    result = Plan("table", [], [])
    result.split = next((name for name in names if _is_split(name, frame)), None) if options.given is None else None
    group = find_column(options.group, names, "group", options.path) if options.group else None
    time = find_column(options.time, names, "time-column", options.path) if options.time else None
    wanted = [find_column(part.strip(), names, "target", options.path) for part in options.target.split(",")] if options.target else []
    rest = [name for name in names if name not in (result.split, group, time)]

    series = _series_plan(frame, columns, options, wanted, group, time, rest)
    if series is not None:
        return series
    result.time = time
    result.group = group or _found_group(columns, wanted, rest)
    if result.group and not group:
        result.notes.append(f"Column {result.group!r} says which rows belong together: rows of one are never divided.")
    candidates = [name for name in rest if name != result.group]
    result.target = wanted or [_choose_target(columns, candidates, options, result)]
    remaining = [name for name in candidates if name not in result.target]
    _choose_features(columns, remaining, result, options)
    return result


def _is_split(name: str, frame: pd.DataFrame) -> bool:
    if name.lower() not in _SPLIT_NAMES:
        return False
    values = frame[name].dropna().unique()
    return 1 < len(values) <= 6 and split_codes(list(values)) is not None


def _found_group(columns: dict[str, Column], target: list[str], names: list[str]) -> str | None:
    for name in names:
        column = columns[name]
        if not is_group_name(name) or name in target or column.role in ("text", "date", "constant", "empty"):
            continue
        distinct, count = column.values.nunique(), len(column.values)
        if 5 <= distinct <= count * 0.6:  # an id that hardly repeats groups nothing
            return name
    return None


def choose_target(columns: dict[str, Column], names: list[str]) -> tuple[str, str] | None:
    """The column to predict where nobody named one, and the sentence that says so; None where no column could be it."""
    usable = [name for name in names if columns[name].role in ("numeric", "categorical", "boolean")]
    if not usable:
        return None
    by_name = [name for wanted in TARGET_NAMES for name in usable if name.strip().lower() == wanted]
    chosen = (by_name or usable[-1:])[0]
    why = "by its name" if by_name else "the last one that can be"
    return chosen, f"The target is column {chosen!r} ({why}); --target names another."


def _choose_target(columns: dict[str, Column], names: list[str], options: Options, result: Plan) -> str:
    found = choose_target(columns, names)
    if found is None:
        raise refuse("no-target-column", path=options.path, names=some(names, 12))
    result.notes.append(found[1])
    return found[0]


def _choose_features(columns: dict[str, Column], names: list[str], result: Plan, options: Options) -> None:
    texts = [name for name in names if columns[name].role == "text"]
    for name in names:
        role = columns[name].role
        if role in ("id", "constant", "empty"):
            result.dropped[name] = {"id": "an id", "constant": "always the same", "empty": "empty"}[role]
    others = [name for name in names if name not in texts and name not in result.dropped]
    if not texts and not others:  # words that looked like ids are all there is
        texts = [name for name in result.dropped if columns[name].role == "id" and columns[name].is_words]
        others = []
    if len(texts) == 1 and len(others) == 1 and _seldom_repeats(columns[others[0]]):  # words and their meanings
        texts, others = [name for name in names if name in (*texts, *others)], []
    if options.task == "text" and not texts:
        texts = [name for name in names if columns[name].is_words][:1]
        others = []
    if len(texts) == 2 and (not others or options.task == "pair"):
        result.kind, result.features = "pair", texts
    elif options.task == "pair":
        strings = [name for name in names if columns[name].is_words]
        if len(strings) != 2:
            raise refuse("unknown-task", path=options.path, task="pair", reason=f"it has {len(strings)} columns of words, not two")
        result.kind, result.features = "pair", strings
    elif len(texts) == 1 and (not others or options.task == "text"):
        result.kind, result.features = "text", texts
    else:
        result.features = [name for name in names if name not in result.dropped]
    for name in result.features:
        result.dropped.pop(name, None)
    for name in names:
        if name not in result.features:
            result.dropped.setdefault(name, "not text")


def _seldom_repeats(column: Column) -> bool:
    """Whether a column of words has so many that each is read for what it says, not for which it is: of its cells most differ."""
    return column.role == "categorical" and column.values.nunique() > max(20, len(column.values) / 2)


# ------------------------------------------------------------------------------------------------ series


def _series_plan(
    frame: pd.DataFrame,
    columns: dict[str, Column],
    options: Options,
    target: list[str],
    group: str | None,
    time: str | None,
    rest: list[str],
) -> Plan | None:
    """Wide series, long series or a forecast, if the columns say so; None for rows that stand alone."""
    task = options.task
    if task in ("text", "pair", "table", "values"):
        return None
    numbered = wide_columns([name for name in rest if columns[name].role in ("numeric", "boolean", "constant")])
    if task in (None, "classes", "series") and len(numbered) >= 8 and time is None:
        left = [name for name in rest if name not in numbered and columns[name].role != "id"]
        label = target or [name for name in left if _may_be_class(columns[name])][:1]
        if label and label[0] not in numbered:
            return Plan("wide", label[:1], numbered, group=group)
    if task in (None, "classes", "series") and options.horizon is None:
        long = _long_plan(frame, columns, target, group, time, rest)
        if long is not None:
            return long
    moment = time or _found_time(columns, rest)
    if moment is None:
        if task == "forecast" or options.horizon is not None:
            numbers = [name for name in rest if columns[name].role == "numeric"]
            if not numbers:
                raise refuse("unknown-task", path=options.path, task="forecast", reason="it has no column of numbers")
            return Plan("forecast", target, numbers, group=group)
        return None
    values = [name for name in rest if columns[name].role == "numeric" and name != moment]
    others = [name for name in rest if columns[name].role in ("categorical", "text", "boolean") and name not in (moment, *target)]
    asked = task == "forecast" or options.horizon is not None or (time is not None and task is None)
    regular = _is_regular(columns[moment])
    numeric_target = all(columns[name].role == "numeric" for name in target)
    if values and (asked or (task is None and regular and not others and numeric_target)):
        return Plan("forecast", target, values, group=group, time=moment)
    return None


def wide_columns(names: list[str]) -> list[str]:
    """The longest run of columns named by consecutive numbers after one prefix (``t0, t1, …``), in that order."""
    runs: dict[str, list[tuple[int, str]]] = {}
    for name in names:
        match = _NUMBERED.match(name)
        if match:
            runs.setdefault((match.group(1) or "").lower(), []).append((int(match.group(2)), name))
    best: list[str] = []
    for run in runs.values():
        numbers = [number for number, _ in sorted(run)]
        if numbers == list(range(numbers[0], numbers[0] + len(numbers))) and len(run) > len(best):
            best = [name for _, name in sorted(run)]
    return best


def _may_be_class(column: Column) -> bool:
    if column.role in ("categorical", "boolean"):
        return True
    if column.role != "numeric":
        return False
    distinct = pd.unique(column.values.dropna())
    return len(distinct) <= FEW and bool((distinct == np.floor(distinct)).all())


def _long_plan(
    frame: pd.DataFrame, columns: dict[str, Column], target: list[str], group: str | None, time: str | None, rest: list[str]
) -> Plan | None:
    """Rows (id, time, value …, label): the id repeats, (id, time) does not, and the label is one an id."""
    ids = [group] if group else [name for name in rest if _SERIES_NAMES.match(name) or is_group_name(name)]
    times = [time] if time else [name for name in rest if columns[name].role == "date" or name.lower() in TIME_NAMES]
    for series in ids:
        for moment in times:
            if series == moment or series in target or frame[series].nunique() * 3 > len(frame) or frame[series].nunique() < 4:
                continue
            if frame.duplicated([series, moment]).any():
                continue
            others = [name for name in rest if name not in (series, moment)]
            labels = target or [name for name in others if name.lower() in TARGET_NAMES] or others[::-1]
            for label in labels:
                values = [name for name in others if name != label and columns[name].role in ("numeric", "boolean")]
                once = (frame.groupby(series)[label].nunique(dropna=False) == 1).all()
                if values and once and 1 < frame[label].nunique() < frame[series].nunique():
                    return Plan("long", [label], values, group=series, time=moment)
    return None


def _found_time(columns: dict[str, Column], names: list[str]) -> str | None:
    dates = [name for name in names if columns[name].role == "date"]
    if len(dates) == 1:
        return dates[0]
    named = [name for name in names if name.lower() in TIME_NAMES and columns[name].role in ("numeric", "id")]
    return named[0] if len(named) == 1 and not dates else None


def _is_regular(column: Column) -> bool:
    """Whether moments are distinct, in order and evenly spaced but for a few gaps (months differ by days)."""
    if column.missing().any() or len(column.values) < 24:
        return False
    numbers = column.values.astype("int64").to_numpy() if column.role == "date" else column.values.to_numpy(dtype="float64")
    steps = np.diff(numbers.astype("float64"))
    steps = -steps if (steps < 0).all() else steps
    if (steps <= 0).any():
        return False
    usual = float(np.median(steps))
    return bool((np.abs(steps - usual) <= 0.2 * usual).mean() >= 0.75)
