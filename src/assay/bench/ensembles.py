"""Several models as one: the mean of their probabilities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from assay.contracts import Batch, Output


def ensemble_logits(
    models: Sequence[Callable[[Any], Output | Tensor]],
    x: Batch | Tensor,
    mode: Literal["softmax_mean", "logit_mean"] = "softmax_mean",
) -> Tensor:
    """What several classifiers say together: ``log(mean_i softmax(zᵢ))``, or the mean of their centred logits.

    Args:
        models: each maps x to logits (batch, classes), or to an Output with them.
        x: a batch, or whatever the models read.
        mode: ``"softmax_mean"`` averages probabilities, ``"logit_mean"`` log-probabilities.

    Returns:
        Log-probabilities (batch, classes) up to a constant; softmax of them gives the ensemble's probabilities.

    Raises:
        ValueError: there is no model, the mode is unknown, or the models disagree on the classes.
    """
    if not models or mode not in ("softmax_mean", "logit_mean"):
        raise ValueError(f"an ensemble needs a model and mode 'softmax_mean' or 'logit_mean', got {len(models)} and {mode!r}")
    logits = [_logits(model(x)) for model in models]
    if len({tuple(value.shape) for value in logits}) > 1:
        raise ValueError(f"the models' logits have different shapes: {[tuple(value.shape) for value in logits]}")
    return combine(torch.stack([value.log_softmax(-1) for value in logits]), mode)


def combine(log_probabilities: Tensor, mode: Literal["softmax_mean", "logit_mean"] = "softmax_mean") -> Tensor:
    """Average over dimension 0 of (votes, batch, classes)."""
    if mode == "logit_mean":
        return log_probabilities.mean(0).log_softmax(-1)
    # the sum is taken in log space, so that small probabilities survive
    return log_probabilities.logsumexp(0) - torch.tensor(float(len(log_probabilities))).log()


def _logits(output: Output | Tensor) -> Tensor:
    return output.prediction if isinstance(output, Output) else output
