"""Critical points against the published table, closed forms of ReLU and erf, and finite differences of the kernel's own recursion."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from assay.theory.criticality import (
    Criticality,
    critical_initialization,
    decompose,
    decomposed_map,
    kernel_map,
    pair_kernel_map,
    susceptibilities,
)
from assay.theory.gaussian_expectation import GaussianExpectation, ScalarFunction

SELU = 2 / (1.0507009873554805**2 * (1 + 1.6732632423543772**2))


@pytest.mark.parametrize(
    ("function", "kernel", "bias_variance", "weight_variance"),
    [
        (F.gelu, (3 + math.sqrt(17)) / 2, 0.17292239, 1.98305826),
        (F.silu, 14.32017362, 0.55514317, 1.98800468),
        (nn.GELU("tanh"), 3.55677284, 0.17289520, 1.98288824),
        (F.mish, 1.67016913, 0.09452179, 2.01352407),
    ],
)
def test_half_stable_activations_are_as_tabled(function, kernel: float, bias_variance: float, weight_variance: float) -> None:
    point = critical_initialization(function)
    assert point.universality_class == "half-stable"
    assert (point.kernel, point.bias_variance, point.weight_variance) == pytest.approx((kernel, bias_variance, weight_variance), abs=1e-7)
    assert [other.universality_class for other in point.others] == ["K*=0"]  # σ(0) = 0, but unstable


@pytest.mark.parametrize(
    ("function", "parallel", "perpendicular", "side"),
    [(F.gelu, -2.8725e-4, 0.009334, "above"), (F.silu, 5.6996e-6, 0.001733, "below"), (F.mish, 0.01579, 0.03458, "below")],
)
def test_half_stable_points_attract_from_one_side(function, parallel: float, perpendicular: float, side: str) -> None:
    point = critical_initialization(function)
    assert point.parallel_slope == pytest.approx(parallel, rel=1e-3)
    assert point.perpendicular_slope == pytest.approx(perpendicular, rel=1e-3)
    assert point.stability == f"attracts from {side}"
    kernel = point.kernel
    assert kernel is not None
    for shift in (-0.02, 0.02):  # a step of the recursion itself comes nearer from that side only
        ahead = kernel_map(function, kernel + shift, point.weight_variance, point.bias_variance) - kernel
        assert (abs(ahead) < abs(shift)) == ((shift > 0) == (side == "above"))


@pytest.mark.parametrize(
    ("function", "weight_variance"),
    [(torch.relu, 2.0), (lambda z: z, 1.0), (torch.abs, 1.0), (lambda z: F.leaky_relu(z, 0.3), 2 / 1.09), (nn.PReLU(), 2 / 1.0625)],
)
def test_homogeneous_activations_keep_every_kernel(function, weight_variance: float) -> None:
    point = critical_initialization(function)
    assert (point.universality_class, point.kernel, point.bias_variance) == ("scale-invariant", None, 0.0)
    assert point.weight_variance == pytest.approx(weight_variance, rel=1e-12)


@pytest.mark.parametrize(
    ("function", "weight_variance", "slopes", "exponent"),
    [
        (torch.tanh, 1.0, (-4.0, -2.0), 1.0),  # a_1 = b_1 = −2
        (torch.sin, 1.0, (-2.0, -1.0), 1.0),
        (torch.erf, math.pi / 4, (-4.0, -2.0), 1.0),
        (F.elu, 1.0, (-math.inf, -math.inf), 2.0),
        (F.selu, SELU, (-math.inf, -math.inf), 2.0),
    ],
)
def test_kernels_that_vanish(function, weight_variance: float, slopes: tuple[float, float], exponent: float) -> None:
    point = critical_initialization(function)
    assert (point.universality_class, point.kernel, point.stability) == ("K*=0", 0.0, "stable")
    assert point.weight_variance == pytest.approx(weight_variance, abs=1e-7)
    assert (point.parallel_slope, point.perpendicular_slope) == pytest.approx(slopes, abs=1e-6)
    assert point.perpendicular_exponent == pytest.approx(exponent, abs=1e-5)


def test_saturation_without_a_power_is_stable_and_has_no_exponent() -> None:
    point = critical_initialization(F.hardtanh)
    assert (point.universality_class, point.stability) == ("K*=0", "stable")
    assert math.isnan(point.perpendicular_exponent)


def test_an_odd_activation_that_bends_upwards_is_unstable() -> None:
    assert critical_initialization(lambda z: z + z**3 / 10).stability == "unstable"


@pytest.mark.parametrize("function", [torch.sigmoid, F.softplus, torch.square, torch.exp, F.softshrink])
def test_what_has_no_critical_point_gets_a_heuristic(function) -> None:
    point = critical_initialization(function)
    assert (point.universality_class, point.heuristic, point.bias_variance) == ("none", True, 0.0)
    assert point.kernel is not None
    assert susceptibilities(function, point.kernel, point.weight_variance).perpendicular == pytest.approx(1.0)


def test_a_step_keeps_lengths_and_nothing_else() -> None:
    point = critical_initialization(lambda z: (z > 0).double())
    assert (point.universality_class, point.weight_variance) == ("none", pytest.approx(2.0))
    found = susceptibilities(lambda z: (z > 0).double(), 1.0, 2.0)
    assert found.perpendicular == math.inf
    assert found.parallel == pytest.approx(0.0, abs=1e-12)


@settings(max_examples=4, deadline=None)
@given(scale=st.floats(0.2, 5.0))
def test_scaling_an_activation_divides_the_weight_variance_by_the_square(scale: float) -> None:
    plain, scaled = critical_initialization(F.gelu), critical_initialization(lambda z: scale * F.gelu(z))
    assert scaled.weight_variance * scale**2 == pytest.approx(plain.weight_variance, rel=1e-9)
    assert scaled.kernel == pytest.approx(plain.kernel, rel=1e-9)


@pytest.mark.parametrize("function", [torch.relu, torch.tanh, F.gelu, F.hardswish, F.selu])
def test_the_parallel_susceptibility_is_the_slope_of_the_kernel(function) -> None:
    """Also with a residual connection."""
    kernel, step = 1.3, 1e-4
    slope = (kernel_map(function, kernel + step, 1.7, 0.1, 0.5) - kernel_map(function, kernel - step, 1.7, 0.1, 0.5)) / (2 * step)
    assert susceptibilities(function, kernel, 1.7, 0.5).parallel == pytest.approx(slope, rel=1e-7)


def test_relu_has_its_closed_forms() -> None:
    assert kernel_map(torch.relu, 1.6, 1.5, 0.2) == pytest.approx(0.2 + 1.5 * 0.8)
    assert susceptibilities(torch.relu, 1.6, 1.5) == pytest.approx((0.75, 0.75))
    assert susceptibilities(torch.relu, 0.0, 1.5) == pytest.approx((0.75, 0.75))


@pytest.mark.parametrize(
    ("function", "at_zero"), [(torch.tanh, (1.5, 1.5)), (torch.cos, (-1.5, 0.0)), (lambda z: 1 + z.abs(), (math.inf, 1.5))]
)
def test_the_limit_of_no_variance(function, at_zero: tuple[float, float]) -> None:
    assert susceptibilities(function, 0.0, 1.5) == pytest.approx(at_zero)


def test_two_inputs_follow_the_arcsine_kernel() -> None:
    one, two, both = pair_kernel_map(torch.erf, (1.2, 0.7, 0.5), 1.4, 0.1)
    assert both == pytest.approx(0.1 + 1.4 * 2 / math.pi * math.asin(2 * 0.5 / math.sqrt((1 + 2.4) * (1 + 1.4))), rel=1e-12)
    assert (one, two) == pytest.approx([0.1 + 1.4 * 2 / math.pi * math.asin(2 * k / (1 + 2 * k)) for k in (1.2, 0.7)], rel=1e-12)


@pytest.mark.parametrize("function", [torch.tanh, F.gelu])
def test_near_inputs_grow_by_the_two_susceptibilities(function) -> None:
    """Lengths and distance of 1e−3 and 1e−6 after one exact step of the pair, to the order that the decomposition keeps."""
    midpoint, lengths, distance = 1.1, 1e-3, 1e-6
    exact = decompose(
        pair_kernel_map(function, (midpoint + lengths + distance, midpoint - lengths + distance, midpoint - distance), 1.6, 0.1, 0.3)
    )
    found = decomposed_map(
        function, decompose((midpoint + lengths + distance, midpoint - lengths + distance, midpoint - distance)), 1.6, 0.1, 0.3
    )
    assert found.midpoint == pytest.approx(exact.midpoint, abs=1e-6)
    assert found.lengths == pytest.approx(exact.lengths, rel=1e-5)
    assert found.distance == pytest.approx(exact.distance, rel=1e-3)


@pytest.mark.parametrize("function", [torch.relu, torch.tanh, F.gelu])
def test_a_residual_connection_leaves_the_point_where_it_is(function) -> None:
    plain, residual = critical_initialization(function), critical_initialization(function, 0.6)
    assert residual.weight_variance == pytest.approx(0.64 * plain.weight_variance)
    kernel = residual.kernel if residual.kernel else 0.4 if residual.kernel is None else 0.0
    assert susceptibilities(function, kernel, residual.weight_variance, 0.6) == pytest.approx((1.0, 1.0))
    assert kernel_map(function, kernel, residual.weight_variance, residual.bias_variance, 0.6) == pytest.approx(kernel)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: kernel_map(torch.tanh, 1.0, 0.0), "weight_variance must be above 0 and finite, got 0.0"),
        (lambda: kernel_map(torch.tanh, 1.0, 1.0, -0.1), "bias_variance must be at least 0 and finite, got -0.1"),
        (lambda: critical_initialization(torch.tanh, 1.0), r"residual must lie in \[0, 1\), got 1.0"),
        (lambda: critical_initialization(lambda z: 0 * z + 3), "is constant"),
        (lambda: critical_initialization(torch.log), "is nan at z"),
        (lambda: decomposed_map(torch.tanh, decompose((0.0, 0.0, 0.0)), 1.0), "kernel must be above 0, got 0.0"),
    ],
)
def test_bad_arguments_are_refused(call, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()


def test_a_scalar_function_is_taken_as_it_is() -> None:
    sine = ScalarFunction(torch.sin, torch.cos, lambda z: -torch.sin(z), ())
    assert isinstance(critical_initialization(sine), Criticality)
    assert GaussianExpectation(())(sine, 1.0) == pytest.approx(0.0, abs=1e-15)
