"""`ArrayTask`: a task whose examples are rows of named tensors, with the loss and the measures its signature implies."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from assay.contracts import Batch, Class, Evaluation, NextTokens, Output, Predictor, Signature, SplitName, Tokens, TokenSequence, Values

POOL = 4
"""Batches whose examples are sorted by length together: more would save little more, and make the batches of small data alike."""
GRAIN = 32
"""Lengths of batches are multiples of it, so that a study meets few shapes."""

Prepare = Callable[[Batch], Batch]
Augment = Callable[[Batch, torch.Generator], Batch]


class ArrayTask:
    """Data held as tensors, example by example in dimension 0.

    Padded token sequences with one answer each are batched by length, and a batch is as long as its longest: padding changes no
    prediction, and costs time. Four batches are drawn at random, sorted together and cut anew; each example still comes once an epoch.

    Args:
        name: short name, used in file names and the report.
        signature: what goes in and what must come out.
        splits: ``{"train" | "validation" | "test": {key: tensor}}`` with the keys the signature declares.
        description: what was recognised, in one line.
        notes: what was imputed or is warned of, a sentence each.
        encoding: JSON values that let further files be read the same way; class names under ``"labels"``.
        metric: the primary metric, by default accuracy (classes), mse (values) or bits_per_token (next tokens, symbol sequences).
        augment: ``(batch, generator) -> batch``, on training batches only.
        prepare: ``batch -> batch``, on every batch (8-bit pictures to standardised floats, say).
        groups: per split, (examples,) integers; the bootstrap resamples a group as a whole.
        source: what a report needs to name examples: ``{"kind": …, "names": [...] of the test split}``.

    Raises:
        ValueError: a split is missing or its tensors disagree about the number of examples.
    """

    def __init__(
        self,
        name: str,
        signature: Signature,
        splits: Mapping[SplitName, Mapping[str, Tensor]],
        *,
        description: str = "",
        notes: Sequence[str] = (),
        encoding: Mapping[str, Any] | None = None,
        metric: str | None = None,
        augment: Augment | None = None,
        prepare: Prepare | None = None,
        groups: Mapping[SplitName, np.ndarray] | None = None,
        source: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.signature = signature
        self.splits: dict[SplitName, dict[str, Tensor]] = {split: dict(tensors) for split, tensors in splits.items()}
        self.description = description
        self.notes = list(notes)
        self.encoding = dict(encoding or {})
        self.metric = metric or default_metric(signature)
        self.direction: Literal["max", "min"] = "max" if self.metric == "accuracy" else "min"
        self.augment = augment
        self.prepare = prepare
        self.groups = dict(groups or {})
        self.source = dict(source or {})
        for split, tensors in self.splits.items():
            lengths = {key: len(tensor) for key, tensor in tensors.items()}
            if len(set(lengths.values())) != 1:
                raise ValueError(f"split {split!r} needs tensors of one length, got {lengths}")

    def size(self, split: SplitName) -> int:
        """Number of examples in a split."""
        return len(next(iter(self.splits[split].values())))

    def training_batches(self, batch_size: int, seed: int) -> Iterator[Batch]:
        """Endless training batches: a fresh permutation an epoch, the last incomplete batch dropped (kept if it is the only one)."""
        generator = torch.Generator().manual_seed(seed)
        count, lengths = self.size("train"), self._lengths("train")
        while True:
            order = torch.randperm(count, generator=generator)
            if lengths is not None:
                order = _pooled(order, lengths, batch_size, generator)
            for start in range(0, max(count - batch_size, 0) + 1, batch_size):
                batch = self.batch_of("train", order[start : start + batch_size])
                batch = batch if lengths is None else shortened(batch)
                yield self.augment(batch, generator) if self.augment else batch

    def batches(self, split: SplitName, batch_size: int) -> Iterator[Batch]:
        """One pass over a split, in order."""
        for start in range(0, self.size(split), batch_size):
            yield self.batch_of(split, slice(start, start + batch_size))

    def batch_of(self, split: SplitName, index: Tensor | slice) -> Batch:
        """The examples at ``index``, prepared."""
        batch = {key: tensor[index] for key, tensor in self.splits[split].items()}
        return self.prepare(batch) if self.prepare else batch

    def _lengths(self, split: SplitName) -> Tensor | None:
        """(examples,) lengths without padding, where token sequences are padded and each has one answer; else None."""
        mask = self.splits[split].get("mask")
        one_answer = isinstance(self.signature.output, Class | Values) and not self.signature.per_position
        if mask is None or not isinstance(self.signature.input, Tokens) or not one_answer:
            return None
        return lengths_of(mask)

    def _ordered(self, split: SplitName, order: Tensor | None, batch_size: int) -> Iterator[Batch]:
        """One pass over a split: as it lies, or in ``order`` and without the padding behind each batch's longest."""
        if order is None:
            yield from self.batches(split, batch_size)
            return
        for index in order.split(batch_size):
            yield shortened(self.batch_of(split, index))

    def shard(self, batch: Batch, rank: int, world: int) -> Batch:
        """The part of a global batch that process ``rank`` of ``world`` trains on: every ``world``-th example."""
        return {key: tensor[rank::world] for key, tensor in batch.items()}

    def loss(self, output: Output, batch: Batch) -> Tensor:
        """Mean over targets of cross-entropy (classes, next tokens), binary cross-entropy (multi-label) or squared error (values)."""
        total, count = example_losses(self.signature, output.prediction, batch)
        return total.sum() / count.sum().clamp(min=1)

    def evaluate(self, predictor: Predictor, split: SplitName, batch_size: int = 256) -> Evaluation:
        """Every measure that the signature implies, computed over one pass of the split."""
        lengths = self._lengths(split)
        order = None if lengths is None else lengths.argsort(stable=True)
        parts: dict[str, list[Tensor]] = {"prediction": [], "target": [], "mask": [], "loss": [], "count": []}
        with torch.no_grad():
            for batch in self._ordered(split, order, batch_size):
                prediction = predictor(batch).prediction.float().cpu()
                loss, count = example_losses(self.signature, prediction, batch)
                row = (summarise(self.signature, prediction), batch["target"], target_mask(batch), loss, count)
                for part, value in zip(parts.values(), row, strict=True):
                    part.append(value)
        joined = {name: torch.cat(part) if order is None else torch.cat(part)[order.argsort()] for name, part in parts.items()}
        metrics, scores = measures(self.signature, **joined)
        return Evaluation(metrics, scores[self.metric].double().numpy(), joined["prediction"].numpy(), self.groups.get(split))


