"""Pictures become a task: a sub-folder a class, or pictures named in a table; every file is read once, by threads."""

from __future__ import annotations

import io
import os
import stat
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image as Pillow
from PIL import ImageOps

from assay.contracts import Batch, Class, Image, Signature, SplitName, Values
from assay.tasks.base import ArrayTask
from assay.tasks.options import Options
from assay.tasks.rules import note, refuse
from assay.tasks.splitting import contradictions, divide
from assay.tasks.targets import Target, known_classes

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm"}
GREY_MODES = {"1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"}
FORBIDDEN = "may not be read: "
_CHUNK = 64  # files a thread takes at a time
_TINY = 4096  # bytes: below, opening a file costs more than decoding it, and threads only wait for the interpreter's lock
Size = tuple[int, int]


@dataclass(frozen=True)
class Standardise:
    """8-bit pictures to floats: ``(image / 255 − mean) / deviation``, per channel.

    Args:
        mean, deviation: of the training pictures, in 0 … 1, per channel.
    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    def __call__(self, batch: Batch) -> Batch:
        """``image`` (batch, channels, height, width), uint8 → float32."""
        scale = torch.tensor([1 / (255 * deviation) for deviation in self.deviation]).view(-1, 1, 1)
        shift = torch.tensor([mean / deviation for mean, deviation in zip(self.mean, self.deviation, strict=True)]).view(-1, 1, 1)
        return {**batch, "image": batch["image"].float() * scale - shift}


@dataclass
class Pictures:
    """Decoded pictures.

    Args:
        array: (count, channels, height, width), uint8.
        notes: what was made smaller, resized or filled.
    """

    array: np.ndarray
    notes: list[str]

    def fingerprints(self) -> np.ndarray:
        """(count,) hashes: equal where all pixels are equal."""
        flat = self.array.reshape(len(self.array), -1)
        return np.fromiter((hash(row.tobytes()) for row in flat), dtype=np.int64, count=len(flat))


@dataclass(slots=True)
class _Decoded:
    array: np.ndarray  # (height, width) or (height, width, 3), uint8
    size: Size  # as in the file: height, width
    transparent: bool


# ------------------------------------------------------------------------------------------------ tasks


def picture_task(files: Sequence[str], target: Target, options: Options, groups: np.ndarray | None = None, what: str = "") -> ArrayTask:
    """A task from picture files (relative to ``options.path``) and what each shows.

    Args:
        files: relative paths.
        target: classes or values, one a file.
        options: what was asked.
        groups: (files,) integers, or None.
        what: name of the encoding's opener.

    Raises:
        UserError: a file is no picture, or the pictures cannot be divided.
    """
    pictures = decode(_folder(options), files, options.maximum_size)
    return finish_task(pictures, list(files), target, options, groups, what or "images")


def finish_task(
    pictures: Pictures, names: list[str], target: Target, options: Options, groups: np.ndarray | None = None, opener: str = "images"
) -> ArrayTask:
    """Divide decoded pictures, learn the statistics of the training part, and describe them."""
    fingerprints = pictures.fingerprints()
    splits, notes = divide(
        len(names),
        path=options.path,
        seed=options.seed,
        labels=target.codes,
        groups=groups,
        given=options.given,
        fingerprints=fingerprints,
    )
    if target.codes is not None:
        notes += contradictions(fingerprints, target.codes, "picture")
    target.standardise(splits["train"])
    images, targets = torch.from_numpy(pictures.array), target.tensor()
    standardise = _statistics(pictures.array, splits["train"])
    _, channels, height, width = pictures.array.shape
    encoding = {
        "opener": opener,
        "image": {"channels": channels, "height": height, "width": width},
        "mean": list(standardise.mean),
        "deviation": list(standardise.deviation),
        "labels": target.labels,
        "target": target.to_json(),
    }
    indices: dict[SplitName, torch.Tensor] = {name: torch.from_numpy(index) for name, index in splits.items()}
    parts: dict[SplitName, Batch] = {name: {"image": images[index], "target": targets[index]} for name, index in indices.items()}
    return ArrayTask(
        options.name,
        Signature(Image(channels, height, width), target.output),
        parts,
        description=f"{describe(pictures.array)}, {_target_words(target)}",
        notes=[*options.notes, *pictures.notes, *notes, *target.notes(splits)],
        encoding=encoding,
        prepare=standardise,
        groups={name: groups[index] for name, index in splits.items()} if groups is not None else None,
        source={"kind": "images", "names": [names[index] for index in splits["test"]]},
    )


def read_picture_task(
    files: Sequence[str], labels: Sequence[str] | None, options: Options, encoding: dict[str, Any], values: np.ndarray | None = None
) -> ArrayTask:
    """New pictures at the size and with the statistics of the training pictures; all are test examples.

    Raises:
        UserError: a file is no picture, or a label is unknown.
    """
    size = (encoding["image"]["height"], encoding["image"]["width"])
    pictures = decode(_folder(options), files, max(size), size=size, grey=encoding["image"]["channels"] == 1)
    return finish_new(pictures, list(files), labels, options, encoding, values)


def finish_new(
    pictures: Pictures,
    names: list[str],
    labels: Sequence[str] | None,
    options: Options,
    encoding: dict[str, Any],
    values: np.ndarray | None = None,
) -> ArrayTask:
    """A test-only task of decoded pictures; labels (or values) are optional."""
    tensors = {"image": torch.from_numpy(pictures.array)}
    said = encoding["target"]
    if said["kind"] == "class" and labels is not None:
        tensors["target"] = known_classes(
            pd.Series(list(labels), dtype=object), encoding["labels"], said["names"], options.path, names
        ).tensor()
    elif said["kind"] == "values" and values is not None:
        tensors["target"] = Target(
            Values(values.shape[1]), said["names"], values=values, mean=said["mean"], deviation=said["deviation"]
        ).tensor()
    sizes = encoding["image"]
    output = Class(len(encoding["labels"])) if said["kind"] == "class" else Values(len(said["names"]))
    return ArrayTask(
        options.name,
        Signature(Image(sizes["channels"], sizes["height"], sizes["width"]), output),
        {"test": tensors},
        description=describe(pictures.array) + ("" if "target" in tensors else ", without labels"),
        notes=[*options.notes, *pictures.notes],
        encoding=encoding,
        prepare=Standardise(tuple(encoding["mean"]), tuple(encoding["deviation"])),
        source={"kind": "images", "names": names},
    )


def describe(array: np.ndarray) -> str:
    """``1,797 images, 8×8 grey``."""
    count, channels, height, width = array.shape
    return f"{count:,} images, {height}×{width} {'grey' if channels == 1 else 'colour'}"


def _target_words(target: Target) -> str:
    return f"{len(target.labels)} classes" if target.codes is not None else target.words()


def _folder(options: Options) -> Path:
    return options.path if options.path.is_dir() else options.path.parent


def _statistics(array: np.ndarray, training: np.ndarray) -> Standardise:
    """Mean and deviation per channel of the training pictures, exactly, from the counts of the 256 levels."""
    means, deviations = [], []
    levels = np.arange(256) / 255
    for channel in range(array.shape[1]):
        counts = np.zeros(256)
        for start in range(0, len(training), 1024):
            counts += np.bincount(array[training[start : start + 1024], channel].reshape(-1), minlength=256)
        mean = float((counts * levels).sum() / counts.sum())
        variance = float((counts * (levels - mean) ** 2).sum() / counts.sum())
        means.append(mean)
        deviations.append(max(variance**0.5, 1 / 255))
    return Standardise(tuple(means), tuple(deviations))


# ------------------------------------------------------------------------------------------------ decoding


def decode(
    folder: Path,
    files: Sequence[str],
    longest: int,
    size: Size | None = None,
    grey: bool | None = None,
    contents: Sequence[bytes] | None = None,
) -> Pictures:
    """Decode files once each, in threads.

    Args:
        folder: where the relative paths begin.
        files: relative paths (names only, where ``contents`` holds the bytes).
        longest: a longer side is made smaller while decoding.
        size: (height, width) of all; None = the median of what is there.
        grey: one channel or three; None = one if every file is grey.
        contents: the files' bytes, where they are not on disk.

    Raises:
        UserError: ``broken-picture`` names the first file that is no picture and counts the others.
    """
    base = str(folder) + os.sep
    decoded = _decode_all([base + file for file in files] if contents is None else contents, longest)
    broken = [(file, result) for file, result in zip(files, decoded, strict=True) if isinstance(result, str)]
    if broken:
        file, reason = next((pair for pair in broken if pair[1].startswith(FORBIDDEN)), broken[0])
        if reason.startswith(FORBIDDEN):
            raise refuse("unreadable", path=folder / file, mode=reason.removeprefix(FORBIDDEN))
        raise refuse("broken-picture", path=folder, count=len(broken), total=len(files), file=file, reason=reason)
    return assemble([result for result in decoded if isinstance(result, _Decoded)], longest, size, grey)


def assemble(pictures: list[_Decoded], longest: int, size: Size | None, grey: bool | None) -> Pictures:
    """Stack decoded pictures at one size and one number of channels, and say what was changed."""
    shapes = Counter(picture.array.shape[:2] for picture in pictures)
    sizes = Counter(picture.size for picture in pictures)
    height, width = size or _median(shapes)
    grey = all(picture.array.ndim == 2 for picture in pictures) if grey is None else grey
    array = np.empty((len(pictures), 1 if grey else 3, height, width), dtype=np.uint8)
    for index, picture in enumerate(pictures):
        array[index] = _fitted(picture.array, height, width, grey)
    notes = []
    large = sum(count for shape, count in sizes.items() if max(shape) > longest)
    if large:
        largest = _times(max(sizes, key=max))
        notes.append(note("large-pictures", count=large, total=len(pictures), height=height, width=width, largest=largest))
    if len(shapes) > 1 and size is None:
        ordered = sorted(sizes, key=lambda shape: shape[0] * shape[1])
        notes.append(note("unequal-pictures", smallest=_times(ordered[0]), largest=_times(ordered[-1]), height=height, width=width))
    transparent = sum(picture.transparent for picture in pictures)
    if transparent:
        notes.append(note("transparent-pictures", count=transparent))
    return Pictures(array, notes)


def shrink(image: Pillow.Image, longest: int) -> _Decoded:
    """Decode one opened picture: upright, grey or colour, 8 bits, no side longer than ``longest``.

    Raises:
        OSError, SyntaxError, ValueError: the file is truncated or damaged (Pillow raises all of these).
    """
    size = (image.height, image.width)
    if image.format in ("JPEG", "MPO"):
        if max(size) > 2 * longest:
            image.draft(None, (2 * longest, 2 * longest))  # decodes at 1/2, 1/4 or 1/8, exactly enough
        image = ImageOps.exif_transpose(image)
    mode = image.mode
    transparent = "transparency" in image.info or mode in ("LA", "RGBA", "PA", "La", "RGBa")
    if transparent:
        image = image.convert("RGBA")
        transparent = bool(np.asarray(image.getchannel("A")).min(initial=255) < 255)
        white = Pillow.new("RGBA", image.size, "white")
        image = Pillow.alpha_composite(white, image).convert("L" if mode in ("LA", "La", "L") else "RGB")
    elif mode in GREY_MODES:
        image = _eight_bits(image) if mode not in ("L", "1") else image.convert("L")
    elif mode != "RGB":
        image = image.convert("RGB")
    if max(image.size) > longest:
        scale = longest / max(image.size)
        image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), Pillow.Resampling.BOX)
    return _Decoded(np.asarray(image), size, transparent)


def _eight_bits(image: Pillow.Image) -> Pillow.Image:
    """16-bit and float greys to 8 bits: 0 … 65,535 (or 0 … 1) to 0 … 255."""
    array = np.asarray(image).astype(np.float64)
    highest = float(array.max(initial=0.0))
    scale = 255.0 if highest <= 1.0 and image.mode == "F" else 1.0 if highest <= 255 else 255 / 65535
    return Pillow.fromarray(np.clip(array * scale, 0, 255).astype(np.uint8))


def _decode_all(sources: Sequence[str] | Sequence[bytes], longest: int) -> list[_Decoded | str]:
    chunks = [sources[start : start + _CHUNK] for start in range(0, len(sources), _CHUNK)]
    workers = 1 if _tiny(sources) else min(8, os.cpu_count() or 1, len(chunks))
    with ThreadPoolExecutor(max(1, workers)) as pool:
        results = pool.map(lambda chunk: [_decode_one(source, longest) for source in chunk], chunks)
        return [result for chunk in results for result in chunk]


def _tiny(sources: Sequence[str] | Sequence[bytes]) -> bool:
    """Whether a few of the files, spread over all, are tiny."""
    sample = sources[:: max(1, len(sources) // 8)]
    return float(np.median([_bytes(source) for source in sample] or [0])) < _TINY


def _bytes(source: str | bytes) -> int:
    """Size of one file, 0 where there is none: what is wrong with it, the decoder says."""
    if isinstance(source, bytes):
        return len(source)
    try:
        return os.path.getsize(source)
    except OSError:
        return 0


def _decode_one(source: str | bytes, longest: int) -> _Decoded | str:
    """The picture, or in words why it is none."""
    try:
        with open(source, "rb") if isinstance(source, str) else io.BytesIO(source) as file:
            mode = os.fstat(file.fileno()).st_mode if isinstance(source, str) else 0o444
            if not mode & 0o444:  # root may read it, but the person's colleague may not
                return FORBIDDEN + stat.filemode(mode)
            with Pillow.open(file) as image:
                return shrink(image, longest)
    except Pillow.UnidentifiedImageError:
        empty = os.path.getsize(source) == 0 if isinstance(source, str) else not source
        return "empty" if empty else "not a picture"
    except Pillow.DecompressionBombError:
        return "too large to decode safely"
    except PermissionError:
        return FORBIDDEN + stat.filemode(os.stat(str(source)).st_mode)
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        words = str(error).lower()
        return "truncated" if "truncated" in words or "end of" in words else f"damaged: {error}"


def _median(shapes: Counter[Size]) -> Size:
    heights = np.repeat([shape[0] for shape in shapes], list(shapes.values()))
    widths = np.repeat([shape[1] for shape in shapes], list(shapes.values()))
    return max(1, int(np.median(heights))), max(1, int(np.median(widths)))


def _fitted(array: np.ndarray, height: int, width: int, grey: bool) -> np.ndarray:
    """(channels, height, width) of one picture."""
    if array.shape[:2] != (height, width) or (grey and array.ndim == 3):
        image = Pillow.fromarray(array)
        image = image.convert("L") if grey else image
        array = np.asarray(image.resize((width, height), Pillow.Resampling.BILINEAR))
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def _times(size: Size) -> str:
    return f"{size[0]}×{size[1]}"
