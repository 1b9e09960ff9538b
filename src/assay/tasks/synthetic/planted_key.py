"""Letters in which a short key is hidden: the key alone decides the class, and where it stands is known."""

from __future__ import annotations

from typing import Any

import torch

from assay.contracts import Class, Signature, Tokens
from assay.tasks.base import ArrayTask


def planted_key(
    classes: int = 4,
    key: int = 4,
    letters: int = 20,
    length: int = 64,
    train: int = 8_000,
    test: int = 500,
    seed: int = 0,
    name: str = "planted-key",
) -> ArrayTask:
    """Random letters, in which the key of the class, letters in a fixed order, replaces some at a random place.

    Batches also have ``key_start`` (batch,), where the key begins: what a model looks at can be compared with it.

    Args:
        classes: each with a key of its own.
        key: letters of a key, all different; no two keys share one.
        letters: kinds of letters; the keys' letters occur outside them as often as any.
        length: letters of an example.
        train: training examples.
        test: test examples, and as many for validation.
        seed: of keys and examples.
        name: the task's name.

    Raises:
        ValueError: a number out of its range, fewer letters than the keys take, or a key longer than the examples.
    """
    if classes < 2 or min(key, train, test) < 1:
        raise ValueError(f"classes must be at least 2, key, train and test at least 1, got {classes}, {key}, {train} and {test}")
    if letters < classes * key or length < key:
        raise ValueError(f"{classes} keys of {key} need {classes * key} letters and a length of {key}, got {letters} and {length}")
    generator = torch.Generator().manual_seed(seed)
    keys = torch.randperm(letters, generator=generator)[: classes * key].view(classes, key)

    def examples(count: int) -> dict[str, torch.Tensor]:
        tokens = torch.randint(letters, (count, length), generator=generator)
        target = torch.randint(classes, (count,), generator=generator)
        start = torch.randint(length - key + 1, (count,), generator=generator)
        tokens.scatter_(1, start[:, None] + torch.arange(key), keys[target])
        return {"tokens": tokens, "target": target, "key_start": start}

    splits: Any = {split: examples(count) for split, count in (("train", train), ("validation", test), ("test", test))}
    return ArrayTask(
        name,
        Signature(Tokens(letters, length), Class(classes)),
        splits,
        description=f"{train + 2 * test:,} rows of {length} letters, each with one of {classes} keys of {key} letters",
        encoding={"labels": [" ".join(map(str, row)) for row in keys.tolist()]},
    )
