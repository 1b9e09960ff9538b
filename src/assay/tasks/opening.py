"""The one way in: recognise what a file, a folder or a name is, and make a task of it."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from assay import registry
from assay.contracts import Task
from assay.errors import UserError
from assay.tasks import hub, images, reading, text
from assay.tasks.checks import check_path
from assay.tasks.encoders import finite
from assay.tasks.folders import open_folder
from assay.tasks.options import Options
from assay.tasks.recognition import Plan, plan, wide_columns
from assay.tasks.recordings import open_recordings
from assay.tasks.roles import Column, detect
from assay.tasks.rules import refuse
from assay.tasks.tables import read_table_task, table_task

KINDS = ("classes", "values", "text", "pair", "next-token", "forecast", "series", "table", "events", "decisions")
TEXT_SUFFIXES = {".txt", ".text", ".md", ".rst", ".log"}
SERIES_SUFFIXES = {".ts", ".arff"}
_OTHER_TABLES = {".xlsx", ".xls", ".ods"}
_EDGE_LISTS = {"edges", "links", "edge_list", "edgelist"}
_IN_WORDS = {
    "table": "a table",
    "text": "a table with a column of text",
    "pair": "a table with two columns of text",
    "images": "pictures",
    "text-files": "text files",
    "next-token": "a text",
    "forecast": "a table to forecast",
    "wide": "a table of series",
    "long": "a table of series",
    "ts": "series",
    "recordings": "tables of one series each",
    "graph": "a graph",
    "events": "a table of events",
    "decisions": "logged decisions",
}


def open(
    path_or_name: str | Path,
    *,
    task: str | None = None,
    target: str | None = None,
    group: str | None = None,
    time: str | None = None,
    horizon: int | None = None,
    tokenizer: str | None = None,
    seed: int = 0,
    encoding: dict[str, Any] | None = None,
    maximum_size: int = 64,
    maximum_length: int = 512,
) -> Task:
    """Open data of any kind that is known, say in ``task.description`` what it is, and in ``task.notes`` what was mended.

    Args:
        path_or_name: a built-in task's name ("digits"), a file, a folder, or ``hub:NAME`` of a Hugging Face data set.
        task: what to make of it, where the data leave it open: one of ``KINDS``.
        target: the column to predict; several of numbers, divided by commas.
        group: the column that says which rows belong together and must not be divided.
        time: the column of moments.
        horizon: steps of a forecast.
        tokenizer: a ``tokenizer.json``; without it (and none beside the data) text is read as bytes.
        seed: of the division into parts.
        encoding: ``task.encoding`` of an earlier task: new data are then read identically, all of them as test examples.
        maximum_size: pictures with a longer side are made smaller.
        maximum_length: texts longer than that (bytes or tokens) are cut.

    Raises:
        UserError: the data cannot be used; one sentence says what, where and what to do.
    """
    name = str(path_or_name)
    if task is not None and task not in KINDS:
        near = difflib.get_close_matches(task, KINDS, n=1)
        raise refuse(
            "unknown-task", path=name, task=task, reason=f"did you mean {near[0]}?" if near else f"it must be one of {', '.join(KINDS)}"
        )
    if isinstance(path_or_name, str) and (registry.known("task", name) or registry.is_file_reference(name)):
        return _built_in(
            name, {"task": task, "target": target, "group": group, "time": time, "horizon": horizon, "tokenizer": tokenizer}, seed
        )
    options = Options(
        Path(name).expanduser() if not name.startswith(hub.PREFIX) else Path(name),
        task=task,
        target=target,
        group=group,
        time=time,
        horizon=horizon,
        tokenizer=tokenizer,
        seed=seed,
        encoding=encoding,
        maximum_size=maximum_size,
        maximum_length=maximum_length,
    )
    if name.startswith(hub.PREFIX):
        return _open_hub(options)
    _check_exists(options.path, name)
    return _open_directory(options) if options.path.is_dir() else open_file(options)


def _built_in(name: str, asked: dict[str, Any], seed: int) -> Task:
    maker: Callable[..., Task] = registry.resolve("task", name)
    takes = inspect.signature(maker).parameters
    given = {option: value for option, value in asked.items() if value is not None}
    for option in given:
        if option not in takes:
            raise refuse("unused-option", built_in=name, option=option)
    return maker(**given, **({"seed": seed} if "seed" in takes else {}))


def _check_exists(path: Path, name: str) -> None:
    """As `check_path`, offering the names of built-in tasks beside those of files."""
    try:
        check_path(path)
    except UserError:
        near = difflib.get_close_matches(name, registry.names("task"), n=1, cutoff=0.7)
        if near and not path.exists() and not path.is_symlink() and len(path.parts) == 1:
            raise refuse("missing-path", path=path, near=f"did you mean the built-in {near[0]}?") from None
        raise


# ------------------------------------------------------------------------------------------------ files


def open_file(options: Options) -> Task:
    """Open one file by its ending.

    Raises:
        UserError: it is of no known kind, or a rule refuses it.
    """
    path, suffix = options.path, options.path.suffix.lower()
    check_path(path)
    if suffix == ".npz" or "decisions" in (options.task, _opener(options)):
        return open_log(options)
    if options.encoding is not None and _opener(options) == "next-token":
        return text.read_next_token_task([text.read_text(path)], options, options.encoding)
    if suffix == reading.ATTRIBUTES and not _declares_series(path):
        return open_frame(reading.read_frame(path, options.notes), options)
    if suffix in SERIES_SUFFIXES or (suffix == ".tsv" and path.stem.upper().endswith(("_TRAIN", "_TEST"))):  # the UCR archive's form
        return open_series(path, "ts", options)
    if suffix in reading.SUFFIXES and path.stem.lower() in _EDGE_LISTS and _lies_in_graph_folder(path):
        return open_graph(path.parent, "edge-list", options)
    if suffix in reading.SUFFIXES and options.task != "next-token":
        return open_frame(reading.read_frame(path, options.notes), options)
    if suffix == ".graphml":
        return open_graph(path, "graphml", options)
    if suffix in (".pt", ".pth"):
        return open_graph(path, "pyg", options)
    if suffix in images.SUFFIXES:
        return _one_picture(options)
    if suffix in TEXT_SUFFIXES or options.task == "next-token":
        return _one_text(options)
    reason = "save it as CSV or Parquet" if suffix in _OTHER_TABLES else _what_can_be_opened()
    raise refuse("unknown-kind", path=path, reason=reason)


def _declares_series(path: Path) -> bool:
    """Whether an ARFF file's attributes are the steps of one series a row: relational, or numbers that are counted through."""
    attributes = reading.attributes_of(path)
    numbers = [name for name, kind in attributes.items() if kind in ("numeric", "real", "integer")]
    return "relational" in attributes.values() or wide_columns(numbers) == numbers


