"""Infinite depth: figures of the official recursion, the functional equation, the order of the singularity, and every kind of limit."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from assay.theory.dual_activation import DualActivation
from assay.theory.infinite_depth import KoenigsTable, infinite_depth_limit, koenigs, log_koenigs, log_nngp, optimal_activation

DIMENSIONS = [1, 1.4, 2, 4, 8, 64]


def test_singular_kernel_is_that_of_the_official_recursion() -> None:
    xi = [0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95]
    expected = [0.050167, 0.21102595, 0.41374413, 0.71359913, 1.24824375, 2.55793639, 11.64624034]
    np.testing.assert_allclose(koenigs(optimal_activation(2), xi), expected, rtol=1e-7)
    for dimension, value in ((1, 0.50795073), (4, 2.52992738), (8, 45.6094629)):
        assert float(koenigs(optimal_activation(dimension), 0.5)) == pytest.approx(value, rel=1e-7)


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_optimal_activation_is_normalised_centred_and_of_order_d(dimension: float) -> None:
    dual = optimal_activation(dimension)
    assert dual.second_moment == pytest.approx(1, abs=1e-12)
    assert dual.mean == 0
    assert dual.derivative_second_moment == pytest.approx(2 if dimension >= 2 else 4 ** (1 / dimension), abs=1e-12)
    assert infinite_depth_limit(dual).order == pytest.approx(dimension, rel=1e-12)


@pytest.mark.parametrize("dual", [optimal_activation(d) for d in DIMENSIONS] + [DualActivation.closed_form("erf").normalised()])
def test_functional_equation(dual: DualActivation) -> None:
    xi = np.linspace(0.01, 0.99, 50)
    np.testing.assert_allclose(log_koenigs(dual, dual(xi)), log_koenigs(dual, xi) + math.log(dual.series[1]), atol=1e-10)
    assert float(koenigs(dual, 1e-12)) == pytest.approx(1e-12, rel=1e-2 if dual.series[1] > 1e-8 else 1)


def test_singularity_has_the_order_of_the_theorem() -> None:
    for dimension in (1, 2, 4, 8):
        near, far = (float(log_koenigs(optimal_activation(dimension), 1 - gap, gap)) for gap in (1e-6, 1e-4))
        assert (near - far) / math.log(100) == pytest.approx(dimension / 2, abs=1e-3)


def test_deep_kernel_is_the_iterated_dual_and_tends_to_the_singular_one() -> None:
    dual, xi = optimal_activation(2), np.array([0.1, 0.6, 0.99])
    value = xi
    for _ in range(12):
        value = dual(value)
    np.testing.assert_allclose(log_nngp(dual, xi, 12), np.log(value), rtol=1e-12)
    np.testing.assert_allclose(log_nngp(dual, xi, 400) - 400 * math.log(0.5), log_koenigs(dual, xi), atol=1e-12)
    # h_2 alone squares at each layer: ln Σ^30 = 2^30 ln ξ, far below what a double holds
    np.testing.assert_allclose(log_nngp(DualActivation.from_hermite([0, 0, 1.0]), xi, 30), 2.0**30 * np.log(xi), rtol=1e-13)


def test_tiny_distances_are_told_apart_when_given_directly() -> None:
    dual = optimal_activation(3)
    gap = np.array([1e-18, 1e-22])
    log = log_koenigs(dual, 1 - gap, gap)
    assert (log[1] - log[0]) / math.log(1e4) == pytest.approx(1.5, abs=1e-2)
    assert log_koenigs(dual, 1.0) == math.inf
    assert log_koenigs(dual, 0.0) == -math.inf


@pytest.mark.parametrize("dimension", [1, 2, 30])
def test_table_is_the_sum(dimension: int) -> None:
    dual = optimal_activation(dimension)
    table = KoenigsTable(dual)
    assert table.error <= 1e-6
    gap = np.concatenate([np.geomspace(1e-30, 0.5, 301), 1 - np.geomspace(1e-12, 0.5, 301)])
    np.testing.assert_allclose(table(1 - gap, gap), log_koenigs(dual, 1 - gap, gap), atol=3e-6)


def test_table_in_many_dimensions_computes_instead() -> None:
    dual = optimal_activation(1000)
    assert KoenigsTable(dual)(0.7) == log_koenigs(dual, 0.7)


@pytest.mark.parametrize(
    ("dual", "kind"),
    [
        (DualActivation.closed_form("relu"), "majority"),  # B' = 1 when normalised
        (DualActivation.closed_form("gelu"), "majority"),
        (DualActivation.from_hermite([0.0, 0.0, 1.0]), "nearest-neighbour"),
        (DualActivation.from_callable(torch.cos).normalised(), "not-classified"),
        (DualActivation.from_callable(torch.sigmoid), "not-classified"),
        (DualActivation.from_callable(torch.sign), "not-classified"),
        (DualActivation.from_callable(torch.tanh), "singular-kernel"),
        (DualActivation.closed_form("sine", frequency=math.sqrt(2.676)), "singular-kernel"),
    ],
)
def test_kinds_of_limits(dual: DualActivation, kind: str) -> None:
    found = infinite_depth_limit(dual)
    assert found.kind == kind
    assert (found.order is None) == (kind != "singular-kernel")


def test_sine_of_published_frequencies_is_optimal_too() -> None:
    for frequency, dimension in ((2.676, 2), (6.13539, 4), (13.8258, 8)):
        found = infinite_depth_limit(DualActivation.closed_form("sine", frequency=math.sqrt(frequency)))
        assert found.order == pytest.approx(dimension, abs=1e-4)


def test_what_has_no_limit_is_refused() -> None:
    with pytest.raises(ValueError, match="linear"):
        infinite_depth_limit(DualActivation.closed_form("leaky-relu", slope=1.0))
    with pytest.raises(ValueError, match="mean is 0\\.39"):
        log_koenigs(DualActivation.from_hermite([0.398, 1.0]), 0.5)
    with pytest.raises(ValueError, match="leaves out"):
        log_koenigs(DualActivation.from_callable(torch.nn.functional.hardtanh), 0.5)
    with pytest.raises(ValueError, match="no singular kernel"):
        log_koenigs(DualActivation.from_hermite([0.0, 0.0, 1.0]), 0.5)
    with pytest.raises(ValueError, match=r"in \[0, 1\], got -0\.2"):
        log_koenigs(optimal_activation(2), [0.5, -0.2])
    for dimension in (0.5, 2001, math.nan):
        with pytest.raises(ValueError, match="from 1 to 2000"):
            optimal_activation(dimension)
