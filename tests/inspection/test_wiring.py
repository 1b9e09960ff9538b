"""Correlations and regressions on made-up properties whose relation to the value is known."""

import numpy as np
import pytest

from assay.inspection.wiring import property_correlations, property_regressions


def made_up(count=40):
    """``nodes`` decides the value exactly, ``layers`` is its mirror image, ``density`` is noise, ``edges`` never changes."""
    generator = np.random.default_rng(0)
    nodes, density = generator.integers(10, 50, count).astype(float), generator.random(count)
    rows = [{"nodes": a, "layers": -2 * a, "density": b, "edges": 7.0} for a, b in zip(nodes, density, strict=True)]
    return rows, 0.5 + nodes / 100, density


def test_correlations_are_numpy_s_and_strongest_come_first():
    rows, values, density = made_up()
    found = property_correlations(rows, list(values))
    assert found.loc["nodes", "correlation"] == pytest.approx(1)
    assert found.loc["layers", "correlation"] == pytest.approx(-1)
    assert found.loc["density", "correlation"] == pytest.approx(np.corrcoef(density, values)[0, 1])
    assert found.loc["density", "low"] < found.loc["density", "correlation"] < found.loc["density", "high"]
    assert list(found.index)[-1] == "density"
    assert "edges" not in found.index


def test_regressions_foretell_unseen_graphs_where_there_is_a_law_and_not_where_there_is_none():
    rows, values, _ = made_up()
    lawful = property_regressions(rows, list(values), repeats=1)
    assert (lawful["r2"] > 0.9).all()
    assert lawful.loc["random_forest", "density"] < 0.1
    chance = np.random.default_rng(1).random(len(rows))
    assert (property_regressions(rows, list(chance), repeats=1)["r2"] < 0.3).all()


def test_too_few_graphs_say_so():
    rows, values, _ = made_up(3)
    with pytest.raises(ValueError, match="got 3"):
        property_correlations(rows, list(values))
    with pytest.raises(ValueError, match="3 graphs but 2"):
        property_regressions(rows, list(values[:2]))
