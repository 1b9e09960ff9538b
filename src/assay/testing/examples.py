"""Tiny signatures of every kind, random batches for them, and a tiny task: what the checks of models, methods and compressors run on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from assay.contracts import (
    Ahead,
    Batch,
    Class,
    Embedding,
    Events,
    Graph,
    Image,
    NextEvent,
    NextStroke,
    NextTokens,
    Pair,
    Series,
    Signature,
    SplitName,
    Table,
    Tokens,
    TokenSequence,
    Values,
    Video,
)
from assay.tasks.base import ArrayTask
from assay.tasks.strokes import StrokeTask

SIGNATURES: dict[str, Signature] = {
    "table → class": Signature(Table(6), Class(3)),
    "table → values": Signature(Table(6), Values(2)),
    "image → class": Signature(Image(1, 16, 16), Class(3)),
    "colour image → class": Signature(Image(3, 24, 20), Class(3)),
    "series → class": Signature(Series(2, 24), Class(3)),
    "series → forecast": Signature(Series(2, 24), Values(2), horizon=4),
    "series → class per position": Signature(Series(2, 24), Class(3), per_position=True),
    "tokens → class": Signature(Tokens(11, 12), Class(3)),
    "tokens → next token": Signature(Tokens(11, 12), NextTokens(11)),
    "tokens → class per position": Signature(Tokens(11, 12), Class(3), per_position=True),
    "events → next event": Signature(Events(4, 10), NextEvent(4)),
    "strokes → next stroke": Signature(Series(3, 10), NextStroke(2), per_position=True),
    "two texts → class": Signature(Pair(Tokens(11, 12), Tokens(11, 12)), Class(2)),
    "two texts → score": Signature(Pair(Tokens(11, 12), Tokens(11, 12)), Values(1)),
    "story and question → word": Signature(Pair(Tokens(11, 12), Tokens(11, 4)), Class(11)),
    "tokens → tokens": Signature(Tokens(11, 12), TokenSequence(7, 6)),
    "image → tokens": Signature(Image(1, 16, 16), TokenSequence(7, 6)),
    "graph → class": Signature(Graph(5, 20, 60), Class(3)),
}


def random_batch(signature: Signature, size: int = 4, seed: int = 0) -> Batch:
    """Random inputs and targets as the signature declares them; a graph comes whole, with ``size`` selected nodes."""
    generator = torch.Generator().manual_seed(seed)
    batch = _inputs(signature.input, size, generator)
    return batch | _targets(signature, size, generator)


def prediction_shape(signature: Signature, size: int) -> tuple[int, ...]:
    """The shape of a prediction for ``size`` examples, as `assay.contracts` declares it."""
    if signature.per_position or isinstance(signature.output, Ahead):
        return size, _length(signature.input), signature.output.size
    if isinstance(signature.output, TokenSequence):
        return size, signature.output.length, signature.output.size
    if signature.horizon is not None:
        return size, signature.horizon, signature.output.size
    return size, signature.output.size


def example_task(signature: Signature, splits: dict[SplitName, Batch]) -> ArrayTask:
    """The task that splits of `random_batch` make, with the loss of its kind."""
    if isinstance(signature.output, NextStroke):
        return StrokeTask("example", splits, signature.output.components)
    selected: dict[SplitName, Batch] = {
        split: {"target": batch["target"]} if "nodes" in batch else batch for split, batch in splits.items()
    }
    return ArrayTask("example", signature, selected)


def tiny_task(seed: int = 0, image: bool = False) -> ArrayTask:
    """Two well-separated classes, as a table or as pictures: anything that trains at all learns them in a few steps."""
    generator = torch.Generator().manual_seed(seed)
    shape, key = ((1, 16, 16), "image") if image else ((6,), "table")
    splits: Any = {}
    for split, count in (("train", 64), ("validation", 32), ("test", 32)):
        target = torch.arange(count) % 2
        rows = torch.randn(count, *shape, generator=generator) * 0.5
        rows[:, 0] += (4.0 * target - 2.0).view(-1, *[1] * (len(shape) - 1))
        splits[split] = {key: rows, "target": target}
    signature = Signature(Image(*shape) if image else Table(*shape), Class(2))
    return ArrayTask("two-clouds", signature, splits, description=f"128 rows of {'x'.join(map(str, shape))} numbers, 2 classes")


def _inputs(kind: Any, size: int, generator: torch.Generator) -> Batch:
    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    if isinstance(kind, Table):
        return {"table": normal(size, kind.features)}
    if isinstance(kind, Image):
        return {"image": normal(size, kind.channels, kind.height, kind.width)}
    if isinstance(kind, Video):
        return {"video": normal(size, kind.frames, kind.channels, kind.height, kind.width)}
    if isinstance(kind, Series):
        return {"series": normal(size, kind.length, kind.channels)}
    if isinstance(kind, Tokens):
        return {"tokens": torch.randint(1, kind.vocabulary, (size, kind.length), generator=generator)}
    if isinstance(kind, Events):
        marks = torch.randint(kind.marks, (size, kind.length), generator=generator)
        return {"gaps": torch.rand(size, kind.length, generator=generator) + 0.1, "marks": marks}
    if isinstance(kind, Pair):
        sides = (("first_", kind.first), ("second_", kind.second))
        return {prefix + key: value for prefix, side in sides for key, value in _inputs(side, size, generator).items()}
    if isinstance(kind, Graph):
        one_way = torch.combinations(torch.arange(kind.nodes))
        one_way = one_way[torch.randperm(len(one_way), generator=generator)[: kind.edges // 2]].T
        edges = torch.cat([one_way, one_way.flip(0)], 1)
        return {"nodes": normal(kind.nodes, kind.features), "edges": edges, "selected": torch.arange(size)}
    raise ValueError(f"no example of {type(kind).__name__}")


def _targets(signature: Signature, size: int, generator: torch.Generator) -> Batch:
    output, shape = signature.output, prediction_shape(signature, size)
    if isinstance(output, NextEvent):
        gaps = torch.rand(shape[:2], generator=generator) + 0.1
        mask = torch.ones(shape[:2], dtype=torch.bool)
        return {"target_gaps": gaps, "target_marks": torch.randint(output.marks, shape[:2], generator=generator), "target_mask": mask}
    if isinstance(output, NextStroke):
        offsets = torch.randn(*shape[:2], 2, generator=generator)
        target = torch.cat([offsets, torch.randint(2, (*shape[:2], 1), generator=generator)], -1)
        return {"target": target, "mask": torch.ones(shape[:2], dtype=torch.bool)}
    if isinstance(output, Values | Embedding):
        return {"target": torch.randn(shape, generator=generator)}
    if signature.multi_label:
        return {"target": torch.randint(2, shape, generator=generator).float()}
    return {"target": torch.randint(shape[-1], shape[:-1], generator=generator)}


def _length(kind: Any) -> int:
    if isinstance(kind, Tokens | Series | Events):
        return kind.length
    raise ValueError(f"{type(kind).__name__} has no positions to predict at")
