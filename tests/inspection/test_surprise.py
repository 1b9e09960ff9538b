"""Surprise is told for every memory, where it reads what, and leaves the network as it was."""

from __future__ import annotations

import pytest
import torch

from assay.errors import UserError
from assay.inspection.surprise import Surprise, surprises
from assay.models.build import build_network
from assay.tasks.synthetic.needle import needle


@pytest.mark.parametrize("name", ["neural-memory", "titans-mac", "titans-mag", "titans-mal"])
def test_every_memory_is_heard_at_every_position(name: str) -> None:
    torch.manual_seed(0)
    task = needle(24, train=4, test=3)
    model = build_network(name, task.signature, 1, 0)
    batch = task.batch_of("test", slice(None))
    with torch.no_grad():
        before = model(batch).prediction
        found = surprises(model, batch)
        torch.testing.assert_close(model(batch).prediction, before, atol=0, rtol=0)
    assert len(found) == 2  # two blocks
    assert all(numbers.shape == (3, 4, 24) for numbers in found.values())
    assert all((numbers > 0).all() for numbers in found.values())


def test_a_memory_alone_is_as_surprised_as_it_says() -> None:
    torch.manual_seed(0)
    task = needle(12, train=4, test=3)
    model = build_network("neural-memory", task.signature, 1, 0, depth=1)
    batch = task.batch_of("test", slice(None))
    with torch.no_grad():
        x = model.blocks[0].mixer_norm(model.encoder(batch["tokens"]))  # pyright: ignore
        expected = model.blocks[0].mixer.surprise(x)  # pyright: ignore
    torch.testing.assert_close(surprises(model, batch)["blocks.0.mixer"], expected, atol=1e-6, rtol=0)


def test_the_finding_names_the_most_surprising_positions() -> None:
    torch.manual_seed(0)
    task = needle(12, train=4, test=5)
    model = build_network("titans-mag", task.signature, 1, 0)
    finding = Surprise(examples=5, shown=3)(model, task)
    assert finding.figure is not None
    for name, curve in finding.figure.items():
        top = [row["position"] for row in finding.table if row["memory"] == name]
        assert len(top) == 3
        assert max(curve) == pytest.approx(curve[top[0]])
    assert "first half" in finding.sentence


def test_a_network_without_memory_is_refused() -> None:
    task = needle(12, train=4, test=3)
    with pytest.raises(UserError, match="no memory"):
        surprises(build_network("lstm", task.signature, 1, 0), task.batch_of("test", slice(None)))
