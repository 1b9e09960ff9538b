"""Arc-cosine functions: closed values, derivative, an integral over the plane, and digits near the ends where they are easily lost."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from assay.theory.arc_cosine import arc_cosine, arc_cosines, one_minus_arc_cosine


def test_values_in_closed_form() -> None:
    cosine = [-1.0, 0.0, 0.5, 1.0]
    np.testing.assert_allclose(arc_cosine(0, cosine), [0, 1 / 2, 2 / 3, 1], atol=1e-16)
    np.testing.assert_allclose(arc_cosine(1, cosine), [0, 1 / math.pi, 1 / 3 + math.sqrt(3) / (2 * math.pi), 1], atol=1e-15)


@pytest.mark.parametrize("order", [0, 1])
def test_is_twice_the_expectation_over_two_correlated_gaussians(order: int) -> None:
    # in polar coordinates the integrand is positive on an arc, and E r² = 2
    t, points = 0.3, 200_000
    angle = (np.arange(points) + 0.5) * 2 * math.pi / points
    u, v = np.cos(angle), t * np.cos(angle) + math.sqrt(1 - t * t) * np.sin(angle)
    both = (u > 0) & (v > 0)
    expected = 2 * np.mean(both * (2 * u * v) ** order)
    assert arc_cosine(order, t) == pytest.approx(expected, abs=1e-5)


def test_order_zero_is_the_derivative_of_order_one() -> None:
    t, step = np.linspace(-0.95, 0.95, 39), 1e-6
    slope = (arc_cosine(1, t + step) - arc_cosine(1, t - step)) / (2 * step)
    np.testing.assert_allclose(slope, arc_cosine(0, t), atol=1e-8)


def test_a_tiny_distance_keeps_its_digits_when_given_directly() -> None:
    below_one = np.array([1e-20, 1e-14, 1e-8])
    expected = 2 * np.arcsin(np.sqrt(below_one / 2)) / math.pi
    np.testing.assert_allclose(1 - arc_cosine(0, 1 - below_one, below_one), expected, atol=3e-16)
    # without it, 1 − 1e−20 is 1
    assert arc_cosine(0, 1 - 1e-20) == 1


def test_complement_of_order_one_to_relative_rounding() -> None:
    # 1 − κ_1 = ε − (θ³/3 − θ⁵/30 + …)/π with θ = √(2ε)(1 + ε/12 + …): leading terms are enough at 1e−12
    epsilon = float(Fraction(1, 10**12))
    angle = math.sqrt(2 * epsilon)
    assert one_minus_arc_cosine(epsilon) == pytest.approx(epsilon - angle**3 / (3 * math.pi), rel=1e-12)
    far = np.linspace(0.01, 2, 50)
    np.testing.assert_allclose(one_minus_arc_cosine(far), 1 - arc_cosine(1, 1 - far), atol=2e-15)


def test_both_at_once_are_the_two() -> None:
    t = np.linspace(-1, 1, 41)
    zero, one = arc_cosines(t)
    np.testing.assert_allclose(zero, arc_cosine(0, t), atol=2e-16)
    np.testing.assert_allclose(one, arc_cosine(1, t), atol=4e-16)


def test_shapes_broadcast_and_rounding_is_clipped() -> None:
    assert arc_cosine(1, np.zeros((3, 1)), np.ones((1, 4))).shape == (3, 4)
    assert arc_cosine(1, 1 + 1e-12) == 1
    assert arc_cosine(0, np.empty((0, 2))).shape == (0, 2)


@pytest.mark.parametrize("bad", [1.1, -2.0, math.nan, math.inf])
def test_what_is_no_cosine_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="between -1 and 1"):
        arc_cosine(1, [0.5, bad])


def test_unknown_order_is_refused() -> None:
    with pytest.raises(ValueError, match="order must be 0 or 1, got 2"):
        arc_cosine(2, 0.5)
