"""Which layers see data alike: a network against itself, against a rotated twin, and what the probe says and leaves alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from assay.bench.verbs import inspect, train
from assay.errors import UserError
from assay.inspection.alignment import Alignment, alignment_matrix
from assay.models.mlp import MLP
from assay.ops import random_projection
from assay.testing.examples import tiny_task


def network(depth: int = 3, seed: int = 0) -> MLP:
    torch.manual_seed(seed)
    return MLP(tiny_task().signature, 12, depth)


def batches() -> list[dict[str, torch.Tensor]]:
    return list(tiny_task().batches("train", 20))  # 20, 20, 20 and 4, of which the last is too small


def test_a_network_is_like_itself_and_its_likeness_is_symmetric() -> None:
    model = network().train()
    matrix, rows, columns = alignment_matrix(model, model, batches())
    torch.testing.assert_close(matrix.diagonal(), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(matrix, matrix.T)
    assert rows == columns == ["layers.0", "layers.2", "layers.4"]
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())


def test_a_rotated_layer_is_the_same_layer_and_an_unrelated_network_is_not() -> None:
    class Turned(nn.Module):
        def __init__(self, rotation: torch.Tensor) -> None:
            super().__init__()
            self.layer, self.head = nn.Linear(6, 12), nn.Linear(12, 2)
            model = network(1)
            with torch.no_grad():
                self.layer.weight.copy_(rotation @ model.layers[0].weight)
                self.layer.bias.copy_(rotation @ model.layers[0].bias)

        def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
            return self.head(self.layer(batch["table"]))

    rotation = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(1))).Q
    matrix, _, _ = alignment_matrix(network(1), Turned(rotation), batches())
    torch.testing.assert_close(matrix, torch.ones(1, 1, dtype=torch.float64), rtol=1e-5, atol=0)
    unlike, _, _ = alignment_matrix(network(1), network(1, seed=3), batches())
    assert 0 < unlike < 0.99


def test_the_probe_says_which_layers_repeat_the_one_before() -> None:
    model = network(3)
    with torch.no_grad():
        model.layers[2].weight.copy_(5 * torch.eye(12))  # the second layer passes the first on, its rectifier nearly idle
        model.layers[2].bias.zero_()
        model.layers[0].bias.fill_(30.0)
    finding = Alignment(examples=32)(model, tiny_task())
    assert "1 of 2 layers are nearly the same as the one before" in finding.sentence
    assert finding.table[0] == {"layer": "layers.0", "most like": "layers.2", "similarity": pytest.approx(1, abs=1e-3)}
    assert finding.figure is not None
    assert finding.figure["data"][0]["type"] == "heatmap"
    assert Alignment()(network(1), tiny_task()).table == []


def test_the_probe_says_what_projection_may_have_cost(monkeypatch) -> None:
    """Beside the exact similarities each projected one is off by less than the error in its row; without projection there is none."""
    monkeypatch.setattr(random_projection, "_PASS", 1)  # the task is too small for it to be worth while
    torch.manual_seed(0)
    model = MLP(tiny_task().signature, 600, 3)
    exact, projected = (Alignment(examples=32, project_to=width)(model, tiny_task()) for width in (0, 100))
    assert "projected" not in exact.sentence
    assert "error" not in exact.table[0]
    assert "Layers of more than 100 numbers were projected to so many at random, which puts a similarity off by 0." in projected.sentence
    for right, near in zip(exact.table, projected.table, strict=True):
        assert right["most like"] == near["most like"]
        assert 0 < abs(right["similarity"] - near["similarity"]) < near["error"] < 1


def test_a_run_is_compared_with_another_by_name(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, depth in (("first", 1), ("second", 2)):
        train("digits", "mlp", parameters=1000 * depth, steps=1, output=name)
    found = inspect("first", "alignment:other=second,examples=64")
    assert list(found) == ["alignment"]
    assert "of second that is most like it" in found["alignment"].sentence
    with pytest.raises(UserError, match="Probe alignment has no option 'with'"):
        inspect("first", "alignment:with=second")
    with pytest.raises(UserError, match="no model or mixer named 'third'"):
        inspect("first", "alignment:other=third")


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 8, got 4 and 128"):
        Alignment(examples=4)
    with pytest.raises(ValueError, match=r"project_to must be at least 0 .*, got -1"):
        Alignment(project_to=-1)
    with pytest.raises(ValueError, match="no batch was added"):
        alignment_matrix(network(), network(), list(tiny_task().batches("train", 4)))
    broken = network()
    with torch.no_grad():
        broken.layers[2].bias[0] = float("nan")
    with pytest.raises(ValueError, match=r"the activations of layers.2 are not finite"):
        alignment_matrix(broken, broken, batches())
    with pytest.raises(ValueError, match="no layer to compare"):
        alignment_matrix(Flat(), network(), batches())


class Flat(nn.Module):
    """One linear map: no hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 2)

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.head(batch["table"])
