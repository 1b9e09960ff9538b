"""How wide each layer of a scaled network is."""

from __future__ import annotations

import math

GOLDEN = (math.sqrt(5) - 1) / 2


class WidthRule:
    """Scales the published widths of a network; called once for each layer, in building order.

    ``divisor`` given: the nearest multiple of it, at least one. Without: ``floor(base · multiplier + phase)`` with a phase in [0, 1)
    that differs from layer to layer, so that layers of one published width do not all widen at once and a parameter budget can be
    met closely. Both grow with the multiplier.

    Args:
        multiplier: factor on every width; 1 leaves all as published.
        divisor: widths are multiples of it, or None for the staggered rule.

    Raises:
        ValueError: the multiplier is not positive.
    """

    def __init__(self, multiplier: float = 1.0, divisor: int | None = 8) -> None:
        if not multiplier > 0:
            raise ValueError(f"width must be positive, got {multiplier}")
        self.multiplier = multiplier
        self.divisor = divisor
        self.calls = 0

    def __call__(self, base: int) -> int:
        """The width of the next layer, whose published width is ``base``."""
        self.calls += 1
        if self.multiplier == 1:
            return base
        if self.divisor is not None:
            return max(self.divisor, round(base * self.multiplier / self.divisor) * self.divisor)
        return max(1, math.floor(base * self.multiplier + (self.calls * GOLDEN) % 1))
