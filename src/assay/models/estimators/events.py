"""The baseline of event streams: gaps that know no history, marks that know only the last one."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.mixture import GaussianMixture

from assay.contracts import Batch, NextEvent, Signature, Task
from assay.models.estimators.base import FittedEstimator, array, gather
from assay.models.estimators.choice import best, quiet

GAPS = 20_000
UNUSED = -30.0
NARROWEST = 0.0025
"""Least variance of a component in log gap (5 % of a gap), so that rounded clocks are not chased."""


class PoissonEvents(FittedEstimator):
    """A stationary stream: every gap drawn from one distribution, every mark from a Markov chain.

    A homogeneous Poisson process is the case of exponential gaps; here the gap's distribution is the log-normal mixture that a
    network's head has too, fitted by expectation–maximisation (components chosen on validation), so that likelihoods compare. Marks
    follow their frequencies or the chain p(mark | last mark), smoothed towards them, whichever is likelier on validation.
    """

    name = "poisson"

    def accepts(self, signature: Signature) -> str | None:
        """Events to the next event."""
        return None if isinstance(signature.output, NextEvent) else "it predicts the next event of a stream"

    def learn(self, task: Task, seed: int) -> dict[str, Any]:
        """Fit the gaps' mixture and the marks' chain."""
        assert isinstance(task.signature.output, NextEvent)  # `accepts` asks for it
        train, validation = _targets(gather(task, "train")), _targets(gather(task, "validation"))
        components, marks = task.signature.output.components, task.signature.output.marks
        gaps = _gap_mixture(np.log(train["gap"]), np.log(validation["gap"]), components, seed)
        chain = _mark_chain(train, validation, marks)
        return {"gaps": gaps, "chain": chain}

    def predict(self, batch: Batch) -> NDArray[Any]:
        """Mixture parameters and mark logits, (batch, length, 3·components + marks)."""
        marks = array(batch["marks"])
        gaps = np.broadcast_to(self.fitted["gaps"], (*marks.shape, len(self.fitted["gaps"])))
        return np.concatenate([gaps, self.fitted["chain"][marks]], -1)


def _targets(batch: Batch) -> dict[str, NDArray[Any]]:
    real = array(batch["target_mask"]) if "target_mask" in batch else np.ones(batch["target_marks"].shape, dtype=bool)
    gap = array(batch["target_gaps"])[real].astype(np.float64)
    return {"gap": gap, "mark": array(batch["target_marks"])[real], "last": array(batch["marks"])[real]}


def _gap_mixture(log_gaps: NDArray[Any], held_out: NDArray[Any], components: int, seed: int) -> NDArray[Any]:
    """Weights (logits), means and log standard deviations of the mixture of log gaps, padded to ``components``."""
    sample = log_gaps
    if len(sample) > GAPS:
        sample = np.random.default_rng(seed).choice(sample, GAPS, replace=False)
    sizes = [size for size in (1, 2, 4, 8) if size <= min(components, len(sample))]

    def make(size: int) -> Any:
        return GaussianMixture(size, random_state=seed, reg_covar=NARROWEST).fit(sample[:, None])

    with quiet():
        size, model = best(sizes, make, lambda mixture: mixture.score(held_out[:, None]))
    weights, means, deviations = np.full(components, UNUSED), np.zeros(components), np.zeros(components)
    weights[:size] = np.log(model.weights_)
    means[:size], deviations[:size] = model.means_[:, 0], 0.5 * np.log(model.covariances_[:, 0, 0])
    return np.concatenate([weights, means, deviations])


def _mark_chain(train: dict[str, NDArray[Any]], validation: dict[str, NDArray[Any]], marks: int) -> NDArray[Any]:
    """Log probabilities (last mark, next mark), smoothed by the weight that is likeliest on validation."""
    frequencies = np.bincount(train["mark"], minlength=marks) + 0.5
    frequencies = frequencies / frequencies.sum()
    counts = np.zeros((marks, marks))
    np.add.at(counts, (train["last"], train["mark"]), 1.0)

    def smoothed(weight: float) -> NDArray[Any]:
        if np.isinf(weight):
            return np.broadcast_to(np.log(frequencies), (marks, marks)).copy()
        return np.log((counts + weight * frequencies) / (counts.sum(1, keepdims=True) + weight))

    weights = (np.inf, 1.0, 10.0, 100.0)
    return best(weights, smoothed, lambda chain: float(chain[validation["last"], validation["mark"]].mean()))[1]
