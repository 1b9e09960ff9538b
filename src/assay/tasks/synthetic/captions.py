"""Small pictures of one or two shapes, to be described in words."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from assay.contracts import Image, Signature, TokenSequence
from assay.tasks.sequences import SequenceTask, ended_targets

SIDE = 16
WORDS = ("", "a", "small", "large", "square", "circle", "triangle", "cross", "left", "of", "above")
"""By symbol; symbol 0 is the end."""

SHAPES = ("square", "circle", "triangle", "cross")
RADII = {"small": 2, "large": 3}
RELATIONS = {"left of": (0, -1), "above": (-1, 0)}
"""What is said of two shapes, and where the first is. Their converses would make two captions right for every picture."""

LONGEST = 8


def captions(train: int = 6_000, test: int = 500, noise: float = 0.1, seed: int = 0, name: str = "captions") -> SequenceTask:
    """Grey pictures of 16 × 16 with captions like "a small circle" or "a small circle left of a large cross".

    A shape is a square, a circle, a triangle or a cross, small or large; a second one, in three of four pictures, stands right of the first
    or below it. The places within either half are random, so that many pictures have the same caption.

    Args:
        train: training pictures.
        test: test pictures, and as many for validation.
        noise: standard deviation of the noise, where ink is 1 and paper 0.
        seed: of all pictures.
        name: the task's name.

    Raises:
        ValueError: a number of pictures below 1, or negative noise.
    """
    if min(train, test) < 1 or noise < 0:
        raise ValueError(f"train and test must be at least 1 and noise at least 0, got {train}, {test} and {noise}")
    source = np.random.default_rng(seed)
    splits: Any = {}
    for split, count in (("train", train), ("validation", test), ("test", test)):
        drawn = [_picture(source) for _ in range(count)]
        ink = np.stack([picture for picture, _ in drawn]) + source.normal(0, noise, (count, SIDE, SIDE))
        rows = [[WORDS.index(word) for word in caption.split()] for _, caption in drawn]
        splits[split] = {"image": torch.from_numpy(ink).float()[:, None], **ended_targets(rows, LONGEST + 1)}
    return SequenceTask(
        name,
        Signature(Image(1, SIDE, SIDE), TokenSequence(len(WORDS), LONGEST + 1)),
        splits,
        description=f"{train + 2 * test:,} pictures of one or two shapes, {SIDE}×{SIDE} grey, with captions of up to {LONGEST} words",
        encoding={"target_symbols": list(WORDS), "between": " "},
    )


def _picture(source: np.random.Generator) -> tuple[np.ndarray, str]:
    """Ink (side, side), 0 or 1, and the caption."""
    ink = np.zeros((SIDE, SIDE))
    first, radius = _shape(source)
    if source.random() < 0.25:
        _draw(ink, first, radius, source.integers(radius, SIDE - radius, 2))
        return ink, first
    second, other = _shape(source)
    relation = source.choice(list(RELATIONS))
    way = np.array(RELATIONS[relation])
    for shape, size, side in ((first, radius, way), (second, other, -way)):
        low, high = np.full(2, size), np.full(2, SIDE - 1 - size)
        half = SIDE // 2
        low, high = np.where(side > 0, half + size, low), np.where(side < 0, half - 1 - size, high)
        _draw(ink, shape, size, source.integers(low, high + 1))
    return ink, f"{first} {relation} {second}"


def _shape(source: np.random.Generator) -> tuple[str, int]:
    size = source.choice(list(RADII))
    return f"a {size} {source.choice(SHAPES)}", RADII[size]


def _draw(ink: np.ndarray, shape: str, radius: int, centre: np.ndarray) -> None:
    """Put a shape into the picture."""
    rows, columns = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    kind = shape.split()[-1]
    filled = {
        "square": np.ones_like(rows, dtype=bool),
        "circle": rows**2 + columns**2 <= radius**2 + 1,
        "triangle": 2 * np.abs(columns) <= rows + radius,
        "cross": np.abs(rows) * np.abs(columns) == 0,
    }[kind]
    row, column = centre
    ink[row - radius : row + radius + 1, column - radius : column + radius + 1][filled] = 1.0
