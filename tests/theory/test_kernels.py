"""Kernels of wide networks: figures of neural-tangents, a real wide network, gradients of one, symmetry, and general norms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from assay.theory.dual_activation import DualActivation
from assay.theory.finite_width import propagate
from assay.theory.infinite_depth import log_nngp, optimal_activation
from assay.theory.kernels import KINDS, WideNetwork, nngp_kernel, ntk_kernel

X = np.array([[1.0, 0.5, -0.2], [0.3, -0.8, 2.0], [-1.0, 0.1, 0.4]]) / math.sqrt(3)
# neural-tangents 0.6.5 in float64: Dense(W_std=√1.7, b_std=√0.3), three layers of the activation, entries (0, 1) and (0, 2)
PUBLISHED = {
    "relu": {"ntk": [2.3814484864023906, 1.7072523380059652], "nngp": [1.4084815260657537, 1.0745555325502805]},
    "erf": {"ntk": [1.096479309412412, 0.7414613816465254], "nngp": [0.6254173570480818, 0.5456025363893814]},
    "sine": {"ntk": [1.0274274062433226, 0.7418385165795182], "nngp": [0.5923786080169674, 0.5284684697556692]},
    "gelu": {"ntk": [1.7251018907164286, 1.183063481045371], "nngp": [1.0084960504319442, 0.7488806859219101]},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_entries_are_those_of_neural_tangents(name: str) -> None:
    network = WideNetwork(DualActivation.closed_form(name), 3, 1.7, 0.3)
    for kind in KINDS:
        np.testing.assert_allclose(network.kernel(X, kind=kind)[0, 1:], PUBLISHED[name][kind], rtol=1e-12)


def test_series_recursion_is_the_closed_one() -> None:
    closed = DualActivation.closed_form("erf")
    series = DualActivation.from_callable(torch.erf, order=300)  # at a variance of 2 order 100 leaves out 1e−8
    for kind in KINDS:
        expected = WideNetwork(closed, 3, 1.7, 0.3, 0.4).kernel(X, kind=kind)
        np.testing.assert_allclose(WideNetwork(series, 3, 1.7, 0.3, 0.4).kernel(X, kind=kind), expected, rtol=1e-11)


def test_outputs_of_a_wide_residual_network_have_the_covariance() -> None:
    torch.manual_seed(0)
    width, gamma, inputs = 3072, 0.5, torch.from_numpy(X).float()
    z = inputs @ torch.randn(3, width)
    for _ in range(2):
        z = torch.tanh(z) @ torch.randn(width, width) / math.sqrt(width) + gamma * z
    measured = (z @ z.T / width).numpy()
    expected = WideNetwork(DualActivation.from_callable(torch.tanh), 2, residual=gamma).kernel(X, kind="nngp")
    assert np.abs(measured - expected).max() < 0.05 * expected.max()  # √(2/width) a layer is 2 %


def test_tangent_kernel_is_that_of_gradients() -> None:
    torch.manual_seed(1)
    width, inputs = 2048, torch.from_numpy(X).float()
    weights = [
        torch.randn(3, width),
        torch.randn(width, width),
        torch.randn(width, 1),
    ]
    weights = [weight.requires_grad_() for weight in weights]
    rows = []
    for row in inputs:
        z = row[None] @ weights[0]
        for weight in weights[1:]:
            z = math.sqrt(2) * torch.relu(z) @ weight / math.sqrt(width)
        rows.append(torch.cat([gradient.flatten() for gradient in torch.autograd.grad(z.sum(), weights)]))
    measured = torch.stack([torch.stack([a @ b for a in rows]) for b in rows]).numpy()
    expected = ntk_kernel(DualActivation.closed_form("relu").normalised(), X, depth=2)
    assert np.abs(measured - expected).max() < 0.08 * expected.max()  # √(5 · 2/width) is 7 %


@pytest.mark.parametrize("name", ["relu", "erf", "gelu"])
def test_symmetric_half_duplicates_and_diagonal_agree(name: str) -> None:
    x = np.random.default_rng(0).standard_normal((40, 7))
    x[11] = x[3]
    network = WideNetwork(DualActivation.closed_form(name), 4, 1.3, 0.2, 0.1)
    for kind in KINDS:
        half = network.kernel(x, kind=kind)
        np.testing.assert_array_equal(half, half.T)
        np.testing.assert_allclose(half, network.kernel(x, x.copy(), kind), rtol=1e-12)
        np.testing.assert_allclose(np.diag(half), network.diagonal(np.square(x).sum(1), kind), rtol=1e-12)
        assert half[11, 3] == pytest.approx(half[3, 3], rel=1e-12)
        assert np.linalg.eigvalsh(half).min() > -1e-10


def test_rates_of_biases_enter_as_in_the_book() -> None:
    """The diagonal against the recursion of the single input, and between inputs against the gradients of a wide network."""
    rates = [0.7, 0.0, 0.4]
    network = WideNetwork(DualActivation.closed_form("erf"), 2, 1.3, 0.2, bias_rate=rates)
    expected = propagate(torch.erf, 3, 0.9, 1.3, 0.2, weight_rate=1.3, bias_rate=rates).tangent[-1]
    assert network.diagonal([0.9], "ntk")[0] == pytest.approx(expected, rel=1e-10)
    x = X * math.sqrt(0.9) / np.linalg.norm(X, axis=1, keepdims=True)
    np.testing.assert_allclose(np.diag(network.kernel(x)), expected, rtol=1e-10)
    torch.manual_seed(0)
    width, inputs = 20_000, torch.from_numpy(X)
    first, second = torch.randn(3, width, dtype=torch.float64), torch.randn(width, dtype=torch.float64)
    z = math.sqrt(1.3) * inputs @ first + math.sqrt(0.2) * torch.randn(width, dtype=torch.float64)
    back = second * math.sqrt(1.3 / width) * 2 / math.sqrt(math.pi) * torch.exp(-z.square())
    measured = (back @ back.T) * (1.3 * inputs @ inputs.T + 0.7) + 1.3 * torch.erf(z) @ torch.erf(z).T / width + 0.4
    found = WideNetwork(DualActivation.closed_form("erf"), 1, 1.3, 0.2, bias_rate=[0.7, 0.4]).kernel(X)
    np.testing.assert_allclose(found, measured.numpy(), atol=0.03)


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    x, z = np.random.default_rng(0).standard_normal((2, 30, 5))
    network = WideNetwork(DualActivation.closed_form("relu"), 2, 2.0)
    whole, half = network.kernel(x, z), network.kernel(x)
    monkeypatch.setattr("assay.theory.kernels.BLOCK", 100)
    np.testing.assert_allclose(network.kernel(x, z), whole, rtol=1e-13)
    np.testing.assert_allclose(network.kernel(x), half, rtol=1e-13)


def test_rotation_leaves_the_kernel_and_depth_zero_is_linear() -> None:
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0]
    dual = DualActivation.closed_form("gelu")
    np.testing.assert_allclose(nngp_kernel(dual, X @ rotation, depth=3), nngp_kernel(dual, X, depth=3), rtol=1e-12)
    np.testing.assert_allclose(ntk_kernel(dual, X, depth=0), X @ X.T, atol=1e-15)


def test_zero_input_has_the_kernel_of_its_biases() -> None:
    network = WideNetwork(DualActivation.closed_form("relu"), 1, 2.0, 0.5)
    # K⁰ = 0.5; K¹ = 0.5 + 2 · 0.5 / 2
    assert network.kernel(np.zeros((1, 3)), kind="nngp")[0, 0] == pytest.approx(1.0)
    assert WideNetwork(DualActivation.closed_form("relu"), 1).kernel(np.zeros((2, 3)))[0, 1] == 0


def test_wrong_arguments_are_refused() -> None:
    dual = DualActivation.closed_form("relu")
    for arguments, said in (
        ((dual, -1), "depth"),
        ((dual, 1, 0.0), "weight_variance"),
        ((dual, 1, 1.0, -0.1), "bias_variance"),
        ((dual, 1, 1.0, 0.0, math.nan), "residual"),
        ((dual, 1, 1.0, 0.0, 0.0, -1.0), "bias_rate must be at least 0, .* got -1"),
        ((dual, 1, 1.0, 0.0, 0.0, [1.0]), "one for each of 2 layers"),
    ):
        with pytest.raises(ValueError, match=said):
            WideNetwork(*arguments)
    network = WideNetwork(dual, 1)
    with pytest.raises(ValueError, match="kind must be one of ntk, nngp, got 'cka'"):
        network.kernel(X, kind="cka")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="as many columns, got 3 and 2"):
        network.kernel(X, X[:, :2])
    with pytest.raises(ValueError, match="first in row 1"):
        network.kernel(np.array([[1.0], [math.nan]]))
    with pytest.raises(ValueError, match="exceeds 1e\\+60 in layer"):
        WideNetwork(DualActivation.from_hermite([0.0, 0.0, 0.0, 1.0]), 12, 5.0).kernel(np.full((1, 2), 5.0))


def test_unit_norms_stay_where_the_map_would_drive_rounding_apart() -> None:
    dual = optimal_activation(8)  # the variance's slope at 1 is above 2
    x = np.array([[0.6, 0.8], [0.8, 0.6], [1.0, 0.0]])
    found = nngp_kernel(dual, x, depth=100)
    np.testing.assert_array_equal(np.diag(found), 1)
    np.testing.assert_allclose(np.log(found[0, 1:]), log_nngp(dual, [0.96, 0.6], 100), rtol=1e-10)
