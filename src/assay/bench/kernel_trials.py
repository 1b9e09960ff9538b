"""Kernels of infinitely wide networks tried on a task: what depth and activation can buy, before anything is trained.

They are judged on the validation split; where that is small and the examples are separate ones, by leaving out one training example after
the other, which ridge regression does in closed form: ``y_i − ŷ_{−i} = α_i / (K + λ1)⁻¹_ii`` with ``α = (K + λ1)⁻¹ y``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
import torch
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from assay.contracts import Batch, Class, Evaluation, Image, Output, Series, Signature, SplitName, Table, Task, Values
from assay.errors import UserError
from assay.models.estimators.base import array, features_of, gather, subsample
from assay.models.kernel import registered_dual
from assay.theory.criticality import critical_initialization
from assay.theory.hierarchical_kernels import hierarchical_kernel
from assay.theory.kernel_regression import cholesky, nested_predictions
from assay.theory.kernels import WideNetwork

EXAMPLES = 1_000
"""Training examples that the kernels see at most: fifteen kernels of that size take some twenty seconds."""
FEW = 200
"""Validation examples below which training examples are left out instead."""
RIDGES = (1e-6, 1e-3, 1e-2, 1e-1)
"""Shares of the kernel's mean diagonal; the best on validation is taken."""
ACTIVATIONS = ("relu", "gelu", "erf")
DEPTHS = (1, 2, 3, 5, 8)


@dataclass(frozen=True)
class Trial:
    """A model that needs no training, and what it is worth.

    Args:
        name: what to call it.
        scores: (examples,), whose mean is ``value``.
        value: the task's primary measure.
        activation: of a kernel; empty for what is none.
        depth: hidden layers; 0 for what is no network.
        ridge: share of the mean diagonal.
        groups: (examples,), those that are not independent, or None.
    """

    name: str
    scores: NDArray[np.float64]
    value: float
    activation: str = ""
    depth: int = 0
    ridge: float = 0.0
    groups: NDArray[Any] | None = None


def readable(signature: Signature) -> str | None:
    """None, or the reason (one clause) why kernels of fully connected networks cannot be tried on such data."""
    if not isinstance(signature.input, Table | Image | Series):
        return f"its kernels read a fixed row of numbers, not {type(signature.input).__name__}"
    if not isinstance(signature.output, Class | Values) or signature.per_position:
        return "its kernels predict once an example"
    return None


