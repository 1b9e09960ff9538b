"""Multi-query associative recall: pairs of a key and a value, then keys whose values are asked for."""

from __future__ import annotations

from typing import Any

import torch

from assay.contracts import Class, Signature, Tokens
from assay.tasks.base import ArrayTask


def multi_query_recall(
    pairs: int = 8, keys: int = 16, values: int = 16, train: int = 20_000, test: int = 1_000, seed: int = 0, name: str = "recall"
) -> ArrayTask:
    """``k₁ v₁ … k_n v_n q₁ … q_n``: at every query, the value that followed this key before.

    The keys of an example are different, their values are drawn freely, and the queries are the keys in another order. So nothing but
    looking up by the content of the current token helps: guessing among the example's values is right about once in ``pairs``.

    Arora, Eyuboglu, Timalsina, Johnson, Poli, Zou, Rudra, Ré (2023), Zoology: Measuring and Improving Recall in Efficient Language Models.

    Args:
        pairs: pairs, and queries, in an example; its length is 3 · pairs.
        keys: symbols that keys are drawn from, tokens 0 … keys − 1.
        values: symbols that values are drawn from, tokens keys … keys + values − 1; the class is the value's number.
        train: training examples.
        test: test examples, and as many for validation.
        seed: of all examples.
        name: the task's name.

    Raises:
        ValueError: a count below 1, or fewer keys than pairs.
    """
    if min(pairs, values, train, test) < 1:
        raise ValueError(f"pairs, values, train and test must be at least 1, got {pairs}, {values}, {train} and {test}")
    if keys < pairs:
        raise ValueError(f"keys must be at least the {pairs} pairs, for the keys of an example are different; got {keys}")
    generator = torch.Generator().manual_seed(seed)
    sizes = {"train": train, "validation": test, "test": test}
    splits: Any = {split: _examples(pairs, keys, values, count, generator) for split, count in sizes.items()}
    return ArrayTask(
        name,
        Signature(Tokens(keys + values, 3 * pairs), Class(values), per_position=True),
        splits,
        description=f"{train + 2 * test:,} sequences of {pairs} key-value pairs and {pairs} queries, {keys} keys, {values} values",
        encoding={"labels": [str(value) for value in range(values)]},
    )


def _examples(pairs: int, keys: int, values: int, count: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    key = torch.rand(count, keys, generator=generator).argsort(1)[:, :pairs]
    value = torch.randint(values, (count, pairs), generator=generator)
    order = torch.rand(count, pairs, generator=generator).argsort(1)
    context = torch.stack([key, keys + value], 2).flatten(1)
    target = torch.zeros(count, 3 * pairs, dtype=torch.long)
    target[:, 2 * pairs :] = value.gather(1, order)
    asked = torch.zeros(count, 3 * pairs, dtype=torch.bool)
    asked[:, 2 * pairs :] = True
    return {"tokens": torch.cat([context, key.gather(1, order)], 1), "target": target, "target_mask": asked}
