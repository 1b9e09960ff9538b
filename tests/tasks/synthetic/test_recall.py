"""Multi-query recall: the answer must be in the sequence, and nowhere else."""

from __future__ import annotations

import pytest
import torch

from assay.tasks.synthetic.recall import multi_query_recall
from assay.testing import check_task


def test_every_query_asks_for_the_value_that_followed_its_key() -> None:
    task = multi_query_recall(pairs=5, keys=9, values=7, train=50, test=20)
    check_task(task)
    batch = task.splits["train"]
    for tokens, target, asked in zip(batch["tokens"].tolist(), batch["target"].tolist(), batch["target_mask"].tolist(), strict=True):
        context = dict(zip(tokens[0:10:2], tokens[1:10:2], strict=True))
        assert len(context) == 5
        assert asked == [False] * 10 + [True] * 5
        assert sorted(tokens[10:]) == sorted(context)
        assert [9 + value for value in target[10:]] == [context[key] for key in tokens[10:]]
        assert all(9 <= token < 16 for token in tokens[1:10:2])


def test_splits_differ_and_a_seed_is_a_seed() -> None:
    first, again, other = (multi_query_recall(train=30, test=30, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.splits["train"]["tokens"], again.splits["train"]["tokens"])
    assert not torch.equal(first.splits["train"]["tokens"], other.splits["train"]["tokens"])
    assert not torch.equal(first.splits["train"]["tokens"], first.splits["test"]["tokens"])


@pytest.mark.parametrize(("options", "words"), [({"pairs": 0}, "at least 1"), ({"keys": 4}, "keys must be at least the 8 pairs")])
def test_impossible_sizes_are_refused(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        multi_query_recall(**options)
