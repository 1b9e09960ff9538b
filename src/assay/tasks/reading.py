"""Tables from disk: CSV, TSV, JSON Lines, JSON, Parquet and ARFF into one pandas frame, with the row and line of whatever is wrong."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd

from assay.errors import require
from assay.tasks.checks import check_path, check_text
from assay.tasks.rules import note, refuse

DELIMITED = {".csv", ".tsv", ".tab"}
JSON = {".jsonl", ".ndjson", ".json"}
PARQUET = {".parquet", ".pq"}
ATTRIBUTES = ".arff"
SUFFIXES = DELIMITED | JSON | PARQUET
MISSING = ["", "NA", "N/A", "n/a", "#N/A", "NaN", "nan", "-NaN", "-nan", "null", "NULL", "None", "none", "<NA>", "?"]
_ATTRIBUTE = re.compile(r"""^\s*@attribute\s+('[^']*'|"[^"]*"|\S+)\s+(\S+)""", re.IGNORECASE | re.MULTILINE)
_NUMBER = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*")


def read_frame(path: Path, notes: list[str]) -> pd.DataFrame:
    """Read a table by its ending; what was mended is added to ``notes``.

    Raises:
        UserError: empty, ragged, not UTF-8, not what its ending says, or without rows.
    """
    check_path(path)
    suffix = path.suffix.lower()
    if suffix in DELIMITED:
        frame = _read_delimited(path, notes)
    elif suffix in PARQUET:
        frame = _read_parquet(path)
    elif suffix == ATTRIBUTES:
        frame = _read_attributes(path)
    else:
        frame = _read_json(path)
    if len(frame) == 0 or frame.shape[1] == 0:
        raise refuse("no-rows", path=path)
    frame.columns = _unique_names([_tidy_name(name) or f"column{index}" for index, name in enumerate(frame.columns, 1)], notes)
    return frame.reset_index(drop=True)


# ------------------------------------------------------------------------------------------------ ARFF


def attributes_of(path: Path) -> dict[str, str]:
    """The attributes that an ARFF file declares, and their types in lower case, such as ``numeric``, ``{yes,no}`` or ``relational``."""
    header = re.split(r"^\s*@data", path.read_text("utf-8", errors="replace"), maxsplit=1, flags=re.IGNORECASE | re.MULTILINE)[0]
    return {name.strip("'\""): kind.lower() for name, kind in _ATTRIBUTE.findall(header)}


def _read_attributes(path: Path) -> pd.DataFrame:
    from scipy.io import arff

    check_text(path.read_bytes(), path)
    try:
        rows, _ = arff.loadarff(io.StringIO(path.read_text("utf-8-sig")))
    except Exception as error:  # its parser raises ValueError, StopIteration, NotImplementedError, ParseArffError …
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise refuse("broken-table", path=path, what="an ARFF table", reason=reason) from error
    frame = pd.DataFrame(rows)
    for name in frame.select_dtypes(object).columns:
        words = frame[name].str.decode("utf-8")
        frame[name] = words.where(~words.isin(MISSING), None)
    return frame


# ------------------------------------------------------------------------------------------------ CSV


def _read_delimited(path: Path, notes: list[str]) -> pd.DataFrame:
    with path.open("rb") as file:
        head = file.read(1 << 16)
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        check_text(head, path)
    text = head.decode("utf-8-sig", errors="replace")
    if not text.strip():
        raise refuse("no-rows", path=path)
    delimiter = "\t" if path.suffix.lower() != ".csv" else sniff_delimiter(text)
    rows = list(csv.reader(io.StringIO(text[:20_000], newline=""), delimiter=delimiter))
    rows = [row for row in rows[: max(1, len(rows) - (len(text) > 20_000))] if row]
    header = has_header(rows)
    names = rows[0] if header else [f"column{index + 1}" for index in range(len(rows[0]))]
    if not header:
        notes.append(note("no-header", count=len(names)))
    decimal = "," if delimiter == ";" and _decimal_commas(rows[1:]) else "."
    frame = _read_with_arrow(path, delimiter, decimal, header, names)
    if frame is None:
        check_structure(path, delimiter, len(names), header)
        frame = _read_with_pandas(path, delimiter, decimal, header, names)
    _refuse_open_quote(frame, path)
    return frame


