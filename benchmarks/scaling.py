"""What a study of very many runs costs its driver, what a run leaves on disk, what a large model needs in memory.

    python benchmarks/scaling.py            print the figures
    python benchmarks/scaling.py --write    also keep them for the docs, in docs/data/scaling.json

Driver: the study's own code (`Jobs`, `results`) finishes real rows of runs that took no time. Disk: one real run. Memory: networks on the
meta device, held against a real optimiser step of a small one. Rows with the basis *extrapolated* are arithmetic on the measured ones.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from assay import tasks
from assay.bench import results
from assay.bench.budget import Budget
from assay.bench.jobs import Jobs
from assay.bench.plan import Plan
from assay.bench.running import perform
from assay.contracts import NextTokens, Signature, Tokens
from assay.models import parameter_count
from assay.models.sequence import SequenceModel
from assay.nn import SoftmaxAttention

RUNS = (100, 300, 1000)
CONFIGURATIONS = (5, 10, 30)
GOAL = 100_000
LANGUAGE = Signature(Tokens(32_000, 4096), NextTokens(32_000))
SIZES = ((1024, 16), (2048, 24), (4096, 32), (8192, 42))
"""Width and depth; the last has 34 billion parameters."""


def plan(seeds: int, configurations: int = 1) -> Plan:
    """A study whose runs differ in their seed and in one axis."""
    axis = {"depth": tuple(range(1, configurations + 1))}
    return Plan(
        data="digits", recognised="", models=("lstm",), baselines=(), budget=Budget("steps", 10), parameters=20_000,
        seeds=tuple(range(seeds)), batch_size=32, rates=(1e-3,), threads=1, axis=axis,
    )  # fmt: skip


def one_run(folder: Path) -> dict[str, Any]:
    """A real run in a folder of its own, and its row."""
    task = tasks.open("digits")
    jobs = Jobs(plan(1), folder, task.direction)
    return perform(jobs.ready[0], task, folder)


def disk(folder: Path, row: dict[str, Any]) -> dict[str, int]:
    """Bytes that a run leaves: by file, and its line in results.jsonl."""
    sizes = {path.name: path.stat().st_size for path in sorted((folder / "runs" / row["run"]).iterdir())}
    return sizes | {"its line in results.jsonl": len(json.dumps(row)) + 1}


def driver(row: dict[str, Any], runs: int) -> dict[str, float]:
    """Seconds of the driver: planning, recording every row durably, and finding on resuming that all is done."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        started = time.perf_counter()
        jobs = Jobs(plan(runs), folder, "max")
        planned = time.perf_counter()
        for job in jobs.ready:
            jobs.finish(job, row | {"run": job["name"], "seed": job["run"]["seed"]})
        recorded = time.perf_counter()
        for finished in jobs.rows:  # what the workers write; not the driver's time
            (folder / "runs" / finished["run"]).mkdir(parents=True)
            (folder / "runs" / finished["run"] / "row.json").write_text(json.dumps(finished))
        resumed = time.perf_counter()
        left = len(Jobs(plan(runs), folder, "max").left())
        ended = time.perf_counter()
        assert left == 0
        return {"plan": planned - started, "record": recorded - planned, "resume": ended - resumed}


