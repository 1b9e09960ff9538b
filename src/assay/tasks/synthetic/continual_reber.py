"""Embedded Reber strings one after the other, without a sign of where one ends: memory that must also be emptied."""

from __future__ import annotations

from random import Random
from typing import Any

import torch

from assay.contracts import Class, Signature, Tokens
from assay.tasks.base import ArrayTask
from assay.tasks.synthetic.reber import draw_string

SYMBOLS = "BTPSXVE"
LONGEST = 50


def continual_reber(
    length: int = 200,
    test_length: int | None = None,
    train: int = 600,
    test: int = 50,
    seed: int = 0,
    name: str = "continual-reber",
) -> ArrayTask:
    """The next symbol of an endless stream of embedded Reber strings.

    A string is B, T or P, a Reber string, the same T or P, E; its last symbol but one tells whether the second was kept. Training scores
    every symbol; validation and test score these last symbols but one alone (at chance, and without memory: one half). Nothing resets a
    network between strings, so what it keeps it must also forget.

    Source: Gers, Schmidhuber, Cummins (2000), Learning to forget: continual prediction with LSTM.

    Args:
        length: symbols of a training and validation stream.
        test_length: of a test stream; by default the same.
        train: training streams.
        test: test streams, and as many for validation.
        seed: of all streams.
        name: the task's name.

    Raises:
        ValueError: streams shorter than the longest string, or fewer than one.
    """
    test_length = test_length or length
    if min(length, test_length) < LONGEST or min(train, test) < 1:
        raise ValueError(
            f"streams must have at least {LONGEST} symbols, train and test be at least 1, got {length}, {test_length}, {train}, {test}"
        )
    random = Random(seed)

    def streams(count: int, size: int, only_memory: bool) -> dict[str, torch.Tensor]:
        drawn = [_stream(random, size + 1) for _ in range(count)]
        symbols = torch.tensor([row for row, _ in drawn])
        padded = {"tokens": symbols[:, :-1], "target": symbols[:, 1:]}
        return {**padded, "target_mask": torch.tensor([kept for _, kept in drawn])[:, 1:]} if only_memory else padded

    splits: Any = {
        "train": streams(train, length, False),
        "validation": streams(test, length, True),
        "test": streams(test, test_length, True),
    }
    return ArrayTask(
        name,
        Signature(Tokens(len(SYMBOLS), max(length, test_length)), Class(len(SYMBOLS)), per_position=True),
        splits,
        description=f"{train + 2 * test:,} streams of {length} symbols (test: {test_length}) of embedded Reber strings: what comes next",
        encoding={"labels": list(SYMBOLS), "symbols": list(SYMBOLS)},
    )


def _stream(random: Random, size: int) -> tuple[list[int], list[bool]]:
    """Symbols, and where each is the last but one of its string."""
    symbols: list[int] = []
    kept: list[bool] = []
    while len(symbols) < size:
        inner = draw_string(random, LONGEST - 4)
        if inner is None:
            continue
        side = random.choice("TP")
        string = f"B{side}{inner}{side}E"
        symbols += [SYMBOLS.index(symbol) for symbol in string]
        kept += [place == len(string) - 2 for place in range(len(string))]
    return symbols[:size], kept[:size]