class KernelTrials:
    """A task as numbers: rows of features, divided by the root of their count, and targets around their mean.

    Args:
        task: Table, Image or Series → Class or Values; the test split is never read.
        examples: training examples used at most, drawn with seed 0.

    Raises:
        UserError: the task's data are of another kind, or its training split shows one class only.
    """

    def __init__(self, task: Task, examples: int = EXAMPLES) -> None:
        reason = readable(task.signature)
        if reason is not None:
            raise UserError(f"Theory has no advice on {task.name}: {reason}.")
        self.task, self.signature = task, task.signature
        train = subsample(gather(task, "train"), examples, seed=0)
        self.x = self._rows(train)
        self.held_out = self._rows(gather(task, "validation"))
        targets = _targets(self.signature, array(train["target"]))
        self.mean = targets.mean(0)
        self.y = targets - self.mean
        found = self.judged(np.tile(self.mean, (len(self.held_out), 1)))
        twins = len(np.unique(self.x, axis=0)) < len(self.x)  # one left out would be known by its twin
        separate = self.signature.horizon is None and found.groups is None and not twins
        self.leaving_out = separate and len(self.held_out) < FEW and len(self.x) == task.size("train")
        if not self.y.any():
            what = "one class" if isinstance(self.signature.output, Class) else "one value"
            raise UserError(f"{task.name} shows {what} only in its training split: there is nothing to advise on.")

    def network(self, activation: str, depth: int) -> WideNetwork:
        """The infinitely wide network of a registered activation at its critical initialisation, its biases trained at the weights' rate.

        Beside n weights of a layer one bias is nothing, but beside those of the columns it counts: ``λ_b⁰ = C_W / columns``. Without it no
        network of rectifiers whose biases begin at 0 could tell a row from twice that row.
        """
        dual = registered_dual(activation)
        point = critical_initialization(dual.sigma)
        rates = (point.weight_variance / self.x.shape[1], *[0.0] * depth)
        return WideNetwork(dual, depth, point.weight_variance, max(point.bias_variance, 0.0), bias_rate=rates)

    def kernel(self, activation: str, depth: int) -> Trial:
        """The tangent kernel of a depth and activation, at the ridge that is best on validation."""
        network = self.network(activation, depth)
        gram, across = network.kernel(self.x), network.kernel(self.held_out, self.x)
        return self.regression(f"{activation}, {depth} hidden", gram, across, activation, depth)

    def regression(self, name: str, gram: NDArray[np.float64], across: NDArray[np.float64], activation: str = "", depth: int = 0) -> Trial:
        """Ridge regression with any kernel between training rows (n, n) and from validation rows to them (m, n)."""

        def at(ridge: float) -> Trial:
            if self.leaving_out:
                found = self.judged(self._left_out(gram, ridge), "train")
            else:
                found = self.judged(self.predicted(gram, across, [len(gram)], ridge)[0])
            return Trial(name, found.scores, found.metrics[self.task.metric], activation, depth, ridge, found.groups)

        return self.best(map(at, RIDGES))

    def predicted(
        self,
        gram: NDArray[np.float64],
        across: NDArray[np.float64],
        sizes: Sequence[int],
        ridge: float,
        order: NDArray[np.intp] | None = None,
    ) -> list[NDArray[np.float64]]:
        """Predictions (m, outputs) after the first n training rows (of an order of them), for each n of ``sizes``."""
        rows = np.arange(len(gram)) if order is None else order
        found = nested_predictions(gram[np.ix_(rows, rows)], across[:, rows], self.y[rows], sizes, ridge * float(np.diag(gram).mean()))
        return [prediction + self.mean for prediction in found]

    def learning_curve(self, trial: Trial, sizes: Sequence[int], repeats: int) -> NDArray[np.float64]:
        """The measure of a kernel after nested training sets in several random orders: (sizes, repeats)."""
        network = self.network(trial.activation, trial.depth)
        gram, across = network.kernel(self.x), network.kernel(self.held_out, self.x)
        orders = [np.random.default_rng(seed).permutation(len(gram)) for seed in range(repeats)]
        found = [
            [self.judged(rows).metrics[self.task.metric] for rows in self.predicted(gram, across, sizes, trial.ridge, o)] for o in orders
        ]
        return np.array(found).T

    def patches(self) -> Trial | None:
        """The tangent kernel of a convolutional network over patches of 2, 4 and 8; None for what has no places, or too few of them.

        What a side has beyond a multiple of the largest patch is left out.
        """
        train, held_out = (_placed(self.signature, rows) for rows in (self.x, self.held_out))
        if train is None or held_out is None:
            return None
        sides = train.shape[2:]
        filters = [2] * min(3, int(math.log2(min(sides))) - 1)
        if not filters:
            return None
        kept = (..., *(slice(side - side % 2 ** len(filters)) for side in sides))
        gram = hierarchical_kernel(train[kept], filters=filters)
        across = hierarchical_kernel(held_out[kept], train[kept], filters=filters)
        return self.regression(f"patches of {', '.join(str(2**n) for n in range(1, len(filters) + 1))}", gram, across, "relu", len(filters))

    def nearest(self) -> Trial:
        """The target of the nearest training row."""
        asked = None if self.leaving_out else self.held_out  # None: every row asks for its nearest other one
        index = NearestNeighbors(n_neighbors=1).fit(self.x).kneighbors(asked, return_distance=False)[:, 0]
        found = self.judged(self.y[index] + self.mean, self.split)
        return Trial("nearest neighbour", found.scores, found.metrics[self.task.metric], groups=found.groups)

    def constant(self) -> Trial:
        """The mean target: the commonest class."""
        count = len(self.x if self.leaving_out else self.held_out)
        found = self.judged(np.tile(self.mean, (count, 1)), self.split)
        return Trial("no input", found.scores, found.metrics[self.task.metric], groups=found.groups)

    def linear(self) -> Trial:
        """Ridge regression on the features themselves."""
        return self.regression("linear", self.x @ self.x.T + 1, self.held_out @ self.x.T + 1)

    @property
    def split(self) -> SplitName:
        """Where trials are judged."""
        return "train" if self.leaving_out else "validation"

    def judged(self, prediction: NDArray[np.float64], split: SplitName = "validation") -> Evaluation:
        """The task's own evaluation of predictions for a split's rows, in order."""
        shape = (-1, self.signature.horizon, self.signature.output.size) if self.signature.horizon else (-1, self.signature.output.size)
        rows = torch.from_numpy(prediction).float().reshape(shape)
        return self.task.evaluate(_Answers(rows), split)

    def best(self, trials: Iterable[Trial]) -> Trial:
        """The one with the best measure, the first of equals."""
        sign = 1 if self.task.direction == "max" else -1
        return max(trials, key=lambda trial: sign * trial.value)

    def _left_out(self, gram: NDArray[np.float64], ridge: float) -> NDArray[np.float64]:
        """Every training row as predicted from all others."""
        factor = cholesky(gram, ridge * float(np.diag(gram).mean())).factor
        inverse = scipy.linalg.cho_solve((factor, True), np.eye(len(gram)))
        return self.y - inverse @ self.y / np.diag(inverse)[:, None] + self.mean

    def _rows(self, batch: Batch) -> NDArray[np.float64]:
        rows = features_of(self.signature, batch)
        return rows / np.sqrt(rows.shape[1])


class _Answers:
    """A predictor that reads prepared predictions off in the order of the split."""

    def __init__(self, rows: torch.Tensor) -> None:
        self.rows, self.position = rows, 0

    def __call__(self, batch: Batch) -> Output:
        start, self.position = self.position, self.position + len(batch["target"])
        return Output(self.rows[start : self.position])


def _placed(signature: Signature, rows: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Rows as (n, channels, places …), for inputs that have places."""
    kind = signature.input
    if isinstance(kind, Image):
        return rows.reshape(len(rows), kind.channels, kind.height, kind.width)
    if isinstance(kind, Series):
        return rows.reshape(len(rows), kind.length, kind.channels).swapaxes(1, 2)
    return None


def _targets(signature: Signature, target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Numbers to regress on (n, outputs); several yes/no labels lie around 0, where their decision is."""
    if isinstance(signature.output, Class):
        return target - 0.5 if signature.multi_label else np.eye(signature.output.size)[target.astype(int)]
    return target.reshape(len(target), -1).astype(np.float64)
