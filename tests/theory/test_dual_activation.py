"""Dual activations: closed forms against two-dimensional quadrature, the series against the closed forms, what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import gelu, hardtanh

from assay.theory.dual_activation import DualActivation, hermite_polynomials, hermite_sum
from assay.theory.gaussian_expectation import GaussianExpectation

CLOSED = [
    ("relu", {}),
    ("leaky-relu", {"slope": 0.2}),
    ("leaky-relu", {"slope": -1.0}),
    ("erf", {}),
    ("sine", {"frequency": 1.7}),
    ("gelu", {}),
]
PAIRS = [(1.0, 1.0, 0.5), (0.3, 2.5, -0.7), (4.0, 0.1, 0.9)]


@pytest.mark.parametrize(("name", "options"), CLOSED)
def test_closed_form_is_the_double_integral_at_any_variances(name: str, options: dict[str, float]) -> None:
    dual = DualActivation.closed_form(name, **options)
    rule = GaussianExpectation(dual.sigma.breakpoints)
    for q, r, rho in PAIRS:
        value, slope = dual.expectations(q, r, rho * math.sqrt(q * r))
        assert value == pytest.approx(rule.pair(dual.sigma, dual.sigma, (q, r), rho), abs=1e-12)
        change = lambda z: dual.sigma.derivatives(z)[1]  # noqa: E731
        assert slope == pytest.approx(rule.pair(change, change, (q, r), rho), abs=1e-12)


@pytest.mark.parametrize(("name", "options"), [CLOSED[3], CLOSED[4], CLOSED[5]])
def test_series_of_smooth_activations_is_the_closed_form(name: str, options: dict[str, float]) -> None:
    closed = DualActivation.closed_form(name, **options)
    series = DualActivation.from_callable(closed.sigma.function)
    assert series.tail() < 1e-14
    for q, r, rho in PAIRS:
        covariance = rho * math.sqrt(q * r)
        np.testing.assert_allclose(series.expectations(q, r, covariance), closed.expectations(q, r, covariance), atol=1e-13)
    np.testing.assert_allclose(series.variance([0.0, 0.5, 3.0]), closed.variance([0.0, 0.5, 3.0]), atol=1e-14)


def test_error_of_a_kinked_series_stays_below_the_tail_that_it_states() -> None:
    closed = DualActivation.closed_form("relu")
    series = DualActivation.from_callable(torch.relu, order=30)
    xi = np.linspace(-1, 1, 21)
    off = np.abs(series(xi) - closed(xi)).max()
    assert 0.1 * series.tail() < off <= series.tail() + 1e-14
    assert 0 < series.tail() < 1e-3


def test_dual_is_what_a_layer_of_many_units_does() -> None:
    generator = torch.Generator().manual_seed(0)
    u, noise = torch.randn(2, 1_000_000, generator=generator, dtype=torch.float64)
    v = 0.6 * u + 0.8 * noise
    dual = DualActivation.from_callable(hardtanh)
    product = hardtanh(u) * hardtanh(v)
    assert float(dual(0.6)) == pytest.approx(float(product.mean()), abs=4 * float(product.std()) / 1000)


def test_three_numbers_of_gelu() -> None:
    dual = DualActivation.closed_form("gelu")
    assert dual.mean == pytest.approx(1 / math.sqrt(4 * math.pi), abs=1e-14)  # E z Φ(z) = E n(z)
    assert dual.derivative_mean == pytest.approx(0.5, abs=1e-14)
    assert dual.second_moment == pytest.approx(float(dual(1.0)), abs=1e-14)
    assert dual.derivative_second_moment == pytest.approx(float(dual.derivative(1.0)), abs=1e-13)
    numeric = (dual(0.3 + 1e-6) - dual(0.3 - 1e-6)) / 2e-6
    assert float(dual.derivative(0.3)) == pytest.approx(float(numeric), abs=1e-9)


def test_normalised_activation_has_a_square_of_one() -> None:
    for dual in (DualActivation.closed_form("erf"), DualActivation.from_callable(gelu), DualActivation.from_hermite([1.0, 2.0])):
        unit = dual.normalised()
        assert float(unit(1.0)) == pytest.approx(1, abs=1e-13)
        z = torch.linspace(-2, 2, 5, dtype=torch.float64)
        torch.testing.assert_close(unit.activation(z), dual.activation(z) / math.sqrt(dual.second_moment))


def test_hermite_polynomials_are_orthonormal_and_sum_by_autograd() -> None:
    z, weight = GaussianExpectation(()).nodes(1.0)
    table = hermite_polynomials(12, z.numpy())
    np.testing.assert_allclose((table * weight.numpy()) @ table.T, np.eye(13), atol=1e-12)
    point = torch.tensor([0.3, -1.2], dtype=torch.float64, requires_grad=True)
    hermite_sum([0.0, 1.0, 0.5, 2.0], point).sum().backward()
    h = hermite_polynomials(2, point.detach().numpy())
    expected = 1 + 0.5 * math.sqrt(2) * h[1] + 2 * math.sqrt(3) * h[2]  # h_i' = √i h_{i−1}
    np.testing.assert_allclose(point.grad, expected, atol=1e-13)


def test_polynomial_is_exact_also_at_other_variances() -> None:
    dual = DualActivation.from_hermite([0.5, 0.0, 1.0])
    assert dual.tail() == 0
    np.testing.assert_allclose(dual.series, [0.25, 0, 1], atol=1e-15)
    # φ(√q z) = 0.5 + (q z² − 1)/√2: E φφ = (0.5 + (q − 1)/√2)² + c²
    q, c = 2.0, 1.1
    assert float(dual.expectations(q, q, c)[0]) == pytest.approx((0.5 + (q - 1) / math.sqrt(2)) ** 2 + c**2, abs=1e-13)


def test_breakpoints_beside_zero_move_with_the_variance() -> None:
    dual = DualActivation.from_callable(hardtanh)
    assert dual.sigma.breakpoints == (-1.0, 1.0)
    for q in (0.2, 5.0):
        z, weight = GaussianExpectation((-1.0, 1.0)).nodes(q)
        assert float(dual.variance(q)) == pytest.approx(float((hardtanh(z).square() * weight).sum()), abs=1e-13)


def test_what_jumps_has_no_second_moment_of_its_derivative() -> None:
    assert DualActivation.from_callable(torch.sign).derivative_second_moment == math.inf


def test_what_is_no_activation_is_refused() -> None:
    with pytest.raises(ValueError, match="0 everywhere"):
        DualActivation.from_callable(torch.zeros_like)
    with pytest.raises(ValueError, match="not finite"):
        DualActivation.from_callable(lambda z: 1 / (z - z)).second_moment  # noqa: B018
    with pytest.raises(ValueError, match="single number"):
        DualActivation.from_callable(lambda z: torch.softmax(z, 0))
    with pytest.raises(ValueError, match="not all 0"):
        DualActivation.from_hermite([0.0, 0.0])
    with pytest.raises(ValueError, match="must be one of relu"):
        DualActivation.closed_form("swish")
    with pytest.raises(ValueError, match="not negative, got -1"):
        DualActivation.closed_form("relu").expectations(-1.0, 1.0, 0.0)
