"""Pictures as sequences of single pixels, in reading order or in one fixed shuffled order: the small image as a test of memory."""

from __future__ import annotations

from typing import Any

import torch

from assay.contracts import Class, Series, Signature
from assay.tasks.base import ArrayTask
from assay.tasks.builtin import digits


def pixel_digits(permuted: bool = False, seed: int = 0) -> ArrayTask:
    """The 1,797 digits of `assay.tasks.builtin.digits`, 64 pixels one after another.

    Shuffled, neighbours in the picture are far apart in the sequence, so that nothing but memory helps. After the sequential and permuted
    MNIST of Le, Jaitly, Hinton (2015), A Simple Way to Initialize Recurrent Networks of Rectified Linear Units.

    Args:
        permuted: read all pictures in one shuffled order.
        seed: of the division, and of the order.
    """
    pictures: Any = digits(seed)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(seed)) if permuted else torch.arange(64)
    splits: Any = {}
    for split in pictures.splits:
        batch = pictures.batch_of(split, slice(None))
        splits[split] = {"series": batch["image"].flatten(1)[:, order, None].contiguous(), "target": batch["target"]}
    return ArrayTask(
        "permuted-pixel-digits" if permuted else "pixel-digits",
        Signature(Series(1, 64), Class(10)),
        splits,
        description=f"1,797 digits as 64 pixels each{', in one shuffled order' if permuted else ''}, 10 classes",
        encoding={"labels": pictures.encoding["labels"]},
    )
