"""The adding problem: two numbers far apart are marked, and their sum is asked for at the end."""

from __future__ import annotations

from typing import Any

import torch

from assay.contracts import Series, Signature, Values
from assay.tasks.base import ArrayTask


def adding(length: int = 50, train: int = 8_000, test: int = 1_000, seed: int = 0, name: str = "adding") -> ArrayTask:
    """Pairs of a number from U(0, 1) and a mark; one number of each half is marked 1, and the last position's target is their sum.

    Answering 1 whatever was read has a mean squared error of 1/6. The sum is asked for at one position, so that both numbers must be
    carried there: a mean over positions would see them without memory.

    Source: Hochreiter, Schmidhuber (1997), Long short-term memory, experiment 4.

    Args:
        length: positions.
        train: training examples.
        test: test examples, and as many for validation.
        seed: of all examples.
        name: the task's name.

    Raises:
        ValueError: a length below 2, or a number of examples below 1.
    """
    if length < 2 or min(train, test) < 1:
        raise ValueError(f"length must be at least 2, train and test at least 1, got {length}, {train} and {test}")
    generator = torch.Generator().manual_seed(seed)
    half = length // 2

    def examples(count: int) -> dict[str, torch.Tensor]:
        numbers = torch.rand(count, length, generator=generator)
        places = torch.stack(
            [torch.randint(half, (count,), generator=generator), torch.randint(half, length, (count,), generator=generator)], 1
        )
        marks = torch.zeros(count, length).scatter_(1, places, 1.0)
        target, asked = torch.zeros(count, length, 1), torch.zeros(count, length, dtype=torch.bool)
        target[:, -1, 0], asked[:, -1] = numbers.gather(1, places).sum(1), True
        return {"series": torch.stack([numbers, marks], -1), "target": target, "target_mask": asked}

    splits: Any = {split: examples(count) for split, count in (("train", train), ("validation", test), ("test", test))}
    return ArrayTask(
        name,
        Signature(Series(2, length), Values(1), per_position=True),
        splits,
        description=f"{train + 2 * test:,} sequences of {length} numbers; the sum of the two marked ones is asked for at the end",
    )
