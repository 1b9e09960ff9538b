"""The first symbol is what is asked for, at the last position alone, and nothing else tells it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from assay.tasks.synthetic.first_symbol import first_symbol
from assay.testing import check_task


def test_contract() -> None:
    check_task(first_symbol(length=12, train=40, test=20))


def test_the_first_symbol_is_the_answer_at_the_last_position_alone() -> None:
    task = first_symbol(4, 3, 20, train=200, test=50)
    for split in ("train", "validation", "test"):
        data = task.splits[split]
        assert torch.equal(data["target"][:, -1], data["tokens"][:, 0])
        assert data["target_mask"].sum(1).eq(1).all()
        assert data["target_mask"][:, -1].all()
        assert set(data["tokens"][:, 0].tolist()) == {0, 1, 2, 3}
        assert set(data["tokens"][:, 1:].flatten().tolist()) == {4, 5, 6}  # no filler repeats the answer


@pytest.mark.parametrize("options", [{"classes": 1}, {"length": 1}, {"fillers": 0}, {"train": 0}])
def test_bad_numbers_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be at least"):
        first_symbol(**options)
