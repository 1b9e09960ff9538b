"""A plain table becomes a task: rows of standardised numbers to a class or to values."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
import torch

from assay.contracts import Batch, Class, Signature, SplitName, Table
from assay.tasks.base import ArrayTask
from assay.tasks.encoders import Spec, encode, learn
from assay.tasks.options import Options
from assay.tasks.recognition import Plan
from assay.tasks.roles import Column, parse_as
from assay.tasks.rules import counted, note, refuse, some
from assay.tasks.splitting import contradictions, divide, row_fingerprints, split_codes
from assay.tasks.targets import Target, learn_target, read_target, without_missing


def table_task(frame: pd.DataFrame, columns: dict[str, Column], plan: Plan, options: Options) -> ArrayTask:
    """A task from a table whose rows stand alone.

    Raises:
        UserError: no feature is left, or a rule of `assay.tasks.rules` refuses the target or a value.
    """
    if not plan.features:
        dropped = some([f"{name} ({why})" for name, why in plan.dropped.items()]) or "none"
        raise refuse("no-features", path=options.path, column=plan.target[0], dropped=dropped)
    rows, target, splits, notes = divide_rows(frame, plan, options, plan.features, repeats_are_natural=True)
    used = {name: _take(columns[name], rows) for name in plan.features}
    specs: list[Spec] = []
    for column in used.values():
        spec, said = learn(column, splits["train"], options.path)
        specs.append(spec)
        notes.extend(said)
    notes.extend(_equal_to_target(used, target, plan))
    if plan.dropped:
        notes.append(note("dropped-columns", columns=", ".join(f"{name!r} ({why})" for name, why in plan.dropped.items())))
    table = torch.from_numpy(_matrix(specs, used, options.path, len(rows)))
    whole = target.tensor()
    tensors: dict[SplitName, Batch] = {name: {"table": table[index], "target": whole[index]} for name, index in _as_tensors(splits).items()}
    encoding = {"opener": "table", "columns": specs, "target": target.to_json(), "labels": target.labels, "group": plan.group}
    return ArrayTask(
        options.name,
        Signature(Table(table.shape[1]), target.output),
        tensors,
        description=f"{len(frame):,} rows, {counted(len(used), 'column')} ({roles_in_words(specs)}), {target.words()}",
        notes=[*options.notes, *plan.notes, *notes, *target.notes(splits)],
        encoding=encoding,
        groups=group_codes(frame, plan.group, rows, splits),
        source={"kind": "table", "names": row_names(rows, splits["test"])},
    )


def read_table_task(frame: pd.DataFrame, options: Options, encoding: dict[str, Any]) -> ArrayTask:
    """New rows, read as the encoding says; all of them are test examples.

    Raises:
        UserError: a column is missing, or a label is unknown.
    """
    specs: list[Spec] = encoding["columns"]
    rows, target, notes = read_rows(frame, encoding, options, [spec["name"] for spec in specs])
    frame = frame.iloc[rows].reset_index(drop=True)
    columns = {spec["name"]: parse_as(spec["name"], frame[spec["name"]], spec["role"], spec["detail"]) for spec in specs}
    for spec in specs:
        notes.extend(columns[spec["name"]].notes)
    table = torch.from_numpy(_matrix(specs, columns, options.path, len(rows)))
    tensors = {"table": table} if target is None else {"table": table, "target": target.tensor()}
    output = encoded_output(encoding)
    return ArrayTask(
        options.name,
        Signature(Table(table.shape[1]), output),
        {"test": tensors},
        description=f"{len(rows):,} new rows{'' if target is not None else ' without target'}",
        notes=[*options.notes, *notes],
        encoding=encoding,
        groups=new_groups(frame, encoding),
        source={"kind": "table", "names": row_names(rows, np.arange(len(rows)))},
    )


# ------------------------------------------------------------------------------------------------ shared with text and pairs


def divide_rows(
    frame: pd.DataFrame, plan: Plan, options: Options, inputs: list[str], repeats_are_natural: bool = False
) -> tuple[np.ndarray, Target, dict[SplitName, np.ndarray], list[str]]:
    """Rows with a target, the target, the parts (indices into those rows), and what is said.

    Raises:
        UserError: a rule refuses the target or the division.
    """
    rows, notes = without_missing(frame, plan.target)
    if len(rows) == 0:
        raise refuse("unusable-target", path=options.path, column=plan.target[0], reason="it is empty")
    kept = frame if len(rows) == len(frame) else frame.iloc[rows].reset_index(drop=True)
    target = learn_target(kept, plan.target, _output_task(options), options.path)
    fingerprints = row_fingerprints(kept.loc[:, inputs])
    given = options.given[rows] if options.given is not None else None
    if plan.split is not None:
        given = split_codes(list(kept[plan.split]))
        if given is None:
            raise refuse("bad-split", path=options.path, found=some([str(value) for value in kept[plan.split].unique()]))
        notes.append(f"Column {plan.split!r} divides the rows into training, validation and test.")
    groups = pd.factorize(kept[plan.group])[0] if plan.group else None
    splits, said = divide(
        len(kept),
        path=options.path,
        seed=options.seed,
        labels=target.codes,
        groups=groups,
        given=given,
        fingerprints=fingerprints,
        repeats_are_natural=repeats_are_natural,
    )
    target.standardise(splits["train"])
    if target.codes is not None:
        said.extend(contradictions(fingerprints, target.codes))
    return rows, target, splits, [*notes, *said]


def read_rows(
    frame: pd.DataFrame, encoding: dict[str, Any], options: Options, inputs: list[str]
) -> tuple[np.ndarray, Target | None, list[str]]:
    """Rows of new data, their target if they have one, and what is said.

    Raises:
        UserError: a column is missing, or a label is unknown.
    """
    for name in inputs:
        if name not in frame.columns:
            raise refuse("lost-column", path=options.path, column=name, names=some(list(frame.columns), 12))
    names = encoding["target"]["names"]
    if any(name not in frame.columns or frame[name].isna().all() for name in names):
        return np.arange(len(frame)), None, []
    rows, notes = without_missing(frame, names)
    return rows, read_target(frame.iloc[rows].reset_index(drop=True), encoding, options.path), notes


def encoded_output(encoding: dict[str, Any]) -> Any:
    """The output kind that an encoding's target implies."""
    from assay.contracts import Values

    return Class(len(encoding["labels"])) if encoding["target"]["kind"] == "class" else Values(len(encoding["target"]["names"]))


