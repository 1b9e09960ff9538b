"""Digits to be read aloud, two by two in exchanged order: translation in small, with as many examples as wanted."""

from __future__ import annotations

import random
from typing import Any

from assay.contracts import Signature, Tokens, TokenSequence
from assay.tasks.sequences import SequenceTask, ended_targets, padded_sources

WORDS = ("", "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "double")
"""By symbol; symbol 0 is the end, a digit's word is its symbol."""

DOUBLE = WORDS.index("double")


def transduction(
    lengths: tuple[int, int] = (5, 15), train: int = 20_000, test: int = 500, seed: int = 0, name: str = "transduction"
) -> SequenceTask:
    """A string of digits becomes words: each two digits in exchanged order (3 8 → eight three), equal ones as "double" and the word.

    So the words are neither as many nor in the order of the digits, and what stands first is written first: near the end of a source that
    is read backwards.

    Args:
        lengths: least and greatest number of digits.
        train: training examples.
        test: test examples, and as many for validation; no test or validation string is a training string.
        seed: of all strings.
        name: the task's name.

    Raises:
        ValueError: lengths below 1 or not in order, a number below 1, or more strings wanted than half of those there are.
    """
    if not 1 <= lengths[0] <= lengths[1] or min(train, test) < 1:
        raise ValueError(f"lengths must be in order from 1 on, train and test at least 1, got {lengths}, {train} and {test}")
    wanted = train + 2 * test
    there = sum(10**length for length in range(lengths[0], lengths[1] + 1))
    if 2 * wanted > there:
        raise ValueError(
            f"there are {there:,} strings of {lengths[0]} to {lengths[1]} digits, which is too few for {wanted:,} different ones"
        )
    source = random.Random(seed)
    strings: dict[tuple[int, ...], None] = {}
    while len(strings) < wanted:
        strings[tuple(source.choices(range(10), k=source.randint(*lengths)))] = None
    ends = {"train": (0, train), "validation": (train, train + test), "test": (train + test, wanted)}
    longest = lengths[1]
    splits: Any = {}
    for split, (start, end) in ends.items():
        rows = list(strings)[start:end]
        digits = padded_sources([[digit + 1 for digit in row] for row in rows], longest)
        splits[split] = digits | ended_targets([spoken(row) for row in rows], longest + 1)
    return SequenceTask(
        name,
        Signature(Tokens(11, longest), TokenSequence(len(WORDS), longest + 1)),
        splits,
        description=f"{wanted:,} strings of {lengths[0]}–{lengths[1]} digits, to be written as words",
        encoding={"symbols": [" ", *"0123456789"], "target_symbols": list(WORDS), "between": " "},
    )


def spoken(digits: tuple[int, ...]) -> list[int]:
    """The words' symbols for a string of digits."""
    words = []
    for start in range(0, len(digits), 2):
        pair = [digit + 1 for digit in digits[start : start + 2]]
        words += [DOUBLE, pair[0]] if len(pair) == 2 and pair[0] == pair[1] else pair[::-1]
    return words
