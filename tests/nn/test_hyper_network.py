"""A linear map made by a network equals `torch.nn.functional.linear` with the weights that it makes, example by example."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from assay.nn.hyper_network import HyperNetworkLinear


def made(*sizes: int) -> HyperNetworkLinear:
    torch.manual_seed(0)
    return HyperNetworkLinear(*sizes).double()


@pytest.mark.parametrize("middle", [(), (4,), (2, 3)])
def test_every_example_is_mapped_by_the_weights_of_its_own_condition(middle: tuple[int, ...]) -> None:
    layer = made(5, 3, 2)
    x, condition = torch.randn(6, *middle, 5, dtype=torch.float64), torch.randn(6, 2, dtype=torch.float64)
    hidden = torch.relu(F.linear(condition, layer.expand.weight, layer.expand.bias))
    numbers = F.linear(hidden, layer.generate.weight, layer.generate.bias)
    expected = torch.stack([F.linear(row, n[:15].view(3, 5), n[15:]) for row, n in zip(x, numbers, strict=True)])
    torch.testing.assert_close(layer(x, condition), expected, rtol=1e-12, atol=1e-12)


def test_with_one_condition_for_all_it_is_a_linear_layer() -> None:
    layer, linear = made(5, 3, 2), torch.nn.Linear(5, 3).double()
    x, condition = torch.randn(6, 5, dtype=torch.float64), torch.randn(2, dtype=torch.float64).expand(6, 2)
    weight, bias = layer.weights(condition[:1])
    linear.load_state_dict({"weight": weight[0].detach(), "bias": bias[0].detach()})
    torch.testing.assert_close(layer(x, condition), linear(x), rtol=1e-12, atol=1e-12)


def test_gradients() -> None:
    layer = made(3, 2, 2, 4)
    x, condition = torch.randn(2, 3, dtype=torch.float64, requires_grad=True), torch.randn(2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x, condition))


@pytest.mark.parametrize("inputs", [8, 512])
def test_outputs_start_as_large_as_those_of_a_linear_layer_however_many_inputs(inputs: int) -> None:
    layer = made(inputs, 64, 16, 64)
    x, condition = torch.randn(400, inputs, dtype=torch.float64), torch.randn(400, 16, dtype=torch.float64)
    assert float(layer(x, condition).detach().square().mean()) == pytest.approx(1 / 3, rel=0.15)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="hidden=0"):
        HyperNetworkLinear(2, 2, 2, 0)
    layer = HyperNetworkLinear(3, 2, 2)
    with pytest.raises(ValueError, match=r"x must be \(batch, ..., 3\), got \(2, 4\)"):
        layer(torch.zeros(2, 4), torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"condition must be \(2, 2\), got \(1, 2\)"):
        layer(torch.zeros(2, 3), torch.zeros(1, 2))
