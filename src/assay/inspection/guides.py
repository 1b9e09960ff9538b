"""Which architecture's bias a network lacks for its task: a few guided steps with each candidate, compared on validation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from assay.contracts import Finding, Task
from assay.errors import UserError
from assay.models.build import build_network
from assay.training import fit
from assay.training.methods.guidance import Guidance

ALONE = "none"


class Guides:
    """Train the network afresh for a few steps with each of several guides, untrained ones by name or runs by folder, and rank them.

    What an untrained guide gains is the bias of its architecture alone; a candidate that gains much names a family to try in its own right.
    The probe trains, so it runs only when candidates are named: ``guides:candidates=resnet+attention``.

    Args:
        candidates: registered models or mixers, or folders of runs, joined by ``+``.
        steps: of each short training.
        learning_rate: its peak.
        batch_size: examples a step, at least eight.
        seed: of the network, the guides and the batches.

    Raises:
        UserError: no candidate is named; (when called) there is no such guide, or it reads other data.
        ValueError: steps are below one; (when called) the network has no recipe to be built from again.

    Source: the measure is Assay's own; guidance: Subramaniam et al. (2024), Training the Untrainable.
    """

    trains = True

    def __init__(self, candidates: str = "", steps: int = 100, learning_rate: float = 3e-3, batch_size: int = 32, seed: int = 0) -> None:
        if not candidates:
            raise UserError("Probe guides trains for each candidate: name some, as in guides:candidates=resnet+attention.")
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        self.candidates = candidates.split("+")
        self.settings: dict[str, Any] = {"steps": steps, "learning_rate": learning_rate, "batch_size": batch_size, "seed": seed}

    def __call__(self, model: nn.Module, task: Task) -> Finding:
        """Rank the candidates; the network itself is not trained further."""
        config: Any = getattr(model, "config", None)
        if config is None:
            raise ValueError(f"{type(model).__name__} has no recipe: only networks made by assay.models.build can be made afresh")
        recipe = config["build"]

        def fresh() -> nn.Module:
            return build_network(recipe["name"], task.signature, recipe["coarse"], recipe["fine"], **recipe["options"])

        found = rank_guides(fresh, task, self.candidates, **self.settings)
        table = [{"guide": name, task.metric: value, "gain": gain} for name, value, gain in found]
        return Finding(_sentence(found, task.metric, self.settings["steps"]), table)


def rank_guides(
    make: Callable[[], nn.Module],
    task: Task,
    candidates: Sequence[str],
    *,
    steps: int = 100,
    learning_rate: float = 3e-3,
    batch_size: int = 32,
    seed: int = 0,
) -> list[tuple[str, float, float]]:
    """Each candidate's (name, primary metric on validation, gain over no guide), best first; ``none`` is among them.

    Args:
        make: gives the network, freshly initialised.
        task: what it is trained on.
        candidates: guides, as `assay.training.methods.guidance.Guidance` takes them by name.
        steps: optimiser steps of each training.
        learning_rate: its peak.
        batch_size: examples a step.
        seed: of the network, the guides and the batches; all trainings see the same.
    """
    values = {}
    for name in (ALONE, *candidates):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = make()
            methods = [] if name == ALONE else [Guidance(name, seed=seed)]
            settings: dict[str, Any] = {"steps": steps, "learning_rate": learning_rate, "batch_size": batch_size, "seed": seed}
            history = fit(network, task, **settings, methods=methods, validate_every=steps, select="last")
        values[name] = history.best_validation
    sign = 1 if task.direction == "max" else -1
    ranked = sorted(values, key=lambda name: -sign * values[name])
    return [(name, values[name], sign * (values[name] - values[ALONE])) for name in ranked]


def _sentence(found: Sequence[tuple[str, float, float]], metric: str, steps: int) -> str:
    alone = next(value for name, value, _ in found if name == ALONE)
    name, value, _ = found[0]
    if name == ALONE:
        return f"After {steps} steps no guide does better than none ({metric} {alone:.3g} on validation)."
    return (
        f"Guided by {name} for {steps} steps the network has {metric} {value:.3g} on validation, and {alone:.3g} alone: "
        f"the bias of {name} suits these data, so it is worth a try itself."
    )
