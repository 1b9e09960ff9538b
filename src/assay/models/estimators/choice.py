"""Choosing a setting on the validation split, the same way for every baseline."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp
from sklearn.exceptions import ConvergenceWarning

Setting = TypeVar("Setting")
Model = TypeVar("Model")


def best(settings: Iterable[Setting], make: Callable[[Setting], Model], score: Callable[[Model], float]) -> tuple[Setting, Model]:
    """The setting whose model scores highest, and that model; the earliest among equals.

    Raises:
        ValueError: there are no settings.
    """
    chosen: tuple[float, Setting, Model] | None = None
    for setting in settings:
        with quiet():
            model = make(setting)
        value = score(model)
        if chosen is None or value > chosen[0]:
            chosen = (value, setting, model)
    if chosen is None:
        raise ValueError("there must be at least one setting to choose from")
    return chosen[1], chosen[2]


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the solvers' convergence warnings: a setting that has not converged is judged on validation like the others."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def accuracy(logits: NDArray[Any], target: NDArray[Any]) -> float:
    """Share of rows whose largest logit is the target's."""
    return float((logits.argmax(1) == target).mean())


def cross_entropy(logits: NDArray[Any], target: NDArray[Any]) -> float:
    """Mean of −log softmax(logits)[target]."""
    return float((logsumexp(logits, axis=1) - logits[np.arange(len(target)), target]).mean())


def temperature(logits: NDArray[Any], target: NDArray[Any]) -> float:
    """The factor on the logits that minimises their cross-entropy (Guo et al., On Calibration of Modern Neural Networks, 2017).

    A penalty (log factor)² on the summed cross-entropy keeps it finite where a few examples are all right.
    """

    def cost(log_factor: float) -> float:
        return len(target) * cross_entropy(np.exp(log_factor) * logits, target) + log_factor**2

    found = minimize_scalar(cost, bounds=(-6, 6), method="bounded")
    return float(np.exp(found.x))  # pyright: ignore[reportAttributeAccessIssue]
