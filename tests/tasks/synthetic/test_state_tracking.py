"""State tracking: targets by closed forms, tests longer than anything trained on."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from assay.tasks.synthetic.state_tracking import modular_counting, parity, permutations
from assay.testing import check_task

SMALL: dict[str, Any] = {"length": 12, "test_length": 30, "train": 60, "test": 20}
TASKS = {"parity": parity, "modular-counting": modular_counting, "permutations": permutations}


@pytest.mark.parametrize("name", TASKS)
def test_a_task_keeps_the_contract_and_judges_unseen_lengths_alone(name: str) -> None:
    task = TASKS[name](**SMALL)
    check_task(task)
    assert task.name == name
    assert task.splits["train"]["tokens"].shape == (60, 12)
    assert task.splits["train"]["target_mask"].all()
    judged = task.splits["test"]["target_mask"]
    assert judged.shape == (20, 30)
    assert torch.equal(judged[0], torch.arange(30) >= 12)
    assert not torch.equal(task.splits["train"]["tokens"][:20], TASKS[name](**SMALL, seed=1).splits["train"]["tokens"][:20])


def test_parity_is_the_sum_modulo_two() -> None:
    for split in parity(**SMALL).splits.values():
        assert torch.equal(split["target"], split["tokens"].cumsum(1) % 2)


def test_counting_is_the_sum_of_moves_modulo_the_places() -> None:
    for split in modular_counting(7, **SMALL).splits.values():
        moves = torch.tensor([0, 1, -1])[split["tokens"]]
        assert torch.equal(split["target"], moves.cumsum(1) % 7)


def test_permutations_are_shuffled_lists() -> None:
    task = permutations(4, **SMALL)
    assert len(task.encoding["labels"]) == 24
    for tokens, targets in zip(task.splits["test"]["tokens"].tolist(), task.splits["test"]["target"].tolist(), strict=True):
        order = [1, 2, 3, 4]
        for token, target in zip(tokens, targets, strict=True):
            if token == 1:
                order[0], order[1] = order[1], order[0]
            elif token == 2:
                order.append(order.pop(0))
            assert task.encoding["labels"][target] == "".join(map(str, order))


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (parity, {"length": 40, "test_length": 40}, "test_length must be larger than length"),
        (parity, {"train": 0}, "train and test must be at least 1"),
        (modular_counting, {"modulus": 1}, "modulus must be at least 2, got 1"),
        (permutations, {"degree": 7}, "degree must be 2 to 6, got 7"),
    ],
)
def test_impossible_sizes_are_refused(make: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make(**options)
