"""Folders: pictures, texts or recordings a sub-folder a class, pictures beside a table of labels, tables in pieces, series."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from assay.contracts import Class, SplitName, Task
from assay.tasks import images, reading, text
from assay.tasks.checks import SPLIT_NAMES, check_path, walk_files
from assay.tasks.options import Options
from assay.tasks.recognition import plan
from assay.tasks.recordings import are_recordings, open_recordings
from assay.tasks.roles import as_strings, detect
from assay.tasks.rules import note, refuse, some
from assay.tasks.splitting import PARTS, check_classes, split_codes
from assay.tasks.targets import Target, learn_target, without_missing

OpenFile = Callable[[Options], Task]
OpenFrame = Callable[[pd.DataFrame, Options], Task]
Parts = tuple[str, ...]
TEXTS = {".txt", ".text", ".md", ".rst"}
SERIES = {".ts", ".arff"}


@dataclass
class Labelled:
    """Files of class folders: relative paths, class of each, and 0/1/2 of each where the folder is divided."""

    files: list[str]
    labels: list[str]
    given: np.ndarray | None


def open_folder(options: Options, open_file: OpenFile, open_frame: OpenFrame) -> Task:
    """Recognise a folder by the files in it.

    Raises:
        UserError: it is empty, of no known kind, or a rule refuses what is inside.
    """
    files = list(walk_files(options.path))
    kinds = Counter(_kind(parts) for parts in files)
    if not any(kinds[kind] for kind in ("picture", "text", "table", "series")):
        if files and any(_suffix(parts) in (".graphml", ".pt") for parts in files) and len(files) == 1:
            return open_file(replace(options, path=options.path.joinpath(*files[0])))
        if files and len({parts[0] for parts in files if len(parts) > 1}) > 1:
            kinds["picture"] = 1  # sub-folders of files that are nothing known: say of the first what is wrong with it
        elif files:
            reason = f"it holds {some(['/'.join(parts) for parts in files], 3)}; put pictures, texts, tables, series or a graph into it"
            raise refuse("unknown-kind", path=options.path, reason=reason)
        else:
            raise refuse("empty-folder", path=options.path)
    if kinds["picture"]:
        return _open_pictures(files, options)
    if kinds["series"]:
        return _open_series(files, options, open_file)
    if kinds["text"] and (kinds["text"] >= kinds["table"] or any(len(parts) > 1 for parts in files if _kind(parts) == "text")):
        return _open_texts([parts for parts in files if _kind(parts) == "text"], options)
    return _open_tables([parts for parts in files if _kind(parts) == "table"], options, open_frame)


def class_folders(files: Sequence[Parts], options: Options, what: str, also: str = "") -> Labelled:
    """Files with the class and the part that their folders name; files at the top belong to no class and are passed over.

    Raises:
        UserError: no file lies in a class folder.
    """
    below = [parts for parts in files if len(parts) > 1]
    tops = {parts[0] for parts in below}
    divided = bool(tops) and all(top.lower() in SPLIT_NAMES for top in tops) and any(len(parts) > 2 for parts in below)
    labelled = [parts for parts in below if len(parts) > 2] if divided else below
    if not labelled:
        raise refuse("no-classes", path=options.path, count=len(files), what=what, also=also)
    if divided and len(labelled) < len(below):
        options.notes.append(f"{len(below) - len(labelled):,} {what} lie in no class folder and are left out.")
    given = None
    if divided:
        given = np.array([PARTS.index(SPLIT_NAMES[parts[0].lower()]) for parts in labelled])
        options.notes.append(f"The folders {some(sorted(tops))} divide the {what}, and they stay so.")
    _say_empty_classes(options, divided, {parts[: 1 + divided] for parts in labelled})
    return Labelled(["/".join(parts) for parts in labelled], [parts[divided] for parts in labelled], given)


def _say_empty_classes(options: Options, divided: bool, full: set[Parts]) -> None:
    pattern = "*/*" if divided else "*"
    empty = []
    for folder in sorted(options.path.glob(pattern)):
        parts = folder.relative_to(options.path).parts
        if folder.is_dir() and not folder.name.startswith(".") and parts not in full and not any(folder.iterdir()):
            empty.append("/".join(parts))
    if empty:
        one = len(empty) == 1
        options.notes.append(note("empty-class", folders=some(empty), verb="has" if one else "have", verb2="is" if one else "are"))


def _known_labels(files: Sequence[Parts], encoding: dict[str, Any]) -> list[str] | None:
    """The class of each file of new data, where a folder above each is called like one; None if none is.

    A file outside such folders gets the name of its folder, which is then refused as unknown.
    """
    known = set(encoding["labels"])
    named = [next((part for part in parts[:-1] if part in known), (parts[:-1] or parts)[-1]) for parts in files]
    return named if any(name in known for name in named) else None


def _class_target(labels: Sequence[str], path: object) -> Target:
    names = sorted(set(labels))
    place = {name: index for index, name in enumerate(names)}
    codes = np.array([place[label] for label in labels], dtype=np.int64)
    check_classes(codes, names, path, "its sub-folders")
    return Target(Class(len(names)), ["folder"], codes=codes, labels=names)


def _kind(parts: Parts) -> str:
    suffix = _suffix(parts)
    if suffix in images.SUFFIXES:
        return "picture"
    if suffix in TEXTS and parts[-1].upper().split(".")[0] not in ("README", "LICENSE", "LICENCE", "CHANGELOG"):
        return "text"
    if suffix in SERIES:
        return "series"
    return "table" if suffix in reading.SUFFIXES else "other"


def _suffix(parts: Parts) -> str:
    return os.path.splitext(parts[-1])[1].lower()


# ------------------------------------------------------------------------------------------------ pictures


def _open_pictures(files: list[Parts], options: Options) -> Task:
    tables = [parts for parts in files if _kind(parts) == "table"]
    for parts in tables:
        check_path(options.path.joinpath(*parts))
    listed = _picture_table(tables, files, options)
    if listed is not None:
        return _open_listed(*listed, files, options)
    if options.encoding is not None:
        _same(options, "images", "pictures")
        pictures = [parts for parts in files if _kind(parts) == "picture"]
        labels = _known_labels(pictures, options.encoding) if options.encoding["labels"] else None
        return images.read_picture_task(["/".join(parts) for parts in pictures], labels, options, options.encoding)
    candidates = [parts for parts in files if len(parts) > 1 or _kind(parts) == "picture"]
    also = ", or add a CSV with a column of file names and a column of labels"
    labelled = class_folders(candidates, options, "pictures", also)
    options.given = labelled.given
    return images.picture_task(labelled.files, _class_target(labelled.labels, options.path), options)


def _picture_table(tables: Sequence[Parts], files: Sequence[Parts], options: Options) -> tuple[pd.DataFrame, str, str] | None:
    """The rows of the tables that name pictures, the column that does, and the tables' names; sets ``options.given``."""
    names = _picture_names(files)
    found: list[tuple[pd.DataFrame, str, Parts]] = []
    for parts in tables:
        frame = reading.read_frame(options.path.joinpath(*parts), options.notes)
        named = {column: _pictures_named(as_strings(frame[column]), names) for column in frame.columns}
        column = max(named, key=lambda name: named[name])
        if named[column] >= 0.5 * len(frame):
            found.append((frame, column, parts))
    if not found:
        return None
    frame = pd.concat([frame for frame, _, _ in found], ignore_index=True)
    parts_of = [SPLIT_NAMES.get(parts[-1].split(".")[0].lower()) for _, _, parts in found]
    if len(found) > 1 and all(parts_of):
        codes = [PARTS.index(part) for part in parts_of if part]
        options.given = np.repeat(codes, [len(frame) for frame, _, _ in found])
    return frame, found[0][1], ", ".join("/".join(parts) for _, _, parts in found)


