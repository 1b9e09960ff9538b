"""Evaluating a picture classifier on several crops of each picture.

Sources: 10 crops, Krizhevsky, Sutskever, Hinton (2012); 144 crops, Szegedy et al. (2014), Going deeper with convolutions; 12 crops,
Szegedy, Ioffe, Vanhoucke, Alemi (2016).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from assay.bench.ensembles import combine

SCALES = (256 / 224, 288 / 224, 320 / 224, 352 / 224)
COUNTS = (1, 10, 12, 144)


def crop_logits(logits: Callable[[Tensor], Tensor], pictures: Tensor, size: int, crops: int = 1) -> Tensor:
    """Log of the mean probability over the crops of each picture.

    Args:
        logits: maps (batch, channels, size, size) to logits (batch, classes); in evaluation.
        pictures: (batch, channels, height, width), sides at least ``size``.
        size: side of a crop.
        crops: 1 (centre), 10 (four corners and centre, and their mirror images), 12 (and the whole picture, resized), or 144 (four
            scales, three squares, these six views, mirrored).

    Returns:
        Log-probabilities (batch, classes).

    Raises:
        ValueError: another number of crops, or pictures smaller than the crop.
    """
    votes = [logits(view).log_softmax(-1) for view in views(pictures, size, crops)]
    return combine(torch.stack(votes))


def views(pictures: Tensor, size: int, crops: int) -> Iterator[Tensor]:
    """The crops, each (batch, channels, size, size); see `crop_logits`."""
    if crops not in COUNTS:
        raise ValueError(f"crops must be one of {COUNTS}, got {crops}")
    if min(pictures.shape[2:]) < size:
        raise ValueError(f"pictures of {tuple(pictures.shape[2:])} are smaller than the crop, {size}")
    if crops == 1:
        yield _centre(pictures, size)
        return
    plain = {10: _five, 12: _six, 144: _seventy_two}[crops](pictures, size)
    for view in plain:
        yield view
        yield view.flip(3)


def _five(pictures: Tensor, size: int) -> Iterator[Tensor]:
    """Four corners and the centre."""
    bottom, right = pictures.shape[2] - size, pictures.shape[3] - size
    for top in (0, bottom):
        for left in (0, right):
            yield pictures[:, :, top : top + size, left : left + size]
    yield _centre(pictures, size)


def _six(pictures: Tensor, size: int) -> Iterator[Tensor]:
    """Those five, and the whole picture resized."""
    yield from _five(pictures, size)
    yield _resize(pictures, size, size)


def _seventy_two(pictures: Tensor, size: int) -> Iterator[Tensor]:
    """Those six of three squares at four scales."""
    for scale in SCALES:
        for square in _squares(_shorter_side(pictures, round(scale * size))):
            yield from _six(square, size)


def _squares(pictures: Tensor) -> Iterator[Tensor]:
    """The squares at the start, in the middle and at the end of the longer side."""
    height, width = pictures.shape[2:]
    side = min(height, width)
    for share in (0.0, 0.5, 1.0):
        top, left = round((height - side) * share), round((width - side) * share)
        yield pictures[:, :, top : top + side, left : left + side]


def _centre(pictures: Tensor, size: int) -> Tensor:
    top, left = ((side - size) // 2 for side in pictures.shape[2:])
    return pictures[:, :, top : top + size, left : left + size]


def _shorter_side(pictures: Tensor, side: int) -> Tensor:
    height, width = pictures.shape[2:]
    ratio = side / min(height, width)
    return _resize(pictures, max(side, round(height * ratio)), max(side, round(width * ratio)))


def _resize(pictures: Tensor, height: int, width: int) -> Tensor:
    if pictures.shape[2:] == (height, width):
        return pictures
    return F.interpolate(pictures, (height, width), mode="bilinear", antialias=True, align_corners=False)
