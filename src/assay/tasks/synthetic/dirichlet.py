"""Two classes of points on a sphere whose overlap is known exactly: how near a classifier comes to the best possible can be measured."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit, gammaln

from assay.contracts import Class, Signature, SplitName, Table
from assay.tasks.base import ArrayTask

Array = NDArray[np.float64]
SETTINGS: dict[int, tuple[tuple[float, ...], tuple[float, ...]]] = {
    1: ((1, 2), (2, 1)),
    2: ((0.5, 0.5, 2.5), (2.5, 0.1, 0.5)),
    4: ((3, 1, 2, 1, 1), (1, 2, 2, 2, 3)),
    8: ((1, 2, 1, 2, 1, 1, 1, 1, 1), (1, 1, 1, 2, 3, 4, 2, 2, 1)),
}
"""Parameters of the two classes by the dimension of the sphere, as published."""


def dirichlet_classes(
    dimension: int = 2, train: int = 1000, validation: int = 500, test: int = 1000, prior: float = 0.4, seed: int = 0
) -> ArrayTask:
    """Which of two Dirichlet distributions a point is from; the points are put on the unit sphere by their Euclidean norm.

    The Bayes accuracy on the test split is in ``encoding["bayes_accuracy"]``, and in the description.

    Args:
        dimension: of the sphere, a key of `SETTINGS`; there is one column more.
        train: number of training points; ``validation`` and ``test`` likewise.
        validation: see above.
        test: see above.
        prior: share of class 1.
        seed: of all random numbers.

    Raises:
        ValueError: a dimension without published parameters, a prior outside (0, 1), or a count below 1.

    Source: Radhakrishnan, Belkin, Uhler (2023), Wide and Deep Neural Networks Achieve Optimality for Classification.
    """
    if dimension not in SETTINGS:
        raise ValueError(f"dimension must be one of {', '.join(map(str, SETTINGS))}, got {dimension}")
    counts: dict[SplitName, int] = {"train": train, "validation": validation, "test": test}
    splits, bayes = {}, 0.0
    for place, (split, count) in enumerate(counts.items()):
        x, y, posterior = dirichlet_points(*SETTINGS[dimension], count, prior, (seed, place))
        splits[split] = {"table": torch.from_numpy(x).float(), "target": torch.from_numpy(y)}
        bayes = float(((posterior > 0.5) == y).mean())
    return ArrayTask(
        "dirichlet-classes",
        Signature(Table(dimension + 1), Class(2)),
        splits,
        description=f"{train + validation + test:,} points of a sphere of dimension {dimension}, 2 classes, Bayes accuracy {bayes:.3f}",
        encoding={"bayes_accuracy": bayes},
    )


def dirichlet_points(
    first: Sequence[float], second: Sequence[float], count: int, prior: float = 0.4, seed: int | Sequence[int] = 0
) -> tuple[Array, NDArray[np.int64], Array]:
    """Points on the sphere's orthant, their classes, and the probability of class 1 at each.

    Args:
        first: parameters of class 1, (columns,), each above 0.
        second: parameters of class 0.
        count: number of points; ``round(prior · count)`` of them are of class 1, in random order.
        prior: share of class 1.
        seed: of all random numbers.

    Returns:
        (count, columns) of unit norm, (count,) of 0 and 1, (count,).

    Raises:
        ValueError: parameters of different length or not above 0, a prior outside (0, 1), or a count below 1.
    """
    one, zero = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if one.ndim != 1 or one.shape != zero.shape or not (min(one.min(), zero.min()) > 0):
        raise ValueError(f"parameters must be as many of each class and above 0, got {first} and {second}")
    if not 0 < prior < 1 or count < 1:
        raise ValueError(f"prior must be in (0, 1) and count at least 1, got {prior} and {count}")
    random = np.random.default_rng(seed)
    y = random.permutation((np.arange(count) < round(prior * count)).astype(np.int64))
    logs = _log_gammas(random, np.where(y[:, None] == 1, one, zero))
    logs -= logs.max(1, keepdims=True)
    shares = np.exp(logs)
    log_shares = logs - np.log(shares.sum(1, keepdims=True))
    evidence = np.log(prior / (1 - prior)) + _log_constant(one) - _log_constant(zero) + log_shares @ (one - zero)
    return shares / np.sqrt(np.square(shares).sum(1, keepdims=True)), y, expit(evidence)


def _log_gammas(random: np.random.Generator, shape: Array) -> Array:
    """Logarithms of Gamma(shape) numbers, ``Gamma(s) = Gamma(s + 1) U^{1/s}``: small shapes would underflow to 0."""
    return np.log(random.standard_gamma(shape + 1)) + np.log(random.random(shape.shape)) / shape


def _log_constant(parameters: Array) -> float:
    return float(gammaln(parameters.sum()) - gammaln(parameters).sum())