def _picture_names(files: Sequence[Parts]) -> dict[str, str]:
    """Every way in which a table may name a picture → its relative path: whole, name alone, without ending, or as a number."""
    names: dict[str, str] = {}
    pictures = [parts for parts in files if _kind(parts) == "picture"]
    stems = {os.path.splitext(parts[-1])[0]: "/".join(parts) for parts in pictures}
    names.update({str(int(stem)): path for stem, path in stems.items() if stem.isascii() and stem.isdigit()})  # 00012 reads as 12
    for shorten in (lambda parts: os.path.splitext(parts[-1])[0], lambda parts: parts[-1], lambda parts: "/".join(parts)):
        names.update({shorten(parts): "/".join(parts) for parts in pictures})
    return names


def _pictures_named(values: pd.Series, names: dict[str, str]) -> int:
    """How many different pictures a column names; a column of labels may look like names of pictures, but of few."""
    return len({names[_normal(value)] for value in values.dropna().unique() if _normal(value) in names})


def _normal(value: str) -> str:
    return value.replace("\\", "/").removeprefix("./")


def _open_listed(frame: pd.DataFrame, column: str, table: str, files: list[Parts], options: Options) -> Task:
    names = _picture_names(files)
    paths = as_strings(frame[column]).map(lambda value: None if value is None else names.get(_normal(value)))
    lost = paths.isna().to_numpy()
    if lost.any():
        row = int(lost.argmax())
        file = str(frame[column].iloc[row])
        raise refuse("picture-not-found", path=table, row=row + 1, file=file, folder=options.path, count=int(lost.sum()))
    unlisted = sorted(set(names.values()) - set(paths))
    if unlisted:
        options.notes.append(note("unlisted-pictures", count=len(unlisted), table=table, file=unlisted[0]))
    rest = frame.drop(columns=column)
    if options.encoding is not None:
        return _read_listed(rest, list(paths), options, options.encoding)
    if rest.shape[1] == 0:
        raise refuse("no-classes", path=options.path, count=len(paths), what="pictures", also=f", or add a column of labels to {table}")
    chosen = plan(rest, detect(rest), replace(options, task="table"))
    rows, notes = without_missing(rest, chosen.target)
    kept = rest.iloc[rows].reset_index(drop=True)
    options.notes.extend([*chosen.notes, *notes])
    if chosen.split:
        options.given = split_codes(list(kept[chosen.split]))
    elif options.given is not None:
        options.given = options.given[rows]
    target = learn_target(kept, chosen.target, options.task, options.path)
    groups = pd.factorize(kept[chosen.group])[0] if chosen.group else None
    return images.picture_task([paths.iloc[row] for row in rows], target, options, groups)


