"""One bit, noise of any length, and the question what the bit was."""

from __future__ import annotations

from typing import Any

import torch

from assay.contracts import Class, Signature, Tokens
from assay.tasks.base import ArrayTask

ASK = 2
NOISE = 3


def delayed_bit(
    delays: tuple[int, int] = (20, 100),
    test_delays: tuple[int, int] | None = None,
    fillers: int = 4,
    train: int = 4_000,
    test: int = 500,
    seed: int = 0,
    name: str = "delayed-bit",
) -> ArrayTask:
    """Symbol 0 or 1, then as many random fillers as the delay, then symbol 2, at which the first symbol is to be named.

    As `assay.tasks.synthetic.first_symbol.first_symbol` with two classes and delays that differ from example to example, so that nothing
    but the question tells when to answer. Guessing gives one half.

    Args:
        delays: least and greatest number of fillers in training and validation.
        test_delays: in the test split; by default the same.
        fillers: kinds of fillers, symbols 3 …
        train: training examples.
        test: test examples, and as many for validation.
        seed: of all examples.
        name: the task's name.

    Raises:
        ValueError: a delay below 1, the least above the greatest, or another number below 1.
    """
    test_delays = test_delays or delays
    for least, greatest in (delays, test_delays):
        if not 1 <= least <= greatest:
            raise ValueError(f"delays must be at least 1 and in order, got ({least}, {greatest})")
    if min(fillers, train, test) < 1:
        raise ValueError(f"fillers, train and test must be at least 1, got {fillers}, {train} and {test}")
    length = max(delays[1], test_delays[1]) + 2
    generator = torch.Generator().manual_seed(seed)

    def examples(count: int, least: int, greatest: int) -> dict[str, torch.Tensor]:
        ask = torch.randint(least, greatest + 1, (count, 1), generator=generator) + 1
        tokens = torch.randint(NOISE, NOISE + fillers, (count, length), generator=generator)
        tokens[:, :1] = torch.randint(2, (count, 1), generator=generator)
        mask = torch.arange(length) <= ask
        target, asked = torch.zeros_like(tokens), torch.zeros_like(mask)
        tokens = tokens.scatter(1, ask, ASK).masked_fill(~mask, 0)
        return {"tokens": tokens, "mask": mask, "target": target.scatter(1, ask, tokens[:, :1]), "target_mask": asked.scatter(1, ask, True)}

    splits: Any = {"train": examples(train, *delays), "validation": examples(test, *delays), "test": examples(test, *test_delays)}
    return ArrayTask(
        name,
        Signature(Tokens(NOISE + fillers, length), Class(2), per_position=True),
        splits,
        description=f"{train + 2 * test:,} bits to be kept over {delays[0]}–{delays[1]} symbols (test: {test_delays[0]}–{test_delays[1]})",
        encoding={"labels": ["0", "1"]},
    )
