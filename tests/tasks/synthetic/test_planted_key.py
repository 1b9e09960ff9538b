"""Planted keys: the key's place is told truly, and nothing else tells the class."""

from __future__ import annotations

import pytest
import torch

from assay.tasks.synthetic.planted_key import planted_key
from assay.testing import check_task


def test_the_key_of_the_class_stands_where_it_is_said_to_stand() -> None:
    task = planted_key(classes=3, key=4, letters=15, length=20, train=200, test=50)
    check_task(task)
    keys = [list(map(int, label.split())) for label in task.encoding["labels"]]
    assert len({letter for key in keys for letter in key}) == 12
    batch = task.splits["train"]
    for tokens, target, start in zip(batch["tokens"].tolist(), batch["target"].tolist(), batch["key_start"].tolist(), strict=True):
        assert tokens[start : start + 4] == keys[target]
    assert batch["key_start"].unique().tolist() == list(range(17))


def test_letters_outside_the_key_say_nothing() -> None:
    batch = planted_key(classes=2, key=3, letters=6, length=40, train=4000, test=10).splits["train"]
    outside = torch.ones_like(batch["tokens"], dtype=torch.bool)
    outside.scatter_(1, batch["key_start"][:, None] + torch.arange(3), False)
    for label in range(2):
        letters = batch["tokens"][(batch["target"] == label)[:, None] & outside]
        assert (torch.bincount(letters, minlength=6) / len(letters) - 1 / 6).abs().max() < 0.01


@pytest.mark.parametrize(
    ("options", "words"),
    [({"classes": 1}, "classes must be at least 2"), ({"letters": 15}, "need 16 letters"), ({"length": 3}, "a length of 4")],
)
def test_impossible_sizes_are_refused(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        planted_key(**options)
