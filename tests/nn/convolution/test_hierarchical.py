"""Finite hierarchical networks: their mean kernels are the limit's times the stated share, they answer as written out, and they learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.func import functional_call

from assay.nn import HierarchicalConvolution1d, HierarchicalConvolution2d
from assay.theory.hierarchical_kernels import hierarchical_kernel
from assay.theory.tangent import empirical_tangent_kernel

NETWORKS: dict[str, tuple[Any, tuple[int, ...], int, tuple[int, ...]]] = {
    "one layer": (HierarchicalConvolution1d, (2,), 8, (1, 8)),
    "two layers": (HierarchicalConvolution1d, (2, 2), 8, (3, 8)),
    "images": (HierarchicalConvolution2d, (2, 2), 8, (1, 8, 8)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_mean_kernels_follow_the_limit(name: str) -> None:
    """Shares of ¼ for [2] and ⅛ for [2, 2] on one channel; 20 networks of width 96 stay within 8 %."""
    make, filters, size, shape = NETWORKS[name]
    torch.manual_seed(0)
    x = torch.randn(6, *shape, dtype=torch.float64)
    tangents, products = [], []
    for _ in range(20):
        network = make(filters, 96, size, channels=shape[0]).double()
        call = lambda weights, inputs, network=network: functional_call(network, weights, (inputs,))  # noqa: E731
        tangents.append(empirical_tangent_kernel(call, dict(network.named_parameters()), x))
        many = make(filters, 96, size, channels=shape[0], outputs=200).double()
        products.append(many(x) @ many(x).T / 200)
    share = make(filters, 1, size, channels=shape[0]).kernel_share
    assert share == 1 / (2 ** len(filters) * shape[0] * 2 ** (len(shape) - 1))
    limit = hierarchical_kernel(x.numpy(), filters=filters, kind="both")
    for found, kernel in ((tangents, limit.ntk), (products, limit.rfk)):
        expected = torch.from_numpy(kernel)
        assert (torch.stack(found).mean(0).detach() / share - expected).norm() < 0.08 * expected.norm()


def test_answers_as_written_out() -> None:
    torch.manual_seed(0)
    network = HierarchicalConvolution1d((2, 2), 3, 8, outputs=2).double()
    x = torch.randn(1, 1, 8, dtype=torch.float64)
    first, second = network.weights
    hidden = [torch.relu(first[:, 0] @ x[0, 0, 2 * i : 2 * i + 2]) / 2**0.5 for i in range(4)]
    deep = [torch.relu(second[:, :, 0] @ hidden[2 * j] + second[:, :, 1] @ hidden[2 * j + 1]) / 6**0.5 for j in range(2)]
    expected = network.readout @ torch.stack(deep, 1).flatten() / 6**0.5
    torch.testing.assert_close(network(x)[0], expected)


def test_it_learns_a_local_target() -> None:
    torch.manual_seed(0)
    network = HierarchicalConvolution1d((2, 2), 32, 8)
    x = torch.randn(64, 1, 8)
    target = (x[:, :, 0] * x[:, :, 1]).sign()
    optimizer = torch.optim.Adam(network.parameters(), 0.1)
    before = float((network(x) - target).square().mean().detach())
    for _ in range(60):
        optimizer.zero_grad()
        loss = (network(x) - target).square().mean()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.3 * before


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: HierarchicalConvolution1d((), 4, 8), "at least 1"),
        (lambda: HierarchicalConvolution1d((2, 0), 4, 8), r"at least 1, got \[2, 0\]"),
        (lambda: HierarchicalConvolution1d((3,), 4, 8), "patches of 3, which does not divide a size of 8"),
        (lambda: HierarchicalConvolution1d((2,), 0, 8), "got 0, 1 and 1"),
        (lambda: HierarchicalConvolution2d((2,), 4, 8)(torch.zeros(1, 1, 8, 4)), r"\(batch, 1, 8, 8\), got \(1, 1, 8, 4\)"),
    ],
)
def test_bad_arguments_are_refused(call, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()


def test_the_limit_ignores_which_axis_is_first() -> None:
    """Turning images on their side changes no kernel: squares become squares."""
    x = np.random.default_rng(0).standard_normal((4, 1, 8, 8))
    np.testing.assert_allclose(hierarchical_kernel(x, filters=[2, 2]), hierarchical_kernel(x.swapaxes(2, 3), filters=[2, 2]), atol=1e-12)
