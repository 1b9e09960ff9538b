"""Copying: symbols are shown, then asked for in their order."""

from __future__ import annotations

from typing import Any

import torch

from assay.contracts import Class, Signature, Tokens
from assay.tasks.base import ArrayTask

BLANK = 0
GO = 1
FIRST = 2


def copying(
    lengths: tuple[int, int] = (1, 6),
    test_lengths: tuple[int, int] | None = None,
    symbols: int = 8,
    train: int = 20_000,
    test: int = 500,
    seed: int = 0,
    name: str = "copying",
) -> ArrayTask:
    """n random symbols, a sign to begin, n blanks at which the symbols are to be given again, in order.

    Guessing gives ``1 / symbols``. Longer test sequences show whether copying was learned, or sequences of the trained lengths.

    Source: Graves, Wayne, Danihelka (2014), Neural Turing Machines, copy task; there with vectors of eight random bits in place of symbols.

    Args:
        lengths: least and greatest n in training and validation.
        test_lengths: in the test split; by default the same.
        symbols: kinds of symbols, numbered from 2; 0 is the blank, 1 the sign to begin.
        train: training examples.
        test: test examples, and as many for validation.
        seed: of all examples.
        name: the task's name.

    Raises:
        ValueError: a length below 1, the least above the greatest, fewer than 2 symbols, or a number of examples below 1.
    """
    test_lengths = test_lengths or lengths
    for least, greatest in (lengths, test_lengths):
        if not 1 <= least <= greatest:
            raise ValueError(f"lengths must be at least 1 and in order, got ({least}, {greatest})")
    if symbols < 2 or min(train, test) < 1:
        raise ValueError(f"symbols must be at least 2, train and test at least 1, got {symbols}, {train} and {test}")
    longest = max(lengths[1], test_lengths[1])
    generator = torch.Generator().manual_seed(seed)

    def examples(count: int, least: int, greatest: int) -> dict[str, torch.Tensor]:
        shown = torch.randint(least, greatest + 1, (count, 1), generator=generator)
        content = torch.randint(FIRST, FIRST + symbols, (count, longest), generator=generator)
        places = torch.arange(2 * longest + 1).expand(count, -1)
        asked = (places > shown) & (places <= 2 * shown)
        again = content.gather(1, (places - shown - 1).clamp(min=0, max=longest - 1))
        tokens = torch.nn.functional.pad(content, (0, longest + 1)).masked_fill(places >= shown, BLANK).scatter(1, shown, GO)
        return {"tokens": tokens, "mask": places <= 2 * shown, "target": torch.where(asked, again - FIRST, 0), "target_mask": asked}

    splits: Any = {"train": examples(train, *lengths), "validation": examples(test, *lengths), "test": examples(test, *test_lengths)}
    return ArrayTask(
        name,
        Signature(Tokens(FIRST + symbols, 2 * longest + 1), Class(symbols), per_position=True),
        splits,
        description=f"{train + 2 * test:,} sequences of {lengths[0]}–{lengths[1]} symbols to copy, in the test "
        f"{test_lengths[0]}–{test_lengths[1]}",
        encoding={"labels": [str(symbol) for symbol in range(symbols)]},
    )
