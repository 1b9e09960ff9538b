"""Hermite activations: numpy's polynomials, moments under the Gaussian, tangents beyond the limit, and use in a model by name."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from assay.contracts import Class, Signature, Table
from assay.models import build
from assay.nn import HermiteActivation, OptimalActivation
from assay.theory.gaussian_expectation import GaussianExpectation


def test_polynomial_is_numpys() -> None:
    coefficients = [0.3, -1.0, 0.5, 2.0]
    x = torch.linspace(-4, 4, 33, dtype=torch.float64)
    scaled = [c / math.sqrt(math.factorial(i)) for i, c in enumerate(coefficients)]
    expected = np.polynomial.hermite_e.hermeval(x.numpy(), scaled)
    np.testing.assert_allclose(HermiteActivation(coefficients, limit=math.inf)(x), expected, atol=1e-12)
    inside = x.abs() < 2
    np.testing.assert_allclose(HermiteActivation(coefficients, limit=2.0)(x)[inside], expected[inside], atol=1e-12)


def test_goes_on_as_its_tangent_and_has_its_gradient() -> None:
    activation = OptimalActivation(4, limit=2.0).double()
    x = torch.tensor([2.0 - 1e-6, 2.0 + 1e-6, 3.0, 5.0, -4.0], dtype=torch.float64, requires_grad=True)
    y = activation(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    y, slope = y.detach(), slope.detach()
    assert y[0] == pytest.approx(float(y[1]), abs=1e-4)
    assert slope[1] == slope[2] == slope[3]
    assert slope[0] == pytest.approx(float(slope[1]), abs=1e-4)
    assert (y[3] - y[2]) == pytest.approx(2 * float(slope[2]))
    assert torch.autograd.gradcheck(activation, (torch.randn(20, dtype=torch.float64, requires_grad=True) * 2,))


@pytest.mark.parametrize("dimension", [1, 2, 4, 8])
def test_optimal_activation_has_a_mean_square_of_one(dimension: int) -> None:
    rule = GaussianExpectation((-3.0, 3.0))
    exact, held = OptimalActivation(dimension, math.inf), OptimalActivation(dimension)
    assert rule(lambda z: exact(z).square(), 1.0) == pytest.approx(1, abs=1e-10)
    assert rule(exact, 1.0) == pytest.approx(0, abs=1e-12)
    if dimension == 2:
        assert rule(lambda z: held(z).square(), 1.0) == pytest.approx(0.967, abs=1e-3)


def test_models_take_it_by_name() -> None:
    model = build("mlp", Signature(Table(5), Class(3)), 2_000, activation="hermite-optimal")
    assert any(isinstance(module, OptimalActivation) for module in model.modules())
    assert model({"table": torch.randn(4, 5)}).prediction.isfinite().all()


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one, got \\[\\]"):
        HermiteActivation([])
    with pytest.raises(ValueError, match="limit must be above 0, got 0"):
        HermiteActivation([1.0], limit=0)
    with pytest.raises(ValueError, match="from 1 to 2000, got 0\\.5"):
        OptimalActivation(0.5)
