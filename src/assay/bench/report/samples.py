"""What the report shows of the data: truths, predictions and a few examples, as JSON, gathered at the end of a study.

The report is then written from the study's folder alone: no data file is opened again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from assay.bench.report.pictures import png_data_uri
from assay.contracts import Class, Evaluation, Image, NextTokens, Pair, Series, Signature, Table, Task, Tokens, TokenSequence, Values
from assay.models.estimators.base import gather
from assay.tasks.base import target_mask
from assay.tasks.text import decode

EXAMPLES_A_GROUP = 6
MOST_TRUTHS = 5000
"""Truths beyond this many are thinned out evenly: a confusion table needs no more, and the page stays small."""

_TEXT_LENGTH = 280
_SERIES_POINTS = 160


def collect(task: Task, evaluations: Mapping[str, Evaluation]) -> dict[str, Any]:
    """Gather what the report needs of the test split.

    Args:
        task: the study's task.
        evaluations: for each model to show, by its name in the leaderboard, its evaluation on the test split; the best network first,
            then the best baseline. More than two are cut.

    Returns:
        JSON values: ``task`` (description, notes, sizes of the splits), ``models``, ``labels``, ``output`` (class, values, forecast,
        tokens or other), ``truth`` and ``predictions`` of up to 5,000 test examples, and ``examples``, chosen so that some are right in
        all models, some in none, some in one alone.
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
    if targets is None or not known or any(len(values) == 0 for values in known.values()):
        return record | {"output": "other"}
    kept = min(
        len(targets), *(len(values) for values in known.values())
    )  # a study keeps the first predictions only where there are very many
    targets, known = targets[:kept], {name: values[:kept] for name, values in known.items()}
    if record["output"] in ("class", "values"):
        thinned = np.unique(np.linspace(0, len(targets) - 1, min(len(targets), MOST_TRUTHS)).astype(int))
        record["truth"] = _plain(targets[thinned])
        record["predictions"] = {name: _plain(values[thinned]) for name, values in known.items()}
    chosen = _chosen(task, np.asarray(next(iter(shown.values())).scores)[:kept], targets, known)
    inputs = _inputs(task, {index for index, _ in chosen})
    record["examples"] = [_example(task, index, group, inputs[index], targets, known) for index, group in chosen]
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
    if "target" not in next(iter(task.batches("test", 1))):
        return None
    return gather(task, "test")["target"].cpu().numpy()


def _chosen(task: Task, scores: np.ndarray, targets: np.ndarray, known: dict[str, np.ndarray]) -> list[tuple[int, str]]:
    """Indices of the examples to show, with the group that each is in."""
    if _output_kind(task.signature) != "class":
        order = np.argsort(scores if task.direction == "max" else -scores, kind="stable")  # worst first
        picked = {"typical": order[len(order) // 2], "best": order[-1], "poor": order[len(order) // 20], "worst": order[0]}
        return [(int(index), group) for group, index in picked.items()]
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


def _example(
    task: Task, index: int, group: str, inputs: dict[str, Tensor], targets: np.ndarray, known: dict[str, np.ndarray]
) -> dict[str, Any]:
    names = getattr(task, "source", {}).get("names") or []
    example: dict[str, Any] = {"group": group, "index": index, "name": str(names[index]) if index < len(names) else ""}
    example |= _answers(task, inputs, targets[index], {name: values[index] for name, values in known.items()})
    return example | _shown_input(task, task.signature.input, inputs, "")


def _answers(task: Task, inputs: dict[str, Tensor], truth: np.ndarray, predicted: dict[str, np.ndarray]) -> dict[str, Any]:
    """Truth and predictions of one example; where there is one a position, the share that is right stands for them."""
    signature = task.signature
    if signature.multi_label:
        labels = [str(label) for label in task.encoding.get("labels", range(len(truth)))]
        named = {name: ", ".join(np.array(labels)[np.asarray(values) > 0]) for name, values in {"": truth, **predicted}.items()}
        return {"truth": named.pop("") or "none", "predictions": {name: text or "none" for name, text in named.items()}}
    if isinstance(signature.output, NextTokens) or (isinstance(signature.output, Class) and np.ndim(truth)):
        asked = target_mask({name: tensor[None] for name, tensor in inputs.items()})[0].cpu().numpy()
        return {"truth": "", "predictions": {name: _share_in_words(np.asarray(values), truth, asked) for name, values in predicted.items()}}
    if isinstance(signature.output, TokenSequence) and hasattr(task, "texts"):
        named = {name: _cut(_written(task, values)) for name, values in {"": truth, **predicted}.items()}
        return {"truth": named.pop(""), "predictions": named}
    return {"truth": _plain(truth), "predictions": {name: _plain(values) for name, values in predicted.items()}}


def _written(task: Any, symbols: np.ndarray) -> str:
    """A sequence as the task's own text, never empty."""
    return task.texts(torch.from_numpy(np.asarray(symbols))[None])[0] or "nothing"


def _share_in_words(values: np.ndarray, truth: np.ndarray, asked: np.ndarray) -> str:
    """Over the asked positions that all have: batches may end with their longest example, and predictions with the longest of all."""
    length = min(len(values), len(truth), len(asked))
    right = (values[:length] == truth[:length])[asked[:length]]
    return f"{100 * right.mean():.0f}\u202f% of its positions right" if right.size else "none of its positions asked for"


def _inputs(task: Task, wanted: set[int]) -> dict[int, dict[str, Tensor]]:
    """The tensors of some test examples, in one pass; tensors that a whole batch shares (a graph) are left out."""
    found, seen = {}, 0
    for batch in task.batches("test", 256):
        length = len(batch["target"])
        for index in wanted & set(range(seen, seen + length)):
            found[index] = {key: tensor[index - seen] for key, tensor in batch.items() if len(tensor) == length}
        seen += length
    return found


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
    """Token ids as text: by the task's tokenizer (or bytes) or its list of symbols; else the ids themselves."""
    ids = [int(token) for token in (tokens[mask] if mask is not None and mask.shape == tokens.shape else tokens)]
    vocabulary = encoding.get("vocabulary") or encoding.get("symbols")
    if "encoder" in encoding:
        text = decode(ids, encoding)
    elif isinstance(vocabulary, (list, tuple)):
        words = [str(vocabulary[token]) if token < len(vocabulary) else "?" for token in ids]
        text = ("" if all(len(word) == 1 for word in words) else " ").join(words)
    else:
        text = " ".join(map(str, ids))
    return _cut(text)


def _cut(text: str) -> str:
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