def concluding(row: dict[str, Any], scores: np.ndarray, configurations: int) -> float:
    """Seconds for the intervals, ranks and leaderboard of this many configurations with three seeds each."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = []
        generator = np.random.default_rng(0)
        for job in Jobs(plan(3, configurations), folder, "max").ready:
            rows.append(row | {"run": job["name"], "seed": job["run"]["seed"], "axis": job["run"]["axis"]})
            (folder / "runs" / job["name"]).mkdir(parents=True)
            np.savez(folder / "runs" / job["name"] / "scores.npz", scores=generator.permutation(scores))
        started = time.perf_counter()
        results.leaderboard(rows, results.load_comparison(folder, rows))
        return time.perf_counter() - started


def language_model(width: int, depth: int) -> SequenceModel:
    """A causal attention model with feed-forward nets four times as wide."""
    return SequenceModel(LANGUAGE, SoftmaxAttention, width, 4 * width, depth)


def bytes_a_parameter() -> float:
    """Measured on a real step of AdamW in float32: weights, gradients, two moments."""
    model = language_model(64, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    tokens = torch.zeros(1, 8, dtype=torch.long)
    model({"tokens": tokens, "mask": tokens == 0}).prediction.mean().backward()
    optimizer.step()
    pairs = [(parameter, parameter.grad) for parameter in model.parameters() if parameter.grad is not None]
    moments = [value for state in optimizer.state.values() for name, value in state.items() if name.startswith("exp_avg")]
    total = sum(t.numel() * t.element_size() for t in (*(tensor for pair in pairs for tensor in pair), *moments))
    return total / sum(parameter.numel() for parameter, _ in pairs)


def main() -> None:
    """Measure everything, print it, and with ``--write`` keep it."""
    torch.set_num_threads(1)
    machine = f"{platform.machine()}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}, {time.strftime('%Y-%m-%d')}"
    folder = Path(tempfile.mkdtemp())
    row = one_run(folder)
    sizes = disk(folder, row)
    scores = np.load(folder / "runs" / row["run"] / "scores.npz")["scores"]
    shutil.rmtree(folder)
    total = sum(sizes.values())
    measurements = (
        lambda: _disk_part(sizes, total, machine), lambda: _memory_part(), lambda: _driver_part(row, machine),
        lambda: _concluding_part(row, scores, machine),
    )  # fmt: skip
    parts = []
    for measurement in measurements:
        parts.append(measurement())
        print(f"\n{parts[-1]['title']} ({parts[-1]['basis']})")
        for line in parts[-1]["rows"]:
            print("  " + "  ".join(f"{name}: {value}" for name, value in line.items()), flush=True)
    if "--write" in sys.argv[1:]:
        target = Path(__file__).parents[1] / "docs/data/scaling.json"
        target.write_text(json.dumps({"parts": parts}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _disk_part(sizes: dict[str, int], total: int, machine: str) -> dict[str, Any]:
    rows = [{"what": name, "bytes": f"{size:,}", "basis": "measured"} for name, size in sizes.items()]
    rows.append({"what": "a run", "bytes": f"{total:,}", "basis": "measured"})
    rows.append({"what": f"{GOAL:,} runs", "bytes": f"{total * GOAL:,}", "basis": "extrapolated"})
    return {"title": "Disk, of an LSTM with 20 k parameters on the digits", "basis": machine, "rows": rows}


def _driver_part(row: dict[str, Any], machine: str) -> dict[str, Any]:
    rows, last = [], {}
    for runs in RUNS:
        last = driver(row, runs)
        rows.append({"runs": f"{runs:,}"} | {f"{name}, s": f"{value:.2f}" for name, value in last.items()} | {"basis": "measured"})
        rows[-1]["ms a run"] = f"{1000 * sum(last.values()) / runs:.2f}"
    factor = GOAL / RUNS[-1]
    rows.append({"runs": f"{GOAL:,}"} | {f"{name}, s": f"{value * factor:.0f}" for name, value in last.items()} | {"basis": "extrapolated"})
    rows[-1]["ms a run"] = rows[-2]["ms a run"]
    return {"title": "Driver: planning, recording each row durably, resuming", "basis": machine, "rows": rows}


def _concluding_part(row: dict[str, Any], scores: np.ndarray, machine: str) -> dict[str, Any]:
    rows = []
    for configurations in CONFIGURATIONS:
        spent = concluding(row, scores, configurations)
        pairs = configurations * (configurations - 1) // 2
        rows.append({"configurations": f"{configurations:,}", "pairs": f"{pairs:,}", "seconds": f"{spent:.2f}", "basis": "measured"})
    many = 1000
    pairs = many * (many - 1) // 2
    last = CONFIGURATIONS[-1] * (CONFIGURATIONS[-1] - 1) // 2
    rows.append({"configurations": f"{many:,}", "pairs": f"{pairs:,}", "seconds": f"{spent * pairs / last:.0f}", "basis": "extrapolated"})
    title = f"Leaderboard with ranks, {len(scores)} test examples, 3 seeds: all pairs are compared, so time grows with their number"
    return {"title": title, "basis": machine, "rows": rows}


def _memory_part() -> dict[str, Any]:
    each = bytes_a_parameter()
    rows = []
    for width, depth in SIZES:
        with torch.device("meta"):
            count = parameter_count(language_model(width, depth))
        line = {"width": f"{width:,}", "depth": depth, "parameters": f"{count:,}", "training state, GB": f"{each * count / 1e9:,.0f}"}
        rows.append(line | {f"on {devices} devices, GB each": f"{each * count / devices / 1e9:,.1f}" for devices in (8, 64, 256)})
    basis = f"parameters computed on the meta device; {each:.1f} bytes a parameter measured on a small model (AdamW, float32); "
    basis += "division over devices extrapolated"
    return {"title": "Memory of training, without activations", "basis": basis, "rows": rows}


if __name__ == "__main__":
    main()
