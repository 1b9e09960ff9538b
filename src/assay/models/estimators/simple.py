"""The floor under every comparison: answers that look at no input, or only at the current position."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.contracts import Batch, Class, NextTokens, Series, Signature, Task, Tokens, Values
from assay.models.estimators.base import FittedEstimator, array, gather, spread, two_sided
from assay.models.estimators.choice import quiet

LIMIT = 50_000


class Majority(FittedEstimator):
    """Predicts the training split's class frequencies (as log probabilities) or its mean values, whatever the input."""

    name = "majority"

    def accepts(self, signature: Signature) -> str | None:
        """Classes, values and next tokens."""
        if not isinstance(signature.output, Class | Values | NextTokens):
            return f"there is no majority of {type(signature.output).__name__}"
        return None

    def learn(self, task: Task, seed: int) -> dict[str, Any]:
        """Count, or average, over all real targets."""
        batch = gather(task, "train")
        target = array(batch["target"])
        if isinstance(task.signature.output, Values):
            return {"answer": _mean(target, _real(batch, target), axes=2 if task.signature.per_position else 1)}
        if task.signature.multi_label:
            share = (target.sum(0) + 0.5) / (len(target) + 1)
            return {"answer": np.log(share / (1 - share))}
        counts = np.bincount(target[_real(batch, target)].ravel(), minlength=task.signature.output.size)
        return {"answer": np.log((counts + 0.5) / (counts + 0.5).sum())}

    def predict(self, batch: Batch) -> NDArray[Any]:
        """The same answer for every example, and position."""
        assert self.signature is not None  # __call__ has checked it
        answer = self.fitted["answer"]
        graph = "selected" in batch
        first = next(value for key, value in batch.items() if (key == "selected" if graph else key not in ("nodes", "edges")))
        places = first.shape[:2] if self.signature.per_position or isinstance(self.signature.output, NextTokens) else first.shape[:1]
        return np.broadcast_to(answer, (*places, *answer.shape))


class PositionMajority(FittedEstimator):
    """One class at every position from that position alone: the most frequent by token, or logistic regression on a series' step."""

    name = "behaviour-majority"

    def accepts(self, signature: Signature) -> str | None:
        """Tokens or series with one class at every position."""
        if not isinstance(signature.input, Tokens | Series):
            return f"it reads tokens or series, not {type(signature.input).__name__}"
        if not (isinstance(signature.output, Class) and signature.per_position) or signature.multi_label:
            return "it predicts one class at every position"
        return None

    def learn(self, task: Task, seed: int) -> dict[str, Any]:
        """Count classes by token, or fit a logistic regression to single steps (at most 50,000 of them)."""
        batch = gather(task, "train")
        target = array(batch["target"])
        real = np.broadcast_to(_real(batch, target).reshape(len(target), -1), target.shape)
        classes = task.signature.output.size
        if isinstance(task.signature.input, Tokens):
            counts = np.full((task.signature.input.vocabulary, classes), 0.5 / classes)
            np.add.at(counts, (array(batch["tokens"])[real], target[real]), 1.0)
            return {"table": np.log(counts / counts.sum(1, keepdims=True))}
        steps, labels = array(batch["series"])[real], target[real]
        if len(labels) > LIMIT:
            chosen = np.random.default_rng(seed).choice(len(labels), LIMIT, replace=False)
            steps, labels = steps[chosen], labels[chosen]
        if len(np.unique(labels)) == 1:
            return {"constant": int(labels[0])}
        from sklearn.linear_model import LogisticRegression

        with quiet():
            model = LogisticRegression(max_iter=500).fit(steps, labels)
        return {"coefficients": model.coef_, "intercept": model.intercept_, "seen": model.classes_}

    def predict(self, batch: Batch) -> NDArray[Any]:
        """Logits (batch, length, classes)."""
        assert self.signature is not None  # __call__ has checked it
        if "table" in self.fitted:
            return self.fitted["table"][array(batch["tokens"])]
        series = array(batch["series"])
        flat = series.reshape(-1, series.shape[-1])
        if "constant" in self.fitted:
            logits = spread(np.zeros((len(flat), 1)), np.array([self.fitted["constant"]]), self.signature.output.size)
        else:
            scores = flat @ self.fitted["coefficients"].T + self.fitted["intercept"]
            decision = two_sided(scores[:, 0]) if scores.shape[1] == 1 else scores
            logits = spread(decision, self.fitted["seen"], self.signature.output.size)
        return logits.reshape(*series.shape[:2], -1)


def _mean(target: NDArray[Any], real: NDArray[Any], axes: int) -> NDArray[Any]:
    """Mean over the leading axes of the values that count; 0 where none does."""
    weight = np.broadcast_to(real.reshape(real.shape + (1,) * (target.ndim - real.ndim)), target.shape)
    leading = tuple(range(axes))
    return np.where(weight, target, 0.0).sum(leading) / np.maximum(weight.sum(leading), 1)


def _real(batch: Batch, target: NDArray[Any]) -> NDArray[Any]:
    """True where a target counts."""
    for key in ("target_mask", "mask"):
        if key in batch and target.ndim > 1 and batch[key].shape == target.shape[: batch[key].ndim]:
            return array(batch[key])
    return np.ones(target.shape[:1], dtype=bool)
