"""A column of times as numbers, and a column of irregular times on a regular step."""

from __future__ import annotations

import numpy as np
import pandas as pd

from assay.tasks.roles import column_of
from assay.tasks.rules import refuse


def moments_of(column: pd.Series, path: object, name: str) -> np.ndarray:
    """Times as float64: seconds for dates, the numbers themselves otherwise.

    Raises:
        UserError: a row has no time, or none that reads.
    """
    if pd.api.types.is_numeric_dtype(column.dtype):
        numbers = column.to_numpy(dtype=np.float64)
    elif pd.api.types.is_datetime64_any_dtype(column.dtype):
        numbers = _seconds(column)
    else:
        parsed = column_of(name, column)
        if parsed.role == "date":
            numbers = _seconds(parsed.values)
        else:
            numbers = np.asarray(pd.to_numeric(column, errors="coerce"), dtype=np.float64)
            if np.isnan(numbers).mean() > 0.5:
                numbers = _seconds(pd.to_datetime(column, errors="coerce", format="mixed", utc=True))
    wrong = ~np.isfinite(numbers)
    if wrong.any():
        row = int(wrong.argmax())
        raise refuse("missing-moment", path=path, row=row + 1, column=name, value=repr(column.iloc[row]))
    return numbers


def _seconds(values: pd.Series) -> np.ndarray:
    stamps = pd.to_datetime(values, utc=True)
    return np.asarray((stamps - pd.Timestamp("1970-01-01", tz="UTC")) / pd.Timedelta(seconds=1), dtype=np.float64)


def places_on_grid(moments: np.ndarray, step: float) -> np.ndarray:
    """The place of each ascending moment on a grid of ``step``: each gap counts as the nearest whole number of steps, at least 1.

    Gaps are rounded one by one, so months of 28 to 31 days stay one step apart.
    """
    gaps = np.maximum(np.round(np.diff(moments) / step), 1).astype(np.int64)
    return np.concatenate([[0], gaps.cumsum()])


def step_in_words(step: float, dated: bool) -> str:
    """``1 h``, ``7 d``, or the number itself."""
    if not dated:
        return f"{step:g}"
    for seconds, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if step >= seconds:
            return f"{step / seconds:g} {unit}"
    return f"{step:g} s"
