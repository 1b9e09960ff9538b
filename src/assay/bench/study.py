"""`compare`: models × methods × seeds × axes on one task, under one budget, to results, a leaderboard and a report."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from assay import registry, tasks
from assay.bench import files, results
from assay.bench.budget import DEFAULT_STEPS, Budget
from assay.bench.executors import Event, Executor, InProcess, Workers
from assay.bench.jobs import Jobs
from assay.bench.live import View, recognised
from assay.bench.measuring import measured
from assay.bench.plan import ADVISED, PLAIN, STUDY_SETTINGS, Plan, absolute, digest_of, model_options, shown, sources_of
from assay.bench.selection import divided, networks_for
from assay.bench.statistics import Comparison, Verdict
from assay.contracts import Evaluation, Task
from assay.errors import UserError
from assay.models import build
from assay.models.estimators import baselines_for
from assay.tasks.options import made_in_python

if TYPE_CHECKING:
    import pandas

RATES = (1e-3, 3e-3, 1e-2)
_DEFAULTS: dict[str, Any] = {"models": "auto", "parameters": 200_000, "seeds": 3, "batch_size": 32}


class Study:
    """A study's folder, read.

    Args:
        folder: where it lies.

    Raises:
        UserError: the folder holds no results.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.rows = results.read_rows(self.folder)
        if not self.rows:
            raise UserError(f"{self.folder} holds no finished run: name the folder of a study, or go on with it by --resume.")

    @cached_property
    def comparison(self) -> Comparison:
        """Test scores of all finished runs."""
        return results.load_comparison(self.folder, self.rows)

    @cached_property
    def leaderboard(self) -> pandas.DataFrame:
        """One line a configuration, best first."""
        return results.leaderboard(self.rows, self.comparison)

    @cached_property
    def verdict(self) -> Verdict:
        """What to use, in one sentence with its facts."""
        return results.study_verdict(self.rows, self.comparison)

    @property
    def advice_effects(self) -> list[str]:
        """What the advice did for each model that also ran without it, a sentence each."""
        return results.advice_effects(self.rows, self.comparison)

    @property
    def report(self) -> Path:
        """The report's page."""
        return self.folder / "report.html"

    def best(self, baseline: bool | None = None) -> Path | None:
        """The run's folder of the leaderboard's first model, its seed that is best on validation.

        Args:
            baseline: True for the first baseline, False for the first network, None for whichever is first.

        Returns:
            The folder, or None where no such run finished.
        """
        done = [row for row in self.rows if row["status"] == "done" and baseline in (None, bool(row["baseline"]))]
        if not done:
            return None
        sign = 1 if done[0]["direction"] == "max" else -1

        def goodness(row: Mapping[str, Any]) -> tuple[float, float]:
            on_validation = -float("inf") if row["validation"] is None else sign * row["validation"]
            return sign * self.comparison.mean(results.configuration_key(row)), on_validation

        return self.folder / "runs" / max(done, key=goodness)["run"]


