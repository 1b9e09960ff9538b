"""The claim that takes no data holds in full, and the others measure what they say on a few points."""

from __future__ import annotations

import numpy as np
import pytest

from assay.papers import optimal_classification as paper
from assay.papers.optimal_classification import PAPER

CLAIMS = {claim.name: claim for claim in PAPER.claims}


def test_order_holds_at_laptop_scale() -> None:
    measured = CLAIMS["order"].experiment("laptop")
    assert measured.verdict == "holds"
    assert measured.values["order, d = 4"] == pytest.approx(4, abs=1e-3)


def test_squares_at_depth_thirty_are_the_nearest_neighbour() -> None:
    x, y, held_out, _ = paper._data(2, 60, 40)
    nearest = y[(held_out @ x.T).argmax(1)]
    np.testing.assert_array_equal(paper._squared_votes(x, y, held_out), nearest)


def test_test_points_are_none_of_the_training_points() -> None:
    x, _, held_out, _ = paper._data(4, 30, 30, seed=1)
    assert not np.isclose(x, held_out).all(1).any()
    assert paper._points(4, 30, 1, 0)[0] is x
