"""What the report shows of the data: truths, predictions and a few examples, as JSON, gathered at the end of a study.

The report is then written from the study's folder alone: no data file is opened again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from assay.bench.files import write_json
from assay.bench.report.pictures import png_data_uri
from assay.bench.report.record import Entry, Record, read_record
from assay.contracts import Class, Evaluation, Image, NextTokens, Pair, Series, Signature, Table, Task, Tokens, Values

EXAMPLES_A_GROUP = 6
MOST_TRUTHS = 5000
"""Truths beyond this many are thinned out evenly: a confusion table needs no more, and the page stays small."""

_TEXT_LENGTH = 280
_SERIES_POINTS = 160


def write_samples(folder: str | Path, task: Task) -> Path:
    """Write ``samples.json`` of a study that has finished: of its best network and its best baseline.

    Args:
        folder: the study's folder, with ``results.jsonl`` and the runs' ``scores.npz`` (``scores`` and ``predictions``).
        task: the study's task.

    Returns:
        The file's path.
    """
    record = read_record(Path(folder))
    shown = [next((e for e in record.entries if e.done and e.baseline == wanted), None) for wanted in (False, True)]
    evaluations = {entry.name: evaluation for entry in shown if entry and (evaluation := _evaluation(record, entry))}
    path = Path(folder) / "samples.json"
    write_json(path, collect(task, evaluations))
    return path


def _evaluation(record: Record, entry: Entry) -> Evaluation | None:
    """The test evaluation of the entry's run that is best on validation."""
    path = record.folder / "runs" / str(handed_over(entry, record.direction)["run"]) / "scores.npz"
    with np.load(path, allow_pickle=False) as arrays:
        if "predictions" not in arrays.files:
            return None
        return Evaluation({}, arrays["scores"], arrays["predictions"])


def handed_over(entry: Entry, direction: str) -> Mapping[str, Any]:
    """The run whose checkpoint is recommended: the best on validation, for the test split chooses nothing."""
    sign = 1 if direction == "max" else -1
    return max(entry.done, key=lambda run: sign * run["validation"] if isinstance(run.get("validation"), (int, float)) else float("-inf"))


def collect(task: Task, evaluations: Mapping[str, Evaluation]) -> dict[str, Any]:
    """Gather what the report needs of the test split.

    Args:
        task: the study's task.
        evaluations: for each model to show, by its name in the leaderboard, its evaluation on the test split; the best network first,
            then the best baseline. More than two are cut.

    Returns:
        JSON values: ``task`` (description, notes, sizes of the splits), ``models``, ``labels``, ``output`` (class, values, forecast, tokens or other), ``truth`` and ``predictions`` of up to
        5,000 test examples, and ``examples``, chosen so that some are right in all models, some in none, some in one alone.
    """
    shown = dict(list(evaluations.items())[:2])
    targets = _targets(task)
    known = {name: np.asarray(evaluation.predictions) for name, evaluation in shown.items()}
    record: dict[str, Any] = {
        "task": {
            "name": task.name,
            "description": task.description,
            "notes": [str(note) for note in task.notes],
            "sizes": {split: task.size(split) for split in ("train", "validation", "test")},
        },
        "models": list(shown),
        "labels": [str(label) for label in task.encoding.get("labels", [])],
        "output": _output_kind(task.signature),
        "truth": [],
        "predictions": {},
        "examples": [],
    }
    if targets is None or any(len(values) != len(targets) for values in known.values()):
        return record | {"output": "other"}
    if record["output"] in ("class", "values"):
        thinned = np.unique(np.linspace(0, len(targets) - 1, min(len(targets), MOST_TRUTHS)).astype(int))
        record["truth"] = _plain(targets[thinned])
        record["predictions"] = {name: _plain(values[thinned]) for name, values in known.items()}
    chosen = _chosen(task, {name: np.asarray(evaluation.scores) for name, evaluation in shown.items()}, targets, known)
    record["examples"] = [_example(task, index, group, targets, known) for index, group in chosen]
    return record


def _output_kind(signature: Signature) -> str:
    output = signature.output
    if isinstance(output, Class) and not signature.per_position and not signature.multi_label:
        return "class"
    if isinstance(output, Values) and signature.horizon:
        return "forecast"
    if isinstance(output, Values) and not signature.per_position:
        return "values"
    return "tokens" if isinstance(output, NextTokens) else "other"


def _targets(task: Task) -> np.ndarray | None:
    parts = [batch["target"] for batch in task.batches("test", 256) if "target" in batch]
    if not parts:
        return None
    return np.concatenate([part.cpu().numpy() for part in parts])