def compare(
    data: str | Path | Task | None = None,
    *,
    models: str | Sequence[str] = "auto",
    methods: Sequence[str] = (),
    axis: Mapping[str, Sequence[Any]] | None = None,
    advised: bool = False,
    parameters: int = 200_000,
    steps: int | None = None,
    seconds: float | None = None,
    flops: float | None = None,
    seeds: int | Sequence[int] = 3,
    batch_size: int = 32,
    rates: Sequence[float] = RATES,
    threads: int | None = None,
    workers: int = 1,
    ray: str | None = None,
    output: str | Path | None = None,
    resume: bool = False,
    live: bool = True,
    **opening: Any,
) -> Study:
    """Compare models on some data under one equal budget.

    Every network has the same number of parameters, the same budget and the same batches; the same learning rates are tried for each
    on the first seed with a third of the budget and chosen on validation; the test split is used once a run. Classical baselines stand
    beside the networks.

    Args:
        data: a file or folder, the name of built-in data, or a task made in Python; nothing: the digits.
        models: networks, mixers, baselines or ``file.py:Class``; ``auto`` picks a few for this kind of data. Baselines are added unless
            the list names some.
        methods: training methods to compare, each joined by ``+`` where several work together; ``none`` is plain training.
        axis: values by name, every combination of which is run; see `assay.bench.plan.STUDY_SETTINGS`.
        advised: run every network a second time as `assay.advise` says (architecture, initialisation and one learning rate without a
            search), so that the report can say whether the advice helped.
        parameters: budget of trainable parameters a network.
        steps: budget of optimiser steps a run (600 where no budget is given).
        seconds: budget of training seconds a run.
        flops: budget of floating-point operations a run.
        seeds: number of runs a configuration, or the seeds themselves.
        batch_size: examples a step.
        rates: learning rates to try; a single one is used without a search.
        threads: of every run; by default this machine's processors divided by the workers, and one on a cluster.
        workers: processes on this machine.
        ray: address of a Ray cluster to run on instead.
        output: the study's folder; by default a new one below ``assay-results``.
        resume: go on with the study in ``output``; options left at their defaults are taken from it.
        live: show progress.
        opening: how the data are opened: task, target, group, time, horizon, tokenizer.

    Returns:
        The study: ``.leaderboard``, ``.rows``, ``.verdict``, ``.report``, ``.folder``.

    Raises:
        UserError: unusable data or options, or the folder is in use, or holds another study.
    """
    given = {"models": models, "methods": methods, "axis": axis or {}, "advised": advised, "parameters": parameters, "seeds": seeds}
    given |= {"batch_size": batch_size, "rates": rates, "budget": Budget.of(steps, seconds, flops), "opening": opening}
    folder = _existing_folder(output, resume)
    known = _known_plan(folder) if folder is not None and resume else None
    name, opening, task = _open(data, opening, known)
    if name.startswith("python:") and workers > 1 and ray is None:
        raise UserError("A task made in Python runs in this process: leave workers away, or give a path or a built-in name.")
    given["threads"] = threads or (1 if ray is not None and known is None else None)  # a cluster's nodes may be small
    plan = _plan(name, opening, task, given, known, workers)
    if ray is not None:
        from assay.bench.cluster import check_cluster

        check_cluster(ray, plan.threads)
    folder = folder or _new_folder(task)
    folder.mkdir(parents=True, exist_ok=True)
    view = View(live, {c.key: c.label for c in plan.configurations()}, task.metric)
    with files.locked(folder):
        if known is None:
            _existing_folder(folder, False)  # another may have begun here while the data were opened
            files.write_text(folder / "study.toml", plan.to_toml())
        view.say(recognised(task.name, task.description, task.notes))
        _train_all(plan, task, folder, view, lambda on_event: _executor(plan, task, folder, workers, ray, on_event))
        return _conclude(plan, task, folder, view)


# ------------------------------------------------------------------------------------------------ what is asked


def _existing_folder(output: str | Path | None, resume: bool) -> Path | None:
    """The folder that was named, if it may be used; None when a new one is to be found."""
    if output is None:
        if resume:
            raise UserError("--resume needs --output: name the folder of the study to go on with.")
        return None
    folder = Path(output)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: name a folder with --output.")
    if not resume and (folder / "study.toml").exists():
        raise UserError(f"{folder} already holds a study: add --resume to go on with it, or choose another --output.")
    strange = [path for path in folder.iterdir() if not path.name.endswith((".lock", ".partial"))] if folder.is_dir() else []
    if strange and not (folder / "study.toml").exists():
        raise UserError(f"{folder} is not empty and holds no study: choose another --output.")
    return folder


def _new_folder(task: Task) -> Path:
    base = Path("assay-results") / "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in task.name)
    number, folder = 1, base
    while folder.exists():
        number += 1
        folder = base.with_name(f"{base.name}-{number}")
    return folder


def _known_plan(folder: Path) -> Plan | None:
    path = folder / "study.toml"
    return Plan.from_toml(path.read_text(encoding="utf-8"), path) if path.exists() else None


def _open(data: Any, opening: dict[str, Any], known: Plan | None) -> tuple[str, dict[str, Any], Task]:
    if data is not None and not isinstance(data, (str, Path)):
        return f"python:{data.name}", {}, made_in_python(data, opening)
    opening = {name: value for name, value in opening.items() if value is not None} or (known.opening if known else {})
    name = str(data) if data is not None else (known.data if known else "digits")
    if name.startswith("python:"):
        raise UserError("This study's task was made in Python: hand the same task to assay.compare to go on.")
    if not registry.known("task", name) and Path(name).exists():  # a folder may bear the name of built-in data
        name = str(Path(name).resolve())
    name = absolute(name)
    return name, opening, tasks.open(name, **opening)


