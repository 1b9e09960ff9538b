"""What a trained model costs to use, measured in a process of its own: ``python -m assay.bench.measuring RUN_FOLDER THREADS PARENT``.

Nothing but the model and the batches kept beside it is loaded, so that the growth of resident memory is the model's.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from assay import measure
from assay.bench.worker import die_with_parent
from assay.contracts import Series, Task, Tokens

_SECONDS = 1.0
"""Time spent on each latency, roughly."""

_REPEATS = (20, 200)
_PATIENCE = 600
"""Seconds after which a measurement is given up."""


def measured(run: Path, task: Task, batch_size: int, threads: int) -> dict[str, Any]:
    """Measure a run's model in a fresh process; the result is kept in the run's ``measures.json`` and read from there the next time.

    Returns:
        ``latency_ms, latency_p95_ms`` (one example), ``latency_batch_ms`` (a batch), ``peak_bytes`` (resident growth from before the
        model was loaded to the most during its predictions), ``state_bytes`` (None unless the model streams), ``inference_flops`` (one
        example); all None, with ``error``, where the measurement failed.
    """
    from assay.bench.files import write_json
    from assay.bench.processes import thread_environment

    kept = run / "measures.json"
    if kept.exists() and "error" not in (values := json.loads(kept.read_text())):
        return values
    command = [sys.executable, "-m", "assay.bench.measuring", str(run), str(threads), str(os.getpid())]
    write_batches(run / "batches.safetensors", task, batch_size)
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, env=thread_environment(threads))
        values = json.loads(answer.stdout.splitlines()[-1]) if answer.returncode == 0 else {"error": _last_line(answer.stderr)}
    except subprocess.TimeoutExpired:
        values = {"error": f"not measured within {_PATIENCE} s"}
    (run / "batches.safetensors").unlink()
    write_json(kept, values)
    return values


def measure_run(run: Path) -> dict[str, Any]:
    """Measure in the current process."""
    one, many = _batches(run / "batches.safetensors")
    with torch.no_grad():
        torch.mm(torch.ones(64, 64), torch.ones(64, 64))  # the numerical libraries' own buffers are not the model's
        load = _loader(run)
        before = measure.resident_bytes()
        measure.reset_peak()
        model = load()
        model(one)
        model(many)
        peak = max(0, measure.peak_resident_bytes() - before)
        median, tail = _timed(lambda: model(one))
        values = {
            "latency_ms": median,
            "latency_p95_ms": tail,
            "latency_batch_ms": _timed(lambda: model(many))[0],
            "peak_bytes": peak,
            "state_bytes": None,
            "inference_flops": None,
        }
        if isinstance(model, nn.Module):
            values["inference_flops"] = measure.count_flops(model, one)
            values["state_bytes"] = _state_bytes(model, one)
    return values


def _loader(run: Path) -> Callable[[], Any]:
    """How to load the model, with its code imported already."""
    recipe = json.loads((run / "config.json").read_text())["build"]
    if recipe.get("kind") == "estimator":
        from assay import registry

        kind = registry.resolve("estimator", recipe["name"])
        return lambda: kind.load(run)
    from assay import models

    models.family(recipe["name"])
    return lambda: models.load(run)


def write_batches(path: Path, task: Task, batch_size: int) -> None:
    """Keep a batch of one test example and one of ``batch_size``, so that costs can be measured without the data."""
    tensors: dict[str, Tensor] = {}
    for name, size in (("one", 1), ("many", batch_size)):
        batch = next(iter(task.batches("test", size)))
        for key, tensor in batch.items():
            if not key.startswith("target"):
                sparse = tensor.layout != torch.strided
                tensors[f"{name}/{'sparse' if sparse else 'dense'}/{key}"] = (tensor.to_dense() if sparse else tensor).clone().contiguous()
    save_file(tensors, path)


def _batches(path: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    batches: dict[str, dict[str, Tensor]] = {"one": {}, "many": {}}
    for name, tensor in load_file(path).items():
        batch, layout, key = name.split("/", 2)
        batches[batch][key] = tensor.to_sparse_csr() if layout == "sparse" else tensor
    return batches["one"], batches["many"]


def _timed(predict: Callable[[], Any]) -> tuple[float, float]:
    started = time.perf_counter()
    predict()
    once = time.perf_counter() - started
    repeats = min(_REPEATS[1], max(_REPEATS[0], int(_SECONDS / max(once, 1e-6))))
    return measure.latency(predict, repeats, warmup=3)


def _state_bytes(model: nn.Module, one: Mapping[str, Tensor]) -> int | None:
    """Bytes of a streaming model's state after one test example; None for a model that does not stream."""
    signature: Any = getattr(model, "signature", None)
    kind = getattr(signature, "input", None)
    if not getattr(model, "causal", False) or not isinstance(kind, Tokens | Series):
        return None
    streaming: Any = model
    x = one["tokens" if isinstance(kind, Tokens) else "series"]
    return measure.state_bytes(streaming.scan(x, streaming.initial_state(1), one.get("mask"))[1])


def _last_line(text: str) -> str:
    return next(line.strip() for line in itertools.chain(reversed(text.splitlines()), ["no reason given"]) if line.strip())[:300]


def main() -> None:
    """Measure the run named on the command line and print JSON."""
    die_with_parent(int(sys.argv[3]))
    torch.set_num_threads(int(sys.argv[2]))
    print(json.dumps(measure_run(Path(sys.argv[1]))))


if __name__ == "__main__":
    main()
