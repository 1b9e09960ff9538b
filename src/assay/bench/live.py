"""How a study shows itself: a live table on a terminal, plain lines elsewhere, nothing when asked to be silent."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table as RichTable

from assay.bench.budget import SEARCH_SHARE
from assay.bench.running import Job

_BASELINE_WEIGHT = 0.2


@dataclass
class _Line:
    searched: int = 0
    searches: int = 0
    finished: int = 0
    seeds: int = 0
    failures: int = 0
    latest: str = ""


class View:
    """Tells a person what a study does.

    Args:
        shown: False for silence.
        labels: every configuration's label by its key, in order.
        metric: the primary measure.
        console: where to write; standard output by default.
    """

    def __init__(self, shown: bool, labels: Mapping[str, str], metric: str, console: Console | None = None) -> None:
        self.shown = shown
        self.console = console or Console(soft_wrap=not sys.stdout.isatty(), highlight=False)
        self.metric = metric
        self.labels = dict(labels)
        self.lines = {key: _Line() for key in labels}
        self.total = self.left = self.done_jobs = self.jobs = 0.0
        self.started = time.monotonic()
        self.moving = False
        self.live: Live | None = None

    def say(self, text: str) -> None:
        """One line, whatever else is shown."""
        if self.shown:
            self.console.print(text, markup=False)

    def begin(self, jobs: Sequence[tuple[str, Job]], finished: Sequence[str]) -> None:
        """Training starts.

        Args:
            jobs: all that remain, with their configuration's key.
            finished: the configuration's key of every run adopted from before.
        """
        for key, job in jobs:
            line = self.lines[key]
            if job["kind"] == "trial":
                line.searches += 1
            else:
                line.seeds += 1
        for key in finished:
            self.lines[key].seeds += 1
            self.lines[key].finished += 1
        self.total = self.left = sum(_weight(job) for _, job in jobs)
        self.jobs = len(jobs)
        self.started = time.monotonic()
        if self.shown and self.console.is_terminal:
            self.live = Live(self._table(), console=self.console, refresh_per_second=2)
            self.live.start()

    def progress(self, key: str, entry: Mapping[str, Any]) -> None:
        """A validation happened."""
        if self.left == self.total and not self.moving:
            self.moving, self.started = True, time.monotonic()  # the processes' own start says nothing of the time a run takes
        value = entry.get(f"validation_{self.metric}")
        if value is not None:
            self.lines[key].latest = f"step {entry['step']}: {value:.4g}"
        self._refresh()

    def finished(self, key: str, job: Job, result: Mapping[str, Any]) -> None:
        """A job is over."""
        self.left -= _weight(job)
        self.done_jobs += 1
        line = self.lines[key]
        if job["kind"] == "trial":
            line.searched += 1
            text = f"learning rate {job['rate']:g}"
        else:
            line.finished += 1
            line.failures += result["status"] != "done"
            text = f"seed {job['run']['seed']}"
        validation = result.get("validation")
        outcome = (
            f"{self.metric} {validation:.4g} on validation" if validation is not None else str(result.get("error") or result["status"])
        )
        line.latest = outcome
        if self.live is None:
            count = f"[{self.done_jobs:.0f}/{self.jobs:.0f}]"
            self.say(f"{count} {self.labels[key]}, {text}: {outcome} ({self._remaining()})")
        self._refresh()

    def end(self) -> None:
        """Training is over, or was interrupted."""
        if self.live is not None:
            self.live.update(self._table())
            self.live.stop()
            self.live = None

    def leaderboard(self, table: Any) -> None:
        """Print the leaderboard."""
        if not self.shown:
            return
        printed = RichTable(box=None, pad_edge=False)
        for name in ("rank", "model", "value", "95 % interval", "parameters", "latency", "training"):
            printed.add_column(name, justify="left" if name == "model" else "right")
        for line in table.to_dict("records"):
            missing = line["value"] != line["value"]
            name = " + ".join(part for part in (line["model"], line["methods"], line.get("axis", "")) if part)
            quality = ["–", ""] if missing else [f"{line['value']:.4g}", f"{line['low']:.4g} to {line['high']:.4g}"]
            costs = [
                _number(line["parameters"], "{:,.0f}"),
                _number(line["latency_ms"], "{:.2f} ms"),
                _number(line["train_seconds"], "{:.1f} s"),
            ]
            printed.add_row("–" if missing else str(line["rank"]), *(_plain(cell) for cell in (name, *quality, *costs)))
        self.console.print(printed)

    def _refresh(self) -> None:
        if self.live is not None:
            self.live.update(self._table())

    def _table(self) -> RichTable:
        table = RichTable(caption=self._remaining(), box=None, pad_edge=False)
        for name in ("model", "learning rates", "seeds", f"latest {self.metric} (validation)"):
            table.add_column(name)
        for key, line in self.lines.items():
            searches = f"{line.searched}/{line.searches}" if line.searches else "–"
            seeds = f"{line.finished}/{line.seeds}" + (f", {line.failures} failed" if line.failures else "")
            table.add_row(*(_plain(cell) for cell in (self.labels[key], searches, seeds, line.latest)))
        return table

    def _remaining(self) -> str:
        spent = self.total - self.left
        if spent <= 0:
            return "estimating the time left"
        seconds = (time.monotonic() - self.started) * self.left / spent
        return f"about {_duration(seconds)} left" if self.left > 1e-9 else "all runs are over"


def _weight(job: Job) -> float:
    if job["run"]["baseline"]:
        return _BASELINE_WEIGHT
    return SEARCH_SHARE if job["kind"] == "trial" else 1.0


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _number(value: Any, form: str) -> str:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return "–"
    return form.format(number) if number == number else "–"


def _plain(text: str) -> Any:
    """Text in which brackets mean nothing."""
    from rich.text import Text

    return Text(str(text))


def recognised(name: str, description: str, notes: Iterable[str]) -> str:
    """What data were taken for, in a line, and below it, indented, what was imputed or is warned of."""
    return "\n  ".join([f"{name}: {description}" if description else name, *notes])