def _plan(name: str, opening: dict[str, Any], task: Task, given: dict[str, Any], known: Plan | None, workers: int) -> Plan:
    if known is not None:
        _agree(known, name, opening, task, given)
        return known
    networks, baselines = _chosen_models(given["models"], task)
    methods = _chosen_methods(given["methods"])
    axis = {key: tuple(values) for key, values in given["axis"].items()}
    named = (*networks, *(part for text in methods for part in text.split("+")))
    sources = {path: digest for name in named for path, digest in sources_of(name).items()}
    plan = Plan(
        data=name,
        recognised=task.description,
        models=tuple(networks),
        baselines=tuple(baselines),
        budget=given["budget"] or Budget("steps", DEFAULT_STEPS),
        parameters=_positive("parameters", given["parameters"]),
        seeds=_chosen_seeds(given["seeds"]),
        batch_size=_positive("batch_size", given["batch_size"]),
        rates=_chosen_rates(given["rates"]),
        threads=given["threads"] or max(1, (os.cpu_count() or 1) // max(1, workers)),
        opening=opening,
        methods=methods,
        axis=axis,
        sources=sources,
    )
    _check_axis(plan, task)
    if given["advised"]:
        from assay.bench.advising import advised_settings

        plan = replace(plan, advice=advised_settings(plan, task))
    labels = [configuration.label for configuration in plan.configurations()]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise UserError(f"Two of the models would both be called {twice}: give their files different names.")
    return plan


def _agree(known: Plan, name: str, opening: dict[str, Any], task: Task, given: dict[str, Any]) -> None:
    """What is given anew must be what the study was asked before."""
    now: dict[str, Any] = {"data": name, "opening": opening, "recognised": task.description}
    if given["models"] != _DEFAULTS["models"]:
        networks, baselines = _chosen_models(given["models"], task)
        now |= {"models": tuple(networks), "baselines": tuple(baselines)}
    if given["methods"]:
        now["methods"] = _chosen_methods(given["methods"])
    if given["axis"]:
        now["axis"] = {key: tuple(values) for key, values in given["axis"].items()}
    if given["seeds"] != _DEFAULTS["seeds"]:
        now["seeds"] = _chosen_seeds(given["seeds"])
    if tuple(given["rates"]) != RATES:
        now["rates"] = _chosen_rates(given["rates"])
    now |= {key: given[key] for key in ("parameters", "batch_size") if given[key] != _DEFAULTS[key]}
    now |= {key: given[key] for key in ("budget", "threads") if given[key] is not None}
    now["sources"] = {path: digest_of(path) for path in known.sources}
    clause = known.disagreement(now)
    if given["advised"] and not known.advice:
        clause = "it was not advised there and is now"
    if clause is not None:
        raise UserError(f"The study cannot go on: {clause}; leave the option away, or choose another --output.")


def _chosen_models(wanted: str | Sequence[str], task: Task) -> tuple[list[str], list[str]]:
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    if names == ["auto"]:
        return networks_for(task.signature), baselines_for(task.signature)
    if not names:
        raise UserError("--models names no model: give names separated by commas, or auto.")
    networks, baselines = divided([absolute(name) for name in names], task.signature)
    return networks, baselines or baselines_for(task.signature)


def _chosen_methods(wanted: Sequence[str]) -> tuple[str, ...]:
    from assay.training.methods import make_method

    texts = ["+".join(absolute(part) for part in text.split("+")) for text in wanted]
    for text in texts:
        for part in text.split("+") if text != PLAIN else ():
            make_method(part)  # says now what would fail later
    return tuple(dict.fromkeys(texts)) or (PLAIN,)


def _chosen_seeds(wanted: int | Sequence[int]) -> tuple[int, ...]:
    seeds = tuple(range(wanted)) if isinstance(wanted, int) else tuple(dict.fromkeys(wanted))
    if not seeds:
        raise UserError(f"--seeds must be at least 1, got {wanted}.")
    return seeds


def _chosen_rates(wanted: Sequence[float]) -> tuple[float, ...]:
    rates = tuple(sorted({float(rate) for rate in wanted}))
    if not rates or not all(0 < rate < float("inf") for rate in rates):
        raise UserError(f"Learning rates must be positive numbers, got {list(wanted)}.")
    return rates


def _positive(name: str, value: int) -> int:
    if not value >= 1:
        raise UserError(f"--{name.replace('_', '-')} must be at least 1, got {value}.")
    return int(value)


def _check_axis(plan: Plan, task: Task) -> None:
    for name, values in plan.axis.items():
        if name == ADVISED:
            raise UserError("advised is not an axis: add --advised.")
        if not values:
            raise UserError(f"The axis {name} has no values.")
        if name in STUDY_SETTINGS and not all(isinstance(value, (int, float)) and value > 0 for value in values):
            raise UserError(f"The axis {name} needs positive numbers, got {', '.join(map(str, values))}.")
        if name in model_options(plan.axis) and name != "init" and plan.models:
            for value in values:
                _check_option(name, value, plan, task)


def _check_option(name: str, value: Any, plan: Plan, task: Task) -> None:
    """Refuse what every network of the study would fail with; what one of them can be is run, and is a failed row for the others."""
    reasons = []
    for model in plan.models:
        try:
            build(model, task.signature, plan.parameters, **{name: value})
            return
        except Exception as error:  # whatever it is, it would end every run
            reasons.append(f"{shown(model)}: {(str(error) or type(error).__name__).rstrip('.')}")
    raise UserError(f"No network of this study can be built with {name}={value} ({'; '.join(reasons[:3])}): correct --axis {name}.")


# ------------------------------------------------------------------------------------------------ training


def _executor(plan: Plan, task: Task, folder: Path, workers: int, ray: str | None, on_event: Callable[[Event], None]) -> Executor:
    if ray is not None:
        from assay.bench.cluster import RayExecutor

        return RayExecutor(ray, plan.threads, folder, task)
    if workers == 0 or plan.data.startswith("python:"):
        return InProcess(task, folder, on_event)
    opening = {"data": plan.data, "opening": plan.opening, "folder": str(folder.resolve())}
    return Workers(workers, plan.threads, opening, task)


def _train_all(plan: Plan, task: Task, folder: Path, view: View, make_executor: Callable[[Callable[[Event], None]], Executor]) -> None:
    """Do every job that is not done yet; the driver alone writes ``results.jsonl``."""
    jobs = Jobs(plan, folder, task.direction)
    if not jobs.left():
        return
    view.begin(jobs.left(), [jobs.keys[row["run"]] for row in jobs.rows])

    def heard(event: Event) -> None:
        key = jobs.key(event.job)
        if event.progress is not None:
            view.progress(key, event.progress)
        if event.result is not None:
            jobs.finish(event.job, event.result)
            view.finished(key, event.job, event.result)

    executor = make_executor(heard)
    try:
        running = 0
        while running or jobs.ready:
            while executor.free() and jobs.ready:
                executor.start(jobs.ready.pop(0))
                running += 1
            for event in executor.wait(1.0):
                running -= event.result is not None
                heard(event)
    except KeyboardInterrupt:
        view.end()
        view.say(f"Stopped. What is finished is kept: go on with `assay compare --resume --output {folder}`.")
        raise
    finally:
        view.end()
        executor.close()


# ------------------------------------------------------------------------------------------------ measures, leaderboard, report


def _conclude(plan: Plan, task: Task, folder: Path, view: View) -> Study:
    """Measure the costs, one model at a time; write the leaderboard, the report's samples and the report."""
    from assay.bench.report import collect, write_report

    order = {plan.run_name(configuration, seed): index for index, (configuration, seed) in enumerate(plan.runs())}
    rows = sorted(results.read_rows(folder), key=lambda row: order[row["run"]])
    if any(row["status"] == "done" for row in rows):
        view.say("Measuring latency and memory, one model at a time.")
    measures: dict[str, dict[str, Any]] = {}
    for row in rows:
        key = results.configuration_key(row)
        if row["status"] != "done":
            continue
        if key not in measures:
            measures[key] = measured(folder / "runs" / row["run"], task, plan.batch_size, plan.threads)
        for name in results.MEASURED_LAST:
            row[name] = measures[key].get(name)
    results.rewrite_rows(folder, rows)
    study = Study(folder)
    files.write_text(folder / "leaderboard.csv", study.leaderboard.to_csv(index=False))
    if study.comparison.scores:
        files.write_json(folder / "samples.json", collect(task, _shown(study)))
    write_report(folder)
    view.leaderboard(study.leaderboard)
    view.say(study.verdict.sentence)
    for sentence in study.advice_effects:
        view.say(f"Advice: {sentence}")
    view.say(f"Report: {study.report}")
    return study


def _shown(study: Study) -> dict[str, Evaluation]:
    """The test evaluations whose predictions the report shows: of the best network and the best baseline."""
    shown = {}
    for run in filter(None, (study.best(baseline=False), study.best(baseline=True))):
        row = next(row for row in study.rows if row["run"] == run.name)
        with np.load(run / "scores.npz", allow_pickle=False) as arrays:
            shown[results.label_of(row)] = Evaluation(row["metrics"], arrays["scores"], arrays["predictions"], arrays.get("groups"))
    return shown
