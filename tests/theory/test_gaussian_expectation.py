"""Gaussian expectations against closed forms: moments, the arc-cosine and arcsine kernels, and second derivatives as distributions."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from scipy.integrate import quad
from torch import nn

from assay.theory.criticality import critical_initialization
from assay.theory.dual_activation import DualActivation
from assay.theory.gaussian_expectation import GaussianExpectation, ScalarFunction, check_square

EXPECTATION = GaussianExpectation()
CORRELATIONS = (-1.0, -0.999, -0.5, 0.0, 0.3, 0.9, 0.9999, 1 - 1e-9, 1.0)
VARIANCES = (1.3, 0.4)


@pytest.mark.parametrize(
    ("function", "variance", "expected"),
    [
        (lambda z: z**8, 1.5, 105 * 1.5**4),
        (torch.relu, 2.0, 1 / math.sqrt(math.pi)),
        (lambda z: torch.relu(z).square(), 3.0, 1.5),
        (torch.cos, 2.0, math.exp(-1)),
        (torch.cos, 0.0, 1.0),
    ],
)
def test_one_variable_agrees_with_closed_forms(function, variance: float, expected: float) -> None:
    assert EXPECTATION(function, variance) == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("function", [F.gelu, F.mish, F.hardswish, F.selu])
def test_one_variable_agrees_with_adaptive_quadrature(function) -> None:
    variance, sigma = 2.3, ScalarFunction(function)

    def integrand(z: float) -> float:
        value = float(function(torch.tensor(z, dtype=torch.float64)))
        return value**2 * math.exp(-z * z / (2 * variance)) / math.sqrt(2 * math.pi * variance)

    exact = quad(integrand, -15, 15, points=sigma.breakpoints or (0.0,), epsabs=1e-13, epsrel=1e-13, limit=200)[0]
    found = GaussianExpectation(sigma.breakpoints)(lambda z: function(z).square(), variance)
    assert found == pytest.approx(exact, rel=1e-11)
    assert GaussianExpectation(sigma.breakpoints, 700)(lambda z: function(z).square(), variance) == pytest.approx(found, rel=1e-12)


def test_a_breakpoint_away_from_zero_keeps_all_digits() -> None:
    """⟨max(z − 1, 0)⟩ = φ(1) − (1 − Φ(1)); without the breakpoint about five digits are left."""
    exact = math.exp(-0.5) / math.sqrt(2 * math.pi) - 0.5 * math.erfc(1 / math.sqrt(2))
    assert GaussianExpectation((1.0,))(lambda z: F.relu(z - 1), 1.0) == pytest.approx(exact, rel=1e-13)
    assert GaussianExpectation((), 120)(lambda z: F.relu(z - 1), 1.0) != pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize("rho", CORRELATIONS)
def test_two_variables_agree_with_the_arc_cosine_and_arcsine_kernels(rho: float) -> None:
    angle, size = math.acos(rho), math.sqrt(VARIANCES[0] * VARIANCES[1])
    step = EXPECTATION.pair(lambda z: (z > 0).double(), lambda z: (z > 0).double(), VARIANCES, rho)
    relu = EXPECTATION.pair(torch.relu, torch.relu, VARIANCES, rho)
    erf = GaussianExpectation(()).pair(torch.erf, torch.erf, VARIANCES, rho)
    assert step == pytest.approx((math.pi - angle) / (2 * math.pi), abs=1e-13)
    assert relu == pytest.approx(size / (2 * math.pi) * (math.sin(angle) + (math.pi - angle) * rho), abs=1e-13)
    assert erf == pytest.approx(2 / math.pi * math.asin(2 * size * rho / math.sqrt((1 + 2 * 1.3) * (1 + 2 * 0.4))), abs=1e-13)


def test_a_variance_of_zero_makes_the_pair_a_product() -> None:
    assert EXPECTATION.pair(torch.cos, torch.square, (0.0, 2.0), 0.0) == pytest.approx(2.0, rel=1e-13)


def test_a_second_derivative_counts_its_jumps() -> None:
    """ReLU'' is a point mass at 0, and against σ'² it is a third of one: the integral of s² from 0 to 1."""
    relu, density = ScalarFunction(torch.relu), 1 / math.sqrt(4 * math.pi)
    assert EXPECTATION.curvature(relu, lambda z, value, slope: torch.ones_like(z), 2.0) == pytest.approx(density, rel=1e-12)
    assert EXPECTATION.curvature(relu, lambda z, value, slope: slope.square(), 2.0) == pytest.approx(density / 3, rel=1e-12)


