"""The verbs on one model: train, evaluate, predict, generate, shrink, inspect, export."""

from __future__ import annotations

import copy
import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from assay import models, registry, tasks
from assay.bench.plan import absolute
from assay.bench.runs import Run, open_run, write_source
from assay.contracts import Class, Finding, NextTokens, Task, TrailPoint, Values
from assay.errors import UserError
from assay.models.masking import fix_masks
from assay.tasks.targets import in_units, value_names
from assay.training import History, fit
from assay.training.distributed import make_fabric, whole_state
from assay.training.methods import make_method


def train(
    data: str,
    model: str | None = None,
    *,
    from_run: str | Path | None = None,
    parameters: int = 200_000,
    steps: int | None = None,
    seconds: float | None = None,
    flops: float | None = None,
    learning_rate: float = 3e-3,
    batch_size: int = 32,
    seed: int = 0,
    methods: Sequence[str] = (),
    devices: int = 1,
    strategy: str = "auto",
    nodes: int = 1,
    precision: str = "32-true",
    init: str = "default",
    output: str | Path | None = None,
    on_progress: Callable[[History], None] | None = None,
    on_open: Callable[[Task], None] | None = None,
    **opening: Any,
) -> Run:
    """Train one network on some data and write its run.

    Args:
        data: a path, or the name of a built-in task.
        model: a registered model or mixer, or ``file.py:Class``.
        from_run: go on from this run's weights instead of a fresh network (a recipe of stages is train after train).
        parameters: size of a fresh network.
        steps: budget of optimiser steps (600 when no budget is given).
        seconds: budget of training time.
        flops: budget of floating-point operations.
        learning_rate: peak learning rate.
        batch_size: examples a step, over all processes.
        seed: of initialisation, batches and dropout.
        methods: training methods, as in ``gradient-noise:eta=0.05``.
        devices: devices or CPU processes a node.
        strategy: ``auto``, ``ddp`` or ``fully-shard``.
        nodes: machines.
        precision: Lightning Fabric's words, ``32-true``, ``bf16-mixed`` …
        init: of a fresh network, ``default`` or ``critical``.
        output: the run's folder; by default one under ``assay-results``.
        on_progress: called after each validation.
        on_open: called with the task, once it is open.
        opening: how to read the data: task, target, group, time (a column), horizon …

    Raises:
        UserError: unusable data or options.
    """
    if (model is None) == (from_run is None):
        raise UserError("Name either a model (--model) or a run to go on from (--from), not both and not neither.")
    if from_run is not None and init != "default":
        raise UserError(f"--init {init} is for a fresh network, but {from_run} is trained already: leave one of --from and --init out.")
    made = [make_method(method) for method in methods]
    fabric = make_fabric(devices, strategy, nodes, precision)
    fabric.launch()
    task = tasks.open(data, **opening)
    if on_open is not None and fabric.is_global_zero:
        on_open(task)
    torch.manual_seed(seed)
    fresh = {} if init == "default" else {"init": init}
    network = open_run(from_run).network if from_run is not None else models.build(str(model), task.signature, parameters, **fresh)
    if network.signature != task.signature:
        raise UserError(f"{from_run} was trained for {network.signature}, but {data} needs {task.signature}.")
    budget = {"steps": steps, "seconds": seconds, "flops": flops}
    if all(value is None for value in budget.values()):
        budget["steps"] = 600
    try:
        history = fit(
            network, task, **budget, learning_rate=learning_rate, batch_size=batch_size, seed=seed, methods=made, fabric=fabric,
            on_progress=on_progress if fabric.is_global_zero else None,
        )  # fmt: skip
    except UserError:
        raise
    except ValueError as error:  # an option that only shows its fault beside these data, as a batch too small for a method
        raise UserError(f"{model or from_run} cannot be trained so on {task.name}: {error}.") from error
    folder = Path(output) if output else Path("assay-results") / f"train-{task.name}-{_slug(model or 'continued')}-{_digest(data, seed)}"
    state = whole_state(network)
    if fabric.is_global_zero:
        models.save(network, folder, state)
        write_source(folder, data, opening, task)
        asked = {"from": None if from_run is None else str(Path(from_run).resolve()), "methods": [absolute(text) for text in methods]}
        asked |= {**budget, "learning_rate": learning_rate, "batch_size": batch_size, "seed": seed}
        (folder / "training.json").write_text(json.dumps(asked | {"status": history.status, "best_step": history.best_step}, indent=1))
        pd.DataFrame(history.curve).to_csv(folder / "curve.csv", index=False)
    fabric.barrier()
    return Run(folder, network, data, opening, task.encoding)


def evaluate(run: str | Path | Run, data: str | None = None) -> dict[str, float]:
    """All measures of a run on its own test split, or on further data read the same way."""
    opened = _opened(run)
    task = opened.task(data)
    return task.evaluate(opened.predictor, "test").metrics


def predict(run: str | Path | Run, data: str) -> pd.DataFrame:
    """The prediction for every example of further data: its name, the class and its probability, or the values."""
    opened = _opened(run)
    task = opened.task(data)
    with torch.no_grad():
        outputs = [opened.predictor(batch).prediction.float().cpu() for batch in task.batches("test", 256)]
    return _frame(task, torch.cat(outputs))


