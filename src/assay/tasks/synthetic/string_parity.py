"""Parity of whole strings: bits of many lengths, and once a string whether it holds an odd number of ones."""

from __future__ import annotations

from typing import Any

import torch

from assay.contracts import Class, Signature, Tokens
from assay.tasks.base import ArrayTask

PADDING = 2


def string_parity(
    lengths: tuple[int, int] = (2, 12), train: int = 5_000, test: int = 500, seed: int = 0, name: str = "string-parity"
) -> ArrayTask:
    """Random bits, as many as a length drawn evenly from ``lengths``; class 1 where the number of ones is odd. Guessing gives ½.

    Unlike `assay.tasks.synthetic.state_tracking.parity` one answer is asked a string, and none on the way to it: a network that reads step
    by step must find the running parity by itself. Strings are drawn with replacement, so short ones are in several splits.

    Source: Subramaniam et al. (2024), Training the Untrainable, with lengths 2 to 50; the problem: Minsky, Papert (1969), Perceptrons.

    Args:
        lengths: least and greatest number of bits.
        train: training examples.
        test: test examples, and as many for validation.
        seed: of all examples.
        name: the task's name.

    Raises:
        ValueError: a length below 1, the least above the greatest, or no examples.
    """
    least, greatest = lengths
    if not 1 <= least <= greatest:
        raise ValueError(f"lengths must be at least 1 and in order, got {lengths}")
    if min(train, test) < 1:
        raise ValueError(f"train and test must be at least 1, got {train} and {test}")
    generator = torch.Generator().manual_seed(seed)

    def examples(count: int) -> dict[str, torch.Tensor]:
        bits = torch.randint(2, (count, greatest), generator=generator)
        mask = torch.arange(greatest) < torch.randint(least, greatest + 1, (count, 1), generator=generator)
        return {"tokens": bits.masked_fill(~mask, PADDING), "mask": mask, "target": (bits * mask).sum(1) % 2}

    splits: Any = {"train": examples(train), "validation": examples(test), "test": examples(test)}
    return ArrayTask(
        name,
        Signature(Tokens(3, greatest), Class(2)),
        splits,
        description=f"{train + 2 * test:,} strings of {least}–{greatest} bits, odd or even",
        encoding={"labels": ["even", "odd"]},
    )
