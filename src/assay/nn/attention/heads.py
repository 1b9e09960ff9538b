"""The number and the size of an attention layer's heads."""

from __future__ import annotations


def head_shape(width: int, heads: int | None = None, head_width: int | None = None) -> tuple[int, int]:
    """Heads and numbers per head of a layer; ``heads · head_width`` is the layer's inner width, by default ``width`` itself.

    Args:
        width: numbers per position of the layer's input and output.
        heads: by default the largest of 4, 2, 1 that divides the width.
        head_width: numbers per head; by default ``width / heads``. Given, the inner width is free of ``width`` (wide attention).

    Raises:
        ValueError: a size below 1, or heads that do not divide the width where no ``head_width`` is given.
    """
    if width < 1:
        raise ValueError(f"width must be at least 1, got {width}")
    if head_width is not None and head_width < 1:
        raise ValueError(f"head_width must be at least 1, got {head_width}")
    if heads is None:
        heads = next(count for count in (4, 2, 1) if width % count == 0)
    if heads < 1 or (head_width is None and width % heads):
        raise ValueError(f"heads must divide width {width}, got {heads}: give head_width to choose the size of a head freely")
    return heads, head_width or width // heads