def generate(
    run: str | Path | Run, prompt: str, *, count: int = 200, temperature: float = 0.8, top: int | None = None, beams: int = 1, seed: int = 0
) -> str:
    """Text that goes on from a prompt, by a run trained on text.

    Raises:
        UserError: the run does not predict tokens, does not stream, or the prompt is empty.
    """
    from assay.models.decoding import beam_search, sample
    from assay.tasks.text import decode, encode

    opened = _opened(run)
    if not isinstance(opened.network.signature.output, NextTokens):
        raise UserError(f"{opened.folder} does not predict the next token: generate needs a model trained on text.")
    tokens = torch.tensor([encode(prompt, opened.encoding)], dtype=torch.long)
    if tokens.numel() == 0:
        raise UserError("The prompt is empty: give at least one character with --prompt.")
    try:
        if beams > 1:
            return decode(beam_search(opened.network, tokens, count, beams)[0].tolist(), opened.encoding)
        return decode(sample(opened.network, tokens, count, temperature, top, seed)[0].tolist(), opened.encoding)
    except ValueError as error:
        raise UserError(f"{error}.") from error


def shrink(
    run: str | Path | Run, method: str, to: Mapping[str, float], *, output: str | Path | None = None
) -> tuple[Run, list[TrailPoint]]:
    """Make a run's network smaller and write it as a run of its own, with the trail of every point that was visited.

    Args:
        run: a run's folder.
        method: a compressor's name.
        to: measure → share that may remain, as in ``{"parameters": 0.5}``.
        output: the new run's folder; by default beside the old one.
    """
    opened = _opened(run)
    for measure, share in to.items():
        if not 0 < share <= 1:
            raise UserError(f"--to {measure}={share:g}: the share that remains must be above 0 and at most 1.")
    task = opened.task()
    compressor = registry.resolve("compressor", method)()
    try:
        best, trail = compressor(opened.network, task, to)
    except ValueError as error:
        raise UserError(f"{method} cannot shrink {opened.folder}: {error}.") from error
    folder = Path(output) if output else opened.folder.with_name(f"{opened.folder.name}-{method}")
    models.save(best, folder)
    write_source(folder, opened.data, opened.options, task)
    points = [{"edits": point.edits, "measures": point.measures} for point in trail]
    (folder / "trail.json").write_text(json.dumps(points, indent=1))
    return Run(folder, best, opened.data, opened.options, opened.encoding), trail


def inspect(run: str | Path | Run, probe: str | None = None) -> dict[str, Finding]:
    """What probes find in a run: the named one (with options, as in ``alignment:other=RUN``), or every probe that has something to say.

    Probes that train networks of their own (``trains``) are left out unless one is named.

    Raises:
        UserError: there is no such probe, or it has nothing to say of this run.
    """
    opened = _opened(run)
    task = opened.task()
    if probe is not None:
        name = registry.split_options(probe)[0]
        try:
            return {name: registry.make("probe", probe)(opened.network, task)}
        except UserError:
            raise
        except ValueError as error:
            raise UserError(f"{name} has nothing to say of {opened.folder}: {error}.") from error
    found = {}
    for name in registry.names("probe"):
        maker = registry.resolve("probe", name)
        if getattr(maker, "trains", False):
            continue
        try:
            found[name] = maker()(opened.network, task)
        except (UserError, ValueError):
            continue  # the probe does not apply to this kind of model
    return found


def export(run: str | Path | Run, to: str, *, step: bool = False, output: str | Path | None = None) -> list[Path]:
    """Write a run's network in another form, checked; returns the files.

    Args:
        run: a run's folder.
        to: ``onnx``, ``torch`` or ``safetensors``.
        step: the step function of a streaming model, in place of the whole sequence.
        output: folder for the files; by default ``<run>/export``.
    """
    opened = _opened(run)
    exporter = registry.resolve("exporter", to)
    folder = Path(output) if output else opened.folder / "export"
    network = opened.network.eval()
    if to != "safetensors":  # other tools know nothing of masks: the zeros go into the weights
        network = fix_masks(copy.deepcopy(network))
    with tempfile.TemporaryDirectory() as scratch:
        files = exporter(network, Path(scratch), step=step)
        folder.mkdir(parents=True, exist_ok=True)
        placed = []
        for file in [*files, *Path(scratch).glob("*.json")]:
            target = folder / file.name
            partial = target.with_name(target.name + ".partial")
            partial.write_bytes(file.read_bytes())
            partial.replace(target)
            placed.append(target)
    return list(dict.fromkeys(placed))


def _opened(run: str | Path | Run) -> Run:
    return run if isinstance(run, Run) else open_run(run)


def _frame(task: Task, prediction: torch.Tensor) -> pd.DataFrame:
    source = getattr(task, "source", {})
    names = source.get("names") or range(len(prediction))
    output = task.signature.output
    if isinstance(output, Class) and prediction.ndim == 2 and not task.signature.multi_label:
        labels = np.array(task.encoding.get("labels") or range(output.classes), dtype=object)
        best = prediction.softmax(-1).max(-1)
        return pd.DataFrame({"name": names, "prediction": labels[best.indices.numpy()], "probability": best.values.numpy()})
    if isinstance(output, Values):
        values = in_units(prediction.double().numpy(), task.encoding)
        columns = value_names(task.encoding, output.count, task.signature.horizon)
    else:
        values = (prediction > 0 if task.signature.multi_label else prediction.argmax(-1)).numpy()
        columns = task.encoding.get("labels") if task.signature.multi_label else None
    flat = values.reshape(len(values), -1)
    columns = columns or (["prediction"] if flat.shape[1] == 1 else [f"prediction_{index}" for index in range(flat.shape[1])])
    return pd.concat([pd.DataFrame({"name": list(names)}), pd.DataFrame(flat, columns=list(columns))], axis=1)


def _slug(text: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in text).strip("-")


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:8]
