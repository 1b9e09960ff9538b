"""Tangent kernels of finite networks: against the closed form of a linear map and gradients taken one by one."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import functional_call

from assay.theory.tangent import empirical_tangent_kernel


def test_a_linear_map_has_its_inputs_products() -> None:
    """∇ of row o of W x + b is x and 1 in row o: K = x·x' + 1 for every output."""
    network, x = nn.Linear(4, 3), torch.randn(5, 4)
    kernel = empirical_tangent_kernel(
        lambda weights, inputs: functional_call(network, weights, (inputs,)), dict(network.named_parameters()), x
    )
    torch.testing.assert_close(kernel, x @ x.T + 1)


def test_gradients_are_those_of_a_backward_pass() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    x, y = torch.randn(2, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)

    def gradient(example: torch.Tensor) -> torch.Tensor:
        return torch.cat([part.flatten() for part in torch.autograd.grad(network(example[None]).sum(), list(network.parameters()))])

    expected = torch.stack([gradient(one) for one in x]) @ torch.stack([gradient(one) for one in y]).T
    call = lambda weights, inputs: functional_call(network, weights, (inputs,))  # noqa: E731
    torch.testing.assert_close(empirical_tangent_kernel(call, dict(network.named_parameters()), x, y), expected)


def test_answers_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must be \(batch, outputs\), got \(1,\)"):
        empirical_tangent_kernel(lambda weights, inputs: (inputs * weights["w"]).sum(1), {"w": torch.ones(2)}, torch.ones(3, 2))
