"""What the two vision papers share: equal-parameter races on rendered glyphs, learning rates chosen on validation at seed 0."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any

import torch
from torch import nn

from assay.contracts import Scale, Signature, Task, Verdict
from assay.models import build, build_network
from assay.papers.experiment import Trained, trained
from assay.tasks.synthetic.glyphs import glyphs
from assay.training import predictor

# With the task's own letters and noise (strokes of a pixel at 16×16 under noise of 0.25) nothing learned in minutes: a train accuracy
# of 0.40 to 0.55 after 900 steps. These letters are larger and clearer, and both a plain and a residual network pass 0.9 in 600 steps.
LEGIBLE: Mapping[str, Any] = {"noise": 0.1, "scale": (0.8, 1.3)}
SMOKE_REASON = "smoke scale shows only that the experiment runs"
OFFLINE_REASON = "CIFAR-10, CIFAR-100, SVHN, MNIST and ImageNet are not at hand offline"


@dataclass(frozen=True)
class Entrant:
    """A network in a race: a registered name and options of its family."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def network(self, signature: Signature, parameters: int) -> nn.Module:
        """The network at the budget; how wide it must be is found once."""
        coarse, fine = _dials(self.name, signature, parameters, json.dumps(self.options))
        return build_network(self.name, signature, coarse, fine, **self.options)


@dataclass(frozen=True)
class Race:
    """How much each entrant may spend: parameters, steps, batch size, the learning rates tried at seed 0, seeds."""

    parameters: int
    steps: int
    batch_size: int
    rates: tuple[float, ...]
    seeds: int

    def run(self, entrant: Entrant, task: Task, **fit_options: Any) -> list[Trained]:
        """Train for every seed, with the rate that validates best at seed 0; that run is used again."""
        tried = [self.once(entrant, task, rate, 0, **fit_options) for rate in self.rates]
        sign = 1 if task.direction == "max" else -1
        best = max(range(len(tried)), key=lambda place: sign * tried[place].history.best_validation)
        rest = [self.once(entrant, task, self.rates[best], seed, **fit_options) for seed in range(1, self.seeds)]
        return [tried[best], *rest]

    def once(self, entrant: Entrant, task: Task, rate: float, seed: int, **fit_options: Any) -> Trained:
        """One run."""
        network = _seeded(entrant, task.signature, self.parameters, seed)
        settings: dict[str, Any] = {"steps": self.steps, "batch_size": self.batch_size, "validate_every": max(1, self.steps // 4)}
        settings |= fit_options
        return trained(network, task, learning_rate=rate, seed=seed, **settings)


def _seeded(entrant: Entrant, signature: Signature, parameters: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return entrant.network(signature, parameters)


@cache
def _dials(name: str, signature: Signature, parameters: int, options: str) -> tuple[int, int]:
    network: Any = build(name, signature, parameters, **json.loads(options))
    recipe = network.config["build"]
    return recipe["coarse"], recipe["fine"]


@lru_cache(maxsize=4)
def glyph_task(train: int, test: int, size: int, characters: str = "0123456789", seed: int = 0) -> Any:
    """Legible rendered glyphs, made once for all claims that use them."""
    return glyphs(train, max(64, test // 4), test, size=size, characters=characters, seed=seed, **LEGIBLE)


def training_accuracy(runs: Sequence[Trained], task: Task) -> float:
    """The mean accuracy of trained networks on what they were trained on: near chance, an experiment says nothing."""
    return mean([task.evaluate(predictor(run.model), "train").metrics["accuracy"] for run in runs])


def values(runs: Sequence[Trained]) -> list[float]:
    """The primary metric of each run."""
    return [run.value for run in runs]


def mean(numbers: Sequence[float]) -> float:
    """Their mean."""
    return sum(numbers) / len(numbers)


def deviation(numbers: Sequence[float]) -> float:
    """Their standard deviation (0 for a single one)."""
    return float(torch.tensor(numbers, dtype=torch.float64).std(correction=1)) if len(numbers) > 1 else 0.0


def verdict(scale: Scale, holds: bool, reason: str) -> tuple[Verdict, str]:
    """Holds or fails by a predicate; at smoke scale nothing is decided."""
    if scale == "smoke":
        return "undecided", f"{SMOKE_REASON} ({reason})"
    return ("holds" if holds else "fails"), reason