def _lies_in_graph_folder(path: Path) -> bool:
    from assay.tasks import graphs

    return graphs.looks_like_graph_folder(path.parent)


def _what_can_be_opened() -> str:
    tables = ", ".join(sorted(reading.SUFFIXES))
    return f"name a table ({tables}), a text (.txt), series (.ts, .arff), a graph (.graphml, .pt) or a folder"


def _one_picture(options: Options) -> Task:
    if options.encoding is None:
        also = ", or name a folder that has a CSV of files and labels"
        raise refuse("no-classes", path=options.path, count=1, what="picture", also=also)
    _same_kind(options, "images", "a picture")
    return images.read_picture_task([options.path.name], None, options, options.encoding)


def _one_text(options: Options) -> Task:
    if options.encoding is None:
        if options.task not in (None, "next-token"):
            raise refuse(
                "unknown-task", path=options.path, task=options.task, reason="one text is read as next-token; classes need a folder each"
            )
        return text.next_token_task([text.read_text(options.path)], options)
    _same_kind(options, "text-files", "a text")
    return text.read_text_files_task([options.path.name], None, options, options.path.parent, options.encoding)


# ------------------------------------------------------------------------------------------------ folders


def _open_directory(options: Options) -> Task:
    from assay.tasks import graphs

    if "decisions" in (options.task, _opener(options)) or (any(options.path.glob("*.npz")) and options.task is None):
        return open_log(options)
    if hub.is_saved_dataset(options.path):
        return _open_hub(options)
    if graphs.looks_like_graph_folder(options.path):
        return open_graph(options.path, "edge-list", options)
    return open_folder(options, open_file, open_frame)


def _open_hub(options: Options) -> Task:
    read = hub.read_hub(options)
    return open_frame(read, options) if isinstance(read, pd.DataFrame) else read


# ------------------------------------------------------------------------------------------------ tables


