"""Networks of infinite width as scikit-learn estimators: nothing is trained by gradients, one linear system is solved.

They stand here and not under `assay.models.estimators`, whose classes read tasks: these read arrays, and fit into scikit-learn's pipelines
and searches.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from assay import registry
from assay.theory.dual_activation import CLOSED_FORMS, DualActivation
from assay.theory.kernel_regression import cholesky
from assay.theory.kernels import Kind, WideNetwork, check_kind

logger = logging.getLogger(__name__)

GIBIBYTE = 2**30
ROWS = 2**22  # numbers of a block of a kernel with the training rows

Array = NDArray[np.float64]
Activation = str | Sequence[float]


def activation_dual(activation: Activation) -> DualActivation:
    """The dual of an activation by its registered name, or by its Hermite coefficients, normalised to ``E φ(z)² = 1``.

    Raises:
        ValueError: it is no function of a single number, as gated activations are not, or has no finite expectation.
        UserError: no activation has that name.
    """
    return _dual(activation_key(activation))


def activation_key(activation: Activation) -> str | tuple[float, ...]:
    """An activation's name, or its coefficients in a form that can be compared."""
    return activation if isinstance(activation, str) else tuple(float(value) for value in activation)


def registered_dual(name: str) -> DualActivation:
    """The dual of a registered activation as it is: in closed form where one is known, by its Hermite series elsewhere.

    Raises:
        ValueError: as `activation_dual`.
        UserError: no activation has that name.
    """
    return (
        DualActivation.closed_form(name) if name in CLOSED_FORMS else DualActivation.from_callable(registry.resolve("activation", name)())
    )


@lru_cache(maxsize=64)
def _dual(activation: str | tuple[float, ...]) -> DualActivation:
    if not isinstance(activation, str):
        return DualActivation.from_hermite(activation).normalised()
    return registered_dual(activation).normalised()


class _WideNetwork(BaseEstimator):
    """Ridge regression with the kernel of a wide network on rows divided by √features."""

    def __init__(
        self,
        depth: int = 3,
        activation: Activation = "relu",
        kind: Kind = "ntk",
        weight_variance: float = 1.0,
        bias_variance: float = 0.1,
        ridge: float = 0.0,
        memory_limit: float = 8.0,
    ) -> None:
        self.depth = depth
        self.activation = activation
        self.kind: Kind = kind
        self.weight_variance = weight_variance
        self.bias_variance = bias_variance
        self.ridge = ridge
        self.memory_limit = memory_limit

    def _solve(self, x: Array, targets: Array) -> None:
        """Dual weights for targets (n, outputs)."""
        check_kind(self.kind)
        if not (self.ridge >= 0 and np.isfinite(self.ridge)):
            raise ValueError(f"ridge must be at least 0, got {self.ridge}")
        rows, means, counts = merged(x, targets)
        self.duplicates_ = len(x) - len(rows)
        check_memory(len(rows), self.memory_limit)
        self.rows_ = rows / np.sqrt(x.shape[1])
        gram = self._network().kernel(self.rows_, kind=self.kind)
        self.weights_, self.jitter_ = solved(gram, means, self.ridge / counts)

    def _predicted(self, x: Any) -> Array:
        check_is_fitted(self, "weights_")
        rows = validated(self, x, reset=False) / np.sqrt(self.rows_.shape[1])
        network = self._network()
        return np.concatenate([network.kernel(block, self.rows_, self.kind) @ self.weights_ for block in blocks(rows, len(self.rows_))])

    def _network(self) -> WideNetwork:
        return WideNetwork(activation_dual(self.activation), self.depth, self.weight_variance, self.bias_variance)