def lengths_of(mask: Tensor) -> Tensor:
    """(examples,) one more than the last real position of ``mask`` (examples, length)."""
    return (mask * torch.arange(1, mask.shape[1] + 1)).amax(1)


def shortened(batch: Batch) -> Batch:
    """A batch of padded sequences, cut behind its longest (at a multiple of `GRAIN`): every tensor shaped as ``mask`` (batch, length)."""
    mask = batch["mask"]
    longest = max(1, int(lengths_of(mask).max()))
    length = GRAIN * math.ceil(longest / GRAIN)
    return {key: tensor[:, :length] if tensor.shape[:2] == mask.shape else tensor for key, tensor in batch.items()}


def _pooled(order: Tensor, lengths: Tensor, batch_size: int, generator: torch.Generator) -> Tensor:
    """The order of an epoch in which the examples of every `POOL` batches are sorted by length and their batches shuffled anew."""
    pools = []
    for pool in order.split(POOL * batch_size):
        batches = pool[lengths[pool].argsort(stable=True)].split(batch_size)
        shuffled = torch.randperm(len(batches) - (len(batches[-1]) < batch_size), generator=generator).tolist()
        pools += [batches[index] for index in shuffled] + list(batches[len(shuffled) :])  # an incomplete batch stays the last
    return torch.cat(pools)


def default_metric(signature: Signature) -> str:
    """The primary metric of an output kind; each is a mean of per-example scores, so that it can be resampled."""
    if isinstance(signature.output, Class):
        return "accuracy"
    if isinstance(signature.output, Values):
        return "mse"
    if isinstance(signature.output, NextTokens | TokenSequence):
        return "bits_per_token"
    raise ValueError(f"a task with {type(signature.output).__name__} output must name its metric and evaluate itself")


