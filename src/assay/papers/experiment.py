"""What nearly every claim does: build, train, evaluate on the test split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from assay.contracts import Evaluation, Method, SplitName, Task
from assay.models import build
from assay.training import History, fit


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
    history = fit(network, task, steps=steps, learning_rate=learning_rate, seed=seed, methods=methods, **fit_options)
    network.eval()
    evaluation = task.evaluate(network, split)
    return Trained(network, history, evaluation, evaluation.metrics[task.metric])
