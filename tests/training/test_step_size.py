"""The suggested learning rate against the closed form of a linear model, and what it must not do."""

import copy

import pytest
import torch
from torch import nn

from assay.contracts import Class, Output, Signature, Table, Values
from assay.tasks import ArrayTask
from assay.testing.examples import tiny_task
from assay.training.step_size import quadratic_learning_rate


class Linear(nn.Module):
    def __init__(self, outputs=1, scale=1.0):
        super().__init__()
        self.layer = nn.Linear(4, outputs)
        self.scale = scale

    def forward(self, batch):
        return Output(self.scale * self.layer(batch["table"]))


def values_task(rows=64):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 4, generator=generator)
    split = {"table": x, "target": x[:, :1] - 2 * x[:, 1:2] + 0.1}
    return ArrayTask("line", Signature(Table(4), Values(1)), dict.fromkeys(("train", "validation", "test"), split))


def test_of_a_linear_model_it_is_the_minimum_of_its_parabola():
    task, model = values_task(), Linear()
    rate = quadratic_learning_rate(model, task, batch_size=64, batches=1)
    batch = next(task.training_batches(64, 0))
    gradients = torch.autograd.grad(task.loss(model(batch), batch), list(model.parameters()))

    def loss(step):
        moved = copy.deepcopy(model)
        with torch.no_grad():
            for parameter, gradient in zip(moved.parameters(), gradients, strict=True):
                parameter.sub_(step * gradient.sign())
            return float(task.loss(moved(batch), batch))

    before, at, beyond = loss(0.0), loss(rate), loss(2 * rate)
    assert at < before
    assert beyond == pytest.approx(before, abs=2e-3 * (before - at))  # a parabola is symmetric about its minimum


def test_a_wider_network_gets_a_smaller_step():
    task = values_task()

    def rate(width):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 1))

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.net = net

            def forward(self, batch):
                return Output(self.net(batch["table"]))

        return quadratic_learning_rate(Net(), task)

    ratio = rate(64) / rate(1024)
    assert 6 < ratio < 40  # 1/width would be 16


def test_the_model_is_left_as_it_was():
    task = tiny_task()
    model = Linear(task.signature.output.size)
    model.layer = nn.Linear(task.signature.input.features, task.signature.output.size)
    before = copy.deepcopy(model.state_dict())
    quadratic_learning_rate(model, task)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_network_whose_output_does_not_move_is_refused():
    with pytest.raises(ValueError, match="which name no step"):
        quadratic_learning_rate(Linear(scale=0.0), values_task())
    with pytest.raises(ValueError, match="batches must be at least 1"):
        quadratic_learning_rate(Linear(), values_task(), batches=0)


def test_classes_bend_by_the_softmax():
    """Of logits that are linear in the parameters, the curvature along u is the variance of u under the softmax."""
    generator = torch.Generator().manual_seed(1)
    split = {"table": torch.randn(32, 4, generator=generator), "target": torch.randint(3, (32,), generator=generator)}
    task = ArrayTask("three", Signature(Table(4), Class(3)), dict.fromkeys(("train", "validation", "test"), split))
    model = Linear(3)
    found = quadratic_learning_rate(model, task, batch_size=32, batches=1)
    batch = next(task.training_batches(32, 0))
    logits = model(batch).prediction
    weight, bias = torch.autograd.grad(task.loss(Output(logits), batch), list(model.parameters()))
    moved = batch["table"] @ weight.sign().T + bias.sign()
    shares = logits.softmax(-1)
    variance = (shares.detach() * moved.square()).sum(-1) - (shares.detach() * moved).sum(-1).square()
    expected = float((weight.abs().sum() + bias.abs().sum()) / variance.mean())
    assert found == pytest.approx(expected, rel=5e-3)