def _read_listed(rest: pd.DataFrame, paths: list[str], options: Options, encoding: dict[str, Any]) -> Task:
    _same(options, "images", "pictures")
    columns = [name for name in encoding["target"]["names"] if name in rest.columns]
    if len(columns) != len(encoding["target"]["names"]) or bool(rest[columns].isna().to_numpy().any()):
        return images.read_picture_task(paths, None, options, encoding)
    if encoding["target"]["kind"] == "class":
        return images.read_picture_task(paths, list(as_strings(rest[columns[0]])), options, encoding)
    return images.read_picture_task(paths, None, options, encoding, rest[columns].to_numpy(dtype="float64"))


# ------------------------------------------------------------------------------------------------ texts, tables, series


def _open_texts(files: list[Parts], options: Options) -> Task:
    for parts in files:
        check_path(options.path.joinpath(*parts))
    flat = all(len(parts) == 1 for parts in files)
    names = ["/".join(parts) for parts in files]
    if options.encoding is not None:
        if options.encoding.get("opener") == "next-token":
            return text.read_next_token_task([text.read_text(options.path / name) for name in names], options, options.encoding)
        _same(options, "text-files", "text files")
        return text.read_text_files_task(names, _known_labels(files, options.encoding), options, options.path, options.encoding)
    if flat or options.task == "next-token":
        if options.task not in (None, "next-token"):
            raise refuse("no-classes", path=options.path, count=len(files), what="text files", also="")
        if len(files) > 1:
            options.notes.append(f"{len(files):,} files without class folders are read as one text, in the order of their names.")
        return text.next_token_task([text.read_text(options.path / name) for name in names], options)
    labelled = class_folders(files, options, "text files")
    options.given = labelled.given
    return text.text_files_task(labelled.files, _class_target(labelled.labels, options.path), options)


