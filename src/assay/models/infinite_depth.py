"""What networks of infinite width and depth classify by, as scikit-learn estimators: all training examples vote, and nothing is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.neighbors import NearestNeighbors
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from assay.models.kernel import (
    ROWS,
    Activation,
    Array,
    activation_dual,
    activation_key,
    blocks,
    check_memory,
    checked_classes,
    merged,
    solved,
    validated,
)
from assay.theory.dual_activation import DualActivation
from assay.theory.infinite_depth import KoenigsTable, infinite_depth_limit, optimal_activation
from assay.theory.intrinsic_dimension import FEWEST, intrinsic_dimension
from assay.theory.kernels import Kind, WideNetwork

CLOSE = 1e-7  # of the norms: squared distances below it are taken from differences, and not from inner products
NORM_TOLERANCE = 1e-6
Mapping = Literal["box", "sphere"]


class _Voting(ClassifierMixin, BaseEstimator):
    """Classes by a vote of all training examples, ``p_c(x) = Σ_{i: y_i = c} w(x, x_i) / Σ_i w(x, x_i)``, w given by its logarithm.

    An input equal to training examples has their mean label. Votes add up, so examples may come in parts (`partial_fit`). With
    ``neighbours`` only the nearest ones vote, found by a tree, and `left_out` bounds what the others would have changed.
    """

    dimension: float | str
    neighbours: int | None

    def fit(self, X: Any, y: Any) -> Any:
        """Keep X (n, features) and y (n,)."""
        rows, codes, self.classes_ = checked_classes(self, X, y)
        return self._kept(rows, codes)

    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> Any:
        """Add examples; the dimension and the range of the features are those of the first ones.

        Args:
            X: (n, features).
            y: (n,).
            classes: all classes that will come, needed the first time.

        Raises:
            ValueError: a label that is not among the classes, or no classes the first time.
        """
        first = not hasattr(self, "codes_")
        if first and classes is None:
            raise ValueError("classes must be given with the first call of partial_fit: later ones may bring labels that the first has not")
        rows, labels = validated(self, X, y, reset=first)
        check_classification_targets(labels)
        known = np.unique(np.asarray(classes)) if first else self.classes_
        unknown = np.setdiff1d(labels, known)
        if len(unknown):
            raise ValueError(f"label {unknown.tolist()[0]!r} is not among the classes {known.tolist()}")
        self.classes_, codes = known, np.searchsorted(known, labels)
        if first:
            return self._kept(rows, codes)
        self.rows_ = np.concatenate([self.rows_, self._mapped(rows)])
        self.codes_ = np.concatenate([self.codes_, codes])
        self._index()
        return self

    def predict_proba(self, X: Any) -> Array:
        """Shares of the votes, (n, classes)."""
        check_is_fitted(self, "codes_")
        indicator = np.eye(len(self.classes_))[self.codes_]
        return np.concatenate([votes(log_weights, indicator, near) for log_weights, near in self._weighed(X)])

    def left_out(self, X: Any) -> Array:
        """How far each row's shares can be from those with all votes, (n,); zeros where all vote.

        A training example outside the k nearest weighs at most w_k, the k-th's weight, so that no share is off by more than
        ``(n − k) w_k / (Σ_{i ≤ k} w_i + (n − k) w_k)``.
        """
        check_is_fitted(self, "codes_")
        found = []
        for log_weights, near in self._weighed(X):
            weights = relative_weights(log_weights)
            rest = (len(self.codes_) - weights.shape[1]) * weights.min(1) if near is not None else np.zeros(len(weights))
            found.append(rest / (weights.sum(1) + rest))
        return np.concatenate(found)

    def predict(self, X: Any) -> NDArray[Any]:
        """The class with most votes, the first among equals, (n,)."""
        shares = self.predict_proba(X)
        return self.classes_[shares.argmax(1)]

    def _kept(self, rows: Array, codes: NDArray[Any]) -> Any:
        raise NotImplementedError

    def _mapped(self, rows: Array) -> Array:
        return rows

    def _log_weights(self) -> Callable[[Array], Array]:
        """From squared distances to training rows (m, k) to ln w, which falls with the distance, (m, k)."""
        raise NotImplementedError

    def _index(self) -> None:
        """A tree of the rows, where not all of them vote."""
        k = self.neighbours
        if k is not None and (isinstance(k, bool) or k != int(k) or k < 1):
            raise ValueError(f"neighbours must be None or a whole number of at least 1, got {k!r}")
        self.index_ = NearestNeighbors(n_neighbors=int(k)).fit(self.rows_) if k is not None and k < len(self.rows_) else None

    def _weighed(self, X: Any) -> Iterator[tuple[Array, NDArray[np.intp] | None]]:
        """Blocks of ln w (m, k) and which training examples they are of, (m, k); None: of all."""
        rows = self._mapped(validated(self, X, reset=False))
        weigh = self._log_weights()
        if self.index_ is None:
            for block in blocks(rows, len(self.rows_)):
                yield weigh(squared_distances(block, self.rows_)), None
            return
        for block in blocks(rows, self.index_.n_neighbors * rows.shape[1]):
            near = self.index_.kneighbors(block, return_distance=False)
            yield weigh(np.square(block[:, None] - self.rows_[near]).sum(2)), near

    def _dimension(self, rows: Array, most: int) -> float:
        """The dimension as given, or that of the rows, at least 1 and at most that of the space."""
        if self.dimension != "auto":
            if isinstance(self.dimension, str) or not self.dimension >= 1:
                raise ValueError(f'dimension must be "auto" or a number of at least 1, got {self.dimension!r}')
            return float(self.dimension)
        if len(np.unique(rows, axis=0)) < FEWEST:
            return float(max(1, most))
        try:
            return float(np.clip(intrinsic_dimension(rows), 1, max(1, most)))
        except ValueError:  # a grid has no ratios of distances to tell it by
            return float(max(1, most))


class InfiniteDepthClassifier(_Voting):
    """The classifier that an infinitely wide and deep network is: nothing to train and nothing to tune.

    Inputs go to the non-negative orthant of a sphere; there all examples vote by the singular kernel ``ψ(x_i·x)`` of the activation
    (`assay.theory.infinite_depth`). With the default activation, optimal for the dimension, it errs as little as any classifier can once
    there are enough examples. At a finite depth it is the regression on indicators, without a ridge, with that network's kernel.

    Args:
        dimension: of the data on the sphere; ``auto`` estimates it from nearest neighbours, with the number of features as upper limit. Too
            low it goes towards the majority, too high towards the nearest neighbour.
        activation: None for the optimal one, or a name or Hermite coefficients as `NTKClassifier`; its limit may be the nearest
            neighbour or the majority.
        kernel: ``singular`` for infinite depth, ``nngp`` or ``ntk`` at a finite one.
        depth: of ``nngp`` and ``ntk``.
        mapping: ``box`` scales each feature to [0, 1] by the training data, appends a 1 and normalises; ``sphere`` takes rows that are
            non-negative unit vectors already.
        memory_limit: GiB, of ``nngp`` and ``ntk``.
        neighbours: how many of the nearest examples vote; None: all. Of the singular kernel only.

    Raises:
        ValueError: an argument out of its range, or a depth or neighbours where there are none; rows that are not on the orthant of the
            sphere; an activation whose limit is not known.

    Source: Radhakrishnan, Belkin, Uhler (2023), Wide and Deep Neural Networks Achieve Optimality for Classification.
    """

    def __init__(
        self,
        dimension: float | Literal["auto"] = "auto",
        activation: Activation | None = None,
        kernel: Literal["singular", "nngp", "ntk"] = "singular",
        depth: int | None = None,
        mapping: Mapping = "box",
        memory_limit: float = 8.0,
        neighbours: int | None = None,
    ) -> None:
        self.dimension = dimension
        self.activation = activation
        self.kernel = kernel
        self.depth = depth
        self.mapping = mapping
        self.memory_limit = memory_limit
        self.neighbours = neighbours

    @available_if(lambda self: self.kernel == "singular")
    def left_out(self, X: Any) -> Array:
        """As for all votes: how far each row's shares can be from those of all examples, (n,)."""
        return super().left_out(X)

    @available_if(lambda self: self.kernel == "singular")
    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> InfiniteDepthClassifier:
        """As `fit`, for more and more examples; only at infinite depth, where votes add up, and not there otherwise.

        Args:
            X: (n, features); values beyond the range of the first examples count as its ends.
            y: (n,).
            classes: all classes that will come, needed the first time.

        Raises:
            ValueError: a label that is not among the classes, or no classes the first time.
        """
        return super().partial_fit(X, y, classes)

    def predict_proba(self, X: Any) -> Array:
        """Shares of the votes, (n, classes); at a finite depth the regression's values, clipped to [0, 1] and divided by their sum."""
        check_is_fitted(self, "codes_")
        if self.kernel == "singular":
            return super().predict_proba(X)
        found = np.clip(self._regressed(X), 0.0, 1.0)
        total = found.sum(1, keepdims=True)
        return np.where(total > 0, found / np.where(total > 0, total, 1.0), 1 / found.shape[1])

    def predict(self, X: Any) -> NDArray[Any]:
        """The class with most votes, or with the largest value of the regression, the first among equals, (n,)."""
        if self.kernel == "singular":
            return super().predict(X)
        check_is_fitted(self, "codes_")
        return self.classes_[self._regressed(X).argmax(1)]

    def _kept(self, rows: Array, codes: NDArray[Any]) -> InfiniteDepthClassifier:
        if self.kernel not in ("singular", "nngp", "ntk"):
            raise ValueError(f"kernel must be singular, nngp or ntk, got {self.kernel!r}")
        if (self.depth is None) != (self.kernel == "singular"):
            raise ValueError(f"kernel {self.kernel!r} {'has no' if self.kernel == 'singular' else 'needs a'} depth, got {self.depth}")
        if self.neighbours is not None and self.kernel != "singular":
            raise ValueError(f"kernel {self.kernel!r} is solved for all examples: it has no neighbours, got {self.neighbours}")
        if self.mapping not in ("box", "sphere"):
            raise ValueError(f"mapping must be box or sphere, got {self.mapping!r}")
        if self.mapping == "box":
            self.low_, self.high_ = rows.min(0), rows.max(0)
        self.rows_, self.codes_ = self._mapped(rows), codes
        self.dimension_ = self._dimension(self.rows_, self.rows_.shape[1] - 1)
        limit = infinite_depth_limit(self._dual())
        if limit.kind == "not-classified" and self.kernel == "singular":
            raise ValueError(f"what this activation classifies by at infinite depth is not known ({limit.reason})")
        self.limit_ = limit.kind
        self._index()
        if self.kernel != "singular":
            kept, means, _ = merged(self.rows_, np.eye(len(self.classes_))[codes])
            check_memory(len(kept), self.memory_limit)
            self.solved_rows_ = kept
            self.weights_, self.jitter_ = solved(self._network().kernel(kept, kind=self._kind()), means, np.zeros(len(kept)))
        return self

    def _mapped(self, rows: Array) -> Array:
        return on_sphere(rows) if self.mapping == "sphere" else boxed(rows, self.low_, self.high_)

    def _log_weights(self) -> Callable[[Array], Array]:
        kind = self.limit_
        if kind == "majority":
            return np.zeros_like
        if kind == "nearest-neighbour":  # the nearest examples share the vote, whatever their distance
            return lambda squared: np.where(squared <= squared.min(1, keepdims=True), 0.0, -np.inf)
        table = _table(None if self.activation is None else activation_key(self.activation), self.dimension_)

        def singular(squared: Array) -> Array:
            gap = np.minimum(squared / 2, 1.0)
            return table(1 - gap, gap)

        return singular

    def _dual(self) -> DualActivation:
        return optimal_activation(self.dimension_) if self.activation is None else activation_dual(self.activation)

    def _kind(self) -> Kind:
        return "nngp" if self.kernel == "nngp" else "ntk"

    def _network(self) -> WideNetwork:
        assert self.depth is not None  # `fit` has checked it
        return WideNetwork(self._dual(), self.depth)

    def _regressed(self, X: Any) -> Array:
        rows = self._mapped(validated(self, X, reset=False))
        network = self._network()
        parts = [network.kernel(block, self.solved_rows_, self._kind()) @ self.weights_ for block in blocks(rows, len(self.solved_rows_))]
        return np.concatenate(parts)


