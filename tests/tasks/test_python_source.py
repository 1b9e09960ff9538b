"""The standard library's source as a text that every machine has."""

from __future__ import annotations

import pytest
import torch

from assay.tasks.python_source import python_source
from assay.tasks.text import decode


def test_it_is_python_and_the_target_is_the_next_byte() -> None:
    task = python_source(60_000, window=64)
    batch = next(task.batches("test", 8))
    assert batch["tokens"].shape == (8, 64)
    assert torch.equal(batch["tokens"][:, 1:], batch["target"][:, :-1])
    text = "".join(decode(row.tolist(), task.encoding) for row in next(task.batches("train", 400))["tokens"])
    assert "import " in text
    assert "def " in text


def test_the_same_seed_gives_the_same_text() -> None:
    first, again, other = (next(python_source(30_000, seed=seed).batches("test", 4))["tokens"] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_no_text_is_refused() -> None:
    with pytest.raises(ValueError, match="size"):
        python_source(0)