def example_losses(signature: Signature, prediction: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Sum of the losses of each example's targets and the number of its targets, both (batch,).

    Raises:
        ValueError: prediction and target have shapes that do not fit each other.
    """
    target = batch["target"].to(prediction.device)
    mask = target_mask(batch).to(prediction.device)
    if isinstance(signature.output, Values) or signature.multi_label:
        if prediction.shape != target.shape:
            raise ValueError(f"prediction has shape {tuple(prediction.shape)} but the target has {tuple(target.shape)}")
        if signature.multi_label:
            losses = F.binary_cross_entropy_with_logits(prediction, target, reduction="none")
        else:
            losses = (prediction - target).square()
        losses = losses.flatten(mask.ndim).mean(-1) if losses.ndim > mask.ndim else losses
    else:
        if prediction.shape[:-1] != target.shape:
            raise ValueError(f"logits have shape {tuple(prediction.shape)} but the target has {tuple(target.shape)}")
        losses = F.cross_entropy(prediction.flatten(0, -2), target.flatten(), reduction="none").view(target.shape)
    masked = torch.where(mask, losses, 0.0)
    return masked.reshape(len(target), -1).sum(1), mask.reshape(len(target), -1).sum(1)


def summarise(signature: Signature, prediction: Tensor) -> Tensor:
    """What is kept of a prediction: the class index where classes are wanted, the numbers themselves otherwise."""
    if isinstance(signature.output, Values):
        return prediction
    if signature.multi_label:
        return prediction > 0
    return prediction.argmax(-1)


def measures(
    signature: Signature, prediction: Tensor, target: Tensor, mask: Tensor, loss: Tensor, count: Tensor
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Metrics of a whole split, and per-example scores (examples,) whose mean is the metric of the same name."""
    share = len(count) / count.sum().clamp(min=1)  # an example weighs by its number of targets: scores average to the mean over targets
    if isinstance(signature.output, Values):
        return _measures_of_values(prediction, target, mask, loss * share, share)
    if isinstance(signature.output, NextTokens | TokenSequence):
        bits = loss * share / np.log(2)
        return {"bits_per_token": float(bits.mean()), "perplexity": float((loss * share).mean().exp())}, {"bits_per_token": bits}
    if signature.multi_label:
        correct = (prediction == target.bool()).float().mean(1)
        return {"accuracy": float(correct.mean())}, {"accuracy": correct}
    return _measures_of_classes(signature, prediction, target, mask, loss * share, share)


def _measures_of_values(prediction: Tensor, target: Tensor, mask: Tensor, squared: Tensor, share: Tensor):
    from torchmetrics.functional import r2_score

    error = (prediction - target).abs()
    error = error.flatten(mask.ndim).mean(-1) if error.ndim > mask.ndim else error
    absolute = torch.where(mask, error, 0.0).reshape(len(target), -1).sum(1) * share
    metrics = {"mse": float(squared.mean()), "mae": float(absolute.mean())}
    if int(mask.sum()) > 1:
        metrics["r2"] = float(r2_score(prediction[mask].flatten(), target[mask].flatten()))
    return metrics, {"mse": squared, "mae": absolute}


def _measures_of_classes(signature: Signature, prediction: Tensor, target: Tensor, mask: Tensor, loss: Tensor, share: Tensor):
    from torchmetrics.functional.classification import multiclass_accuracy, multiclass_f1_score

    right = ((prediction == target) & mask).float().reshape(len(target), -1).sum(1) * share
    classes = signature.output.size
    metrics = {
        "accuracy": float(right.mean()),
        "balanced_accuracy": float(multiclass_accuracy(prediction[mask], target[mask], classes, average="macro")),
        "f1": float(multiclass_f1_score(prediction[mask], target[mask], classes, average="macro")),
        "log_loss": float(loss.mean()),
    }
    return metrics, {"accuracy": right}


def target_mask(batch: Batch) -> Tensor:
    """True where a target counts: ``target_mask``, else ``mask`` where targets are per position, else everywhere."""
    target = batch["target"]
    if "target_mask" in batch:
        return batch["target_mask"]
    mask = batch.get("mask")
    if mask is not None and target.ndim >= 2 and mask.shape == target.shape[:2]:
        return mask
    return torch.ones(target.shape if not target.is_floating_point() else target.shape[:1], dtype=torch.bool)


def training_part(task: ArrayTask, chosen: np.ndarray) -> ArrayTask:
    """The task with some of its training examples, sharing all else; statistics that its encoding was made of stay the whole split's."""
    part = copy.copy(task)
    index = torch.from_numpy(np.ascontiguousarray(chosen))
    part.splits = {**task.splits, "train": {key: value[index] for key, value in task.splits["train"].items()}}
    part.groups = dict(task.groups)
    if "train" in part.groups:
        part.groups["train"] = part.groups["train"][chosen]
    return part
