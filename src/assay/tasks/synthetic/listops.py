"""Nested operations on lists of digits, written out as a flat sequence: the answer needs the tree."""

from __future__ import annotations

import random
from statistics import median
from typing import Any

import torch

from assay.contracts import Class, Signature, Tokens
from assay.tasks.base import ArrayTask

OPERATIONS = {"[MAX": max, "[MIN": min, "[MED": lambda values: int(median(values)), "[SM": lambda values: sum(values) % 10}
SYMBOLS = ("<pad>", *map(str, range(10)), *OPERATIONS, "]")
"""What the token numbers stand for."""
LEAF = 0.6  # probability that an argument below the root is a digit

_INDEX = {symbol: index for index, symbol in enumerate(SYMBOLS)}


def listops(
    depth: int = 3,
    arguments: int = 5,
    length: int = 128,
    shortest: int = 20,
    train: int = 10_000,
    test: int = 1_000,
    seed: int = 0,
    name: str = "listops",
) -> ArrayTask:
    """``[MAX 4 [SM 8 7 3 ] 2 ]`` is 8: the largest, least, median (halves cut off) or sum modulo 10 of digits and further lists.

    No sequence is in two splits, or twice in one.

    Nangia, Bowman (2018), ListOps: A Diagnostic Dataset for Latent Tree Learning; long ones: Tay et al. (2021), Long Range Arena.

    Args:
        depth: operations within each other, at most.
        arguments: of an operation, 2 to this many.
        length: longest sequence; others are drawn again.
        shortest: shortest sequence.
        train: training examples.
        test: test examples, and as many for validation.
        seed: of all examples.
        name: the task's name.

    Raises:
        ValueError: a number out of its range, or sizes for which nearly no sequence can be found.
    """
    if depth < 1 or arguments < 2 or min(train, test) < 1:
        raise ValueError(f"depth, train and test must be at least 1 and arguments at least 2, got {depth}, {train}, {test} and {arguments}")
    if not 4 <= shortest <= length:
        raise ValueError(f"shortest must be 4 to length {length}, got {shortest}")
    source = random.Random(seed)
    sizes = {"train": train, "validation": test, "test": test}
    examples = _different(depth, arguments, length, shortest, sum(sizes.values()), source)
    splits: Any = {}
    for split, size in sizes.items():
        part, examples = examples[:size], examples[size:]
        splits[split] = _tensors(part, length)
    longest = max(int(tensors["mask"].sum(1).max()) for tensors in splits.values())
    return ArrayTask(
        name,
        Signature(Tokens(len(SYMBOLS), length), Class(10)),
        splits,
        description=f"{sum(sizes.values()):,} nested lists of up to {depth} levels, {shortest} to {longest} symbols, 10 values",
        encoding={"labels": [str(value) for value in range(10)]},
    )


def value(symbols: list[str]) -> int:
    """What a written list comes to, by reading it from left to right with a stack."""
    stack: list[list[Any]] = [[]]
    for symbol in symbols:
        if symbol in OPERATIONS:
            stack.append([symbol])
        elif symbol == "]":
            operation, *values = stack.pop()
            stack[-1].append(OPERATIONS[operation](values))
        else:
            stack[-1].append(int(symbol))
    return stack[0][0]


def _different(depth: int, arguments: int, length: int, shortest: int, count: int, source: random.Random) -> list[list[str]]:
    found: dict[tuple[str, ...], None] = {}
    for _ in range(50 * count):
        symbols = _list(depth, arguments, source)
        if shortest <= len(symbols) <= length:
            found[tuple(symbols)] = None
        if len(found) == count:
            return [list(symbols) for symbols in found]
    raise ValueError(
        f"only {len(found)} of {count} different lists of {shortest} to {length} symbols were found: allow other depths or lengths"
    )


def _list(depth: int, arguments: int, source: random.Random) -> list[str]:
    symbols = [source.choice(list(OPERATIONS))]
    for _ in range(source.randint(2, arguments)):
        leaf = depth == 1 or source.random() < LEAF
        symbols += [str(source.randint(0, 9))] if leaf else _list(depth - 1, arguments, source)
    return [*symbols, "]"]


def _tensors(examples: list[list[str]], length: int) -> dict[str, torch.Tensor]:
    tokens = torch.zeros(len(examples), length, dtype=torch.long)
    for row, symbols in enumerate(examples):
        tokens[row, : len(symbols)] = torch.tensor([_INDEX[symbol] for symbol in symbols])
    return {"tokens": tokens, "mask": tokens > 0, "target": torch.tensor([value(symbols) for symbols in examples])}