class HilbertClassifier(_Voting):
    """All examples vote by distance to the power −d: consistent without anything to tune, where d is the dimension of the data.

    Args:
        dimension: d ≥ 1, or ``auto``: as `InfiniteDepthClassifier`, in the space of the features.
        neighbours: how many of the nearest examples vote; None: all.

    Raises:
        ValueError: a dimension or neighbours below 1.

    Source: Devroye, Györfi, Krzyżak (1998), The Hilbert Kernel Regression Estimate.
    """

    def __init__(self, dimension: float | Literal["auto"] = "auto", neighbours: int | None = None) -> None:
        self.dimension = dimension
        self.neighbours = neighbours

    def _kept(self, rows: Array, codes: NDArray[Any]) -> HilbertClassifier:
        self.rows_, self.codes_ = rows, codes
        self.dimension_ = self._dimension(rows, rows.shape[1])
        self._index()
        return self

    def _log_weights(self) -> Callable[[Array], Array]:
        def by_distance(squared: Array) -> Array:
            with np.errstate(divide="ignore"):
                return -self.dimension_ / 2 * np.log(squared)

        return by_distance


def votes(log_weights: Array, indicator: Array, which: NDArray[np.intp] | None = None) -> Array:
    """Shares ``Σ_i w_i y_i / Σ_i w_i`` from ln w (m, k) and y (n, classes); infinite weights share among themselves, as do equal zeros.

    Args:
        log_weights: of all examples, k = n, or of those that ``which`` (m, k) names for each row.
        indicator: y.
        which: as above.
    """
    weights = relative_weights(log_weights)
    shares = weights @ indicator if which is None else np.einsum("mk,mkc->mc", weights, indicator[which])
    return shares / shares.sum(1, keepdims=True)


