"""Votes of infinitely deep networks: scikit-learn's checks, the deep recursion, other limits, parts that add up, points that coincide."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import BaseEstimator, clone
from sklearn.datasets import load_digits, load_iris
from sklearn.dummy import DummyClassifier
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.utils.estimator_checks import parametrize_with_checks

from assay.models.infinite_depth import HilbertClassifier, InfiniteDepthClassifier, boxed, on_sphere, squared_distances, votes
from assay.theory.infinite_depth import koenigs, optimal_activation

RANDOM = np.random.default_rng(0)
SPHERE = np.sqrt(RANDOM.dirichlet([1, 1, 1], 200))
LABELS = (SPHERE[:, 0] + 0.1 * RANDOM.standard_normal(200) > 0.6).astype(int)
TRAIN, TEST = slice(0, 120), slice(120, 200)


@parametrize_with_checks([InfiniteDepthClassifier(), InfiniteDepthClassifier(kernel="nngp", depth=3), HilbertClassifier(neighbours=5)])
def test_scikit_learn_contract(estimator: BaseEstimator, check) -> None:
    check(estimator)


def test_shares_are_the_sums_of_the_singular_kernel() -> None:
    model = InfiniteDepthClassifier(2, mapping="sphere").fit(SPHERE[TRAIN], LABELS[TRAIN])
    weights = koenigs(optimal_activation(2), SPHERE[TEST] @ SPHERE[TRAIN].T)
    expected = weights @ LABELS[TRAIN] / weights.sum(1)
    np.testing.assert_allclose(model.predict_proba(SPHERE[TEST])[:, 1], expected, rtol=1e-5)


@pytest.mark.parametrize(("kernel", "agreement"), [("nngp", 0.99), ("ntk", 0.95)])  # the tangent kernel's rate is 1/depth
def test_deep_regression_tends_to_the_vote(kernel, agreement: float) -> None:
    vote = InfiniteDepthClassifier(2, mapping="sphere").fit(SPHERE[TRAIN], LABELS[TRAIN])
    deep = InfiniteDepthClassifier(2, kernel=kernel, depth=100, mapping="sphere").fit(SPHERE[TRAIN], LABELS[TRAIN])
    assert (vote.predict(SPHERE[TEST]) == deep.predict(SPHERE[TEST])).mean() > agreement
    np.testing.assert_allclose(deep.predict_proba(SPHERE[TEST]).sum(1), 1)


def test_other_activations_have_the_other_limits() -> None:
    arguments = {"mapping": "sphere", "dimension": 2}
    x, y = SPHERE[TRAIN], LABELS[TRAIN]
    majority = InfiniteDepthClassifier(activation="relu", **arguments).fit(x, y)
    assert (majority.predict(SPHERE[TEST]) == DummyClassifier().fit(x, y).predict(SPHERE[TEST])).all()
    nearest = InfiniteDepthClassifier(activation=(0.0, 0.0, 1.0), **arguments).fit(x, y)
    assert (nearest.predict(SPHERE[TEST]) == KNeighborsClassifier(1).fit(x, y).predict(SPHERE[TEST])).all()
    own = InfiniteDepthClassifier(activation=optimal_activation(2).exact, **arguments).fit(x, y)
    usual = InfiniteDepthClassifier(**arguments).fit(x, y)
    np.testing.assert_allclose(own.predict_proba(SPHERE[TEST]), usual.predict_proba(SPHERE[TEST]))
    with pytest.raises(ValueError, match="is not known"):
        InfiniteDepthClassifier(activation="sigmoid", **arguments).fit(x, y)


def test_hilbert_estimate_is_its_formula() -> None:
    model = HilbertClassifier(3).fit(SPHERE[TRAIN], LABELS[TRAIN])
    weights = np.linalg.norm(SPHERE[TEST][:, None] - SPHERE[TRAIN], axis=2) ** -3.0
    np.testing.assert_allclose(model.predict_proba(SPHERE[TEST])[:, 1], weights @ LABELS[TRAIN] / weights.sum(1), rtol=1e-10)


@pytest.mark.parametrize("model", [InfiniteDepthClassifier(), HilbertClassifier()])
def test_seen_inputs_have_their_mean_label(model) -> None:
    x = np.concatenate([SPHERE[TRAIN], SPHERE[:1], SPHERE[:1]])
    y = np.concatenate([LABELS[TRAIN], [1 - LABELS[0]] * 2])
    shares = model.fit(x, y).predict_proba(x)
    assert shares[0, 1 - LABELS[0]] == pytest.approx(2 / 3)
    np.testing.assert_array_equal(shares[1:120].argmax(1), LABELS[1:120])


def test_examples_may_come_in_parts() -> None:
    classes = [0, 1, 2]
    parts = InfiniteDepthClassifier(2, mapping="sphere").partial_fit(SPHERE[:50], LABELS[:50], classes)
    parts.partial_fit(SPHERE[50:120], LABELS[50:120])
    whole = InfiniteDepthClassifier(2, mapping="sphere").fit(SPHERE[TRAIN], LABELS[TRAIN])
    np.testing.assert_allclose(parts.predict_proba(SPHERE[TEST])[:, :2], whole.predict_proba(SPHERE[TEST]), atol=1e-12)
    assert not parts.predict_proba(SPHERE[TEST])[:, 2].any()
    with pytest.raises(ValueError, match="label 7 is not among the classes"):
        parts.partial_fit(SPHERE[:1], [7])
    with pytest.raises(ValueError, match="classes must be given"):
        HilbertClassifier().partial_fit(SPHERE[:1], [0])
    assert not hasattr(InfiniteDepthClassifier(kernel="ntk", depth=2), "partial_fit")


@pytest.mark.parametrize("model", [InfiniteDepthClassifier(2, mapping="sphere"), HilbertClassifier(2)])
def test_neighbours_alone_differ_by_no_more_than_is_told(model) -> None:
    x, y, held_out = SPHERE[TRAIN], LABELS[TRAIN], np.concatenate([SPHERE[TEST], SPHERE[:3]])
    whole = model.fit(x, y).predict_proba(held_out)
    assert not model.left_out(held_out).any()
    found, told = [], []
    for count in (1, 10, 60, 119):
        few = clone(model).set_params(neighbours=count).fit(x, y)
        found.append(np.abs(few.predict_proba(held_out) - whole).max(1))
        told.append(few.left_out(held_out))
    assert (np.array(found) <= np.array(told) + 1e-12).all()
    assert (np.diff(told, axis=0) <= 1e-12).all()
    assert not np.array(told)[1:, -3:].any()  # seen inputs outweigh all others
    np.testing.assert_allclose(clone(model).set_params(neighbours=200).fit(x, y).predict_proba(held_out), whole)
    grown = clone(model).set_params(neighbours=10).partial_fit(x[:50], y[:50], [0, 1]).partial_fit(x[50:], y[50:])
    np.testing.assert_allclose(grown.left_out(held_out), told[1], atol=1e-12)


def test_one_neighbour_is_the_nearest() -> None:
    near = HilbertClassifier(5, neighbours=1).fit(SPHERE[TRAIN], LABELS[TRAIN])
    assert (near.predict(SPHERE[TEST]) == KNeighborsClassifier(1).fit(SPHERE[TRAIN], LABELS[TRAIN]).predict(SPHERE[TEST])).all()


def test_real_tables_and_pictures_without_tuning() -> None:
    x, y = load_digits(return_X_y=True)
    a, b, c, d = train_test_split(x, y, train_size=500, test_size=300, random_state=0)
    model = InfiniteDepthClassifier().fit(a, c)
    assert 6 < model.dimension_ < 13  # of 64 features
    assert model.score(b, d) > 0.93
    x, y = load_iris(return_X_y=True)
    assert InfiniteDepthClassifier().fit(x[::2], y[::2]).score(x[1::2], y[1::2]) > 0.9


def test_wrong_arguments_are_refused() -> None:
    for arguments, said in (
        ({"kernel": "rbf"}, "kernel must be singular, nngp or ntk, got 'rbf'"),
        ({"kernel": "ntk"}, "needs a depth"),
        ({"depth": 3}, "has no depth, got 3"),
        ({"mapping": "torus"}, "mapping must be box or sphere"),
        ({"dimension": 0.3}, "at least 1, got 0.3"),
        ({"dimension": "many"}, "got 'many'"),
        ({"neighbours": 0}, "whole number of at least 1, got 0"),
        ({"neighbours": 5, "kernel": "ntk", "depth": 2}, "has no neighbours, got 5"),
    ):
        with pytest.raises(ValueError, match=said):
            InfiniteDepthClassifier(**arguments).fit(SPHERE, LABELS)
    with pytest.raises(ValueError, match="row 0 has norm 2, not 1"):
        on_sphere(2 * SPHERE)
    with pytest.raises(ValueError, match="row 1 has a negative number"):
        on_sphere(np.array([[0.6, 0.8], [-0.6, 0.8]]))


def test_box_keeps_to_the_orthant_and_ignores_constants() -> None:
    rows = boxed(np.array([[0.0, 5.0], [9.0, 5.0], [-9.0, 7.0]]), np.array([0.0, 5.0]), np.array([4.5, 5.0]))
    np.testing.assert_allclose(rows, [[0, 0, 1], [0.5**0.5, 0, 0.5**0.5], [0, 0, 1]], atol=1e-15)


def test_close_points_keep_their_distance() -> None:
    x = np.array([[0.6, 0.8]])
    near = x + np.array([[1e-9, 0.0], [0.0, 1e-12], [0.0, 0.0]])
    np.testing.assert_allclose(squared_distances(x, near)[0], [1e-18, 1e-24, 0], rtol=1e-3)


def test_votes_without_finite_weights_are_shared_evenly() -> None:
    indicator = np.array([[1.0, 0], [1, 0], [0, 1]])
    weights = np.array([[-np.inf] * 3, [0.0, np.inf, np.inf], [-2000.0, -2001.0, -3000.0]])
    np.testing.assert_allclose(votes(weights, indicator), [[2 / 3, 1 / 3], [0.5, 0.5], [1, 0]])
