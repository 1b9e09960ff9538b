"""Pictures of rendered characters: as many as wanted, made here, with the difficulty set by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image as Picture
from PIL import ImageDraw, ImageFont

from assay.contracts import Batch, Class, Image, Signature
from assay.errors import require
from assay.tasks.base import ArrayTask

MASTER_SIDE = 96
MASTER_LETTER = 64


def glyphs(
    train: int = 8000,
    validation: int = 1000,
    test: int = 2000,
    size: int = 32,
    characters: str = "0123456789",
    rotation: float = 25.0,
    shear: float = 0.3,
    scale: tuple[float, float] = (0.6, 1.1),
    shift: float = 0.12,
    noise: float = 0.25,
    seed: int = 0,
) -> ArrayTask:
    """Grey pictures of one character each, in the faces of the DejaVu fonts, turned, sheared, scaled, shifted, and noisy.

    Every picture is drawn on its own; the splits differ only in their random numbers. The same arguments give the same pictures.

    Args:
        train: number of training pictures; ``validation`` and ``test`` likewise.
        validation: see above.
        test: see above.
        size: side in pixels.
        characters: the classes.
        rotation: largest angle, in degrees either way.
        shear: largest horizontal shear either way.
        scale: least and greatest height of a letter, as a share of two thirds of the side.
        shift: largest displacement, as a share of the side.
        noise: standard deviation of the noise, where ink is 1 and paper 0; the contrast varies between 0.4 and 1.
        seed: of all random numbers.

    Raises:
        MissingExtra: matplotlib, which brings the fonts, is not installed.
        ValueError: there are fewer than two different characters, or the size is below 8.
    """
    if len(set(characters)) < 2 or size < 8:
        raise ValueError(f"glyphs needs at least two different characters and a size of at least 8, got {characters!r} and {size}")
    masters = _masters(characters)
    counts = {"train": train, "validation": validation, "test": test}
    splits = {}
    for place, (split, count) in enumerate(counts.items()):
        generator = np.random.default_rng((seed, place))
        labels = generator.integers(len(characters), size=count)
        pictures = np.stack([_draw(masters, label, size, rotation, shear, scale, shift, noise, generator) for label in labels])
        splits[split] = {"image": torch.from_numpy(pictures)[:, None], "target": torch.from_numpy(labels)}
    ink = splits["train"]["image"].double() / 255
    mean, deviation = float(ink.mean()), float(ink.std())

    def prepare(batch: Batch) -> Batch:
        return batch | {"image": (batch["image"].float() / 255 - mean) / deviation}

    return ArrayTask(
        "glyphs",
        Signature(Image(1, size, size), Class(len(characters))),
        splits,
        description=f"{train + validation + test:,} rendered characters, {size}×{size} grey, {len(characters)} classes",
        encoding={"labels": list(characters), "mean": [mean], "deviation": [deviation]},
        prepare=prepare,
    )


def _masters(characters: str) -> np.ndarray:
    """Every character in every face, large: (characters, faces, side, side), 0 to 255."""
    matplotlib = require("matplotlib", extra="vision", purpose="The glyphs task (it renders matplotlib's DejaVu fonts)")
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    faces = sorted(path for path in folder.glob("DejaVu*.ttf") if "Display" not in path.name)
    fonts = [ImageFont.truetype(str(path), MASTER_LETTER) for path in faces]
    return np.stack([[_render(character, font) for font in fonts] for character in characters])


def _render(character: str, font: ImageFont.FreeTypeFont) -> np.ndarray:
    picture = Picture.new("L", (MASTER_SIDE, MASTER_SIDE))
    ImageDraw.Draw(picture).text((MASTER_SIDE / 2, MASTER_SIDE / 2), character, fill=255, font=font, anchor="mm")
    return np.asarray(picture)


def _draw(
    masters: np.ndarray,
    label: int,
    size: int,
    rotation: float,
    shear: float,
    scale: tuple[float, float],
    shift: float,
    noise: float,
    generator: np.random.Generator,
) -> np.ndarray:
    """One picture (size, size), 8-bit: a random face through a random affine map, with random contrast and noise."""
    master = Picture.fromarray(masters[label, generator.integers(masters.shape[1])])
    angle = math.radians(generator.uniform(-rotation, rotation))
    slant = generator.uniform(-shear, shear)
    # pixels of the master per pixel of the picture
    step = MASTER_SIDE / size / generator.uniform(*scale)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    matrix = step * turn @ np.array([[1, slant], [0, 1]])
    centre = size / 2 + generator.uniform(-shift, shift, 2) * size
    offset = MASTER_SIDE / 2 - matrix @ centre
    data = (*matrix[0], offset[0], *matrix[1], offset[1])
    ink = np.asarray(master.transform((size, size), Picture.Transform.AFFINE, data, Picture.Resampling.BILINEAR), dtype=np.float64) / 255
    ink = 0.5 + (ink - 0.5) * generator.uniform(0.4, 1.0) + generator.normal(0, noise, (size, size))
    return (ink.clip(0, 1) * 255).round().astype(np.uint8)