def _chosen(task: Task, scores: dict[str, np.ndarray], targets: np.ndarray, known: dict[str, np.ndarray]) -> list[tuple[int, str]]:
    """Indices of the examples to show, with the group that each is in."""
    if _output_kind(task.signature) != "class":
        first = next(iter(scores.values()))
        order = np.argsort(first if task.direction == "max" else -first, kind="stable")  # worst first
        middle, best = order[len(order) // 2], order[-1]
        return [(int(index), group) for index, group in zip((middle, order[0], best), ("typical", "worst", "best"), strict=True)]
    right = {name: values == targets for name, values in known.items()}
    generator = np.random.default_rng(0)
    chosen: list[tuple[int, str]] = []
    for group, members in _agreement(right).items():
        indices = np.flatnonzero(members)
        picked = generator.permutation(indices)[:EXAMPLES_A_GROUP]
        chosen += [(int(index), group) for index in np.sort(picked)]
    return chosen


def _agreement(right: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    if len(right) == 1:
        (only,) = right.values()
        return {"wrong": ~only, "right": only}
    first, second = right.values()
    return {"none": ~first & ~second, "first": first & ~second, "second": second & ~first, "both": first & second}


def _example(task: Task, index: int, group: str, targets: np.ndarray, known: dict[str, np.ndarray]) -> dict[str, Any]:
    inputs = _inputs(task, index)
    names = getattr(task, "source", {}).get("names") or []
    example: dict[str, Any] = {"group": group, "index": index, "name": str(names[index]) if index < len(names) else ""}
    example["truth"] = _plain(targets[index])
    example["predictions"] = {name: _plain(values[index]) for name, values in known.items()}
    return example | _shown_input(task, task.signature.input, inputs, "")


def _inputs(task: Task, index: int) -> dict[str, Tensor]:
    seen = 0
    for batch in task.batches("test", 256):
        length = len(batch["target"])
        if index < seen + length:
            return {key: tensor[index - seen] if len(tensor) == length else tensor for key, tensor in batch.items()}
        seen += length
    raise IndexError(f"the test split has {seen} examples, not {index + 1}")


def _shown_input(task: Task, kind: Any, inputs: dict[str, Tensor], prefix: str) -> dict[str, Any]:
    if isinstance(kind, Pair):
        first = _shown_input(task, kind.first, inputs, "first_")
        second = _shown_input(task, kind.second, inputs, "second_")
        return first | {key: value for key, value in second.items() if key not in first} | _both_texts(first, second)
    if isinstance(kind, Image) and f"{prefix}image" in inputs:
        return {"picture": png_data_uri(inputs[f"{prefix}image"])}
    if isinstance(kind, Series) and f"{prefix}series" in inputs:
        return {"series": _thinned_series(inputs[f"{prefix}series"], inputs.get(f"{prefix}mask"))}
    if isinstance(kind, Tokens) and f"{prefix}tokens" in inputs:
        return {"text": decoded(inputs[f"{prefix}tokens"], inputs.get(f"{prefix}mask"), task.encoding)}
    if isinstance(kind, Table) and f"{prefix}table" in inputs:
        return {"row": [round(float(value), 3) for value in inputs[f"{prefix}table"][:12]]}
    return {}


def _both_texts(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    return {"text": f"{first['text']}  ⟷  {second['text']}"} if "text" in first and "text" in second else {}


def decoded(tokens: Tensor, mask: Tensor | None, encoding: Mapping[str, Any]) -> str:
    """Token ids as text: by the task's vocabulary where it has one, else as bytes."""
    ids = [int(token) for token in (tokens[mask] if mask is not None and mask.shape == tokens.shape else tokens)]
    vocabulary = encoding.get("vocabulary") or encoding.get("symbols")
    if isinstance(vocabulary, (list, tuple)):
        words = [str(vocabulary[token]) if token < len(vocabulary) else "?" for token in ids]
        text = ("" if all(len(word) == 1 for word in words) else " ").join(words)
    else:
        text = bytes(token for token in ids if 0 < token < 256).decode("utf-8", errors="replace")
    return text if len(text) <= _TEXT_LENGTH else text[: _TEXT_LENGTH - 1] + "…"


def _thinned_series(series: Tensor, mask: Tensor | None) -> list[list[float]]:
    """Up to four channels of at most 160 points each."""
    kept = series[mask] if mask is not None and mask.shape == series.shape[:1] else series
    step = max(1, -(-len(kept) // _SERIES_POINTS))
    return [[round(float(value), 4) for value in channel] for channel in kept[::step, :4].T]


def _plain(values: Any) -> Any:
    array = np.asarray(values)
    if array.dtype.kind == "f":
        return np.round(array.astype(float), 5).tolist()
    return array.tolist()