def _refuse_open_quote(frame: pd.DataFrame, path: Path) -> None:
    """A quotation mark that is never closed swallows the rest of the file into the last row's cell."""
    if len(frame) == 0 or not any(isinstance(cell, str) and "\n" in cell for cell in frame.iloc[-1]):
        return
    if path.read_bytes().count(b'"') % 2:
        reason = f"a quotation mark in row {len(frame):,} is opened and never closed, so everything after it is one cell"
        raise refuse("broken-table", path=path, what="a table of text", reason=reason)


def _read_with_arrow(path: Path, delimiter: str, decimal: str, header: bool, names: list[str]) -> pd.DataFrame | None:
    """The quick reader; None where it is not installed or stumbles, so that the careful one can say why."""
    if importlib.util.find_spec("pyarrow") is None:
        return None
    import pyarrow
    import pyarrow.csv

    unique = _unique_names(names, [])
    read = pyarrow.csv.ReadOptions(column_names=unique, skip_rows=1 if header else 0)
    parse = pyarrow.csv.ParseOptions(delimiter=delimiter)
    convert = pyarrow.csv.ConvertOptions(
        null_values=MISSING, strings_can_be_null=True, decimal_point=decimal, auto_dict_encode=True, auto_dict_max_cardinality=1_000
    )
    try:
        table = pyarrow.csv.read_csv(path, read, parse, convert)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowKeyError):
        return None
    kinds = [kind.value_type if pyarrow.types.is_dictionary(kind) else kind for kind in table.schema.types]
    if any(pyarrow.types.is_binary(kind) for kind in kinds):  # not UTF-8
        return None
    frame = table.to_pandas(self_destruct=True, split_blocks=True, date_as_object=False)
    frame.columns = names
    return frame


def _read_with_pandas(path: Path, delimiter: str, decimal: str, header: bool, names: list[str]) -> pd.DataFrame:
    try:
        frame = pd.read_csv(
            path,
            sep=delimiter,
            decimal=decimal,
            header=None,
            skiprows=1 if header else 0,
            names=list(range(len(names))),
            na_values=MISSING,
            keep_default_na=False,
            encoding="utf-8-sig",
            low_memory=False,
            index_col=False,
        )
    except (ValueError, pd.errors.ParserError) as error:
        raise refuse("broken-table", path=path, what="a table of text", reason=_first_line(error)) from error
    frame.columns = names
    return frame


def check_structure(path: Path, delimiter: str, width: int, header: bool) -> None:
    """Read row by row and name the first that is ragged, or the first byte that is not UTF-8.

    Raises:
        UserError: ``non-utf-8``, ``ragged-row`` or ``broken-table`` applies.
    """
    reader = csv.reader(io.StringIO(check_text(path.read_bytes(), path), newline=""), delimiter=delimiter)
    ragged, first, row = 0, (0, 0, 0), 0
    try:
        for index, cells in enumerate(reader):
            if not cells or (header and index == 0):
                continue
            row += 1
            if len(cells) != width:
                first = first if ragged else (row, reader.line_num, len(cells))
                ragged += 1
    except csv.Error as error:
        raise refuse("broken-table", path=path, what="a table of text", reason=f"line {reader.line_num:,}: {error}") from error
    if ragged:
        more = f" and {ragged - 1:,} more" if ragged > 1 else ""
        raise refuse("ragged-row", path=path, row=first[0], line=first[1], found=first[2], wanted=width, more=more)


def sniff_delimiter(text: str) -> str:
    """The delimiter that divides the first lines into the most equally many cells; a comma if none does."""
    lines = [line for line in text.splitlines()[:20] if line.strip()]
    best, best_score = ",", 0.0
    for delimiter in (",", ";", "\t", "|", " "):
        counts = [len(row) for row in csv.reader(lines, delimiter=delimiter) if row]
        common = max(set(counts), key=counts.count)
        agreement = counts.count(common) / len(counts)
        if delimiter == " " and (best_score > 0 or agreement < 1):
            continue  # words in a column of text
        # a header that the delimiter divides counts for more than agreement on a single column
        score = agreement * (common - 1) / common if counts[0] > 1 or common > 1 else 0.0
        if score > best_score + 1e-9:
            best, best_score = delimiter, score
    return best


