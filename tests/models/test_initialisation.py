"""What layers of a network the theory speaks of, and that those and no others are drawn critically and survive being saved."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from assay import models
from assay.contracts import Class, Image, Series, Signature, Table
from assay.errors import UserError
from assay.models.example import example_batch
from assay.models.initialisation import initialise_critical_
from assay.models.layer_roles import layer_roles

TABLE = Signature(Table(20), Class(3))


def roles_of(model: nn.Module, *example):
    return {role.name: role for role in layer_roles(model, *example)}


class Functional(nn.Module):
    """Functions instead of modules; two layers in a row without an activation; a gate, a sum and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.value, self.gate, self.normalised = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.first(x).view(-1, 8))
        x = self.third(self.second(x))
        x = x + self.value(x.relu()) * torch.sigmoid(self.gate(x))
        return self.head(F.relu(self.norm(self.normalised(x))))


def test_an_mlp_is_plain_from_input_to_output() -> None:
    model = models.build("mlp", TABLE, 4000, depth=3, activation="gelu", dropout=0.1)
    roles = list(layer_roles(model, example_batch(TABLE)))
    assert [role.obstacle for role in roles] == [None] * 4
    assert [role.is_output for role in roles] == [False, False, False, True]
    assert roles[0].reads == "input"
    assert roles[0].fan_in == 20


def test_functions_are_seen_and_obstacles_named() -> None:
    roles = roles_of(Functional(), torch.randn(5, 6))
    assert roles["first"].obstacle is None
    assert roles["first"].activation is not None
    assert roles["first"].activation.name == "tanh"
    assert "is not the one after it" in (roles["second"].obstacle or "")  # tanh before, the identity after
    assert "sum" in (roles["third"].obstacle or "")
    assert "product" in (roles["value"].obstacle or "")
    assert roles["normalised"].obstacle is not None
    assert roles["head"].obstacle is None


def test_a_network_is_left_as_it_was() -> None:
    model = models.build("mlp", TABLE, 4000, dropout=0.5).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    layer_roles(model, example_batch(TABLE))
    assert model.training
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["attention", "lstm", "resnet"])
def test_norms_gates_and_attention_are_outside(name: str) -> None:
    signature = Signature(Image(1, 8, 8), Class(3))
    roles = layer_roles(models.build(name, signature, 20_000), example_batch(signature))
    assert all(role.obstacle for role in roles)
    with pytest.raises(UserError, match=r"cannot have init=critical: the theory speaks of none of its \d+ layers"):
        models.build(name, signature, 20_000, init="critical")


def test_layers_get_their_activation_s_variances() -> None:
    """GELU: the first layer so that K is K* at once, the others the tabled C_W and C_b."""
    signature = Signature(Table(400), Class(400))
    model = models.build_network("mlp", signature, 400, 0, depth=3, activation="gelu", init="critical")
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    found = [float(layer.weight.detach().var()) * layer.in_features for layer in layers]
    assert found == pytest.approx([3.5616 - 0.1729, 1.9831, 1.9831, 1.9831], rel=0.02)
    biases = torch.cat([layer.bias.detach() for layer in layers])
    assert float(biases.var()) == pytest.approx(0.1729, rel=0.1)
    kernels = [role.output_square for role in layer_roles(model, example_batch(signature, 64))]
    assert kernels == pytest.approx([3.56] * 4, rel=0.15)


def test_the_choice_survives_saving_and_the_weights_are_those_saved(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = models.build("mlp", TABLE, 4000, depth=4, activation="tanh", init="critical")
    models.save(model, tmp_path)
    loaded = models.load(tmp_path)
    assert models.read_config(tmp_path)["build"]["options"]["init"] == "critical"
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())


def test_the_parameter_budget_is_the_same_with_either() -> None:
    counts = {init: models.parameter_count(models.build("mlp", TABLE, 5000, depth=3, init=init)) for init in ("default", "critical")}
    assert counts["default"] == counts["critical"]


def test_convolutions_of_a_user_s_module_are_set_by_their_fan_in() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv1d(3, 64, 5, padding=2), nn.ReLU(), nn.Conv1d(64, 64, 5, padding=2), nn.ReLU(), nn.Flatten(), nn.Linear(640, 4)
    )
    done = initialise_critical_(net, torch.randn(4, 3, 10))
    assert [layer.reason for layer in done] == [None] * 3
    assert [layer.weight_variance for layer in done] == pytest.approx([2.0] * 3)
    second = net[2].weight.detach()
    assert float(second.var()) * 64 * 5 == pytest.approx(2.0, rel=0.05)
    assert all(float(layer.bias.detach().abs().max()) == 0 for layer in (net[0], net[2], net[5]))


def test_what_cannot_be_critical_says_why_and_stays() -> None:
    net = nn.Sequential(nn.Linear(4, 5), nn.Sigmoid(), nn.Linear(5, 5, bias=False), nn.GELU(), nn.Linear(5, 2))
    before = net[0].weight.detach().clone()
    reasons = [layer.reason or "" for layer in initialise_critical_(net, torch.randn(3, 4))]
    assert "no critical initialisation" in reasons[0]
    assert "is not the one after it" in reasons[1]
    assert torch.equal(net[0].weight, before)
    bare = nn.Sequential(nn.Linear(4, 5, bias=False), nn.GELU(), nn.Linear(5, 2))
    assert "needs biases of variance 0.173" in (initialise_critical_(bare, torch.randn(3, 4))[0].reason or "")


def test_unknown_words_and_networks_without_layers_are_refused() -> None:
    with pytest.raises(UserError, match="init must be default or critical, not 'magic'"):
        models.build("mlp", TABLE, 4000, init="magic")
    with pytest.raises(ValueError, match="ran no linear map"):
        layer_roles(nn.ReLU(), torch.randn(3))


def test_padded_series_reach_an_mlp() -> None:
    signature = Signature(Series(2, 6), Class(3))
    assert [role.obstacle for role in layer_roles(models.build("mlp", signature, 900), example_batch(signature))] == [None] * 3


def test_the_seed_decides_the_weights() -> None:
    drawn = []
    for _ in range(2):
        torch.manual_seed(3)
        drawn.append(models.build("mlp", TABLE, 2000, init="critical"))
    assert all(torch.equal(*pair) for pair in zip(*(model.parameters() for model in drawn), strict=True))
    assert bool(drawn[0](example_batch(TABLE)).prediction.isfinite().all())