def group_codes(
    frame: pd.DataFrame, group: str | None, rows: np.ndarray, splits: dict[SplitName, np.ndarray]
) -> dict[SplitName, np.ndarray] | None:
    """The group of every example of each part, as integers; None without a group column."""
    if group is None:
        return None
    codes = pd.factorize(frame[group].iloc[rows])[0]
    return {name: codes[index] for name, index in splits.items()}


def new_groups(frame: pd.DataFrame, encoding: dict[str, Any]) -> dict[SplitName, np.ndarray] | None:
    """The groups of new rows, if the table has the column."""
    group = encoding.get("group")
    return {"test": pd.factorize(frame[group])[0]} if group and group in frame.columns else None


def row_names(rows: np.ndarray, index: np.ndarray) -> list[str]:
    """``row 12`` as the report names examples; the header is not counted."""
    return [f"row {row}" for row in (rows[index] + 1).tolist()]


def roles_in_words(specs: list[Spec]) -> str:
    """``3 numeric, 1 categorical``."""
    counts = Counter(spec["role"] for spec in specs)
    return ", ".join(f"{count} {role}" for role, count in counts.most_common())


def _output_task(options: Options) -> str | None:
    return options.task if options.task in ("classes", "values") else None


def _take(column: Column, rows: np.ndarray) -> Column:
    if len(rows) == len(column.values):
        return column
    return Column(column.name, column.role, column.values.iloc[rows].reset_index(drop=True), column.detail, column.notes)


def _matrix(specs: list[Spec], columns: dict[str, Column], path: object, count: int) -> np.ndarray:
    """(rows, features) float32: each column writes its own slice."""
    matrix = np.empty((count, sum(spec["width"] for spec in specs)), dtype=np.float32)
    start = 0
    for spec in specs:
        encode(spec, columns[spec["name"]], path, matrix[:, start : start + spec["width"]])
        start += spec["width"]
    return matrix


def _as_tensors(splits: dict[SplitName, np.ndarray]) -> dict[SplitName, torch.Tensor]:
    return {name: torch.from_numpy(index) for name, index in splits.items()}


def _equal_to_target(columns: dict[str, Column], target: Target, plan: Plan) -> list[str]:
    """A warning for each column that determines the target alone: equal, a linear function of it, or one value a class."""
    notes = []
    for column in columns.values():
        if column.role in ("text", "date") or not _determines(column, target):
            continue
        notes.append(note("feature-equals-target", column=column.name, target=plan.target[0]))
    return notes


def _determines(column: Column, target: Target) -> bool:
    if target.codes is not None:
        sample = slice(0, 2_000)  # most columns fail here already
        return _one_to_one(column.values.iloc[sample], target.codes[sample]) and _one_to_one(column.values, target.codes)
    if column.role == "categorical" or target.values is None:
        return False
    values = column.values.to_numpy(dtype="float64")
    usable = ~np.isnan(values)
    if usable.sum() < 3 or np.ptp(values[usable]) == 0:
        return False
    return any(_proportional(values[usable], one[usable]) for one in target.values.T)


def _one_to_one(values: pd.Series, codes: np.ndarray) -> bool:
    frame = pd.DataFrame({"value": pd.factorize(values)[0], "code": codes})
    pairs = len(frame.drop_duplicates())
    return pairs == frame["value"].nunique() == frame["code"].nunique() and pairs > 1


def _proportional(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether one is a linear function of the other, up to rounding."""
    head = slice(0, 100)
    for part in (head, slice(None)):
        a, b = first[part], second[part]
        a, b = a - a.mean(), b - b.mean()
        scale = float(np.sqrt((a * a).sum() * (b * b).sum()))
        if scale > 0 and abs(abs(float((a * b).sum())) / scale - 1) > 1e-9:
            return False
    return True
