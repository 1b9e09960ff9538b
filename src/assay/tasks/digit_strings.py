"""`digit_strings`: rows of real handwritten digits, to be read without being told where each of them stands."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from assay.contracts import Series, Signature, TokenSequence
from assay.tasks.builtin import digits
from assay.tasks.sequences import SequenceTask, ended_targets

SIDE = 8
"""Pixels of a digit, both ways."""


def digit_strings(
    digits_each: tuple[int, int] = (1, 5),
    widest_gap: int = 3,
    train: int = 4_000,
    test: int = 400,
    seed: int = 0,
    name: str = "digit-strings",
) -> SequenceTask:
    """Digits of `assay.tasks.builtin.digits` side by side, read column by column from the left.

    Before each digit and after the last stand up to ``widest_gap`` empty columns. Pictures of the test and validation splits occur in no
    training string. Symbol d + 1 is digit d.

    Args:
        digits_each: fewest and most digits of a string.
        widest_gap: most empty columns between two.
        train: training strings.
        test: test strings, and as many for validation.
        seed: of the pictures' division and of all strings.
        name: the task's name.

    Raises:
        ValueError: a number of digits or strings below 1, or a negative gap.
    """
    fewest, most = digits_each
    if not 1 <= fewest <= most or min(train, test) < 1 or widest_gap < 0:
        raise ValueError(f"digits_each must be 1 ≤ fewest ≤ most, train and test ≥ 1, widest_gap ≥ 0, got {digits_each}, {train}, {test}, "
                         f"{widest_gap}")  # fmt: skip
    pictures: Any = digits(seed)
    length, source = most * SIDE + (most + 1) * widest_gap, np.random.default_rng(seed)
    splits: Any = {}
    for split, count in (("train", train), ("validation", test), ("test", test)):
        batch = pictures.batch_of(split, slice(None))
        columns, classes = batch["image"][:, 0].transpose(1, 2), batch["target"]
        empty = columns.min()  # paper is the least of all standardised values
        series, rows = empty.expand(count, length, SIDE).clone(), []
        mask = torch.zeros(count, length, dtype=torch.bool)
        for row in range(count):
            chosen = source.integers(len(classes), size=source.integers(fewest, most + 1))
            gaps = source.integers(widest_gap + 1, size=len(chosen) + 1)
            for place, index in enumerate(chosen):
                start = place * SIDE + int(gaps[: place + 1].sum())
                series[row, start : start + SIDE] = columns[index]
            mask[row, : len(chosen) * SIDE + int(gaps.sum())] = True
            rows.append((classes[torch.from_numpy(chosen)] + 1).tolist())
        splits[split] = {"series": series, "mask": mask, **ended_targets(rows, most + 1)}
    return SequenceTask(
        name,
        Signature(Series(SIDE, length), TokenSequence(11, most + 1)),
        splits,
        description=f"{train + 2 * test:,} rows of {fewest} to {most} handwritten digits, up to {length} columns of {SIDE} pixels",
        encoding={"target_symbols": ["", *map(str, range(10))], "between": ""},
    )
