"""The recursions against a stored profile, closed forms, exact results to all orders, and random networks with error bars."""

from __future__ import annotations

import math
from dataclasses import fields

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from assay.theory.ensembles import empirical_moments, sampled_kurtosis
from assay.theory.finite_width import (
    equal_rates,
    fluctuation_rate,
    layer_contributions,
    optimal_aspect_ratio,
    output_information,
    propagate,
    residual_scale_for,
    scale_invariant_kurtosis,
)

GOLDEN = {
    "kernel": 0.4722106457,
    "tangent": 2.3442775899,
    "vertex": 0.1414482772,
    "correction": -0.0584476891,
    "cross": -0.3231686863,
    "flow": 0.3251099605,
    "diagonal": 0.9885440914,
    "off_diagonal": 4.7955023931,
    "first_change": -1.8361045014,
    "second_change": -0.7836051231,
}


def test_tanh_has_the_stored_profile() -> None:
    """Computed by an independent implementation, at another order of quadrature."""
    profile = propagate(torch.tanh, 4, 1.2, 1.3, 0.1, weight_rate=1.0, bias_rate=0.5)
    assert {name: getattr(profile, name)[-1] for name in GOLDEN} == pytest.approx(GOLDEN, abs=2e-10)


def test_relu_has_its_closed_forms() -> None:
    """V = 5(L − 1)K², Θ^L = (λ_b + λ_W K/2)(L − 1) + Θ¹, and H grows with depth alone."""
    profile = propagate(torch.relu, 12, 0.7, weight_rate=1.5, bias_rate=0.3)
    layers = np.arange(12)
    np.testing.assert_allclose(profile.kernel, 1.4, rtol=1e-12)
    np.testing.assert_allclose(profile.vertex, 5 * layers * 1.4**2, rtol=1e-11)
    np.testing.assert_allclose(profile.tangent, (0.3 + 1.5 * 0.7) * (layers + 1), rtol=1e-11)
    np.testing.assert_allclose(profile.correction, 0, atol=1e-10)


def test_a_linear_network_changes_its_kernel_by_depth_alone() -> None:
    """Without curvature nothing correlates z_i with dH_{i;jj}; the chain of weights still gives z_j dH_{i;ij}."""
    profile = propagate(lambda z: z, 6)
    np.testing.assert_allclose(profile.first_change, 0, atol=1e-12)
    assert bool((np.diff(profile.second_change) > 0).all())


@pytest.mark.parametrize(
    ("function", "rate"),
    [(torch.relu, 5.0), (lambda z: z, 2.0), (torch.tanh, 2 / 3), (torch.sin, 2 / 3), (F.gelu, 4.904), (F.silu, 4.923), (F.mish, 4.771)],
)
def test_fluctuations_grow_at_the_tabled_rate(function, rate: float) -> None:
    assert fluctuation_rate(function) == pytest.approx(rate, abs=6e-4)
    outputs = 10
    assert optimal_aspect_ratio(function, outputs) == pytest.approx(4 / (50 * rate), rel=2e-4)


def test_a_long_profile_approaches_the_rate() -> None:
    profile = propagate(torch.tanh, 160)
    assert profile.kernel[-1] == pytest.approx(1 / (2 * 160), rel=0.03)
    assert profile.vertex[-1] / profile.kernel[-1] ** 2 / 160 == pytest.approx(0.654, abs=1e-3)


@pytest.mark.parametrize("residual", [0.3, 0.9])
def test_residual_connections_slow_fluctuations_down(residual: float) -> None:
    """Closed forms of linear networks, tanh and ReLU, and the slope of the recursion itself once T has settled."""
    square = residual**2
    assert fluctuation_rate(lambda z: z, residual) == pytest.approx(2 * (1 - square**2), rel=1e-9)
    assert fluctuation_rate(torch.tanh, residual) == pytest.approx(2 / 3 * (1 - square**2), rel=1e-4)
    relu = fluctuation_rate(torch.relu, residual)
    odd = 2 * residual * (1 + residual) * 8 / math.pi  # C_W ⟨zσ²⟩ = 2 · 2 / √(2π) at K = 1
    assert relu == pytest.approx((1 - square) * (5 * (1 - square) + 4 * square + odd), rel=1e-9)
    profile = propagate(torch.relu, 140, residual=residual)
    assert profile.vertex[-1] - profile.vertex[-2] == pytest.approx(relu * profile.kernel[-1] ** 2, rel=1e-5)
    assert bool(np.isnan(profile.cross[1:]).all())


def test_no_residual_connection_is_one_of_size_zero() -> None:
    plain, same = propagate(F.gelu, 5, 0.8, 1.5, 0.1), propagate(F.gelu, 5, 0.8, 1.5, 0.1, residual=0.0)
    for field in fields(plain):
        np.testing.assert_array_equal(getattr(plain, field.name), getattr(same, field.name))


def test_the_residual_scale_brings_a_network_to_its_ratio() -> None:
    scale = residual_scale_for(16, 16, torch.relu, outputs=10)
    profile = propagate(torch.relu, 16, weight_variance=2 * (1 - scale**2), residual=scale)
    assert profile.fluctuation(16)[-1] * (20 + 30) == pytest.approx(4, rel=1e-7)
    assert residual_scale_for(2, 512, torch.relu, outputs=10) == 0.0


