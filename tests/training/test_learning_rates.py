"""Learning rates by layer against the scaling's formula, and in a loop."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from assay import models
from assay.contracts import Class, Image, Signature, Table
from assay.models.example import example_batch
from assay.testing.examples import tiny_task
from assay.training import fit
from assay.training.learning_rates import learning_rate_groups

SIGNATURE = Signature(Table(12), Class(3))


def test_tanh_biases_fall_with_depth_and_weights_do_not() -> None:
    """p_⊥ = 1: λ_b = 1/ℓ, λ_W = 1."""
    model = models.build_network("mlp", SIGNATURE, 10, 0, depth=3, activation="tanh")
    groups = learning_rate_groups(model, example_batch(SIGNATURE), learning_rate=0.2, weight_rate=3.0)
    assert [group["lr"] for group in groups[::2]] == pytest.approx([0.6 / 12, 0.06, 0.06, 0.06])
    assert [group["lr"] for group in groups[1::2]] == pytest.approx([0.2, 0.1, 0.2 / 3, 0.05])
    assert sum(parameter.numel() for group in groups for parameter in group["params"]) == models.parameter_count(model)


def test_relu_shares_by_the_number_of_layers_and_the_rest_keeps_its_rate() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.LayerNorm(8))
    groups = learning_rate_groups(net, torch.randn(3, 4), learning_rate=1.0)
    assert [group["lr"] for group in groups] == pytest.approx([1 / 2 / 4, 1 / 2, 1 / 2 / 8, 1 / 2, 1.0])
    assert len(groups[-1]["params"]) == 4  # the layer before the norm, and the norm


def test_they_train_a_network_in_the_loop() -> None:
    task = tiny_task()
    torch.manual_seed(0)
    model = models.build("mlp", task.signature, 900, depth=3, activation="tanh", init="critical")
    batch = example_batch(task.signature)
    history = fit(
        model,
        task,
        steps=60,
        learning_rate=1.0,
        schedule="constant",
        optimizer=lambda parameters, rate: torch.optim.SGD(learning_rate_groups(model, batch, learning_rate=rate)),
    )
    losses = [entry["train_loss"] for entry in history.curve]
    assert history.status == "done"
    assert losses[-1] < 0.7 * losses[0]


def test_what_has_no_rates_is_refused() -> None:
    image = Signature(Image(1, 8, 8), Class(3))
    with pytest.raises(ValueError, match="speaks of none of the"):
        learning_rate_groups(models.build("resnet", image, 5000), example_batch(image), learning_rate=0.1)
    with pytest.raises(ValueError, match="learning_rate must be positive, got 0"):
        learning_rate_groups(nn.Linear(3, 3), torch.randn(2, 3), learning_rate=0.0)
    with pytest.raises(ValueError, match="follow no power"):
        learning_rate_groups(nn.Sequential(nn.Linear(3, 3), nn.Hardtanh()), torch.randn(2, 3), learning_rate=0.1)