def test_a_smooth_second_derivative_obeys_integration_by_parts() -> None:
    """⟨σ''⟩ = ⟨z σ'⟩ / K."""
    gelu = ScalarFunction(F.gelu)
    left = EXPECTATION.curvature(gelu, lambda z, value, slope: torch.ones_like(z), 1.7)
    right = EXPECTATION(lambda z: z * gelu.derivatives(z)[1], 1.7) / 1.7
    assert left == pytest.approx(right, rel=1e-12)


@pytest.mark.parametrize(
    ("function", "places"),
    [
        (torch.tanh, ()),
        (lambda z: torch.tanh(50 * z), ()),
        (torch.relu, (0.0,)),
        (F.hardswish, (-3.0, 3.0)),
        (F.elu, (0.0,)),  # its second derivative jumps
        (F.softshrink, (-0.5, 0.5)),
        (nn.PReLU(), (0.0,)),
        (lambda z: (z > 0.3).double(), (0.3,)),
    ],
)
def test_breakpoints_are_found(function, places: tuple[float, ...]) -> None:
    assert ScalarFunction(function).breakpoints == pytest.approx(places, abs=1e-9)


def test_given_derivatives_take_the_place_of_automatic_ones() -> None:
    given = ScalarFunction(torch.sin, torch.cos, lambda z: -torch.sin(z), ())
    z = torch.linspace(-2, 2, 9, dtype=torch.float64)
    for mine, automatic in zip(given.derivatives(z), ScalarFunction(torch.sin).derivatives(z), strict=True):
        torch.testing.assert_close(mine, automatic)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: EXPECTATION(torch.log, 1.0), "is nan at z = -11.9"),
        (lambda: EXPECTATION(lambda z: z.square().exp(), 1.0), "outgrows the Gaussian"),
        (lambda: EXPECTATION(torch.sin, -1.0), "variance must be finite and not negative, got -1.0"),
        (lambda: EXPECTATION(torch.sin, math.nan), "got nan"),
        (lambda: EXPECTATION(nn.GLU(), 1.0), r"makes \(600,\) of \(1200,\)"),
        (lambda: EXPECTATION.pair(torch.sin, torch.sin, (1.0, 1.0), 1.1), r"correlation must lie in \[-1, 1\], got 1.1"),
        (lambda: EXPECTATION.pair(torch.sin, torch.log, (1.0, 1.0), 0.5), "is not finite at z"),
        (lambda: EXPECTATION.curvature(ScalarFunction(torch.sign), lambda z, value, slope: z, 1.0), "jumps at one of"),
        (lambda: GaussianExpectation((1.0, 0.0)), "breakpoints must increase"),
        (lambda: GaussianExpectation((0.0,), 10), "at least 24, four a panel, got 10"),
        (lambda: ScalarFunction(nn.Softmax(-1)), "Softmax is no function of a single number"),
        (lambda: ScalarFunction(nn.GLU()), "GLU is no function of a single number"),
        (lambda: ScalarFunction(torch.sin, breakpoints=(1.0, 1.0)), "must increase"),
    ],
)
def test_bad_arguments_are_refused(call, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize("function", [lambda z: 1 / z, lambda z: z.abs() ** -0.5, lambda z: 1 / (z - 0.3)])
def test_a_pole_between_the_points_is_refused(function) -> None:
    for use in (DualActivation.from_callable, critical_initialization):
        with pytest.raises(ValueError, match=r"pole or turns too fast|no Gaussian expectation|outgrows"):
            use(function)


@pytest.mark.parametrize("function", [torch.sign, torch.floor, torch.nn.Hardshrink(), lambda z: torch.sin(20 * z), torch.exp])
def test_jumps_and_fast_turns_are_no_poles(function) -> None:
    check_square(ScalarFunction(function))
