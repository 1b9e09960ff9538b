"""Two dots among dashed paths; the question is whether one path joins them."""

from __future__ import annotations

import math
import random
from typing import Any, Literal

import torch

from assay.contracts import Class, Image, Signature, Tokens
from assay.tasks.base import ArrayTask

DASH, GAP = 2, 1  # steps of a pixel
LEVELS = 3  # dark, dash, dot
APART = 2  # free pixels between paths, at least
TRIALS = 200


def pathfinder(
    size: int = 24,
    steps: int = 18,
    distractors: int = 2,
    form: Literal["image", "tokens"] = "image",
    train: int = 2_000,
    test: int = 500,
    seed: int = 0,
    name: str = "pathfinder",
) -> ArrayTask:
    """Pictures of two long dashed paths and some shorter ones; a dot marks two ends: of one path (half of the pictures), or of both.

    Either way there are two long paths and two dots, so nothing but following a path tells the classes apart. As tokens, a picture is the
    sequence of its pixels, row by row.

    Linsley, Kim, Veerabadran, Windolf, Serre (2018), Learning Long-Range Spatial Dependencies with Horizontal Gated Recurrent Units; as a
    sequence: Tay et al. (2021), Long Range Arena.

    Args:
        size: height and width.
        steps: pixels of a long path; a distractor has a third of them.
        distractors: shorter paths, as far as there is room for them.
        form: ``image``, or ``tokens`` of three levels.
        train: training examples.
        test: test examples, and as many for validation.
        seed: of all examples.
        name: the task's name.

    Raises:
        ValueError: an unknown form, a number out of its range, or no room for two long paths.
    """
    if form not in ("image", "tokens"):
        raise ValueError(f"form must be image or tokens, got {form!r}")
    if size < 8 or steps < 4 or distractors < 0 or min(train, test) < 1:
        raise ValueError(f"size must be at least 8, steps 4, train and test 1, got {size}, {steps}, {train} and {test}")
    source = random.Random(seed)

    def examples(count: int) -> dict[str, torch.Tensor]:
        target = [number % 2 for number in range(count)]
        source.shuffle(target)
        pictures = torch.stack([_picture(size, steps, distractors, bool(joined), source) for joined in target])
        shown = {"tokens": pictures.flatten(1)} if form == "tokens" else {"image": pictures[:, None].float() / (LEVELS - 1)}
        return {**shown, "target": torch.tensor(target)}

    splits: Any = {split: examples(count) for split, count in (("train", train), ("validation", test), ("test", test))}
    return ArrayTask(
        name,
        Signature(Image(1, size, size) if form == "image" else Tokens(LEVELS, size * size), Class(2)),
        splits,
        description=f"{train + 2 * test:,} pictures of dashed paths, {size}×{size}; two dots on one path or on two",
        encoding={"labels": ["apart", "joined"]},
    )


def _picture(size: int, steps: int, distractors: int, joined: bool, source: random.Random) -> torch.Tensor:
    for _ in range(TRIALS):
        free = [[True] * size for _ in range(size)]
        first = _path(size, steps, free, source)
        second = _path(size, steps, free, source)
        if first and second:
            break
    else:
        raise ValueError(f"there is no room for two paths of {steps} pixels on {size}×{size}: make the picture larger or the paths shorter")
    picture = torch.zeros(size, size, dtype=torch.long)
    for path in (first, second, *(_path(size, max(4, steps // 3), free, source) for _ in range(distractors))):
        for number, (row, column) in enumerate(path):
            picture[row, column] = int(number % (DASH + GAP) < DASH)
    for row, column in (first[0], first[-1] if joined else second[0]):
        picture[row, column] = LEVELS - 1
    return picture


def _path(size: int, steps: int, free: list[list[bool]], source: random.Random) -> list[tuple[int, int]]:
    """The pixels of a smooth walk over free ones that keeps away from itself; its surroundings are free no more. Empty: none was found."""
    for _ in range(TRIALS):
        row, column, angle = source.uniform(1, size - 2), source.uniform(1, size - 2), source.uniform(0, 2 * math.pi)
        path: list[tuple[int, int]] = []
        while len(path) < steps and 0 <= round(row) < size and 0 <= round(column) < size and free[round(row)][round(column)]:
            here = (round(row), round(column))
            if any(abs(here[0] - r) <= APART and abs(here[1] - c) <= APART for r, c in path[: -2 * APART]):
                break
            path.append(here)
            angle += source.gauss(0, 0.3)
            row, column = row + math.sin(angle), column + math.cos(angle)
        if len(path) == steps:
            for r, c in path:
                for near in free[max(0, r - APART) : r + APART + 1]:
                    near[max(0, c - APART) : c + APART + 1] = [False] * len(near[max(0, c - APART) : c + APART + 1])
            return path
    return []