def has_header(rows: list[list[str]]) -> bool:
    """Whether the first row holds names: it does unless it reads like the numbers below it."""
    first = [cell.strip() for cell in rows[0]]
    numeric = [bool(_NUMBER.fullmatch(cell)) for cell in first]
    if not any(numeric) or len(rows) < 2 or "" in first:
        return True
    numbers = [int(cell) for cell, is_number in zip(first, numeric, strict=True) if is_number and cell.isdigit()]
    if len(numbers) >= 3 and len(numbers) == sum(numeric) and numbers == list(range(numbers[0], numbers[0] + len(numbers))):
        return True  # 0, 1, 2 …: the names that pandas gives, and those of wide series
    below = [row for row in rows[1:6] if len(row) == len(first)]
    named = any(not is_number and all(_NUMBER.fullmatch(row[index]) for row in below) for index, is_number in enumerate(numeric))
    return not below or named or len(below[0]) != len(first)


def _decimal_commas(rows: list[list[str]]) -> bool:
    cells = [cell for row in rows[:50] for cell in row]
    return any(re.fullmatch(r"\s*[-+]?\d+,\d+\s*", cell) for cell in cells)


def _tidy_name(name: object) -> str:
    return str(name).strip().strip("'\"").strip()


def _unique_names(names: list[str], notes: list[str]) -> list[str]:
    result: list[str] = []
    renamed: dict[str, list[str]] = {}
    for name in names:
        fresh, number = name, 0
        while fresh in result or (number and fresh in names):
            number += 1
            fresh = f"{name}.{number}"
        result.append(fresh)
        if fresh != name:
            renamed.setdefault(name, []).append(fresh)
    notes.extend(note("double-header", column=name, names=", ".join(others)) for name, others in renamed.items())
    return result


# ------------------------------------------------------------------------------------------------ JSON, Parquet


def _read_json(path: Path) -> pd.DataFrame:
    text = check_text(path.read_bytes(), path)
    if text.lstrip().startswith("["):
        try:
            records = json.loads(text)
        except json.JSONDecodeError as error:
            raise refuse("bad-line", path=path, line=error.lineno, reason=error.msg) from error
    else:
        records = [_record(path, line, number) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    for row, record in enumerate(records, 1):
        if not isinstance(record, dict):
            raise refuse("bad-line", path=path, line=row, reason=f"it is a {type(record).__name__}")
    frame = pd.DataFrame.from_records(records)
    refuse_nested(frame, path)
    return frame


def _record(path: Path, line: str, number: int) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise refuse("bad-line", path=path, line=number, reason=f"{error.msg} at character {error.colno}") from error
    if not isinstance(record, dict):
        raise refuse("bad-line", path=path, line=number, reason=f"it is a {type(record).__name__}")
    return record


def _read_parquet(path: Path) -> pd.DataFrame:
    pyarrow = require("pyarrow", extra="tables", purpose="Opening a Parquet file")
    try:
        frame = pd.read_parquet(path, engine="pyarrow")
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise refuse("broken-table", path=path, what="Parquet", reason=_first_line(error)) from error
    refuse_nested(frame, path)
    return frame


def refuse_nested(frame: pd.DataFrame, path: Path) -> None:
    """Refuse cells that hold lists or objects.

    Raises:
        UserError: ``nested-column`` applies.
    """
    for name in frame.columns:
        if frame[name].dtype != object:
            continue
        for row, value in enumerate(frame[name]):
            if isinstance(value, (list, dict, tuple, set)) or hasattr(value, "shape"):
                what = "list" if not isinstance(value, dict) else "object"
                raise refuse("nested-column", path=path, row=row + 1, column=str(name), what=what)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
