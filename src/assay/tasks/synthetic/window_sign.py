"""A label at every position that depends on what comes before it and on what comes after it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from assay.contracts import Class, Series, Signature
from assay.tasks.base import ArrayTask


def window_sign(
    reach: int = 5, length: int = 60, train: int = 2_000, test: int = 300, seed: int = 0, name: str = "window-sign"
) -> ArrayTask:
    """Normal noise; position t is labelled by the sign of ``Σ x`` over t − reach … t + reach (as far as the series goes).

    Who sees the past alone knows ``reach + 1`` of ``2 reach + 1`` summands, and cannot be right more often than
    ``½ + arcsin(√((reach + 1) / (2 reach + 1))) / π``: 76 % for a reach of 5.

    Args:
        reach: positions to either side.
        length: positions.
        train: training examples.
        test: test examples, and as many for validation.
        seed: of all examples.
        name: the task's name.

    Raises:
        ValueError: a number below 1, or a series not longer than the reach.
    """
    if min(reach, train, test) < 1 or length <= reach:
        raise ValueError(f"reach, train and test must be at least 1 and length above reach, got {reach}, {train}, {test} and {length}")
    generator = torch.Generator().manual_seed(seed)
    window = torch.ones(1, 1, 2 * reach + 1)

    def examples(count: int) -> dict[str, torch.Tensor]:
        series = torch.randn(count, length, generator=generator)
        return {"series": series[..., None], "target": (F.conv1d(series[:, None], window, padding=reach)[:, 0] > 0).long()}

    splits: Any = {split: examples(count) for split, count in (("train", train), ("validation", test), ("test", test))}
    return ArrayTask(
        name,
        Signature(Series(1, length), Class(2), per_position=True),
        splits,
        description=f"{train + 2 * test:,} series of {length}; a label is the sign of the sum of {reach} values to either side and its own",
        encoding={"labels": ["negative", "positive"]},
    )
