"""Tasks that need absolute positions: what their targets say."""

from __future__ import annotations

import pytest
import torch

from assay.tasks.synthetic.positions import even_tokens, position_identification


def test_every_position_counts() -> None:
    # the published code leaves the first position out, its class being the padding's number
    batch = next(position_identification(5, 7, train=8, test=4).batches("test", 4))
    assert torch.equal(batch["target"], torch.arange(5).expand(4, 5))
    assert "target_mask" not in batch


def test_even_places_come_first_and_then_one_symbol() -> None:
    batch = next(even_tokens(7, 5, train=8, test=4).batches("test", 4))
    assert torch.equal(batch["target"][:, :3], batch["tokens"][:, [1, 3, 5]])
    assert bool((batch["target"][:, 3:] == 5).all())


def test_examples_are_random_and_repeatable() -> None:
    first, again, other = (next(even_tokens(8, 16, train=64, test=32, seed=seed).batches("train", 64))["tokens"] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.unique().numel() == 16


@pytest.mark.parametrize("arguments", [{"length": 0}, {"vocabulary": 0}, {"train": 0}])
def test_too_small_counts_are_refused(arguments: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        position_identification(**arguments)
