"""What nearly every claim does: build, train, evaluate on the test split."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from torch import nn

from assay.bench.processes import kept_memory
from assay.contracts import Evaluation, Measured, Method, Scale, SplitName, Task
from assay.models import build
from assay.training import History, fit, predictor
from assay.training.fit import VALIDATIONS

Experiment = Callable[[Scale], Measured]


def without_paper_scale(reason: str, seeds: int = 1) -> Callable[[Experiment], Experiment]:
    """Decorates an experiment that cannot run as published: at scale ``paper`` it answers "not-run" with the reason.

    Args:
        reason: what is missing.
        seeds: number of seeds that the answer states.
    """

    def decorate(experiment: Experiment) -> Experiment:
        @wraps(experiment)
        def run(scale: Scale) -> Measured:
            return Measured({}, "not-run", reason, seeds=seeds) if scale == "paper" else experiment(scale)

        return run

    return decorate


@dataclass
class Trained:
    """A trained network, how its training went, and its evaluation."""

    model: nn.Module
    history: History
    evaluation: Evaluation
    value: float


def trained(
    model: str | nn.Module,
    task: Task,
    *,
    steps: int,
    learning_rate: float,
    seed: int,
    parameters: int = 50_000,
    methods: Sequence[Method] = (),
    split: SplitName = "test",
    options: Mapping[str, Any] | None = None,
    **fit_options: Any,
) -> Trained:
    """Build a network by name (or take one), train it, evaluate it.

    Args:
        model: a registered name, or a network that is trained in place.
        task: what to train and evaluate on.
        steps: optimiser steps.
        learning_rate: peak learning rate.
        seed: of the initialisation and of the batches.
        parameters: budget of a network built by name.
        methods: training methods.
        split: where the returned evaluation is from.
        options: of the network's family.
        fit_options: handed to `assay.training.fit`.

    Returns:
        The network, the history, the evaluation, and ``value``, the task's primary metric.
    """
    torch.manual_seed(seed)
    network = build(model, task.signature, parameters, **(options or {})) if isinstance(model, str) else model
    fit_options.setdefault("validate_every", math.ceil(steps / VALIDATIONS))  # whatever it costs: a claim's weights are chosen among ten
    with kept_memory():
        history = fit(network, task, steps=steps, learning_rate=learning_rate, seed=seed, methods=methods, **fit_options)
        network.eval()
        evaluation = task.evaluate(predictor(network), split)
    return Trained(network, history, evaluation, evaluation.metrics[task.metric])