class NTKClassifier(ClassifierMixin, _WideNetwork):
    """Classes by kernel regression on their indicators: what a network of infinite width trained by gradient descent predicts.

    ``f(x) = k(x, X) (K + λ 1)⁻¹ Y``, Y one-hot, and the class is the largest of f, the first among equals. Features should be of
    mean 0 and variance 1, or of equal norms: rows are divided by √features.

    Equal rows become one with the mean of their targets, which is the same regression at λ > 0 and its limit at λ = 0: an input that was
    seen with several classes is answered by the most frequent one. Where the matrix is singular to rounding all the same, the smallest
    jitter that lets it factor is added, kept in ``jitter_`` and logged.

    Args:
        depth: hidden layers.
        activation: φ by its registered name, or its Hermite coefficients; always scaled to ``E φ(z)² = 1``.
        kind: ``ntk``, all layers trained, or ``nngp``, the Bayesian posterior mean (the last layer trained).
        weight_variance: C_W, times the fan-in; 1 keeps the variance, as He's initialisation does for ReLU.
        bias_variance: C_b.
        ridge: λ ≥ 0.
        memory_limit: GiB that the kernel matrix and its factor may take; asked before anything is computed.

    Raises:
        ValueError: an argument out of its range; numbers that are not finite; a kernel above the memory limit, with its size.

    Source: Jacot, Gabriel, Hongler (2018), Neural Tangent Kernel; Lee et al. (2018), Deep Neural Networks as Gaussian Processes.
    """

    def fit(self, X: Any, y: Any) -> NTKClassifier:
        """Solve for the dual weights of X (n, features) and y (n,)."""
        rows, codes, self.classes_ = checked_classes(self, X, y)
        self._solve(rows, np.eye(len(self.classes_))[codes])
        return self

    def decision_function(self, X: Any) -> Array:
        """f, (n, classes); for two classes ``f_1 − f_0`` (n,)."""
        found = self._predicted(X)
        return found[:, 1] - found[:, 0] if found.shape[1] == 2 else found

    def predict(self, X: Any) -> NDArray[Any]:
        """The class of each row, (n,)."""
        check_is_fitted(self, "weights_")
        return self.classes_[self._predicted(X).argmax(1)]


class NTKRegressor(RegressorMixin, _WideNetwork):
    """Values by kernel regression, around the mean of the training values; arguments, errors and equal rows as `NTKClassifier`."""

    def fit(self, X: Any, y: Any) -> NTKRegressor:
        """Solve for the dual weights of X (n, features) and y (n,) or (n, outputs)."""
        rows, values = validated(self, X, y, multi_output=True, y_numeric=True)
        values = np.asarray(values, dtype=np.float64)
        self.mean_ = values.mean(0)
        self._solve(rows, (values - self.mean_).reshape(len(rows), -1))
        return self

    def predict(self, X: Any) -> Array:
        """Values, (n,) or (n, outputs) as in `fit`."""
        found = self._predicted(X)
        return (found if np.ndim(self.mean_) else found[:, 0]) + self.mean_

    def __sklearn_tags__(self) -> Any:
        """Several outputs are served."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


def merged(x: Array, targets: Array) -> tuple[Array, Array, Array]:
    """Different rows in the order of their first appearance, the mean target of each (rows, outputs), and how often it came (rows,)."""
    _, first, where, counts = np.unique(x, axis=0, return_index=True, return_inverse=True, return_counts=True)
    sums = np.zeros((len(first), targets.shape[1]))
    np.add.at(sums, where.ravel(), targets)
    order = np.argsort(first)
    return x[first[order]], (sums / counts[:, None])[order], counts[order].astype(np.float64)


def solved(gram: Array, targets: Array, ridge: Array) -> tuple[Array, float]:
    """``(K + diag λ)⁻¹ Y`` and the jitter that it took; the diagonal of K is changed in place."""
    diagonal = np.einsum("ii->i", gram)
    diagonal += ridge
    if not diagonal.any():
        raise ValueError("the kernel of every row with itself is 0: give bias_variance or ridge a value above 0")
    factor, jitter = cholesky(gram)
    if jitter:
        logger.warning("the kernel matrix of %d rows is singular to rounding: %.2g was added to its diagonal", len(gram), jitter)
    return np.asarray(scipy.linalg.cho_solve((factor, True), targets)), jitter


def check_memory(rows: int, limit: float) -> None:
    """Refuse a kernel matrix and its factor above a limit in GiB.

    Raises:
        ValueError: with the size that it would have.
    """
    needed = 2 * 8 * rows**2 / GIBIBYTE
    if needed > limit:
        most = int((limit * GIBIBYTE / 16) ** 0.5)
        raise ValueError(f"the kernel of {rows:,} rows takes {needed:.1f} GiB, above memory_limit={limit:g}: at most {most:,} rows fit")


def blocks(rows: Array, columns: int) -> Iterator[Array]:
    """Rows in parts whose kernel with so many columns stays small."""
    step = max(1, ROWS // max(1, columns))
    for start in range(0, len(rows), step):
        yield rows[start : start + step]


def validated(estimator: Any, *data: Any, **options: Any) -> Any:
    """scikit-learn's checks: finite float64 numbers, in as many columns as in `fit`, and so on."""
    return validate_data(estimator, *data, dtype=np.float64, **options)


def checked_classes(estimator: Any, X: Any, y: Any) -> tuple[Array, NDArray[Any], NDArray[Any]]:
    """Rows, the number of each label's class, and the classes."""
    rows, labels = validated(estimator, X, y)
    check_classification_targets(labels)
    classes, codes = np.unique(labels, return_inverse=True)
    return rows, codes.ravel(), classes
