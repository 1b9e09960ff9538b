"""`write_report`: one self-contained HTML page from a study's folder."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from assay.bench.report import charts, words
from assay.bench.report.errors_shown import Confusion, confusion, example_groups
from assay.bench.report.facts import facts
from assay.bench.report.record import Entry, Record, read_record

COSTS: tuple[tuple[str, str, str, Callable[[float | None], str]], ...] = (
    ("latency_ms", "Latency", "latency of one example, median", words.milliseconds),
    ("parameters", "Parameters", "parameters", words.count),
    ("peak_bytes", "Memory", "peak memory of a prediction", words.size),
    ("train_seconds", "Training time", "training time", words.seconds),
)
"""Measure, title, axis name and wording of each Pareto chart."""


def write_report(folder: str | Path) -> Path:
    """Write ``report.html`` into a study's folder: everything is inside the page, which needs no network and no script to be read.

    Args:
        folder: a study's folder: ``results.jsonl``, and as far as there are such ``study.toml``, ``leaderboard.csv``, ``samples.json`` and
            the runs' ``curve.csv`` and ``scores.npz``.

    Returns:
        The page's path.

    Raises:
        UserError: the folder holds no results.
    """
    record = read_record(Path(folder))
    page = render(record)
    target = record.folder / "report.html"
    partial = target.with_name("report.html.partial")
    partial.write_text(page, encoding="utf-8")
    partial.replace(target)
    return target


def render(record: Record) -> str:
    """The page as text; all that comes from the user is escaped, and no script but the page's own may run."""
    environment = environment_of()
    style, script = (source_of(environment, name) for name in ("page.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    template = environment.get_template("page.html")
    return template.render(style=Markup(style), script=Markup(script), script_digest=digest, **_context(record))


def environment_of() -> jinja2.Environment:
    """Where the pages' templates are found and rendered: everything is escaped, and a name that is missing is an error."""
    loader = jinja2.PackageLoader("assay.bench.report", ".")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    for wording in (words.quality, words.count, words.size, words.milliseconds, words.seconds, words.number, words.shortened):
        environment.filters[wording.__name__] = wording
    return environment


def source_of(environment: jinja2.Environment, name: str) -> str:
    """The text of a file beside the templates."""
    assert environment.loader is not None  # `environment_of` gave it one
    return environment.loader.get_source(environment, name)[0]


def _context(record: Record) -> dict[str, Any]:
    verdict = record.verdict
    choice = next((entry for entry in record.entries if entry.key == verdict.best), None)
    if verdict.kind == "undecided":  # the simpler one of the two: what the sentence advises
        choice = next((entry for entry in record.entries if entry.key in (verdict.best, verdict.other) and entry.baseline), choice)
    return {
        "record": record,
        "sentence": set_apart(verdict.sentence),
        "kind": verdict.kind,
        "task": record.samples.get("task") or {},
        "title": str(record.rows[0].get("task") or "study"),
        "metric": record.metric,
        "metric_name": words.metric_name(record.metric),
        "better": "higher" if record.direction == "max" else "lower",
        "interval": words.interval,
        "strips": _strips(record),
        "fronts": _fronts(record),
        "curves": _curves(record),
        "confusions": _confusions(record.samples),
        "groups": example_groups(record.samples),
        "forecasts": _forecasts(record.samples),
        "scatters": _scatters(record.samples),
        "spark": charts.spark,
        "unfinished": sum(len(failure.seeds) for failure in record.failures),
        "facts": facts(record),
        "choice": choice,
        "choice_run": _handed_over(choice, record.direction) if choice and choice.done else None,
    }


def _handed_over(entry: Entry, direction: str) -> Mapping[str, Any]:
    """The run whose checkpoint is recommended: the best on validation, for the test split chooses nothing."""
    sign = 1 if direction == "max" else -1
    return max(entry.done, key=lambda run: sign * run["validation"] if isinstance(run.get("validation"), (int, float)) else -math.inf)


def set_apart(sentence: str) -> list[tuple[str, bool]]:
    """The sentence in pieces; True for the interval and what follows, which are set quieter."""
    pieces = re.split(r"(\(95 % interval.*|, 95 % interval.*)$", sentence)
    return [(piece, index % 2 == 1) for index, piece in enumerate(pieces) if piece]


def _strips(record: Record) -> dict[str, Any]:
    entries = [entry for entry in record.entries if math.isfinite(entry.value)]
    if not entries:
        return {"axis": "", "rows": {}}
    scale = charts.quality_scale(entries, record.direction, 8, 212)
    rows = {entry.key: charts.strip(entry, scale, entries[0].value, record.metric) for entry in entries}
    return {"axis": charts.strip_axis(scale), "rows": rows}


def _fronts(record: Record) -> list[dict[str, Any]]:
    drawn = []
    for measure, title, axis, show in COSTS:
        marks = [charts.Mark(e.name, e.measure(measure), e.value, e.low, e.high, e.baseline) for e in record.entries]
        usable = [mark for mark in marks if mark.x > 0 and math.isfinite(mark.value)]
        if len(usable) < 2:
            continue
        front = charts.pareto_front([(mark.x, mark.value) for mark in usable], record.direction)
        chart = charts.front_chart(usable, record.direction, record.metric, show, axis)
        drawn.append({"title": title, "chart": chart, "front": words.listed([usable[index].name for index in front])})
    return drawn


def _curves(record: Record) -> list[tuple[str, Markup]]:
    curves = {entry.name: [curve for run in entry.runs if (curve := record.curve(run))] for entry in record.networks}
    return charts.curve_charts({name: runs for name, runs in curves.items() if runs}, record.metric)


def _confusions(samples: dict[str, Any]) -> list[Confusion]:
    if samples.get("output") != "class":
        return []
    return [confusion(name, samples["truth"], samples["predictions"][name], samples["labels"]) for name in samples["models"]]


def _forecasts(samples: dict[str, Any]) -> list[dict[str, Any]]:
    if samples.get("output") != "forecast":
        return []
    return [{"group": e["group"], "name": e["name"], "chart": charts.forecast_chart(e, samples["models"])} for e in samples["examples"]]


def _scatters(samples: dict[str, Any]) -> list[tuple[str, Markup]]:
    if samples.get("output") != "values":
        return []
    columns = {name: _first_column(values) for name, values in samples["predictions"].items()}
    return [(name, charts.scatter_chart(_first_column(samples["truth"]), values, name)) for name, values in columns.items()]


def _first_column(rows: list[Any]) -> list[float]:
    return [row[0] if isinstance(row, list) else row for row in rows]
