"""Classes of known overlap: moments of the distributions, calibrated posteriors, the published Bayes accuracies, and refusals."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import dirichlet

from assay.tasks.synthetic.dirichlet import SETTINGS, dirichlet_classes, dirichlet_points


@pytest.mark.parametrize(("dimension", "published"), [(1, 0.762), (2, 0.954), (4, 0.912), (8, 0.928)])
def test_bayes_accuracy_is_the_published_one(dimension: int, published: float) -> None:
    _, y, posterior = dirichlet_points(*SETTINGS[dimension], 20_000)
    # measured with the official code on 3,000 points: a standard error of 0.005
    assert ((posterior > 0.5) == y).mean() == pytest.approx(published, abs=0.015)


def test_posterior_is_that_of_scipys_densities() -> None:
    first, second = SETTINGS[4]
    x, y, posterior = dirichlet_points(first, second, 50, 0.3)
    shares = (x / x.sum(1, keepdims=True)).T
    one, zero = 0.3 * dirichlet.pdf(shares, first), 0.7 * dirichlet.pdf(shares, second)
    np.testing.assert_allclose(posterior, one / (one + zero), rtol=1e-9)
    assert y.sum() == 15


def test_points_are_dirichlet_on_the_sphere() -> None:
    first, second = SETTINGS[2]
    x, y, _ = dirichlet_points(first, second, 20_000)
    np.testing.assert_allclose(np.square(x).sum(1), 1, rtol=1e-12)
    assert x.min() >= 0
    shares = x / x.sum(1, keepdims=True)
    np.testing.assert_allclose(shares[y == 1].mean(0), np.divide(first, sum(first)), atol=0.01)
    np.testing.assert_allclose(shares[y == 0].var(0), dirichlet.var(second), atol=0.005)


def test_splits_differ_and_repeat() -> None:
    task, again = (dirichlet_classes(2, 50, 20, 30) for _ in range(2))
    assert (task.splits["train"]["table"] == again.splits["train"]["table"]).all()
    assert not (task.splits["train"]["table"][:20] == task.splits["validation"]["table"]).any(1).all()
    assert 0.8 < task.encoding["bayes_accuracy"] <= 1


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="one of 1, 2, 4, 8, got 3"):
        dirichlet_classes(3)
    with pytest.raises(ValueError, match="as many of each class"):
        dirichlet_points([1.0], [1.0, 2.0], 5)
    with pytest.raises(ValueError, match="got 1"):
        dirichlet_points([1.0], [1.0], 5, prior=1)
