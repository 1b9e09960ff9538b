"""How much training every network gets: the same steps, seconds or floating-point operations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from assay.errors import UserError

DEFAULT_STEPS = 600
SEARCH_SHARE = 1 / 3
"""Part of the budget that each learning rate is tried with; the schedule keeps its shape."""

KINDS = ("steps", "seconds", "flops")


@dataclass(frozen=True)
class Budget:
    """An amount of one kind; seconds are training seconds, validation not counted.

    Raises:
        UserError: the amount is not positive, or steps are not whole.
    """

    kind: Literal["steps", "seconds", "flops"]
    amount: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.amount) and self.amount > 0):
            raise UserError(f"The budget of {self.kind} must be positive and finite, got {self.amount:g}.")
        if self.kind == "steps" and self.amount != int(self.amount):
            raise UserError(f"The budget of steps must be a whole number, got {self.amount:g}.")

    @classmethod
    def of(cls, steps: int | None = None, seconds: float | None = None, flops: float | None = None) -> Budget | None:
        """The one budget that was given, or None.

        Raises:
            UserError: more than one was given, or it is not positive.
        """
        given = {"steps": steps, "seconds": seconds, "flops": flops}
        named = [name for name, value in given.items() if value is not None]
        if len(named) > 1:
            raise UserError(f"A study has one budget, got {' and '.join(named)}: give one of them.")
        if steps is not None:
            return cls("steps", steps)
        if seconds is not None:
            return cls("seconds", float(seconds))
        return None if flops is None else cls("flops", float(flops))

    def share(self, fraction: float) -> Budget:
        """A part of it, at least one step."""
        amount = self.amount * fraction
        return Budget(self.kind, max(1, round(amount)) if self.kind == "steps" else amount)

    def fit_options(self) -> dict[str, Any]:
        """The argument of `assay.training.fit` that means this budget."""
        return {self.kind: int(self.amount) if self.kind == "steps" else self.amount}

    def __str__(self) -> str:
        if self.kind == "steps":
            return f"{int(self.amount):,} steps"
        return f"{self.amount:g} {'training seconds' if self.kind == 'seconds' else 'floating-point operations'}"