def open_frame(frame: pd.DataFrame, options: Options) -> Task:
    """Make of a table what its columns say (or ``--task`` says): rows, text, pairs, series or a forecast.

    Raises:
        UserError: a rule refuses it.
    """
    if "events" in (options.task, _opener(options)):
        return open_event_frame(frame, options)
    if options.encoding is not None:
        return _read_frame(frame, options, options.encoding)
    if options.task == "next-token":
        raise refuse("unknown-task", path=options.path, task="next-token", reason="it is a table; name a text (.txt)")
    columns = detect(frame)
    chosen = plan(frame, columns, options)
    if chosen.kind == "table":
        return table_task(frame, columns, chosen, options)
    if chosen.kind in ("text", "pair"):
        return text.text_table_task(frame, chosen, options)
    return _open_series_frame(frame, columns, chosen, options)


def _read_frame(frame: pd.DataFrame, options: Options, encoding: dict[str, Any]) -> Task:
    opener = _opener(options)
    if opener == "table":
        return read_table_task(frame, options, encoding)
    if opener in ("text", "pair"):
        return text.read_text_table_task(frame, options, encoding)
    if opener == "recordings":
        return open_recordings({options.path.name: frame}, None, None, options)
    if opener in ("forecast", "wide", "long"):
        columns = detect(frame)
        return _finished(_series_opener(opener)(_parsed(frame, columns, list(columns), options), options), opener, options)
    raise refuse("wrong-kind", path=options.path, found="a table", wanted=_IN_WORDS.get(opener, opener))


def _open_series_frame(frame: pd.DataFrame, columns: dict[str, Column], chosen: Plan, options: Options) -> Task:
    parsed = _parsed(frame, columns, [*chosen.features, *([chosen.time] if chosen.time else [])], options)
    planned = dataclasses.replace(options, target=",".join(chosen.target) or None, group=chosen.group, time=chosen.time)
    options.notes.extend(chosen.notes)
    return _finished(_series_opener(chosen.kind)(parsed, planned), chosen.kind, options)


def _parsed(frame: pd.DataFrame, columns: dict[str, Column], names: list[str], options: Options) -> pd.DataFrame:
    """The frame with the named columns of numbers and dates parsed, and every number checked to be finite."""
    frame = frame.copy(deep=False)
    for name in names:
        column = columns[name]
        if column.role in ("numeric", "boolean") and not pd.api.types.is_integer_dtype(frame[name].dtype):
            frame[name] = finite(column, options.path)
            options.notes.extend(column.notes)
        elif column.role == "date":
            frame[name] = column.values
            options.notes.extend(column.notes)
    return frame


def _series_opener(kind: str) -> Callable[[pd.DataFrame, Options], Task]:
    from assay.tasks import series

    return {"forecast": series.open_forecast, "wide": series.open_wide, "long": series.open_long}[kind]


def open_event_frame(frame: pd.DataFrame, options: Options) -> Task:
    """Open a table with one event a row: its case, time and mark."""
    from assay.tasks import events

    columns = detect(frame)
    time = options.time or "time"
    parsed = _parsed(frame, columns, [time] if time in columns else [], options)
    return _finished(events.open_events(parsed, options), "events", options)


def open_log(options: Options) -> Task:
    """Open logged decisions: an ``.npz`` or a folder of them."""
    from assay.tasks import decisions

    _same_kind(options, "decisions", "logged decisions")
    return _finished(decisions.open_decisions(options.path, options), "decisions", options)


def open_series(path: Path, kind: str, options: Options) -> Task:
    """Open a ``.ts`` or ``.arff`` file."""
    from assay.tasks import series

    _same_kind(options, kind, "series")
    return _finished(series.open_ts(path, options), kind, options)


def open_graph(path: Path, kind: str, options: Options) -> Task:
    """Open a graph: a folder with a list of edges, GraphML, or PyTorch Geometric's data."""
    from assay.tasks import graphs

    if options.encoding is not None and _opener(options) != "graph":
        raise refuse("wrong-kind", path=path, found="a graph", wanted=_IN_WORDS.get(_opener(options), _opener(options)))
    opener = {"edge-list": graphs.open_edge_list, "graphml": graphs.open_graphml, "pyg": graphs.open_pyg}[kind]
    return _finished(opener(path, options), kind, options)


def _finished(task: Task, opener: str, options: Options) -> Task:
    """A task of another room, with what was said on the way and the opener that reads further data."""
    task.notes = [*options.notes, *task.notes]
    task.encoding.setdefault("opener", opener)
    return task


def _opener(options: Options) -> str:
    return str((options.encoding or {}).get("opener", ""))


def _same_kind(options: Options, wanted: str, found: str) -> None:
    """Refuse new data of another kind than the model was trained on."""
    if options.encoding is not None and _opener(options) != wanted:
        raise refuse("wrong-kind", path=options.path, found=found, wanted=_IN_WORDS.get(_opener(options), "other data"))
