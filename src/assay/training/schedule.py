"""Learning-rate schedules: a factor of the learning rate as a function of the share of the budget that is spent."""

from __future__ import annotations

import math
from collections.abc import Callable

Schedule = Callable[[float], float]

WARM_UP = 0.05


def cosine(share: float) -> float:
    """Linear warm-up over the first 5 %, then ``(1 + cos πs)/2`` down to 0; s the share of the rest."""
    if share < WARM_UP:
        return (share + 0.2 * WARM_UP) / (1.2 * WARM_UP)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (share - WARM_UP) / (1 - WARM_UP))))


def constant(share: float) -> float:
    """Always 1."""
    return 1.0


SCHEDULES: dict[str, Schedule] = {"cosine": cosine, "constant": constant}
