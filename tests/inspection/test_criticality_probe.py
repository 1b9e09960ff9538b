"""The probe's predictions against what a wide network shows, and its words where the theory has none."""

from __future__ import annotations

import pytest
import torch

from assay import models
from assay.inspection.criticality import CriticalityProbe
from assay.tasks.builtin import digits


@pytest.fixture(scope="module")
def task():
    return digits()


def probed(task, **options):
    torch.manual_seed(0)
    model = models.build_network("mlp", task.signature, 300, 0, depth=6, **options).train()
    finding = CriticalityProbe(32)(model, task)
    assert model.training
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    return finding


@pytest.mark.parametrize("options", [{"init": "critical"}, {"initialisation": "default"}])
def test_kernels_and_gradients_are_as_predicted_in_a_wide_network(task, options) -> None:
    finding = probed(task, activation="tanh", **options)
    for row in finding.table[:-1]:  # the last has ten outputs, too few for a mean square
        assert row["kernel"] == pytest.approx(row["predicted kernel"], rel=0.35)
        assert row["gradient"] == pytest.approx(row["predicted gradient"], rel=0.25)
    assert finding.figure is not None


def test_the_default_is_told_from_criticality(task) -> None:
    default, critical = (probed(task, activation="relu", **options) for options in ({"initialisation": "default"}, {"init": "critical"}))
    assert default.table[2]["C_W"] == pytest.approx(1 / 3, rel=0.05)
    assert default.table[2]["critical C_W"] == pytest.approx(2.0)
    assert "multiplied by 0.4" in default.sentence
    assert "multiplied by 1 a layer" in critical.sentence or "multiplied by 0.99" in critical.sentence
    assert default.table[0]["gradient"] < 0.02 * default.table[-1]["gradient"]


def test_norms_put_a_network_outside_the_theory_and_the_probe_says_so(task) -> None:
    finding = CriticalityProbe(8)(models.build("resnet", task.signature, 5000), task)
    assert "speaks of none of its" in finding.sentence
    assert "a norm" in finding.sentence
    assert finding.figure is None
    assert all("outside the theory" in row for row in finding.table)


def test_no_examples_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        CriticalityProbe(0)
