"""Baselines on an example's numbers as one row: logistic regression, support vectors, gradient boosting, ridge regression."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.svm import SVC

from assay.contracts import Batch, Class, Graph, Image, Series, Signature, Table, Task, Values
from assay.models.estimators.base import FittedEstimator, array, features_of, gather, is_single_class, spread, subsample, two_sided
from assay.models.estimators.choice import accuracy, best, temperature

PENALTIES = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)
ROWS_LOGISTIC = 50_000
ROWS_SVM = 10_000


class Logistic(FittedEstimator):
    """Multinomial logistic regression on the flattened input; the inverse penalty C is chosen on validation.

    Above 50,000 training rows a random 50,000 are used. Several yes/no labels are fitted one by one, with a C of their own.
    """

    name = "logistic-regression"

    def accepts(self, signature: Signature) -> str | None:
        """Tables, images, series or nodes to classes."""
        if not isinstance(signature.input, Table | Image | Series | Graph):
            return f"it reads a fixed row of numbers, not {type(signature.input).__name__}"
        if not isinstance(signature.output, Class) or signature.per_position:
            return "it predicts a class for each example"
        return None

    def learn(self, task: Task, seed: int) -> dict[str, Any]:
        """Fit for each C, keep the best on validation."""
        train, validation = subsample(gather(task, "train"), ROWS_LOGISTIC, seed), gather(task, "validation")
        x, held_out = features_of(task.signature, train), features_of(task.signature, validation)
        y, truth = array(train["target"]), array(validation["target"])
        if task.signature.multi_label:
            columns = [_fit_logistic(x, y[:, c].astype(int), held_out, truth[:, c].astype(int), 2) for c in range(y.shape[1])]
            weights = np.stack([column["weights"][1] - column["weights"][0] for column in columns])
            return {"weights": weights, "bias": np.array([column["bias"][1] - column["bias"][0] for column in columns])}
        return _fit_logistic(x, y, held_out, truth, task.signature.output.size)

    def predict(self, batch: Batch) -> NDArray[Any]:
        """Logits (batch, classes)."""
        assert self.signature is not None  # __call__ has checked it
        return np.asarray(features_of(self.signature, batch) @ self.fitted["weights"].T) + self.fitted["bias"]


def _fit_logistic(x: Any, y: NDArray[Any], held_out: Any, truth: NDArray[Any], classes: int) -> dict[str, Any]:
    """Weights (classes, features) and bias (classes,); a class that training never showed has a very low bias."""
    seen = np.unique(y)
    weights = np.zeros((classes, x.shape[1]))
    if len(seen) == 1:
        return {"weights": weights, "bias": spread(np.zeros((1, 1)), seen, classes)[0], "penalty": 0.0}

    def logits(model: LogisticRegression) -> NDArray[Any]:
        return spread(two_sided(model.decision_function(held_out)), seen, classes)

    penalty, model = best(
        PENALTIES, lambda c: LogisticRegression(C=c, max_iter=300).fit(x, y), lambda model: accuracy(logits(model), truth)
    )
    binary = len(seen) == 2
    weights[seen] = np.concatenate([-model.coef_ / 2, model.coef_ / 2]) if binary else model.coef_
    intercept = np.concatenate([-model.intercept_ / 2, model.intercept_ / 2]) if binary else model.intercept_
    return {"weights": weights, "bias": spread(intercept[None], seen, classes)[0], "penalty": penalty}


class SupportVectors(FittedEstimator):
    """A support-vector machine with a Gaussian kernel; C and gamma are chosen on validation, then the scale of its logits.

    Gamma is a multiple of 1/(features · variance). Above 10,000 training rows a random 10,000 are used.
    """

    name = "svm"

    def accepts(self, signature: Signature) -> str | None:
        """Tables, images or series to one class."""
        if not isinstance(signature.input, Table | Image | Series):
            return f"its kernel compares fixed rows of numbers, not {type(signature.input).__name__}"
        return None if is_single_class(signature) else "it predicts one class for each example"

    def learn(self, task: Task, seed: int) -> dict[str, Any]:
        """Fit for each C and gamma, keep the best on validation."""
        train, validation = subsample(gather(task, "train"), ROWS_SVM, seed), gather(task, "validation")
        x, held_out = features_of(task.signature, train), features_of(task.signature, validation)
        y, truth = array(train["target"]), array(validation["target"])
        seen, classes = np.unique(y), task.signature.output.size
        if len(seen) == 1:
            return {"seen": seen, "model": None, "scale": 1.0}
        unit = 1.0 / (x.shape[1] * max(float(x.var()), 1e-12))
        among, across = euclidean_distances(x, squared=True), euclidean_distances(held_out, x, squared=True)

        def tried(setting: tuple[float, float]) -> NDArray[Any]:
            """The logits on validation, from kernels: the distances of many columns are the dear part, and every setting shares them."""
            penalty, gamma = setting[0], unit * setting[1]
            model = SVC(C=penalty, kernel="precomputed").fit(np.exp(-gamma * among), y)
            return spread(two_sided(model.decision_function(np.exp(-gamma * across))), seen, classes)

        settings = product((1.0, 10.0, 100.0), (0.3, 1.0, 3.0))
        (penalty, gamma), logits = best(settings, tried, lambda logits: accuracy(logits, truth))
        model = SVC(C=penalty, gamma=unit * gamma).fit(x, y)
        return {"seen": seen, "model": model, "scale": temperature(logits, truth), "setting": [penalty, gamma]}

    def predict(self, batch: Batch) -> NDArray[Any]:
        """Logits (batch, classes)."""
        assert self.signature is not None  # __call__ has checked it
        x = features_of(self.signature, batch)
        model = self.fitted["model"]
        decision = np.zeros((len(x), 1)) if model is None else self.fitted["scale"] * two_sided(model.decision_function(x))
        return spread(decision, self.fitted["seen"], self.signature.output.size)


class GradientBoosting(FittedEstimator):
    """Boosted trees on histograms (scikit-learn's); learning rate and number of rounds are chosen on validation."""

    name = "gradient-boosting"

    def accepts(self, signature: Signature) -> str | None:
        """Tables to one class or some values."""
        if not isinstance(signature.input, Table):
            return f"trees read a table's columns, not {type(signature.input).__name__}"
        if not (is_single_class(signature) or isinstance(signature.output, Values)) or signature.horizon:
            return "it predicts one class, or values, for each example"
        return None

    def learn(self, task: Task, seed: int) -> dict[str, Any]:
        """One classifier, or one regressor a value."""
        train, validation = gather(task, "train"), gather(task, "validation")
        x, held_out = array(train["table"]), array(validation["table"])
        y, truth = array(train["target"]), array(validation["target"])
        if isinstance(task.signature.output, Values):
            return {"models": [_boost_values(x, y[:, c], held_out, truth[:, c], seed) for c in range(y.shape[1])]}
        seen = np.unique(y)
        if len(seen) == 1:
            return {"models": [], "seen": seen}
        return {"models": [_boost_classes(x, y, held_out, truth, seen, task.signature.output.size, seed)], "seen": seen}

    def predict(self, batch: Batch) -> NDArray[Any]:
        """Logits (batch, classes), or values (batch, count)."""
        assert self.signature is not None  # __call__ has checked it
        x, models = array(batch["table"]), self.fitted["models"]
        if isinstance(self.signature.output, Values):
            return np.stack([model.predict(x) for model in models], 1)
        logits = np.log(models[0].predict_proba(x).clip(1e-9)) if models else np.zeros((len(x), 1))
        return spread(logits, self.fitted["seen"], self.signature.output.size)


BOOSTING = tuple(product((0.05, 0.15), (50, 150)))


def _boosting_options(setting: tuple[float, int], seed: int) -> dict[str, Any]:
    return {"learning_rate": setting[0], "max_iter": setting[1], "early_stopping": False, "random_state": seed}


def _boost_classes(x: Any, y: Any, held_out: Any, truth: Any, seen: Any, classes: int, seed: int) -> HistGradientBoostingClassifier:
    def make(setting: tuple[float, int]) -> HistGradientBoostingClassifier:
        return HistGradientBoostingClassifier(**_boosting_options(setting, seed)).fit(x, y)

    return best(BOOSTING, make, lambda model: accuracy(spread(model.predict_proba(held_out), seen, classes), truth))[1]


def _boost_values(x: Any, y: Any, held_out: Any, truth: Any, seed: int) -> HistGradientBoostingRegressor:
    def make(setting: tuple[float, int]) -> HistGradientBoostingRegressor:
        return HistGradientBoostingRegressor(**_boosting_options(setting, seed)).fit(x, y)

    return best(BOOSTING, make, lambda model: -float(np.square(model.predict(held_out) - truth).mean()))[1]


class RidgeValues(FittedEstimator):
    """Ridge regression on the flattened input; the penalty is chosen on validation.

    A forecast is predicted from all lags, both taken relative to the last observed values where the forecast's channels are the
    input's first ones (which is how `assay.tasks.series` orders them): level shifts then cost nothing.
    """

    name = "ridge"

    def accepts(self, signature: Signature) -> str | None:
        """Tables, images, series or nodes to values."""
        if not isinstance(signature.input, Table | Image | Series | Graph):
            return f"it reads a fixed row of numbers, not {type(signature.input).__name__}"
        if not isinstance(signature.output, Values) or signature.per_position:
            return "it predicts values for each example"
        return None

    def learn(self, task: Task, seed: int) -> dict[str, Any]:
        """Fit for each penalty, keep the best on validation."""
        train, validation = subsample(gather(task, "train"), ROWS_LOGISTIC, seed), gather(task, "validation")
        x, base = self._inputs(task.signature, train)
        held_out, held_base = self._inputs(task.signature, validation)
        y = (array(train["target"]) - base).reshape(len(base), -1)
        truth = (array(validation["target"]) - held_base).reshape(len(held_base), -1)
        penalty, model = best(
            [alpha * len(y) for alpha in (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)],
            lambda alpha: Ridge(alpha=alpha).fit(x, y),
            lambda model: -float(np.square(model.predict(held_out).reshape(truth.shape) - truth).mean()),
        )
        weights = np.atleast_2d(model.coef_)
        return {"weights": weights, "bias": np.broadcast_to(model.intercept_, len(weights)).copy(), "penalty": penalty}

    def predict(self, batch: Batch) -> NDArray[Any]:
        """Values (batch, count), or (batch, horizon, count)."""
        assert self.signature is not None  # __call__ has checked it
        x, base = self._inputs(self.signature, batch)
        values = np.asarray(x @ self.fitted["weights"].T) + self.fitted["bias"]
        if self.signature.horizon:
            values = values.reshape(len(values), self.signature.horizon, -1)
        return values + base

    @staticmethod
    def _inputs(signature: Signature, batch: Batch) -> tuple[Any, NDArray[Any]]:
        """Rows of numbers, and the base (batch, 1, count) or (batch, 1) that a prediction is relative to."""
        kind, count = signature.input, signature.output.size
        if not (signature.horizon and isinstance(kind, Series) and kind.channels >= count):
            rows = features_of(signature, batch)
            return rows, np.zeros((rows.shape[0], 1, 1) if signature.horizon else (rows.shape[0], 1))
        series = array(batch["series"]).astype(np.float64)
        last = series[:, -1:]
        return (series - last).reshape(len(series), -1), last[..., :count]
