"""Regression with a kernel matrix: factored once, and asked for every size of a nested series of training sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike, NDArray

JITTER = 1e-14
"""Smallest share of the mean diagonal that is added where a matrix does not factor as it is; then ten times as much, and so on."""
LARGEST_JITTER = 1e-6


class Cholesky(NamedTuple):
    """``factor factorᵀ = K + jitter 1``, factor lower triangular (n, n)."""

    factor: NDArray[np.float64]
    jitter: float


def cholesky(gram: ArrayLike, ridge: float = 0.0) -> Cholesky:
    """The Cholesky factor of ``K + λ 1``, with the least jitter beside λ that makes it factor; the jitter told includes λ.

    Args:
        gram: K, (n, n), symmetric; only its lower triangle is read.
        ridge: λ ≥ 0.

    Raises:
        ValueError: a matrix that is not square or not finite, a negative ridge, or one that a jitter of 1e-6 of its mean diagonal does
            not make positive definite.
    """
    matrix = np.asarray(gram, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not len(matrix):
        raise ValueError(f"a kernel matrix must be square, got {matrix.shape}")
    if not ridge >= 0:
        raise ValueError(f"ridge must not be negative, got {ridge}")
    if not np.isfinite(matrix).all():
        raise ValueError("a kernel matrix must be finite")
    diagonal, mean = np.diag(matrix), float(np.diag(matrix).mean())
    share = 0.0
    while share <= LARGEST_JITTER:
        shifted = np.array(matrix, order="F")
        np.fill_diagonal(shifted, diagonal + ridge + share * mean)
        try:
            factor = scipy.linalg.cholesky(shifted, lower=True, overwrite_a=True, check_finite=False)
        except np.linalg.LinAlgError:
            share = 10 * share if share else JITTER
        else:
            return Cholesky(np.asarray(factor), ridge + share * mean)
    raise ValueError(f"the kernel matrix is not positive semidefinite: not even {LARGEST_JITTER:g} of its diagonal makes it factor")


def nested_predictions(
    gram: ArrayLike, across: ArrayLike, targets: ArrayLike, sizes: Sequence[int], ridge: float = 0.0
) -> list[NDArray[np.float64]]:
    """What ``k(x, X_n) (K_n + λ 1)⁻¹ y_n`` predicts at test inputs, for training sets that are the first n examples.

    K is factored once: the factor of a leading block is the leading block of the factor.

    Args:
        gram: K between all training inputs, (N, N).
        across: between test and training inputs, (m, N).
        targets: of the training inputs, (N,) or (N, outputs).
        sizes: n, each between 1 and N.
        ridge: λ.

    Returns:
        For each size (m,) or (m, outputs).

    Raises:
        ValueError: as `cholesky`, or shapes or sizes that do not fit.
    """
    y, k = np.asarray(targets, dtype=np.float64), np.asarray(across, dtype=np.float64)
    factor = cholesky(gram, ridge).factor
    if k.ndim != 2 or k.shape[1] != len(factor) or len(y) != len(factor):
        raise ValueError(f"a kernel of {len(factor)} examples does not fit targets {y.shape} and a kernel to test inputs {k.shape}")
    if not len(sizes) or min(sizes) < 1 or max(sizes) > len(factor):
        raise ValueError(f"sizes must lie between 1 and {len(factor)}, got {list(sizes)}")
    whitened = scipy.linalg.solve_triangular(factor, y, lower=True)
    found = []
    for size in sizes:
        weights = scipy.linalg.solve_triangular(factor[:size, :size], whitened[:size], lower=True, trans=1)
        found.append(k[:, :size] @ weights)
    return found