def relative_weights(log_weights: Array) -> Array:
    """w over the row's largest, (m, k): where that is infinite or 0, 1 for those that equal it and 0 for the others."""
    top = log_weights.max(1, keepdims=True)
    with np.errstate(invalid="ignore"):
        weights = np.exp(log_weights - top)
    infinite = ~np.isfinite(top[:, 0])
    weights[infinite] = log_weights[infinite] == top[infinite]
    return weights


def squared_distances(x: Array, z: Array) -> Array:
    """``‖x − z‖²`` between rows (n, m), to relative rounding also for close pairs, for which inner products are not enough."""
    over_x, over_z = np.square(x).sum(1)[:, None], np.square(z).sum(1)
    scale = over_x + over_z
    found = np.maximum(scale - 2 * (x @ z.T), 0.0)
    close = np.nonzero(found < CLOSE * scale)
    for start in range(0, len(close[0]), ROWS // max(1, x.shape[1]) + 1):
        i, j = (places[start : start + ROWS // max(1, x.shape[1]) + 1] for places in close)
        found[i, j] = np.square(x[i] - z[j]).sum(1)
    return found


def boxed(rows: Array, low: Array, high: Array) -> Array:
    """Features scaled from [low, high] to [0, 1] and clipped, a 1 appended, normalised: (n, features + 1). A constant feature is 0."""
    width = high - low
    unit = np.clip(np.where(width > 0, (rows - low) / np.where(width > 0, width, 1.0), 0.0), 0.0, 1.0)
    lifted = np.concatenate([unit, np.ones((len(unit), 1))], 1)
    return lifted / np.sqrt(np.square(lifted).sum(1, keepdims=True))


def on_sphere(rows: Array) -> Array:
    """Rows that are non-negative unit vectors, as they are.

    Raises:
        ValueError: one is not, with its number.
    """
    norms = np.sqrt(np.square(rows).sum(1))
    off = np.abs(norms - 1) > NORM_TOLERANCE
    if off.any():
        bad = int(off.argmax())
        raise ValueError(f"row {bad} has norm {norms[bad]:.6g}, not 1: normalise the rows, or take mapping='box'")
    if rows.min(initial=0.0) < 0:
        bad = int((rows < 0).any(1).argmax())
        raise ValueError(f"row {bad} has a negative number: the sphere's orthant has none; take mapping='box'")
    return rows / norms[:, None]


@lru_cache(maxsize=16)
def _table(activation: str | tuple[float, ...] | None, dimension: float) -> KoenigsTable:
    return KoenigsTable(optimal_activation(dimension) if activation is None else activation_dual(activation))
