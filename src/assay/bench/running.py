"""One run of a study, start to end, in the current process: build, train, test, write its folder.

A job is JSON, so that it can travel to another process or machine:
``{"kind": "trial" | "run", "name", "run": Plan.run_json, "rate", "search_seconds"}``.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import platform
import shutil
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from assay import measure, models, registry
from assay.bench import files
from assay.bench.budget import SEARCH_SHARE, Budget
from assay.bench.plan import PLAIN, model_options, settings_of, shown, with_method_options
from assay.bench.processes import kept_memory
from assay.bench.results import ROW_FIELDS
from assay.bench.runs import write_source
from assay.contracts import Evaluation, Image, Signature, Task
from assay.errors import UserError
from assay.models.sequence import SequenceFamily
from assay.training import History, fit, predictor
from assay.training.methods import make_method

Job = dict[str, Any]
OnProgress = Callable[[History], None]

_MEMORY_WORDS = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory", "unable to allocate", "bad_alloc")
_MOST_PREDICTIONS = 2_000_000
"""Numbers of predictions kept a run; a report needs no more, and a study of thousands of runs stays small."""


def perform(job: Job, task: Task, folder: Path, on_progress: OnProgress | None = None) -> dict[str, Any]:
    """Do a job and write what came of it; whatever happens, the result says so.

    Args:
        job: see the module.
        task: the study's task.
        folder: the study's folder.
        on_progress: called after each validation.

    Returns:
        The trial's result (also in ``searches/<name>.json``) or the run's row (also in ``runs/<name>/row.json``).
    """
    with _settings(job["run"]["threads"]), kept_memory():
        return (_trial if job["kind"] == "trial" else _run)(job, task, folder, on_progress)


def failed(job: Job, folder: Path, task: Task, status: str, error: str, log: str) -> dict[str, Any]:
    """The same result for a job whose process died: the driver writes it."""
    if job["kind"] == "trial":
        return _write_trial(job, folder, {"status": status, "validation": None, "seconds": 0.0, "error": error})
    with _run_folder(folder, job["name"]) as partial:
        (partial / "log.txt").write_text(log)
        return _write_row(partial, _row(job, task) | {"status": status, "error": error})


def _trial(job: Job, task: Task, folder: Path, on_progress: OnProgress | None) -> dict[str, Any]:
    started = time.perf_counter()
    result: dict[str, Any] = {"status": "failed", "validation": None, "error": None}
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        try:
            _model, history = _train(job, _limited(task, job), SEARCH_SHARE, on_progress)
            result |= {"status": history.status, "validation": history.best_validation if history.status == "done" else None}
        except Exception as error:
            result |= {"status": status_of(error), "error": one_line(error)}
    return _write_trial(job, folder, result | {"seconds": time.perf_counter() - started})


def _run(job: Job, task: Task, folder: Path, on_progress: OnProgress | None) -> dict[str, Any]:
    row = _row(job, task)
    with _run_folder(folder, job["name"]) as partial, (partial / "log.txt").open("w", encoding="utf-8", buffering=1) as log:
        with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            try:
                row |= (_run_baseline if job["run"]["baseline"] else _run_network)(job, _limited(task, job), partial, on_progress)
            except Exception as error:
                log.write(traceback.format_exc())
                row |= {"status": status_of(error), "error": one_line(error)}
        return _write_row(partial, row)


def _run_network(job: Job, task: Task, partial: Path, on_progress: OnProgress | None) -> dict[str, Any]:
    def progress(history: History) -> None:
        print("  ".join(f"{name} {value:.5g}" for name, value in history.curve[-1].items()))
        if on_progress:
            on_progress(history)

    model, history = _train(job, task, 1.0, progress)
    wanted = settings_of(job["run"]).get("parameters", job["run"]["parameters"])
    off = models.off_budget(model, wanted)
    _write_curve(partial / "curve.csv", history.curve)
    models.save(model, partial)
    values = {
        "status": history.status,
        "parameters": models.parameter_count(model),
        "parameters_off": off,
        "marks": ["off budget"] if off else [],
        "train_seconds": history.seconds,
        "steps": history.steps,
        "flops": history.flops,
        "validation": history.best_validation,
        "device": str(next(model.parameters()).device),
    }
    if history.status == "diverged":
        return values | {"error": "the loss was no longer finite", "validation": None}
    return values | _tested(job, task, model, partial)


def _run_baseline(job: Job, task: Task, partial: Path, _on_progress: OnProgress | None) -> dict[str, Any]:
    estimator = registry.resolve("estimator", job["run"]["model"])()
    started = time.perf_counter()
    estimator.fit(task, seed=job["run"]["seed"])
    seconds = time.perf_counter() - started
    _write_curve(partial / "curve.csv", [])
    estimator.save(partial)
    values = {"status": "done", "parameters": estimator.parameter_count(), "train_seconds": seconds, "device": "cpu"}
    values["validation"] = task.evaluate(estimator, "validation").metrics[task.metric]
    return values | _tested(job, task, estimator, partial)


def _train(job: Job, task: Task, share: float, on_progress: OnProgress | None) -> tuple[torch.nn.Module, History]:
    run, axis = job["run"], settings_of(job["run"])
    budget = Budget(**run["budget"])
    for kind in ("steps", "seconds", "flops"):
        budget = Budget(kind, axis[kind]) if kind in axis else budget
    torch.manual_seed(run["seed"])
    model = models.build(run["model"], task.signature, int(axis.get("parameters", run["parameters"])), **model_options(axis))
    history = fit(
        model,
        task,
        **budget.share(share).fit_options(),
        learning_rate=job["rate"],
        batch_size=int(axis.get("batch_size", run["batch_size"])),
        seed=run["seed"],
        methods=[make_method(text) for text in with_method_options(run["methods"], axis)],
        on_progress=on_progress,
    )
    return model, history


def _tested(job: Job, task: Task, model: Any, partial: Path) -> dict[str, Any]:
    """Evaluate on the test split, once, and keep what the comparison and further use need."""
    evaluation = task.evaluate(predictor(model) if isinstance(model, torch.nn.Module) else model, "test")
    _write_scores(partial / "scores.npz", evaluation)
    write_source(partial, job["run"]["data"], job["run"]["opening"], task)
    checkpoint = [path for path in partial.iterdir() if path.name in ("model.safetensors", "fitted.skops")]
    value = evaluation.metrics[task.metric]
    if not np.isfinite(value) or not np.isfinite(evaluation.scores).all():
        return {"status": "diverged", "error": "the test measure is not finite"}
    return {"value": value, "metrics": evaluation.metrics, "bytes": sum(path.stat().st_size for path in checkpoint)}


# ------------------------------------------------------------------------------------------------ what is written


def _row(job: Job, task: Task) -> dict[str, Any]:
    run = job["run"]
    methods = run.get("methods", PLAIN)
    row: dict[str, Any] = dict.fromkeys(ROW_FIELDS)
    return row | {
        "run": job["name"],
        "task": task.name,
        "model": shown(run["model"]),
        "methods": [] if methods == PLAIN else [shown(name) for name in methods.split("+")],
        "axis": run["axis"],
        "baseline": run["baseline"],
        "seed": run["seed"],
        "metric": task.metric,
        "direction": task.direction,
        "metrics": {},
        "parameters_off": False,
        "marks": [],
        "adapter": _adapter(run, task.signature),
        "search_seconds": job["search_seconds"],
        "learning_rate": job["rate"],
        "device": "cpu",
        "machine": measure.machine(),
        "threads": run["threads"],
        "versions": {"assay": version("assay"), "torch": torch.__version__, "python": platform.python_version()},
    }


def _adapter(run: Mapping[str, Any], signature: Signature) -> str | None:
    """How a picture comes to a model that reads sequences: said in the leaderboard."""
    if run["baseline"] or not isinstance(signature.input, Image):
        return None
    return "rows of the picture as a sequence" if isinstance(models.family(run["model"]), SequenceFamily) else None


def _write_row(partial: Path, row: dict[str, Any]) -> dict[str, Any]:
    row = files.finite(row)
    (partial / "row.json").write_text(json.dumps(row, indent=1, ensure_ascii=False))
    return row


def _write_trial(job: Job, folder: Path, result: dict[str, Any]) -> dict[str, Any]:
    result = files.finite({"name": job["name"], "rate": job["rate"], **result})
    (folder / "searches").mkdir(exist_ok=True)
    files.write_json(folder / "searches" / f"{job['name']}.json", result)
    return result


@contextlib.contextmanager
def _run_folder(folder: Path, name: str) -> Iterator[Path]:
    """A folder under a temporary name that gets its own when everything is in it and on disk."""
    parent = folder / "runs"
    parent.mkdir(exist_ok=True)
    partial = parent / f".{name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    yield partial
    files.sync_tree(partial)
    partial.rename(parent / name)
    files.sync_folder(parent)


def _write_curve(path: Path, curve: list[dict[str, float]]) -> None:
    columns = list(dict.fromkeys(name for entry in curve for name in entry)) or ["step"]
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(curve)


def _write_scores(path: Path, evaluation: Evaluation) -> None:
    predictions = np.asarray(evaluation.predictions)
    each = max(1, predictions.size // max(1, len(predictions)))
    arrays = {"scores": np.asarray(evaluation.scores, dtype=np.float64), "predictions": predictions[: max(1, _MOST_PREDICTIONS // each)]}
    if evaluation.groups is not None:
        arrays["groups"] = np.asarray(evaluation.groups)
    with path.open("wb") as stream:
        np.savez_compressed(stream, **arrays)  # pyright: ignore[reportArgumentType]


# ------------------------------------------------------------------------------------------------ inside


@contextlib.contextmanager
def _settings(threads: int) -> Iterator[None]:
    """The study's threads and repeatable kernels; the process's own settings come back afterwards."""
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    deterministic: Any = torch.utils.deterministic
    filling = deterministic.fill_uninitialized_memory
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    deterministic.fill_uninitialized_memory = False  # a debugging aid that costs time in every allocation
    with torch.random.fork_rng():
        try:
            yield
        finally:
            torch.set_num_threads(before[0])
            torch.use_deterministic_algorithms(before[1], warn_only=before[2])
            deterministic.fill_uninitialized_memory = filling


def _limited(task: Task, job: Job) -> Task:
    """The task with fewer training examples, where the axis ``examples`` says so; the same ones for every model."""
    wanted = job["run"]["axis"].get("examples")
    if wanted is None:
        return task
    from assay.tasks.base import ArrayTask, training_part

    if not isinstance(task, ArrayTask):
        raise UserError("The axis examples needs data of separate examples; this task's training data cannot be cut.")
    kept = torch.randperm(task.size("train"), generator=torch.Generator().manual_seed(0))[: int(wanted)].sort().values
    return training_part(task, kept.numpy())


def status_of(error: BaseException) -> str:
    """``out-of-memory`` or ``failed``."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return "out-of-memory"
    text = str(error).lower()
    return "out-of-memory" if isinstance(error, RuntimeError) and any(words in text for words in _MEMORY_WORDS) else "failed"


def one_line(error: BaseException) -> str:
    """The error's kind and first line."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {text}"[:300] if text else type(error).__name__
