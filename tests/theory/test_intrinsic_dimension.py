"""Dimension by two neighbours: known manifolds in spaces of more dimensions, and clouds that have none."""

from __future__ import annotations

import numpy as np
import pytest

from assay.theory.intrinsic_dimension import intrinsic_dimension

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_dimension_of_a_cube_turned_into_ten_dimensions(dimension: int) -> None:
    points = RANDOM.random((1500, dimension)) @ RANDOM.standard_normal((dimension, 10))
    found = intrinsic_dimension(points)
    assert found == pytest.approx(dimension, abs=3 * dimension / 1350**0.5 + 0.05 * dimension)  # 5 % for the cube's faces


def test_circle_has_one_dimension_whatever_its_density() -> None:
    angle = RANDOM.beta(0.7, 2, 3000) * 6
    assert intrinsic_dimension(np.stack([np.cos(angle), np.sin(angle)], 1)) == pytest.approx(1, abs=0.08)


def test_equal_rows_change_nothing() -> None:
    points = RANDOM.random((200, 2))
    assert intrinsic_dimension(np.repeat(points, 3, 0)) == pytest.approx(intrinsic_dimension(points))


def test_clouds_without_a_dimension_are_refused() -> None:
    with pytest.raises(ValueError, match="fewer than 20 different points cannot be told, got 1"):
        intrinsic_dimension(np.ones((100, 3)))
    with pytest.raises(ValueError, match="a grid"):
        intrinsic_dimension(np.arange(50.0)[1:-1, None] * np.ones((1, 2)), discarded=0.2)
    with pytest.raises(ValueError, match="finite"):
        intrinsic_dimension(np.full((30, 2), np.nan))
    with pytest.raises(ValueError, match="got 1"):
        intrinsic_dimension(RANDOM.random((30, 2)), discarded=1)
