"""Spikes to be given every so many steps: counting, not remembering."""

from __future__ import annotations

from typing import Any

import torch

from assay.contracts import Class, Series, Signature
from assay.tasks.base import ArrayTask


def timed_spikes(
    periods: tuple[int, int] = (10, 20), length: int = 80, train: int = 2_000, test: int = 300, seed: int = 0, name: str = "timed-spikes"
) -> ArrayTask:
    """The input says, at every position, the period as a share of the longest; class 1 is wanted at its multiples, class 0 between.

    Silence throughout has an accuracy of about ``1 − 1 / period``: the log loss tells more.

    Source: Gers, Schraudolph, Schmidhuber (2002), Learning precise timing with LSTM recurrent networks, generating timed spikes.

    Args:
        periods: least and greatest number of steps from one spike to the next.
        length: positions.
        train: training examples.
        test: test examples, and as many for validation.
        seed: of all examples.
        name: the task's name.

    Raises:
        ValueError: a period below 2, the least above the greatest or the greatest above the length, or a number of examples below 1.
    """
    if not 2 <= periods[0] <= periods[1] <= length or min(train, test) < 1:
        numbers = f"periods={periods}, length={length}, train={train}, test={test}"
        raise ValueError(f"periods must be in order between 2 and the length, train and test at least 1, got {numbers}")
    generator = torch.Generator().manual_seed(seed)

    def examples(count: int) -> dict[str, torch.Tensor]:
        period = torch.randint(periods[0], periods[1] + 1, (count, 1), generator=generator)
        spikes = (torch.arange(1, length + 1) % period == 0).long()
        return {"series": (period / periods[1]).expand(-1, length)[..., None].contiguous(), "target": spikes}

    splits: Any = {split: examples(count) for split, count in (("train", train), ("validation", test), ("test", test))}
    return ArrayTask(
        name,
        Signature(Series(1, length), Class(2), per_position=True),
        splits,
        description=f"{train + 2 * test:,} series of {length} steps with a spike every {periods[0]}–{periods[1]}",
        encoding={"labels": ["silence", "spike"]},
    )
