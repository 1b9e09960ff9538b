"""A study's folder as the report reads it: what was asked, the rows, the leaderboard, the curves, the samples."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from assay.bench import results
from assay.bench.plan import Plan
from assay.bench.statistics import Verdict
from assay.errors import UserError

_MEASURES = (
    "parameters", "bytes", "latency_ms", "latency_p95_ms", "latency_batch_ms", "peak_bytes", "state_bytes",
    "train_seconds", "search_seconds", "learning_rate", "flops", "inference_flops", "steps",
)  # fmt: skip


@dataclass
class Entry:
    """One line of the leaderboard, with the runs behind it; a measure is the mean over the finished runs."""

    key: str
    name: str
    baseline: bool
    rank: int | None = None
    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    measures: dict[str, float] = field(default_factory=dict)
    runs: list[Mapping[str, Any]] = field(default_factory=list)
    marks: list[str] = field(default_factory=list)

    @property
    def done(self) -> list[Mapping[str, Any]]:
        """The runs that finished."""
        return [run for run in self.runs if run.get("status") == "done"]

    def measure(self, name: str) -> float:
        """A measure, NaN where it was not taken."""
        return self.measures.get(name, math.nan)


@dataclass
class Failure:
    """Runs of one model that ended in the same way."""

    name: str
    status: str
    error: str
    seeds: list[int] = field(default_factory=list)


@dataclass
class Record:
    """Everything the page shows; entries come best first, those without a finished run last."""

    folder: Path
    plan: Plan | None
    rows: list[dict[str, Any]]
    entries: list[Entry]
    verdict: Verdict
    metric: str
    direction: str
    samples: dict[str, Any]
    advice: list[str] = field(default_factory=list)

    @property
    def failures(self) -> list[Failure]:
        """What did not finish, each kind of failure of a model once."""
        found: dict[tuple[str, str, str], Failure] = {}
        for entry in self.entries:
            for run in entry.runs:
                if run.get("status") != "done":
                    status, error = str(run.get("status")), str(run.get("error") or "")
                    found.setdefault((entry.key, status, error), Failure(entry.name, status, error)).seeds.append(int(run.get("seed", 0)))
        return list(found.values())

    @property
    def networks(self) -> list[Entry]:
        """The entries that are no baselines."""
        return [entry for entry in self.entries if not entry.baseline]

    def curve(self, run: Mapping[str, Any]) -> list[dict[str, float]]:
        """A run's learning curve; empty where there is none."""
        path = self.folder / "runs" / str(run["run"]) / "curve.csv"
        if not path.is_file() or path.stat().st_size < 2:
            return []
        return [{str(key): float(value) for key, value in row.items()} for row in pd.read_csv(path).to_dict("records")]


def read_record(folder: Path) -> Record:
    """Read a study's folder.

    Raises:
        UserError: the folder holds no results.
    """
    rows = results.read_rows(folder)
    if not rows:
        raise UserError(f"{folder} holds no finished run (no line in results.jsonl): name a study's folder, as printed by `assay compare`.")
    comparison = results.load_comparison(folder, rows)
    metric, direction = str(rows[0].get("metric") or "value"), str(rows[0].get("direction") or "max")
    ranks = comparison.ranks(direction) if comparison.scores else {}
    entries = []
    for key, runs in results.by_configuration(rows).items():
        entry = Entry(key, results.label_of(runs[0]), bool(runs[0].get("baseline")), runs=list(runs))
        if key in comparison.scores:
            entry.rank, entry.value = ranks[key], comparison.mean(key)
            entry.low, entry.high = comparison.interval(key)
        entry.measures = {name: value for name in _MEASURES if (value := _mean(entry.done, name)) is not None}
        entry.marks = _marks(entry)
        entries.append(entry)
    sign = -1 if direction == "max" else 1
    entries.sort(key=lambda entry: (math.isnan(entry.value), sign * entry.value if entry.done else 0, entry.name))
    return Record(
        folder, _plan(folder), rows, entries, results.study_verdict(rows, comparison), metric, direction, _samples(folder),
        results.advice_effects(rows, comparison) if comparison.scores else [],
    )  # fmt: skip


def _plan(folder: Path) -> Plan | None:
    path = folder / "study.toml"
    return Plan.from_toml(path.read_text(encoding="utf-8"), path) if path.is_file() else None


def _samples(folder: Path) -> dict[str, Any]:
    path = folder / "samples.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _marks(entry: Entry) -> list[str]:
    """What a reader must know of a line, in a few words each."""
    marks = ["baseline"] if entry.baseline else []
    run = (entry.done or entry.runs)[0]
    if run.get("parameters_off"):
        marks.append("off budget")
    if run.get("adapter"):
        marks.append(str(run["adapter"]))
    unfinished = len(entry.runs) - len(entry.done)
    if unfinished:
        marks.append(f"{unfinished} of {len(entry.runs)} runs unfinished")
    return marks


def _mean(runs: list[Mapping[str, Any]], name: str) -> float | None:
    values = [run[name] for run in runs if isinstance(run.get(name), (int, float)) and math.isfinite(run[name])]
    return sum(values) / len(values) if values else None
