"""Ranking guides: the same start for all, the gain in the metric's direction, and nothing left behind."""

from __future__ import annotations

import copy

import pytest
import torch

from assay.errors import UserError
from assay.inspection.guides import Guides, rank_guides
from assay.models import build
from assay.testing.examples import tiny_task


def test_guides_are_ranked_by_their_gain_and_the_network_stays() -> None:
    task = tiny_task(image=True)
    torch.manual_seed(0)
    model = build("mlp", task.signature, 3000, norm="batch")
    before, random_state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    finding = Guides("mlp+resnet", steps=3, batch_size=16)(model, task)
    assert {row["guide"] for row in finding.table} == {"none", "mlp", "resnet"}
    gains = [row["gain"] for row in finding.table]
    assert gains == sorted(gains, reverse=True)
    assert next(row["gain"] for row in finding.table if row["guide"] == "none") == 0
    assert "steps" in finding.sentence
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())
    assert torch.equal(random_state, torch.get_rng_state())


def test_every_training_starts_from_the_same_network() -> None:
    task, starts = tiny_task(), []

    def make() -> torch.nn.Module:
        model = build("mlp", task.signature, 300, norm="batch")
        starts.append(copy.deepcopy(next(model.parameters())))
        return model

    found = rank_guides(make, task, ["mlp"], steps=2, batch_size=16)
    assert torch.equal(*starts)
    assert found == rank_guides(make, task, ["mlp"], steps=2, batch_size=16)


def test_candidates_must_be_named_and_exist() -> None:
    with pytest.raises(UserError, match="name some, as in guides:candidates="):
        Guides()
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        Guides("mlp", steps=0)
    task = tiny_task()
    with pytest.raises(UserError, match="no model or mixer named 'nothing'"):
        Guides("nothing", steps=1)(build("mlp", task.signature, 300), task)
    with pytest.raises(ValueError, match="has no recipe"):
        Guides("mlp")(torch.nn.Linear(1, 1), task)
