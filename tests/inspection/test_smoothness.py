"""The smoothness metric against brute force and closed forms, and the probe on real networks."""

from __future__ import annotations

import json
import math
import warnings

import pytest
import torch

from assay.inspection.smoothness import Smoothness, node_smoothness, smoothness, smoothness_over_hops
from assay.models import build
from assay.tasks.graphs import karate


def brute_force(x: torch.Tensor) -> list[float]:
    rows = [row / row.norm() for row in x.double()]
    return [sum(float((one - other).norm()) / 2 for j, other in enumerate(rows) if j != i) / (len(rows) - 1) for i, one in enumerate(rows)]


def test_chunked_equals_brute_force():
    x = torch.randn(23, 4)
    expected = brute_force(x)
    assert node_smoothness(x, chunk=7).tolist() == pytest.approx(expected, abs=1e-7)
    assert smoothness(x).value == pytest.approx(sum(expected) / 23, abs=1e-7)


def test_one_direction_is_0_whatever_the_lengths():
    x = torch.rand(50, 1).add(0.1) * torch.randn(1, 5)
    assert smoothness(x).value < 1e-7


@pytest.mark.parametrize("m", [1, 2, 10])
def test_two_opposite_groups(m):
    """m nodes each way: every node is at 1 from m of the 2m - 1 others."""
    x = torch.cat([torch.ones(m, 3), -torch.ones(m, 3)])
    assert smoothness(x).value == pytest.approx(m / (2 * m - 1), abs=1e-12)


def test_row_lengths_play_no_part():
    x = torch.randn(30, 4, dtype=torch.float64)
    assert smoothness(x * torch.rand(30, 1).add(0.01) * 1e-200).value == pytest.approx(smoothness(x).value, abs=1e-9)


def test_sample_agrees_within_its_standard_error():
    x = torch.randn(300, 5) + 1
    exact, sampled = smoothness(x).value, smoothness(x, max_pairs=20_000)
    assert 0 < sampled.standard_error < 0.005
    assert abs(sampled.value - exact) < 4 * sampled.standard_error


def test_zero_rows_are_half_from_others_and_said():
    x = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    with pytest.warns(UserWarning, match="2 of 3 rows are zero"):
        value = smoothness(x).value
    assert value == pytest.approx((0 + 0.5 + 0.5) / 3)


def test_propagation_to_the_limit_smooths_every_component_alone():
    """A complete graph with self-loops mixes in one hop: from then on all rows have one direction."""
    edges = (~torch.eye(6, dtype=torch.bool)).nonzero().T
    curve = smoothness_over_hops(torch.randn(6, 3, dtype=torch.float64), edges, at=(0, 1))
    assert curve[0].value > 0.1
    assert curve[1].value < 1e-7


@pytest.mark.parametrize("name", ["dagnn", "decoupled-gnn", "mlp-like"])
def test_probe_finds_layers_and_hops_and_changes_nothing(name):
    pytest.importorskip("networkx")
    task = karate()
    options = {"num_hops": 0} if name == "mlp-like" else {}
    model = build("dagnn" if name == "dagnn" else "decoupled-gnn", task.signature, 3_000, **options).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        finding = Smoothness(max_pairs=2_000)(model, task)
    names = [row["after"] for row in finding.table]
    assert names[:2] == ["transform", "propagation"]
    assert "hop 10" in names
    assert all(0 <= row["smoothness"] <= 1 and math.isfinite(row["standard_error"]) for row in finding.table)
    assert "λ₂" in finding.sentence
    json.dumps(finding.figure)
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_deep_gcn_layers_are_listed():
    pytest.importorskip("torch_geometric")
    task = karate()
    finding = Smoothness(max_pairs=2_000)(build("gcn", task.signature, 3_000, depth=3), task)
    assert [row["after"] for row in finding.table[:3]] == ["layers 1", "layers 2", "layers 3"]


@pytest.mark.parametrize(
    ("x", "message"),
    [(torch.zeros(1, 3), r"\(1, 3\)"), (torch.zeros(5), r"\(5,\)"), (torch.tensor([[math.nan], [1.0]]), "finite")],
)
def test_wrong_inputs_are_refused(x, message):
    with pytest.raises(ValueError, match=message):
        smoothness(x)
    with pytest.raises(ValueError, match="max_pairs"):
        smoothness(torch.ones(3, 2), max_pairs=1)
