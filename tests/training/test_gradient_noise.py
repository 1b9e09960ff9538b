import math

import pytest
import torch
from torch import nn

from assay.contracts import Output, Signature, Table, Values
from assay.tasks.base import ArrayTask
from assay.training import fit
from assay.training.methods import make_method
from assay.training.methods.clipping import Clipping
from assay.training.methods.gradient_noise import GradientNoise, add_gradient_noise_, annealed_variance, onset_step, suggest_eta


def with_gradients(*shapes):
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    return parameters


@pytest.mark.parametrize(("step", "variance"), [(0, 1.0), (9, 10**-0.55), (99, 0.0794328)])
def test_schedule_values(step, variance):
    assert annealed_variance(step, eta=1.0) == pytest.approx(variance, rel=1e-5)


def test_variance_is_a_variance_and_not_a_deviation():
    (parameter,) = with_gradients((1000, 1000))
    add_gradient_noise_([parameter], 0.09, torch.Generator().manual_seed(0))
    assert float(parameter.grad.var()) == pytest.approx(0.09, rel=0.01)
    assert float(parameter.grad.mean()) == pytest.approx(0, abs=1e-3)


def test_zero_gradient_and_sgd_random_walk_to_the_summed_variance():
    parameter = nn.Parameter(torch.zeros(200_000))
    method = GradientNoise(eta=0.3)
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    method.register(nn.ParameterList([parameter]), optimizer)
    for _ in range(20):
        parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    expected = 0.1**2 * sum(annealed_variance(step, 0.3) for step in range(20))
    assert float(parameter.detach().var()) == pytest.approx(expected, rel=0.02)


def test_frozen_tied_and_half_precision_parameters():
    frozen = nn.Parameter(torch.zeros(4))
    tied, half = with_gradients((5,), (6,))
    half = nn.Parameter(torch.zeros(6, dtype=torch.bfloat16))
    half.grad = torch.zeros(6, dtype=torch.bfloat16)
    add_gradient_noise_([frozen, tied, tied, half], 1.0, torch.Generator().manual_seed(0))
    draws = torch.randn(11, generator=torch.Generator().manual_seed(0))
    assert frozen.grad is None
    torch.testing.assert_close(tied.grad, draws[:5])  # one draw, although it is named twice
    torch.testing.assert_close(half.grad, draws[5:].bfloat16())


def test_relative_noise_scales_with_the_gradient():
    (parameter,) = with_gradients((100_000,))
    parameter.grad += 7.0
    add_gradient_noise_([parameter], 0.25, torch.Generator().manual_seed(0), scale="relative")
    assert float(parameter.grad.std()) == pytest.approx(3.5, rel=0.02)


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.map = nn.Linear(2, 1)

    def forward(self, batch):
        return Output(self.map(batch["table"]))


def task():
    x = torch.randn(32, 2, generator=torch.Generator().manual_seed(0))
    split = {"table": x, "target": 100 * x[:, :1]}
    return ArrayTask("line", Signature(Table(2), Values(1)), {"train": split, "validation": split, "test": split})


def trained(methods, steps=6):
    torch.manual_seed(0)
    model = Linear()
    fit(model, task(), steps=steps, learning_rate=0.01, batch_size=8, methods=methods, schedule="constant", select="last")
    return model.map.weight.detach()


def test_eta_zero_is_bit_identical_to_no_method():
    assert torch.equal(trained([GradientNoise(eta=0.0)]), trained([]))
    assert not torch.equal(trained([GradientNoise(eta=1.0)]), trained([]))


def test_interrupted_noise_goes_on_as_if_it_had_not_been():
    whole = GradientNoise(eta=0.5, seed=4)
    first, second = GradientNoise(eta=0.5, seed=4), GradientNoise(eta=0.5, seed=99)
    parameters = with_gradients((50,), (50,))
    for method, parameter in ((whole, parameters[0]), (first, parameters[1])):
        method.setup(nn.ParameterList([parameter]))
        for _ in range(3):
            method.add()
    second.setup(nn.ParameterList([parameters[1]]))
    second.load_state_dict(first.state_dict())
    for method in (whole, second):
        for _ in range(4):
            method.add()
    assert torch.equal(parameters[0].grad, parameters[1].grad)


@pytest.mark.parametrize("outermost", [0, 1])
def test_noise_comes_after_clipping_whatever_the_order_of_the_methods(outermost):
    norms = []

    class Watched(GradientNoise):
        def add(self):
            norms.append(float(torch.cat([p.grad.flatten() for p in self._parameters]).norm()))
            super().add()

    methods = [Watched(eta=1.0), Clipping(0.5)]
    trained(methods if outermost == 0 else methods[::-1])
    assert len(norms) == 6
    assert max(norms) <= 0.5 + 1e-5  # the gradients of this task are far larger before clipping


def test_noise_before_clipping_is_clipped():
    parameters = with_gradients((1000,))

    class Owner(nn.Module):
        def __init__(self):
            super().__init__()
            self.weights = nn.ParameterList(parameters)

    owner, noise, clip = Owner(), GradientNoise(eta=1.0, order="before_clipping"), Clipping(0.5)
    noise.setup(owner)
    clip.gradients(noise.gradients(lambda model, batch: Output(torch.zeros(1))))(owner, {})
    assert float(parameters[0].grad.norm()) == pytest.approx(0.5, rel=1e-4)


def test_suggested_eta_brings_noise_to_criticality_at_the_wanted_step():
    model = nn.Sequential(nn.Linear(50, 50), nn.ReLU(), nn.Linear(50, 50))
    for layer in (model[0], model[2]):
        nn.init.zeros_(layer.weight)
    eta = suggest_eta(model, learning_rate=0.1, steps=5000)
    assert onset_step(model, 0.1, eta) == pytest.approx(5000, rel=1e-6)
    walked = 0.1**2 * sum(annealed_variance(step, eta) for step in range(5000))
    assert walked == pytest.approx(2 / 50, rel=0.03)  # the closed form replaces the sum by an integral
    for layer in (model[0], model[2]):
        nn.init.normal_(layer.weight, std=math.sqrt(2.5 / 50))
    assert suggest_eta(model, 0.1, 5000) == 0


@pytest.mark.parametrize("options", [{"eta": -0.1}, {"gamma": -1.0}, {"order": "sideways"}, {"scale": "loud"}])
def test_bad_options_raise(options):
    with pytest.raises(ValueError, match=str(next(iter(options)))):
        GradientNoise(**options)


def test_sparse_gradients_are_refused_with_the_remedy():
    embedding = nn.Embedding(5, 2, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match="dense"):
        add_gradient_noise_(embedding.parameters(), 1.0)


def test_command_line_form():
    method = make_method("gradient-noise:eta=0.05,gamma=0.5")
    assert (method.eta, method.gamma) == (0.05, 0.5)
    for text, word in [("gradient-nose", "gradient-noise"), ("gradient-noise:etta=1", "etta"), ("gradient-noise:eta=-1", "eta")]:
        with pytest.raises(ValueError, match=word):
            make_method(text)
