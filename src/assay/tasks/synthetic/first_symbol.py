"""The first symbol of a long sequence, asked for at its end: memory and nothing else."""

from __future__ import annotations

from typing import Any

import torch

from assay.contracts import Class, Signature, Tokens
from assay.tasks.base import ArrayTask


def first_symbol(
    classes: int = 8,
    fillers: int = 8,
    length: int = 1024,
    train: int = 4_000,
    test: int = 300,
    seed: int = 0,
    name: str = "first-symbol",
) -> ArrayTask:
    """One of ``classes`` symbols, then random fillers that are none of them; at the last position the first symbol is to be named.

    The answer is asked for at one position, so that it must be carried there: a mean over all positions would see it without memory.
    Guessing gives ``1 / classes``. After the first of the tasks in Hochreiter, Schmidhuber (1997), Long Short-Term Memory, that have a long
    time lag.

    Args:
        classes: symbols 0 … classes − 1 that can stand first.
        fillers: symbols classes … classes + fillers − 1, drawn alike often.
        length: positions.
        train: training examples.
        test: test examples, and as many for validation.
        seed: of all examples.
        name: the task's name.

    Raises:
        ValueError: fewer than two classes or positions, or another number below 1.
    """
    if min(classes, length) < 2 or min(fillers, train, test) < 1:
        numbers = f"{classes=}, {length=}, {fillers=}, {train=}, {test=}"
        raise ValueError(f"classes and length must be at least 2, fillers, train and test at least 1, got {numbers}")
    generator = torch.Generator().manual_seed(seed)

    def examples(count: int) -> dict[str, torch.Tensor]:
        tokens = torch.randint(classes, classes + fillers, (count, length), generator=generator)
        tokens[:, 0] = torch.randint(classes, (count,), generator=generator)
        target, asked = torch.zeros_like(tokens), torch.zeros_like(tokens, dtype=torch.bool)
        target[:, -1], asked[:, -1] = tokens[:, 0], True
        return {"tokens": tokens, "target": target, "target_mask": asked}

    splits: Any = {split: examples(count) for split, count in (("train", train), ("validation", test), ("test", test))}
    return ArrayTask(
        name,
        Signature(Tokens(classes + fillers, length), Class(classes), per_position=True),
        splits,
        description=f"{train + 2 * test:,} sequences of {length} symbols; the first, one of {classes}, is asked for at the end",
        encoding={"labels": [str(symbol) for symbol in range(classes)]},
    )
