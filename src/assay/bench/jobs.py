"""Which jobs a study has left, in which order they may start, and what came of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from assay.bench import results
from assay.bench.plan import Configuration, Plan
from assay.bench.running import Job


class Jobs:
    """A run waits until every learning rate of its configuration was tried; nothing that is finished on disk comes again.

    Args:
        plan: what was asked.
        folder: the study's folder; this process holds its lock.
        direction: of the primary measure, ``max`` or ``min``.
    """

    def __init__(self, plan: Plan, folder: Path, direction: str) -> None:
        self.plan, self.folder, self.direction = plan, folder, direction
        self.rows = adopt(plan, folder)
        self.ready: list[Job] = []
        self.waiting: dict[str, list[Job]] = {}
        self.trials: dict[str, dict[float, Mapping[str, Any] | None]] = {}
        self.keys: dict[str, str] = {}
        done = {row["run"] for row in self.rows}
        for configuration in plan.configurations():
            self._enter(configuration, done)

    def key(self, job: Job) -> str:
        """The key of a job's configuration."""
        return self.keys[job["name"]]

    def left(self) -> list[tuple[str, Job]]:
        """All jobs that have not started, with their configuration's key."""
        return [(self.key(job), job) for job in (*self.ready, *(job for jobs in self.waiting.values() for job in jobs))]

    def finish(self, job: Job, result: Mapping[str, Any]) -> None:
        """Record a result; the last trial of a configuration lets its runs go."""
        if job["kind"] == "run":
            results.append_row(self.folder, result)
            self.rows.append(dict(result))
        else:
            self.trials[self.key(job)][job["rate"]] = result
            self._release(self.key(job))

    def _enter(self, configuration: Configuration, done: set[str]) -> None:
        names = {seed: self.plan.run_name(configuration, seed) for seed in self.plan.seeds}
        runs = [self._job("run", name, configuration, seed) for seed, name in names.items() if name not in done]
        for name in names.values():
            self.keys[name] = configuration.key
        rates = _rates(self.plan, configuration)
        if len(rates) <= 1:
            self.ready += [job | {"rate": rates[0] if rates else None} for job in runs]
        elif runs:
            self.waiting[configuration.key] = runs
            self.trials[configuration.key] = {rate: self._trial(configuration, rate) for rate in rates}
            self._release(configuration.key)

    def _trial(self, configuration: Configuration, rate: float) -> Mapping[str, Any] | None:
        """What came of a rate before; None, and a job for it, if it was not tried yet."""
        job = self._job("trial", self.plan.trial_name(configuration, rate), configuration, self.plan.seeds[0]) | {"rate": rate}
        kept = self.folder / "searches" / f"{job['name']}.json"
        if kept.exists():
            return json.loads(kept.read_text(encoding="utf-8"))
        self.ready.append(job)
        return None

    def _job(self, kind: str, name: str, configuration: Configuration, seed: int) -> Job:
        self.keys[name] = configuration.key
        return {"kind": kind, "name": name, "run": self.plan.run_json(configuration, seed), "rate": None, "search_seconds": 0.0}

    def _release(self, key: str) -> None:
        trials = {rate: trial for rate, trial in self.trials[key].items() if trial is not None}
        if len(trials) == len(self.trials[key]):
            chosen = {"rate": best_rate(trials, self.direction), "search_seconds": sum(trial["seconds"] for trial in trials.values())}
            self.ready += [job | chosen for job in self.waiting.pop(key)]


def best_rate(trials: Mapping[float, Mapping[str, Any]], direction: str) -> float:
    """The rate with the best validation measure; the smaller of equals, and the smallest of all where none finished."""
    sign = 1 if direction == "max" else -1
    finished = {rate: trial["validation"] for rate, trial in trials.items() if trial["validation"] is not None}
    return max(finished, key=lambda rate: (sign * finished[rate], -rate)) if finished else min(trials)


def adopt(plan: Plan, folder: Path) -> list[dict[str, Any]]:
    """The rows of all runs that are finished: those in ``results.jsonl`` and those whose folder alone was written before a kill.

    Unfinished leftovers are removed, and ``results.jsonl`` afterwards holds exactly these rows.
    """
    for leftover in (*folder.glob(".*.partial"), *folder.glob("*/.*.partial")):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    results.drop_torn_line(folder)
    known = {row["run"]: row for row in reversed(results.read_rows(folder))}
    rows = []
    for configuration, seed in plan.runs():
        name = plan.run_name(configuration, seed)
        written = folder / "runs" / name / "row.json"
        if written.exists():
            rows.append(known.get(name) or json.loads(written.read_text(encoding="utf-8")))
    if rows or known:
        results.rewrite_rows(folder, rows)
    return rows


def _rates(plan: Plan, configuration: Configuration) -> tuple[float, ...]:
    if configuration.baseline:
        return ()
    fixed = plan.settings(configuration).get("learning_rate")
    return plan.rates if fixed is None else (float(fixed),)
