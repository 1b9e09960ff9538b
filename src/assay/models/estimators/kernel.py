"""Networks of infinite width, and of infinite width and depth, beside the finite ones: no gradient step, outside the parameter budget."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.contracts import Batch, Image, Series, Signature, Table, Task, Values
from assay.models.estimators.base import FittedEstimator, array, features_of, gather, is_single_class, spread, subsample, two_sided
from assay.models.estimators.choice import accuracy, best, temperature
from assay.models.infinite_depth import InfiniteDepthClassifier
from assay.models.kernel import NTKClassifier, NTKRegressor

ROWS_SOLVED = 10_000
ROWS_TRIED = 2_000
ROWS_VOTING = 50_000
SETTINGS = tuple(product((1, 3), (1e-6, 1e-3, 1e-1)))
SMALLEST = 1e-9  # share of the votes, of which the logarithm is taken


def _reads_rows(signature: Signature) -> str | None:
    if not isinstance(signature.input, Table | Image | Series):
        return f"its kernel compares fixed rows of numbers, not {type(signature.input).__name__}"
    return None


class InfiniteWidth(FittedEstimator):
    """Kernel regression with the tangent kernel of an infinitely wide ReLU network on standardised features.

    Depth (1 or 3 hidden layers) and ridge are chosen on validation, with at most 2,000 training rows; the chosen one is solved for up to
    10,000. Logits are the regression on class indicators, scaled on validation.
    """

    name = "ntk"

    def accepts(self, signature: Signature) -> str | None:
        """Tables, images or series to one class or some values."""
        if not (is_single_class(signature) or isinstance(signature.output, Values)) or signature.per_position or signature.horizon:
            return "it predicts one class, or values, for each example"
        return _reads_rows(signature)

    def learn(self, task: Task, seed: int) -> dict[str, Any]:
        """Choose on a part, solve for the whole."""
        train, validation = subsample(gather(task, "train"), ROWS_SOLVED, seed), gather(task, "validation")
        raw = features_of(task.signature, train)
        mean, deviation = raw.mean(0), raw.std(0)
        standard = {"mean": mean, "deviation": np.where(deviation > 1e-12 * (1 + np.abs(mean)), deviation, 1.0)}
        x, held_out = _standardised(raw, standard), _standardised(features_of(task.signature, validation), standard)
        y, truth = array(train["target"]), array(validation["target"])
        part = np.random.default_rng(seed).permutation(len(x))[:ROWS_TRIED]
        if isinstance(task.signature.output, Values):
            setting, model = best(
                SETTINGS,
                lambda setting: NTKRegressor(setting[0], ridge=setting[1]).fit(x[part], y[part]),
                lambda model: -float(np.square(model.predict(held_out) - truth).mean()),
            )
            final = model if len(part) == len(x) else NTKRegressor(setting[0], ridge=setting[1]).fit(x, y)
            return standard | {"model": final, "setting": list(setting)}
        seen, classes = np.unique(y), task.signature.output.size

        def logits(model: NTKClassifier) -> NDArray[Any]:
            return spread(two_sided(model.decision_function(held_out)), model.classes_, classes)

        if len(seen) == 1:
            return standard | {"model": None, "seen": seen, "scale": 1.0}
        setting, model = best(
            SETTINGS,
            lambda setting: NTKClassifier(setting[0], ridge=setting[1]).fit(x[part], y[part]),
            lambda model: accuracy(logits(model), truth),
        )
        final = model if len(part) == len(x) else NTKClassifier(setting[0], ridge=setting[1]).fit(x, y)
        return standard | {"model": final, "seen": seen, "scale": temperature(logits(final), truth), "setting": list(setting)}

    def predict(self, batch: Batch) -> NDArray[Any]:
        """Logits (batch, classes), or values (batch, count)."""
        assert self.signature is not None  # __call__ has checked it
        x, model = _standardised(features_of(self.signature, batch), self.fitted), self.fitted["model"]
        if isinstance(self.signature.output, Values):
            return model.predict(x)
        decision = np.zeros((len(x), 1)) if model is None else self.fitted["scale"] * two_sided(model.decision_function(x))
        return spread(decision, self.fitted["seen"], self.signature.output.size)


class InfiniteDepth(FittedEstimator):
    """What an infinitely wide and deep network classifies by: all training examples vote, and nothing is tuned.

    The dimension is estimated from the training rows, of which a random 50,000 are kept where there are more. Logits are logarithms of
    shares of the votes, scaled on validation.
    """

    name = "infinite-depth"

    def accepts(self, signature: Signature) -> str | None:
        """Tables, images or series to one class."""
        return _reads_rows(signature) if is_single_class(signature) else "it predicts one class for each example"

    def learn(self, task: Task, seed: int) -> dict[str, Any]:
        """Keep the training rows."""
        train, validation = subsample(gather(task, "train"), ROWS_VOTING, seed), gather(task, "validation")
        model = InfiniteDepthClassifier().fit(features_of(task.signature, train), array(train["target"]))
        held_out = features_of(task.signature, validation)
        logits = spread(_log_shares(model, held_out), model.classes_, task.signature.output.size)
        return {"model": model, "scale": temperature(logits, array(validation["target"]))}

    def predict(self, batch: Batch) -> NDArray[Any]:
        """Logits (batch, classes)."""
        assert self.signature is not None  # __call__ has checked it
        model = self.fitted["model"]
        shares = _log_shares(model, features_of(self.signature, batch))
        return spread(self.fitted["scale"] * shares, model.classes_, self.signature.output.size)


def _log_shares(model: InfiniteDepthClassifier, x: NDArray[Any]) -> NDArray[Any]:
    return np.log(model.predict_proba(x).clip(SMALLEST))


def _standardised(x: NDArray[Any], fitted: dict[str, Any]) -> NDArray[Any]:
    return (x - fitted["mean"]) / fitted["deviation"]
