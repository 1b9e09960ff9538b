"""The moving average of weights against its formula, in `fit` and in a plain loop."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from assay.models import build
from assay.testing import check_method
from assay.testing.examples import tiny_task
from assay.training import fit
from assay.training.methods.clipping import Clipping
from assay.training.methods.weight_averaging import WeightAveraging


def test_contract() -> None:
    check_method(WeightAveraging)


def test_average_is_its_formula_in_a_plain_loop() -> None:
    parameter = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    model = nn.ParameterList([parameter])
    method, optimizer = WeightAveraging(0.6), torch.optim.SGD([parameter], lr=1.0)
    method.register(model, optimizer)
    expected, weights = 0.0, [1.0, 4.0, -2.0, 7.0, 3.0]
    for t, weight in enumerate(weights, 1):
        parameter.grad = parameter.detach() - weight  # one step of rate 1 lands on the weight
        optimizer.step()
        expected += (1 - min(0.6, (t - 1) / (t + 9))) * (weight - expected)
    assert parameter.detach().tolist() == pytest.approx([3.0] * 3)
    method.finish(model)
    assert parameter.detach().tolist() == pytest.approx([expected] * 3, rel=1e-12)


def test_without_memory_it_is_the_last_weights_and_it_composes() -> None:
    task, found = tiny_task(), []
    for methods in ([], [WeightAveraging(0.0)], [Clipping(1e9), WeightAveraging(0.0)]):
        torch.manual_seed(0)
        model = build("mlp", task.signature, 500)
        fit(model, task, steps=5, select="last", methods=methods)
        found.append(torch.cat([parameter.flatten() for parameter in model.parameters()]))
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)
    torch.testing.assert_close(found[2], found[0], rtol=0, atol=0)


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_out_of_range_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match="below 1"):
        WeightAveraging(decay)