def test_information_is_largest_at_the_ratio() -> None:
    """Of the series that is cut off, by a grid."""
    ratios = np.linspace(1e-4, 0.05, 2000)
    information = [output_information(5 * ratio, 4, 6) for ratio in ratios]
    assert ratios[int(np.argmax(information))] == pytest.approx(optimal_aspect_ratio(torch.relu, 10), rel=2e-3)


def test_layers_add_up_to_the_tangent_kernel_and_scaled_rates_make_them_equal() -> None:
    depth = 40
    plain = propagate(torch.tanh, depth, 1.0)
    biases, weights = layer_contributions(plain, 1.0, 0.0)
    assert biases.sum() + weights.sum() == pytest.approx(plain.tangent[-1], rel=1e-12)
    assert biases[4:].max() / biases[4:].min() == pytest.approx(9.1, abs=0.2)
    bias_rates, weight_rates = equal_rates(depth, 1.0)
    biases, weights = layer_contributions(plain, 1.0, 0.0, list(weight_rates), list(bias_rates))
    assert biases[4:].max() / biases[4:].min() < 1.2
    assert weights[4:].max() / weights[4:].min() < 1.2
    np.testing.assert_allclose(equal_rates(10), 0.1)


def test_sampled_networks_have_the_exact_kurtosis_of_relu() -> None:
    """L/n = ½, where the plain average of as many networks would be off by tens of percent."""
    found = sampled_kurtosis(torch.relu, 8, 16, 2.0, networks=4000)
    exact = [scale_invariant_kurtosis(torch.relu, layer, 16) for layer in range(1, 9)]
    assert exact[-1] == pytest.approx((1 + 5 / 16) ** 7)
    for estimate, value in zip(found[1:], exact[1:], strict=True):
        assert abs(estimate.value - value) < 5 * estimate.error < 0.5 * value


def test_sampled_residual_networks_have_the_predicted_kurtosis() -> None:
    """Also where the square of the activation is not even: without T the prediction would be 0.55 of this."""
    profile = propagate(torch.relu, 8, residual=0.9)
    found = sampled_kurtosis(torch.relu, 8, 256, 2 * (1 - 0.81), residual=0.9, networks=4000)[-1]
    assert found.error < 0.09 * (found.value - 1)
    assert abs(found.value - 1 - profile.fluctuation(256)[-1]) < 3 * found.error


def test_networks_with_weights_have_the_predicted_moments() -> None:
    """Within five standard errors and the next order, a 1/n of each."""
    width, profile = 24, propagate(torch.tanh, 3, 1.2, 1.3, 0.1, 1.0, 0.5)
    found = empirical_moments(torch.tanh, 3, width, 1.3, 0.1, 1.0, 0.5, 1.2, networks=400)
    assert found["tangent"].value == pytest.approx(profile.tangent[-1], rel=0.05)
    for name in ("vertex", "cross", "flow", "diagonal", "off_diagonal", "first_change", "second_change"):
        expected = getattr(profile, name)[-1]
        assert abs(found[name].value - expected) < 5 * found[name].error + 5 * abs(expected) / width, name
    assert found["off_diagonal"].error < 0.1 * found["off_diagonal"].value  # the comparison can fail
    assert found["first_change"].error < 0.1 * abs(found["first_change"].value)


def test_validity_follows_depth_over_width() -> None:
    profile = propagate(torch.relu, 17)
    assert [profile.validity(width) for width in (400, 120, 40)] == ["perturbative", "strained", "outside"]
    assert profile.fluctuation(80)[-1] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: propagate(torch.tanh, 0), "depth must be at least 1, got 0"),
        (lambda: propagate(torch.tanh, 3, 0.0), "no signal enters"),
        (lambda: propagate(torch.tanh, 3, math.inf), "input_square must be finite"),
        (lambda: propagate(torch.tanh, 3, weight_rate=[1.0, 2.0]), "one for each of 3 layers"),
        (lambda: propagate(torch.tanh, 3).validity(1), "width must be at least 2, got 1"),
        (lambda: fluctuation_rate(torch.sigmoid), "has no critical initialisation"),
        (lambda: scale_invariant_kurtosis(torch.tanh, 3, 8), r"of class K\*=0"),
        (lambda: optimal_aspect_ratio(torch.tanh, 0), "outputs must be at least 1, got 0"),
        (lambda: residual_scale_for(0, 8, torch.tanh), "depth must be at least 1, got 0"),
        (lambda: output_information(-0.1, 1, 1), "must not be negative"),
        (lambda: equal_rates(4, math.nan), "follow no power"),
        (lambda: equal_rates(4, 1.0, weight_rate=0.0), "rates must be positive"),
        (lambda: sampled_kurtosis(torch.relu, 3, 8, 2.0, networks=30), "multiple of 20, got 30"),
        (lambda: empirical_moments(torch.relu, 1, 8, 2.0), "must be at least 2, got 1 and 3"),
        (lambda: empirical_moments(torch.relu, 3, 1, 2.0), "width at least 2, got 3 and 1"),
    ],
)
def test_bad_arguments_are_refused(call, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()
