"""Kernel regression: against scikit-learn for every size, jitter only where it is needed, refusals."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.kernel_ridge import KernelRidge

from assay.theory.kernel_regression import cholesky, nested_predictions


@pytest.fixture
def inputs() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    x, z = generator.standard_normal((30, 4)), generator.standard_normal((7, 4))
    gram, across = (np.exp(-0.5 * np.square(points[:, None] - x).sum(-1)) for points in (x, z))
    return gram, across, generator.standard_normal((30, 2))


@pytest.mark.parametrize("ridge", [1e-3, 1.0])
def test_nested_predictions_are_those_of_every_size_by_itself(inputs, ridge: float) -> None:
    gram, across, targets = inputs
    found = nested_predictions(gram, across, targets, (5, 17, 30), ridge)
    for size, prediction in zip((5, 17, 30), found, strict=True):
        peer = KernelRidge(alpha=ridge, kernel="precomputed").fit(gram[:size, :size], targets[:size])
        np.testing.assert_allclose(prediction, peer.predict(across[:, :size]), atol=1e-9)


def test_without_a_ridge_training_targets_are_given_back(inputs) -> None:
    gram, _, targets = inputs
    (prediction,) = nested_predictions(gram, gram, targets[:, 0], (30,))
    np.testing.assert_allclose(prediction, targets[:, 0], atol=1e-8)
    assert cholesky(gram).jitter == 0


def test_a_singular_matrix_gets_the_least_jitter() -> None:
    x = np.random.default_rng(0).standard_normal((6, 2))
    factor, jitter = cholesky(x @ x.T)
    assert 0 < jitter < 1e-12 * np.trace(x @ x.T)
    np.testing.assert_allclose(factor @ factor.T, x @ x.T, atol=1e-10)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda k, a, y: cholesky(k[:3]), r"must be square, got \(3, 30\)"),
        (lambda k, a, y: cholesky(-k), "not positive semidefinite"),
        (lambda k, a, y: cholesky(k, -1.0), "ridge must not be negative, got -1.0"),
        (lambda k, a, y: cholesky(np.where(k > 0.5, np.nan, k)), "finite"),
        (lambda k, a, y: nested_predictions(k, a[:, :3], y, (2,)), "does not fit"),
        (lambda k, a, y: nested_predictions(k, a, y, (2, 31)), r"between 1 and 30, got \[2, 31\]"),
    ],
)
def test_bad_arguments_are_refused(inputs, call, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call(*inputs)
