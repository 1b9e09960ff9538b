"""Regression with the kernels of wide networks: scikit-learn's checks and its kernel ridge, equal rows, one class, what does not fit."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from sklearn.base import BaseEstimator
from sklearn.datasets import load_digits
from sklearn.kernel_ridge import KernelRidge
from sklearn.model_selection import train_test_split
from sklearn.utils.estimator_checks import parametrize_with_checks

from assay.models.kernel import NTKClassifier, NTKRegressor, activation_dual, check_memory, merged
from assay.theory.kernels import WideNetwork

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((60, 5))
Y = (X[:, 0] * X[:, 1] > 0).astype(int)


@parametrize_with_checks([NTKClassifier(), NTKRegressor(kind="nngp")])
def test_scikit_learn_contract(estimator: BaseEstimator, check) -> None:
    check(estimator)


def test_is_kernel_ridge_with_the_wide_kernel() -> None:
    values = np.stack([X[:, 0] ** 2, X[:, 1]], 1)
    network = WideNetwork(activation_dual("erf"), 2, 1.5, 0.2)
    rows = X / np.sqrt(5)
    peer = KernelRidge(alpha=0.3, kernel="precomputed").fit(network.kernel(rows[:40]), values[:40] - values[:40].mean(0))
    expected = peer.predict(network.kernel(rows[40:], rows[:40])) + values[:40].mean(0)
    ours = NTKRegressor(2, "erf", "ntk", 1.5, 0.2, 0.3).fit(X[:40], values[:40])
    np.testing.assert_allclose(ours.predict(X[40:]), expected, rtol=1e-10)


@pytest.mark.parametrize("ridge", [0.1, 0.0])
def test_equal_rows_are_the_same_regression_and_at_no_ridge_its_limit(ridge: float) -> None:
    x = np.concatenate([X[:30], X[:3]])
    y = np.concatenate([X[:30, 0], [5.0, 5.0, 5.0]])
    ours = NTKRegressor(ridge=ridge).fit(x, y)
    assert ours.duplicates_ == 3
    rows = x / np.sqrt(5)
    gram = WideNetwork(activation_dual("relu"), 3, 1.0, 0.1).kernel(rows)
    weights = np.linalg.solve(gram + (ridge or 1e-7) * np.eye(33), y - y.mean())
    np.testing.assert_allclose(ours.predict(x), gram @ weights + y.mean(), atol=1e-10 if ridge else 1e-5)
    if not ridge:
        assert ours.predict(X[:1])[0] == pytest.approx((X[0, 0] + 5) / 2)  # the mean of its labels


def test_an_input_of_two_classes_has_the_more_frequent_one() -> None:
    x = np.concatenate([X, X[:1], X[:1]])
    y = np.concatenate([Y, [1 - Y[0], 1 - Y[0]]])
    model = NTKClassifier().fit(x, y)
    assert model.predict(X[:1])[0] == 1 - Y[0]
    assert (model.predict(X[1:]) == Y[1:]).all()  # the others are interpolated


def test_parallel_rows_without_biases_are_singular_and_said(caplog: pytest.LogCaptureFixture) -> None:
    x = np.concatenate([X[:20], 2 * X[:5]])
    with caplog.at_level(logging.WARNING):
        model = NTKClassifier(bias_variance=0.0).fit(x, np.arange(25) % 2)
    assert 0 < model.jitter_ < 1e-6
    assert "singular to rounding" in caplog.text
    with pytest.raises(ValueError, match="every row with itself is 0"):
        NTKRegressor(bias_variance=0.0).fit(np.zeros((3, 2)), [1.0, 2, 3])


def test_deep_and_wide_beats_a_line_on_digits() -> None:
    x, y = load_digits(return_X_y=True)
    a, b, c, d = train_test_split(x / 16, y, train_size=400, test_size=400, random_state=0)
    assert NTKClassifier().fit(a, c).score(b, d) > 0.93
    assert NTKClassifier(kind="nngp", activation="erf").fit(a, c).score(b, d) > 0.93


def test_one_class_and_constant_features() -> None:
    x = np.concatenate([X, np.ones((60, 2))], 1)
    assert (NTKClassifier().fit(x, np.full(60, "only")).predict(x) == "only").all()
    assert NTKClassifier().fit(x, Y).score(x, Y) == 1


def test_activations_by_name_and_coefficients_are_normalised() -> None:
    for activation in ("relu", "tanh", "mish", "squared-relu", [0.0, 3.0, 1.0]):
        dual = activation_dual(activation)
        assert dual.second_moment == pytest.approx(1, abs=1e-12)
        assert activation_dual(activation) is dual
    with pytest.raises(ValueError, match="single number"):
        activation_dual("swiglu")


def test_a_kernel_that_does_not_fit_is_refused_before_it_is_made() -> None:
    with pytest.raises(ValueError, match=r"20,000 rows takes 6\.0 GiB, above memory_limit=4: at most 16,384 rows"):
        check_memory(20_000, 4.0)
    with pytest.raises(ValueError, match=r"60 rows takes .* GiB, above memory_limit=1e-05"):
        NTKClassifier(memory_limit=1e-5).fit(X, Y)


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="ridge must be at least 0, got -1"):
        NTKClassifier(ridge=-1).fit(X, Y)
    with pytest.raises(ValueError, match="kind must be one of ntk, nngp, got 'rbf'"):
        NTKClassifier(kind="rbf").fit(X, Y)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="NaN"):
        NTKClassifier().fit(np.where(X > 2, np.nan, X), Y)


def test_merging_keeps_order_means_and_counts() -> None:
    rows, means, counts = merged(np.array([[2.0], [1.0], [2.0]]), np.array([[1.0], [5.0], [2.0]]))
    np.testing.assert_array_equal(rows, [[2], [1]])
    np.testing.assert_array_equal(means, [[1.5], [5]])
    np.testing.assert_array_equal(counts, [2, 1])
