"""Two tasks that need absolute positions: naming one's own, and listing the tokens at even places.

Luo, Li, Zheng, Liu, Wang, He (2022), Your Transformer May Not be as Powerful as You Expect.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from assay.contracts import Class, Signature, Tokens
from assay.tasks.base import ArrayTask


def position_identification(length: int = 16, vocabulary: int = 32, train: int = 20_000, test: int = 1_000, seed: int = 0) -> ArrayTask:
    """Random tokens; the class at every position is the position's number, so only position can tell.

    Args:
        length: positions of an example, and classes.
        vocabulary: symbols, drawn uniformly.
        train: training examples.
        test: test examples, and as many for validation.
        seed: of all examples.

    Raises:
        ValueError: a count below 1.
    """
    _check(length=length, vocabulary=vocabulary, train=train, test=test)
    return _task(
        "position-identification",
        lambda tokens: torch.arange(length).expand(len(tokens), length).clone(),
        (length, vocabulary, length),
        (train, test, seed),
        f"the class of a position is its number; chance is 1/{length}",
    )


def even_tokens(length: int = 8, vocabulary: int = 16, train: int = 20_000, test: int = 1_000, seed: int = 0) -> ArrayTask:
    """Random tokens; the first half of the positions says the tokens at even places (second, fourth …), the rest one more symbol.

    Args:
        length: positions of an example, at least 2.
        vocabulary: symbols, drawn uniformly.
        train: training examples.
        test: test examples, and as many for validation.
        seed: of all examples.

    Raises:
        ValueError: a count below 1, or a length below 2.
    """
    _check(length=length - 1, vocabulary=vocabulary, train=train, test=test)

    def target(tokens: Tensor) -> Tensor:
        rest = torch.full((len(tokens), length - length // 2), vocabulary)
        return torch.cat([tokens[:, 1::2], rest], 1)

    described = "the first half of the positions says the tokens at even places"
    return _task("even-tokens", target, (length, vocabulary, vocabulary + 1), (train, test, seed), described)


def _task(
    name: str, target: Callable[[Tensor], Tensor], sizes: tuple[int, int, int], counts: tuple[int, int, int], described: str
) -> ArrayTask:
    length, vocabulary, classes = sizes
    train, test, seed = counts
    generator = torch.Generator().manual_seed(seed)
    splits: Any = {}
    for split, count in (("train", train), ("validation", test), ("test", test)):
        tokens = torch.randint(vocabulary, (count, length), generator=generator)
        splits[split] = {"tokens": tokens, "target": target(tokens)}
    return ArrayTask(
        name,
        Signature(Tokens(vocabulary, length), Class(classes), per_position=True),
        splits,
        description=f"{train + 2 * test:,} sequences of {length} random tokens of {vocabulary}; {described}",
        encoding={"labels": [str(number) for number in range(classes)]},
    )


def _check(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} is too small: the task needs one position, symbol and example at least")
