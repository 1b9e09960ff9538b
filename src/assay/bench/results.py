"""A study's folder as others read it: ``results.jsonl``, the scores of its runs, the leaderboard, the first sentence."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from assay.bench.files import finite, write_text
from assay.bench.plan import ADVISED, axis_words
from assay.bench.statistics import Comparison, Verdict, change, verdict
from assay.errors import UserError

if TYPE_CHECKING:
    import pandas

ROW_FIELDS = (
    "run",
    "task",
    "model",
    "methods",
    "axis",
    "baseline",
    "seed",
    "status",
    "metric",
    "direction",
    "value",
    "validation",
    "metrics",
    "parameters",
    "parameters_off",
    "marks",
    "bytes",
    "train_seconds",
    "search_seconds",
    "steps",
    "flops",
    "inference_flops",
    "latency_ms",
    "latency_p95_ms",
    "latency_batch_ms",
    "peak_bytes",
    "state_bytes",
    "learning_rate",
    "device",
    "machine",
    "threads",
    "versions",
    "error",
)
MEASURED_LAST = ("latency_ms", "latency_p95_ms", "latency_batch_ms", "peak_bytes", "state_bytes", "inference_flops")
"""Measured after all training, in a fresh process, once a configuration."""

LEADERBOARD_COLUMNS = (
    "rank",
    "model",
    "methods",
    "metric",
    "value",
    "low",
    "high",
    "parameters",
    "bytes",
    "latency_ms",
    "peak_bytes",
    "train_seconds",
    "runs",
)


def append_row(folder: Path, row: Mapping[str, Any]) -> None:
    """Add one line to ``results.jsonl`` and sync it to disk; only the driver calls this."""
    with (folder / "results.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(finite(row), ensure_ascii=False) + "\n")
        stream.flush()
        os.fsync(stream.fileno())


def rewrite_rows(folder: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Replace ``results.jsonl`` in one step."""
    write_text(folder / "results.jsonl", "".join(json.dumps(finite(row), ensure_ascii=False) + "\n" for row in rows))


def read_rows(folder: str | Path) -> list[dict[str, Any]]:
    """The rows of ``results.jsonl``; a last line without its end, cut short by a kill, is not there.

    Raises:
        UserError: a whole line is not JSON.
    """
    path = Path(folder) / "results.jsonl"
    if not path.exists():
        return []
    *lines, _torn = path.read_text(encoding="utf-8", errors="replace").split("\n")
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise UserError(f"{path}, line {number}, is not JSON: delete the line and use --resume.") from error
    return rows


def drop_torn_line(folder: Path) -> None:
    """Cut a last line that a kill left without its end, so that the next row starts on a line of its own."""
    path = folder / "results.jsonl"
    if path.exists():
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            write_text(path, whole.decode("utf-8"))


# ------------------------------------------------------------------------------------------------ configurations


def configuration_key(row: Mapping[str, Any]) -> str:
    """What the runs of one configuration share."""
    return json.dumps([row["model"], list(row["methods"]), row.get("axis") or {}], sort_keys=True)


def label_of(row: Mapping[str, Any]) -> str:
    """What to call a row's configuration in print."""
    return " + ".join([row["model"], *row["methods"], *_axis_words(row)])


def by_configuration(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Rows grouped by configuration, in order of appearance."""
    grouped: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        grouped.setdefault(configuration_key(row), []).append(row)
    return grouped


def load_comparison(folder: str | Path, rows: Sequence[Mapping[str, Any]] | None = None) -> Comparison:
    """The per-example test scores of every finished run, ready to be compared; keys are `configuration_key`."""
    folder = Path(folder)
    scores: dict[str, dict[int, np.ndarray]] = {}
    groups = None
    for row in read_rows(folder) if rows is None else rows:
        if row["status"] == "done":
            with np.load(folder / "runs" / row["run"] / "scores.npz", allow_pickle=False) as arrays:
                scores.setdefault(configuration_key(row), {})[row["seed"]] = arrays["scores"]
                groups = arrays.get("groups", groups)
    return Comparison(scores, groups)


def study_verdict(rows: Sequence[Mapping[str, Any]], comparison: Comparison) -> Verdict:
    """The first sentence of the report and the facts behind it."""
    grouped = by_configuration(rows)
    first = next(iter(rows), {})
    baselines = {key for key, group in grouped.items() if group[0].get("baseline")}
    labels = {key: label_of(group[0]) for key, group in grouped.items()}
    return verdict(comparison, first.get("metric") or "value", first.get("direction") or "max", baselines, labels)


def advice_effects(rows: Sequence[Mapping[str, Any]], comparison: Comparison) -> list[str]:
    """For every advised configuration that finished beside its default: which of the two is better, in one sentence."""
    grouped = by_configuration(rows)
    found = []
    for key, group in grouped.items():
        axis = dict(group[0].get("axis") or {})
        plain = configuration_key({**group[0], "axis": axis}) if axis.pop(ADVISED, False) else None
        if plain in comparison.scores and key in comparison.scores:
            names = label_of(group[0]), label_of({**group[0], "axis": axis})
            found.append(change(comparison, group[0]["metric"], group[0]["direction"], key, plain, names))
    return found


def leaderboard(rows: Sequence[Mapping[str, Any]], comparison: Comparison) -> pandas.DataFrame:
    """One line a configuration, best first: rank, quality with its interval, costs (means over finished runs).

    The axes, where there are any, are a last column. A configuration without a finished run stands at the end, without a rank.
    """
    import pandas

    grouped = by_configuration(rows)
    direction = rows[0]["direction"] if rows else "max"
    ranks = comparison.ranks(direction) if comparison.scores else {}
    lines = []
    for key, group in grouped.items():
        first = group[0]
        line: dict[str, Any] = {"model": first["model"], "methods": "+".join(first["methods"]), "metric": first["metric"], "runs": 0}
        finished = [row for row in group if row["status"] == "done"]
        if finished:
            low, high = comparison.interval(key)
            line |= {"rank": ranks[key], "value": comparison.mean(key), "low": low, "high": high, "runs": len(finished)}
            line |= {name: _mean(finished, name) for name in ("parameters", "bytes", "latency_ms", "peak_bytes", "train_seconds")}
        lines.append(line | {"axis": " + ".join(_axis_words(first))})
    varied = ["axis"] if any(line["axis"] for line in lines) else []
    table = pandas.DataFrame(lines, columns=[*LEADERBOARD_COLUMNS, *varied])
    for name in ("rank", "parameters", "bytes", "peak_bytes", "runs"):
        table[name] = table[name].astype("Float64").round().astype("Int64")
    for name in ("value", "low", "high", "latency_ms", "train_seconds"):
        table[name] = table[name].astype(float)
    ordered = table.assign(_worse=table["value"] * (-1 if direction == "max" else 1)).sort_values(["_worse", "model"], na_position="last")
    return ordered.drop(columns="_worse").reset_index(drop=True)


def _axis_words(row: Mapping[str, Any]) -> list[str]:
    return axis_words(row.get("axis") or {})


def _mean(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    values = [row[name] for row in rows if row.get(name) is not None]
    return float(np.mean(values)) if values else None
