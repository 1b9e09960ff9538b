"""The feed-forward net with every activation: formulas, parameter counts, names."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from assay import registry
from assay.errors import UserError
from assay.nn.channel.activation import activation
from assay.nn.channel.feed_forward import FeedForward

GATES = {"glu": torch.sigmoid, "swiglu": F.silu, "geglu": F.gelu, "reglu": F.relu}


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", registry.TABLE["activation"])
def test_every_activation_makes_a_net_that_maps_positions_alone(name: str) -> None:
    torch.manual_seed(0)
    layer, x = FeedForward(6, 12, activation=name).double(), torch.randn(2, 5, 6, dtype=torch.float64)
    y = layer(x)
    assert y.shape == x.shape
    torch.testing.assert_close(layer(x[1, 3]), y[1, 3])


@pytest.mark.parametrize("name", GATES)
def test_a_gated_net_is_its_formula_with_two_matrices_in_one(name: str) -> None:
    torch.manual_seed(0)
    layer, x = FeedForward(6, 12, activation=name).double(), torch.randn(5, 6, dtype=torch.float64)
    value, gate = (F.linear(x, w, b) for w, b in zip(layer.expand.weight.chunk(2), layer.expand.bias.chunk(2), strict=True))
    torch.testing.assert_close(layer(x), layer.contract(value * GATES[name](gate)))
    assert layer.contract.in_features == 8  # two thirds of 12


def test_a_gated_net_has_the_parameters_of_an_ungated_one() -> None:
    plain, gated = count(FeedForward(60, 240)), count(FeedForward(60, 240, activation="swiglu"))
    assert (plain, gated) == (60 * 240 * 2 + 240 + 60, 60 * 160 * 3 + 320 + 60)


def test_squared_relu() -> None:
    x = torch.tensor([-2.0, 0.0, 3.0])
    assert activation("squared-relu")(x).tolist() == [0.0, 0.0, 9.0]


def test_unknown_activations_and_sizes_are_refused() -> None:
    with pytest.raises(UserError, match="did you mean"):
        FeedForward(4, 8, activation="gelo")
    with pytest.raises(ValueError, match="hidden must be at least 1, got 0"):
        FeedForward(4, 0)
    with pytest.raises(ValueError, match="must be even, got"):
        activation("swiglu")(torch.zeros(2, 3))


def test_a_users_own_activation_by_file(tmp_path) -> None:
    (tmp_path / "mine.py").write_text("import torch\nclass Double(torch.nn.Module):\n  def forward(self, x): return 2 * x\n")
    layer, x = FeedForward(4, 8, activation=f"{tmp_path}/mine.py:Double"), torch.randn(3, 4)
    torch.testing.assert_close(layer(x), layer.contract(2 * layer.expand(x)))
