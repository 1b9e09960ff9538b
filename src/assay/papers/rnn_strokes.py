"""The review's claim of pen strokes, which needs more than a few lines: densities of what a pen does next.

The review has no such experiment; the mixture density is Graves's (2013), whose recordings of a pen no package ships. KanjiVG's signs are
drawn by a person as pen strokes in the order of writing, some 6,600 of them, and install as a package; drafting alphabets such as
Hershey's lie on a grid of a few hundred offsets, on which a mixture wins by its peaks alone. Nothing here is recorded in time, so a
point is where a stroke bends, and its spacing says nothing of speed.

The threshold was set before any test figure was seen; width, rate and steps were chosen on validation, one seed. Of the rates 0.003, 0.01
and 0.02 the middle one is the best for one Gaussian, and not for eight.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from assay.contracts import Scale
from assay.models.build import build_network
from assay.models.estimators import ConstantStrokes
from assay.papers.experiment import trained
from assay.tasks.strokes import StrokeTask, kanji_strokes
from assay.training.methods.clipping import Clipping

COMPONENTS, WIDTH, STEPS, RATE = 8, 128, 1_000, 1e-2
MARGIN = 0.1
"""Nats a point by which the mixture must be above one Gaussian, on every seed."""

ONE, MIXTURE, CONSTANT, CONSTANT_MIXTURE = (
    f"{what}, {kind}" for what in ("network", "constant") for kind in ("one Gaussian", f"{COMPONENTS} Gaussians")
)
REASON = (
    f"KanjiVG's signs of up to 64 points, no test sign in training; one LSTM layer of width {WIDTH}, {STEPS:,} steps of 32 signs; log "
    "density of a test point's offset and lift, in nats, offsets in units of their root mean square; constant: one density for all points, "
    f"fitted without a network; required on every seed: {COMPONENTS} Gaussians at least {MARGIN} above one, and above the constant ones"
)


def log_densities(scale: Scale, seeds: Iterable[int]) -> dict[str, list[float]]:
    """Mean log density of a test point by what gives it, in nats, a number a seed.

    Raises:
        MissingExtra: kanjivg is not installed.
    """
    smoke = scale == "smoke"
    found: dict[str, list[float]] = {name: [] for name in (ONE, MIXTURE, CONSTANT, CONSTANT_MIXTURE)}
    for components, network, constant in ((1, ONE, CONSTANT), (COMPONENTS, MIXTURE, CONSTANT_MIXTURE)):
        task = kanji_strokes(60 if smoke else None, components=components)
        for seed in seeds:
            found[network].append(_of_network(task, 2 if smoke else STEPS, seed))
            found[constant].append(_of_constant(task, seed))
    return found


def holds(found: dict[str, list[float]]) -> bool:
    """Whether the mixture is above one Gaussian by the margin, and above both constant densities, on every seed."""
    mixture, one, *constant = (np.array(found[name]) for name in (MIXTURE, ONE, CONSTANT, CONSTANT_MIXTURE))
    return bool((mixture >= one + MARGIN).all() and all((mixture > each).all() for each in constant))


def _of_network(task: StrokeTask, steps: int, seed: int) -> float:
    """Of one layer of LSTM, trained."""
    torch.manual_seed(seed)
    network = build_network("lstm", task.signature, 1, 0, width=WIDTH, hidden="none", depth=1, positions="none")
    return -trained(network, task, steps=steps, learning_rate=RATE, seed=seed, methods=[Clipping()]).value


def _of_constant(task: StrokeTask, seed: int) -> float:
    """Of one density for all offsets, the likeliest of the training split, and the training split's share of lifts."""
    return -task.evaluate(ConstantStrokes().fit(task, seed), "test").metrics["nll"]
