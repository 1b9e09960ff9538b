"""The baseline of pen strokes: one density of all offsets, one chance of lifting, whatever was drawn before."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.mixture import GaussianMixture

from assay.contracts import Batch, NextStroke, Signature, Task
from assay.models.estimators.base import FittedEstimator, array, gather
from assay.models.estimators.choice import quiet


class ConstantStrokes(FittedEstimator):
    """A pen without memory: ``p(Δ) = Σ_k π_k N(Δ; μ_k, Σ_k)``, the likeliest of the training split, and its share of lifted points.

    The mixture has the components of a network's head and is fitted by expectation–maximisation, so that likelihoods compare.
    """

    name = "constant-strokes"

    def accepts(self, signature: Signature) -> str | None:
        """Strokes to the next stroke."""
        return None if isinstance(signature.output, NextStroke) else "it predicts where a pen goes next"

    def learn(self, task: Task, seed: int) -> dict[str, Any]:
        """Fit the offsets' mixture, and count the lifts."""
        assert isinstance(task.signature.output, NextStroke)  # `accepts` asks for it
        batch = gather(task, "train")
        points = array(batch["target"])[array(batch["mask"])].astype(np.float64)
        with quiet():
            mixture = GaussianMixture(task.signature.output.components, random_state=seed, max_iter=300).fit(points[:, :2])
        lifted = (points[:, 2].sum() + 0.5) / (len(points) + 1)
        return {"answer": np.concatenate([[np.log(lifted / (1 - lifted))], _numbers(mixture).ravel()])}

    def predict(self, batch: Batch) -> NDArray[Any]:
        """The same numbers at every position, (batch, length, 1 + 6·components)."""
        answer = self.fitted["answer"]
        return np.broadcast_to(answer, (*batch["series"].shape[:2], len(answer)))


def _numbers(mixture: Any) -> NDArray[Any]:
    """The rows of a `assay.nn.mixture_density.MixtureDensity` of two numbers: logit, mean, logarithms of L's diagonal, L's corner."""
    lower = np.linalg.cholesky(np.asarray(mixture.precisions_))
    diagonal = np.log(lower.diagonal(axis1=1, axis2=2))
    return np.column_stack([np.log(mixture.weights_), mixture.means_, diagonal, lower[:, 1, 0]])
