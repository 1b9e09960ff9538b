"""Folders of finished studies, made without training, for the tests of the report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits

from assay.bench.budget import Budget
from assay.bench.plan import Plan
from assay.bench.report import collect, write_report
from assay.contracts import Class, Evaluation, Image, Series, Signature, Table, Tokens, Values
from assay.tasks.base import ArrayTask

HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
SPEED = {"simplenet": 0.9, "resnet": 1.6, "inception-v4": 6.2, "lstm": 0.75, "aaren": 0.71, "svm": 0.21, "majority": 0.002}
QUALITY = {"simplenet": 0.985, "resnet": 0.982, "inception-v4": 0.975, "lstm": 0.955, "aaren": 0.94, "svm": 0.962, "majority": 0.1}


def digits_task(labels: list[str] | None = None, names: list[str] | None = None) -> ArrayTask:
    """The 8×8 digits, 360 of them in the test split."""
    data = load_digits()
    images, target = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16, torch.tensor(data.target)
    parts = {"train": slice(0, 1200), "validation": slice(1200, 1437), "test": slice(1437, None)}
    splits = {name: {"image": images[part], "target": target[part]} for name, part in parts.items()}
    return ArrayTask(
        "digits",
        Signature(Image(1, 8, 8), Class(10)),
        splits,
        description="1,797 images, 8×8 grey, 10 classes",
        notes=["3 of 1,797 examples are exact copies of another one: copies are kept on the same side as their original."],
        encoding={"labels": labels or [str(digit) for digit in range(10)]},
        source={"names": names or [f"digit-{index:04d}.png" for index in range(360)]},
    )


def series_task() -> ArrayTask:
    """Noisy sines against squares."""
    time = torch.linspace(0, 6.28, 60)
    phases = torch.rand(90, 1, generator=torch.Generator().manual_seed(0)) * 6
    waves = torch.sin(time + phases)
    target = (torch.arange(90) % 3 == 0).long()
    series = torch.where(target[:, None] == 1, waves.sign() * 0.8, waves)[..., None]
    return _thirds("waves", Signature(Series(1, 60), Class(2)), {"series": series, "target": target}, {"labels": ["sine", "square"]})


def forecast_task() -> ArrayTask:
    """Twelve steps ahead of a sine."""
    time = torch.arange(60.0)[None] + torch.arange(60.0)[:, None] * 1.7
    waves = torch.sin(time / 5) + 0.1 * torch.cos(time * 1.3)
    tensors = {"series": waves[:, :48, None], "target": waves[:, 48:, None]}
    return _thirds("load", Signature(Series(1, 48), Values(1), horizon=12), tensors, {})


def text_task() -> ArrayTask:
    """Sentences in bytes, of two classes."""
    sentences = [f"the {word} number {index} sat on a mat <b>& stayed</b>" for index in range(30) for word in ("cat", "dog")]
    tokens = torch.tensor([[*sentence.encode(), *[0] * (60 - len(sentence))] for sentence in sentences])
    target = torch.arange(60) % 2
    tensors = {"tokens": tokens, "mask": tokens > 0, "target": target}
    return _thirds("pets", Signature(Tokens(256, 60), Class(2)), tensors, {"labels": ["cat", "dog"], "encoder": {}})


def values_task() -> ArrayTask:
    """A table with one number to predict."""
    table = torch.randn(120, 5, generator=torch.Generator().manual_seed(1))
    return _thirds("prices", Signature(Table(5), Values(1)), {"table": table, "target": table[:, :1] * 2 + table[:, 1:2]}, {})


def _thirds(name: str, signature: Signature, tensors: dict[str, torch.Tensor], encoding: dict) -> ArrayTask:
    count = len(tensors["target"]) // 3
    parts = {split: slice(i * count, (i + 1) * count) for i, split in enumerate(("train", "validation", "test"))}
    splits = {split: {key: value[part] for key, value in tensors.items()} for split, part in parts.items()}
    return ArrayTask(name, signature, splits, description=f"{3 * count} examples of {name}", encoding=encoding)


def make_study(
    folder: Path, task: ArrayTask, models: dict[str, float] = QUALITY, *, failing: bool = True, methods: tuple[str, ...] = ()
) -> Path:
    """Write a study's folder with invented predictions of the given quality (share right, or explained part), and its report."""
    folder.mkdir(parents=True, exist_ok=True)
    baselines = [name for name in models if name in ("svm", "majority")]
    networks = [name for name in models if name not in baselines]
    plan = Plan(
        data=task.name, recognised=task.description, models=tuple(networks), baselines=tuple(baselines), budget=Budget("steps", 600),
        parameters=50_000, seeds=(0, 1, 2), batch_size=32, rates=(1e-3, 3e-3, 1e-2), threads=1,
    )  # fmt: skip
    (folder / "study.toml").write_text(plan.to_toml())
    rows = [_run(folder, task, name, quality, seed, name in baselines, methods) for name, quality in models.items() for seed in (0, 1, 2)]
    if failing:
        rows[2] |= {"status": "diverged", "value": None, "error": "The loss was not finite at step 60 (learning rate 0.01)."}
        broken = f"RuntimeError: {HOSTILE} expected 2 but got 3"
        rows += [
            rows[0] | {"run": f"broken-{seed}", "model": "mine.py:Broken", "seed": seed, "status": "failed", "value": None, "error": broken}
            for seed in (0, 1)
        ]
    (folder / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shown = sorted(networks, key=lambda name: -models[name])[:1] + baselines[:1]
    (folder / "samples.json").write_text(
        json.dumps(collect(task, {_shown_name(name, methods): _evaluation(folder, rows, name) for name in shown}))
    )
    write_report(folder)
    return folder


def _shown_name(name: str, methods: tuple[str, ...]) -> str:
    return " + ".join([name, *methods])


def _evaluation(folder: Path, rows: list[dict], name: str) -> Evaluation:
    run = next(row["run"] for row in rows if row["model"] == name)
    with np.load(folder / "runs" / run / "scores.npz") as arrays:
        return Evaluation({}, arrays["scores"], arrays["predictions"])


def _run(folder: Path, task: ArrayTask, model: str, quality: float, seed: int, baseline: bool, methods: tuple[str, ...]) -> dict:
    generator = np.random.default_rng([seed, len(model)])
    target = np.concatenate([batch["target"].numpy() for batch in task.batches("test", 256)])
    if task.metric == "accuracy":
        wrong = generator.random(len(target)) > quality
        predictions = np.where(wrong, generator.integers(0, task.signature.output.size, len(target)), target)
        scores = (predictions == target).astype(float)
    else:
        predictions = target + (1 - quality) * generator.normal(size=target.shape)
        scores = ((predictions - target) ** 2).reshape(len(target), -1).mean(1)
    run = f"{''.join(letter if letter.isalnum() else '-' for letter in model)}-seed-{seed}-0a1b2c3d4e5f"
    (folder / "runs" / run).mkdir(parents=True, exist_ok=True)
    np.savez(folder / "runs" / run / "scores.npz", scores=scores, predictions=predictions)
    if not baseline:
        key = f"validation_{task.metric}"
        start = 0.2 if task.metric == "accuracy" else 2.0
        lines = [f"step,seconds,train_loss,{key}"]
        for step in range(60, 601, 60):
            share = 1 - np.exp(-step / (60 + 25 * len(model))) + 0.01 * generator.normal()
            lines.append(f"{step},{step / 100},{1 - share:.4f},{start + (float(scores.mean()) - start) * share:.5f}")
        (folder / "runs" / run / "curve.csv").write_text("\n".join(lines) + "\n")
    speed = SPEED.get(model, 1.0)
    parameters = 12_400 if model == "svm" else 10 if model == "majority" else int(50_000 * (0.99 + len(model) / 500))
    return {
        "run": run, "task": task.name, "model": model, "methods": list(methods), "axis": {}, "baseline": baseline, "seed": seed,
        "status": "done", "metric": task.metric, "direction": task.direction, "value": float(scores.mean()),
        "validation": float(scores.mean()) - 0.001 * seed, "metrics": {task.metric: float(scores.mean())}, "parameters": parameters,
        "parameters_off": model == "inception-v4", "bytes": 4 * parameters + 900, "train_seconds": 7 * speed + 0.1 * seed,
        "search_seconds": 0.0 if baseline else 7 * speed, "steps": 600, "flops": None if baseline else 3.1e9 * speed,
        "inference_flops": 2.2e6 * speed, "latency_ms": speed, "latency_p95_ms": 1.2 * speed, "latency_batch_ms": speed / 9,
        "peak_bytes": int(4e6 * (1 + speed)), "state_bytes": 2048 if model in ("lstm", "aaren") else None,
        "learning_rate": None if baseline else 3e-3, "device": "cpu", "machine": "Two-Core 3000, 2 processors", "threads": 1, "error": None,
        "versions": {"python": "3.11.7", "torch": "2.13.0", "assay": "0.1.0"},
    }  # fmt: skip