def _open_tables(files: list[Parts], options: Options, open_frame: OpenFrame) -> Task:
    """One table; or a recording each; or train/validation/test in files of those names; or pieces with the same columns."""
    frames = {parts: reading.read_frame(options.path.joinpath(*parts), options.notes) for parts in files}
    named = {"/".join(parts): frame for parts, frame in frames.items()}
    if options.encoding is not None and options.encoding.get("opener") == "recordings":
        return open_recordings(named, _known_labels(files, options.encoding), None, options)
    if options.encoding is None and are_recordings(named, options):
        labelled = class_folders(files, options, "recordings")
        return open_recordings({name: named[name] for name in labelled.files}, labelled.labels, labelled.given, options)
    if len(frames) == 1:
        return open_frame(frames[files[0]], replace(options, path=options.path.joinpath(*files[0])))
    part_of: dict[Parts, SplitName | None] = {
        parts: SPLIT_NAMES.get(Path(parts[-1]).stem.lower()) or SPLIT_NAMES.get(parts[0].lower()) for parts in files
    }
    if all(part_of.values()):
        frames = _without_unlabelled(frames, part_of, options)
    first, names = next(iter(frames)), ["/".join(parts) for parts in frames]
    differing = next((parts for parts, frame in frames.items() if set(frame.columns) != set(frames[first].columns)), None)
    if differing is not None:
        reason = f"its tables {names[0]} and {'/'.join(differing)} have different columns; name one of {some(names)}"
        raise refuse("unknown-kind", path=options.path, reason=reason)
    if len(frames) > 1 and all(part_of.values()):
        options.given = np.repeat([PARTS.index(part_of[parts] or "train") for parts in frames], [len(frame) for frame in frames.values()])
        options.notes.append(f"The files {', '.join(names)} divide the rows, and they stay so.")
    elif len(frames) > 1:
        options.notes.append(f"{len(names)} tables with the same columns are read as one: {some(names)}.")
    return open_frame(pd.concat(list(frames.values()), ignore_index=True), options)


def _without_unlabelled(
    frames: dict[Parts, pd.DataFrame], part_of: dict[Parts, SplitName | None], options: Options
) -> dict[Parts, pd.DataFrame]:
    """Leave out a validation or test table that lacks a column of the training table: its answers are withheld."""
    training = next((set(frame.columns) for parts, frame in frames.items() if part_of[parts] == "train"), set())
    kept = {}
    for parts, frame in frames.items():
        if part_of[parts] != "train" and set(frame.columns) < training:
            lacking = some(sorted(training - set(frame.columns)))
            options.notes.append(f"{'/'.join(parts)} has no column {lacking} and is left out: `assay predict` can read it.")
        else:
            kept[parts] = frame
    return kept


def _open_series(files: list[Parts], options: Options, open_file: OpenFile) -> Task:
    """The one series file, or the training file of a pair whose test file lies beside it."""
    series = [options.path.joinpath(*parts) for parts in files if _kind(parts) == "series"]
    training = [path for path in series if "train" in path.stem.lower()]
    chosen = sorted(training or series, key=lambda path: (path.suffix != ".ts", str(path)))
    stems = {path.stem for path in chosen}
    if len(stems) > 1:
        reason = f"it holds {len(stems)} series files; name one of {some(sorted(str(path.name) for path in chosen))}"
        raise refuse("unknown-kind", path=options.path, reason=reason)
    return open_file(replace(options, path=chosen[0]))


def _same(options: Options, wanted: str, found: str) -> None:
    if options.encoding is not None and options.encoding.get("opener") != wanted:
        raise refuse("wrong-kind", path=options.path, found=found, wanted=f"data of the kind {options.encoding.get('opener')!r}")
