"""What each column of a table is: numeric, categorical, boolean, date, text, id, constant or empty, judged by its values."""

from __future__ import annotations

import math
import re
import warnings
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from assay.tasks.reading import MISSING
from assay.tasks.rules import note

Role = Literal["numeric", "categorical", "boolean", "date", "text", "id", "constant", "empty"]

SAMPLE = 5_000  # values looked at to judge a column
FEW = 20  # as many distinct whole numbers may be classes
_ID_NAME = re.compile(r"(^|.*[_\s.-])(id|ids|identifier|uuid|guid|index|idx|rowid)$|^unnamed.*|^$|.*[a-z](Id|ID)$", re.ASCII)
_GROUP_NAME = re.compile(
    r"^(group|groups|subject|patient|person|participant|user|session|speaker|customer|household|site|case|device|recording)"
    r"([_ -]?(id|no|nr|number|name|code))?$",
    re.IGNORECASE,
)
_QUARTER = r"(\d{4})[-: ]?[Qq]([1-4])"  # 2024Q1 is its first month
_TRUE = {"true", "t", "yes", "y", "on"}
_FALSE = {"false", "f", "no", "n", "off"}
_TIDY_NUMBER = re.compile(r"^\s*[-+(]?\s*[$€£¥]?\s*[-+]?(\d{1,3}(,\d{3})+|\d+)(\.\d*)?([eE][-+]?\d+)?\s*(%|€|\$|£)?\s*\)?\s*$")
DATE_FORMATS = (
    "%Y-%m-%d",
    "%Y/%m/%d",
    "%Y.%m.%d",
    "%Y%m%d",
    "%m/%d/%Y",
    "%d/%m/%Y",
    "%d.%m.%Y",
    "%d-%m-%Y",
    "%m-%d-%Y",
    "%m/%d/%y",
    "%d/%m/%y",
    "%d.%m.%y",
    "%d %b %Y",
    "%d %B %Y",
    "%b %d, %Y",
    "%B %d, %Y",
    "%b %d %Y",
    "%d-%b-%Y",
    "%d-%b-%y",
    "%Y-%m",
    "%Y%b",
    "%b %Y",
    "%B %Y",
)
TIME_FORMATS = ("", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", " %I:%M %p", " %I:%M:%S %p")
_PAIRS = {"%m/%d/%Y": "%d/%m/%Y", "%m-%d-%Y": "%d-%m-%Y", "%m/%d/%y": "%d/%m/%y"}  # formats that differ only in who comes first


@dataclass
class Column:
    """A column with its role and its values parsed accordingly.

    Args:
        name: the column's name.
        role: what it is.
        values: float64 with NaN (numeric, boolean), datetime64 with NaT (date), pandas categories (categorical), strings with None
            (text, id).
        detail: what is needed to parse further values the same way (the format of dates).
        notes: what was mended.
    """

    name: str
    role: Role
    values: pd.Series
    detail: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def is_words(self) -> bool:
        """Whether the cells are words rather than numbers or dates."""
        return self.values.dtype == object or isinstance(self.values.dtype, pd.CategoricalDtype)

    def missing(self) -> np.ndarray:
        """True where the cell is missing."""
        return self.values.isna().to_numpy()


def detect(frame: pd.DataFrame) -> dict[str, Column]:
    """The role of every column of a frame."""
    return {name: column_of(name, frame[name]) for name in frame.columns}


def column_of(name: str, values: pd.Series) -> Column:
    """Judge one column."""
    if isinstance(values.dtype, pd.CategoricalDtype) and not pd.api.types.is_string_dtype(values.cat.categories.dtype):
        values = values.astype(values.cat.categories.dtype) if values.notna().all() else values.astype(object).infer_objects()
    if pd.api.types.is_bool_dtype(values.dtype) and not pd.api.types.is_object_dtype(values.dtype):
        return _constant_or(Column(name, "boolean", _plain_floats(values)))
    if pd.api.types.is_numeric_dtype(values.dtype):
        return _numeric(name, values)
    if pd.api.types.is_datetime64_any_dtype(values.dtype):
        return _constant_or(Column(name, "date", _without_zone(values), {"format": "datetime"}))
    if pd.api.types.is_timedelta64_dtype(values.dtype):
        return _numeric(name, values.dt.total_seconds())
    return _of_strings(name, values)


def parse_as(name: str, values: pd.Series, role: Role, detail: dict[str, Any]) -> Column:
    """Read a further column the way an earlier one was read."""
    if role == "categorical":
        return Column(name, role, as_category(values), detail)
    if role in ("text", "id", "constant", "empty"):
        return Column(name, role, as_strings(values), detail)
    if role == "date":
        if pd.api.types.is_datetime64_any_dtype(values.dtype):
            return Column(name, role, _without_zone(values), detail)
        return Column(name, role, _dates(as_strings(values), str(detail["format"])), detail)
    if pd.api.types.is_numeric_dtype(values.dtype):
        return Column(name, role, _plain_floats(values), detail)
    strings = as_strings(values)
    if role == "boolean":
        codes, uniques = pd.factorize(strings)
        said = [1.0 if word.lower() in _TRUE else 0.0 if word.lower() in _FALSE else math.nan for word in uniques]
        parsed = pd.Series(np.array([*said, math.nan])[codes], index=strings.index)
        return Column(name, role, parsed.fillna(_numbers(strings)) if parsed.isna().any() else parsed, detail)
    parsed = _numbers(strings)
    return Column(name, role, parsed, detail, _not_numbers(name, strings, parsed))


def is_group_name(name: str) -> bool:
    """Whether a column of this name says which examples belong together."""
    return bool(_GROUP_NAME.match(name))


def as_strings(values: pd.Series) -> pd.Series:
    """Cells as stripped strings, None where missing (``?``, ``NA``, blank … too); whole floats without their ``.0``."""
    categories = as_category(values)
    words = np.array([*categories.cat.categories, None], dtype=object)
    return pd.Series(words[categories.cat.codes.to_numpy()], index=values.index, dtype=object)


def as_category(values: pd.Series) -> pd.Series:
    """As `as_strings`, kept as pandas categories: each distinct string is looked at once."""
    if isinstance(values.dtype, pd.CategoricalDtype):
        codes, uniques = values.cat.codes.to_numpy(), _words(pd.Series(values.cat.categories))
    else:
        codes, uniques = pd.factorize(_words(values))
    tidy = [_tidy(unique) for unique in uniques]
    names = list(dict.fromkeys(word for word in tidy if word is not None))
    place = {word: index for index, word in enumerate(names)}
    new = np.array([*(place.get(word, -1) if word is not None else -1 for word in tidy), -1])
    return pd.Series(pd.Categorical.from_codes(new[codes], names), index=values.index)


def _words(values: pd.Series) -> pd.Series:
    """Cells as strings, None where missing; whole floats without their ``.0``."""
    if pd.api.types.is_float_dtype(values.dtype):
        whole = values.dropna()
        if len(whole) and np.isfinite(whole).all() and (whole == np.floor(whole)).all() and whole.abs().max() < 2**53:
            values = values.astype("Int64")
    if isinstance(values.dtype, pd.StringDtype):
        return values
    strings = values.astype(object).where(values.notna(), None)
    return strings.map(lambda value: None if value is None else str(value))


def _tidy(value: str) -> str | None:
    stripped = value.strip()
    return None if stripped in MISSING or stripped in ("-", "--", ".") else stripped


# ------------------------------------------------------------------------------------------------ numbers


def _numeric(name: str, values: pd.Series) -> Column:
    floats = _plain_floats(values)
    whole = pd.api.types.is_integer_dtype(values.dtype)
    sample = _sample(floats)
    if not len(sample):
        return Column(name, "empty", floats)
    if whole and "date" in name.lower() and sample.between(18_000_101, 22_000_101).all():  # 20240131
        dates = _dates(as_strings(values), "%Y%m%d")
        if dates.notna().equals(values.notna()):
            return _constant_or(Column(name, "date", dates, {"format": "%Y%m%d"}))
    if sample.nunique() > 2:
        return Column(name, "id" if whole and _counts_rows(name, values) else "numeric", floats)
    distinct = pd.unique(floats.dropna())
    if len(distinct) > 2:
        return Column(name, "numeric", floats)
    return _constant_or(Column(name, "boolean" if set(distinct) <= {0.0, 1.0} else "numeric", floats))


def _counts_rows(name: str, values: pd.Series) -> bool:
    """Whole numbers that number the rows: 0, 1, 2 … or 1, 2, 3 …, or all different under a name such as ``customer_id``."""
    numbers = values.to_numpy()
    if numbers[0] in (0, 1) and len(numbers) > 2 and (np.diff(numbers) == 1).all():
        return name.strip().lower() not in ("t", "time", "step", "year", "day", "month", "week", "hour")
    return bool(_ID_NAME.match(name.strip())) and values.is_unique


def _plain_floats(values: pd.Series) -> pd.Series:
    return pd.Series(values.to_numpy(dtype="float64", na_value=np.nan), index=values.index)


def _constant_or(column: Column) -> Column:
    """The column, or a constant one if it never varies (a value that is sometimes missing does vary)."""
    present = column.values.dropna()
    if not len(present):
        column.role = "empty"
    elif len(present) == len(column.values) and present.nunique() == 1:
        column.role = "constant"
    return column


def _numbers(strings: pd.Series) -> pd.Series:
    """Strings as numbers, NaN where they are none; ``1,234.5``, ``$12``, ``45%`` and ``(3)`` are numbers."""
    codes, uniques = pd.factorize(strings)
    direct = np.array(pd.to_numeric(pd.Series(uniques), errors="coerce"), dtype="float64")
    for index in np.flatnonzero(np.isnan(direct)):
        direct[index] = _odd_number(str(uniques[index]))
    return pd.Series(np.append(direct, np.nan)[codes], index=strings.index)


def _odd_number(text: str) -> float:
    if not _TIDY_NUMBER.match(text):
        return math.nan
    number = float(re.sub(r"[,$€£¥%()\s]", "", text))
    return -number if text.strip().startswith("(") else number


def _not_numbers(name: str, strings: pd.Series, parsed: pd.Series) -> list[str]:
    wrong = np.flatnonzero((parsed.isna() & strings.notna()).to_numpy())
    if not len(wrong):
        return []
    return [note("not-numbers", column=name, count=len(wrong), row=wrong[0] + 1, value=strings.iloc[wrong[0]])]


# ------------------------------------------------------------------------------------------------ words


def _of_strings(name: str, values: pd.Series) -> Column:
    categories = as_category(values)
    strings = as_strings(categories)
    sample = _sample(strings)
    if not len(sample):
        return Column(name, "empty", strings)
    if sample.nunique() == 1 and strings.nunique(dropna=False) == 1:
        return Column(name, "constant", strings)
    distinct = {value.lower() for value in sample.unique()}
    if distinct <= (_TRUE | _FALSE) and len(distinct) == 2:
        parsed = parse_as(name, categories, "boolean", {})
        if parsed.missing().sum() == strings.isna().sum():
            return parsed
    numeric_share = _numbers(sample).notna().mean()
    if numeric_share >= 0.95:
        parsed = _numbers(strings)
        column = _numeric(name, parsed)
        column.notes = _not_numbers(name, strings, parsed)
        return column
    format = _date_format(sample)
    if format:
        return Column(name, "date", _dates(strings, format), {"format": format}, _ambiguous(name, sample, format))
    kind = _kind_of_words(name, strings, sample)
    return Column(name, kind, categories if kind == "categorical" else strings)


def _kind_of_words(name: str, strings: pd.Series, sample: pd.Series) -> Role:
    distinct_share = sample.nunique() / len(sample)
    words = sample.str.count(r"\s+").mean() + 1
    characters = sample.str.len().mean()
    if distinct_share > 0.3 and sample.nunique() > 3 and (words >= 3 or (characters >= 25 and words >= 2) or characters >= 60):
        return "text"
    if distinct_share > 0.3 and sample.map(lambda value: any(ord(letter) > 0x2E80 for letter in value)).mean() > 0.5 and characters >= 6:
        return "text"  # scripts without blanks between words
    all_differ = distinct_share == 1 and len(sample) >= 20 and strings.dropna().is_unique
    return "id" if all_differ and (words < 2 or _ID_NAME.match(name.strip())) else "categorical"


def _sample(values: pd.Series) -> pd.Series:
    step = max(1, len(values) // SAMPLE)
    sample = values.iloc[::step].dropna()
    return sample if len(sample) >= min(100, len(values)) else values.dropna().iloc[:SAMPLE]


# ------------------------------------------------------------------------------------------------ dates


def _date_format(sample: pd.Series) -> str | None:
    """The one format that reads all of the sample, or "ISO8601"; None if these are no dates."""
    values = sample.iloc[:1_000]
    first = str(values.iloc[0])
    if not re.search(r"\d", first) or len(first) > 40:
        return None
    for format in _formats_like(first):
        if _dates(values, format).notna().all():
            return format
    if values.str.fullmatch(_QUARTER).all():
        return "quarter"
    if re.match(r"^\d{4}-\d{2}-\d{2}[T ]\d{2}:", first) and _dates(values, "ISO8601").notna().all():
        return "ISO8601"
    return None


def _formats_like(first: str) -> list[str]:
    formats = [date + time for date in DATE_FORMATS for time in TIME_FORMATS]
    return [format for format in formats if not pd.isna(pd.to_datetime(first, format=format, errors="coerce"))]


def _dates(strings: pd.Series, format: str) -> pd.Series:
    if format == "quarter":
        parts = strings.str.extract(_QUARTER).astype("float64")
        strings, format = (parts[0] * 100 + parts[1] * 3 - 2).map(lambda month: f"{month:.0f}", na_action="ignore"), "%Y%m"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parsed = pd.to_datetime(strings, format="ISO8601" if format == "datetime" else format, errors="coerce", utc=True)
    return _without_zone(parsed)


def _without_zone(values: pd.Series) -> pd.Series:
    return values.dt.tz_convert("UTC").dt.tz_localize(None) if values.dt.tz is not None else values


def _ambiguous(name: str, sample: pd.Series, format: str) -> list[str]:
    """A warning if the day and the month could be exchanged in every date seen."""
    date = next((form for form in _PAIRS if format.startswith(form)), None)
    if date is None:
        return []
    other = format.replace(date, _PAIRS[date], 1)
    values = sample.iloc[:1_000]
    exchanged = _dates(values, other)
    if exchanged.isna().any() or (exchanged == _dates(values, format)).all():
        return []
    return [note("ambiguous-dates", column=name, value=str(values.iloc[0]), how="month/day/year")]
