"""The number of heads of an attention layer."""

from __future__ import annotations


def check_heads(width: int, heads: int | None) -> int:
    """``heads`` if it divides ``width``; the largest of 4, 2, 1 that does where it is None.

    Raises:
        ValueError: a width below 1, or heads that do not divide it.
    """
    if width < 1:
        raise ValueError(f"width must be at least 1, got {width}")
    if heads is None:
        return next(count for count in (4, 2, 1) if width % count == 0)
    if heads < 1 or width % heads:
        raise ValueError(f"heads must divide width {width}, got {heads}")
    return heads
