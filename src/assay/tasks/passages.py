"""Real text to classify that every machine has: passages by their package of Python's standard library."""

from __future__ import annotations

import re
import sysconfig
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from assay.contracts import Class, Signature, Tokens
from assay.errors import UserError
from assay.tasks.base import ArrayTask

PACKAGES = ("asyncio", "email", "importlib", "multiprocessing", "unittest", "xml")
BYTES = 256
UNKNOWN = 0  # the word that stands for all that are rare in training


def passages(
    unit: Literal["bytes", "words"] = "bytes",
    length: int = 512,
    vocabulary: int = 2_000,
    per_class: int = 500,
    seed: int = 0,
    name: str | None = None,
) -> ArrayTask:
    """Passages of source code, their package the class; all passages of a file are in one split.

    The same passages are read as bytes or as words (names, numbers and single signs), so that the two can be compared. An offline form of
    the text classification of Tay et al. (2021), Long Range Arena. The text differs a little from one Python release to the next.

    Args:
        unit: ``bytes``, or ``words``.
        length: bytes of a passage; as words, it is as long as they are.
        vocabulary: different words; the rest of them is one word more.
        per_class: passages of each package, at most.
        seed: of the division and the choice.
        name: the task's name; by default ``passages`` with the unit.

    Raises:
        ValueError: an unknown unit, or a number below 1.
        UserError: the standard library's source is not there.
    """
    if unit not in ("bytes", "words"):
        raise ValueError(f"unit must be bytes or words, got {unit!r}")
    if min(length, vocabulary, per_class) < 1:
        raise ValueError(f"length, vocabulary and per_class must be at least 1, got {length}, {vocabulary} and {per_class}")
    source = np.random.default_rng(seed)
    texts: dict[str, list[bytes]] = {"train": [], "validation": [], "test": []}
    targets: dict[str, list[int]] = {split: [] for split in texts}
    for label, package in enumerate(PACKAGES):
        for split, found in _package(package, length, per_class, source).items():
            texts[split] += found
            targets[split] += [label] * len(found)
    inputs, kind = _as_bytes(texts, length) if unit == "bytes" else _as_words(texts, vocabulary)
    splits: Any = {split: {**inputs[split], "target": torch.tensor(targets[split])} for split in texts}
    return ArrayTask(
        name or f"passages-{unit}",
        Signature(kind, Class(len(PACKAGES))),
        splits,
        description=f"{sum(map(len, texts.values())):,} passages of {length} bytes, read as {unit}, from {len(PACKAGES)} packages",
        notes=["Passages of one file are all in one split."],
        encoding={"labels": list(PACKAGES)},
    )


def _package(package: str, length: int, most: int, source: np.random.Generator) -> dict[str, list[bytes]]:
    """Passages of a package by split: its files in random order until 70 %, 85 % and 100 % of their bytes are reached."""
    folder = Path(sysconfig.get_paths()["stdlib"]) / package
    contents = [path.read_bytes() for path in sorted(folder.rglob("*.py")) if "test" not in path.parts]
    pieces = [[text[at : at + length] for at in range(0, len(text) - length + 1, length)] for text in contents]
    pieces = [pieces[index] for index in source.permutation(len(pieces)) if pieces[index]]
    if len(pieces) < 3:
        raise UserError(f"{folder} holds no Python source to read: passages need the standard library's files.")
    read = np.cumsum([len(piece) for piece in pieces])
    middle = read - [len(piece) / 2 for piece in pieces]
    splits = np.searchsorted([0.7, 0.85], middle / read[-1])
    splits[0], splits[-2:] = 0, (1, 2)  # however few files there are, each split has one
    found = {}
    for number, (split, share) in enumerate((("train", 0.7), ("validation", 0.15), ("test", 0.15))):
        own = [piece for part, where in zip(pieces, splits, strict=True) if where == number for piece in part]
        found[split] = [own[index] for index in source.permutation(len(own))[: max(1, round(share * most))]]
    return found


def _as_bytes(texts: dict[str, list[bytes]], length: int) -> tuple[dict[str, dict[str, Tensor]], Tokens]:
    tokens = {split: torch.tensor([list(text) for text in found]) for split, found in texts.items()}
    inputs = {split: {"tokens": part, "mask": torch.ones_like(part, dtype=torch.bool)} for split, part in tokens.items()}
    return inputs, Tokens(BYTES, length)


def _as_words(texts: dict[str, list[bytes]], vocabulary: int) -> tuple[dict[str, dict[str, Tensor]], Tokens]:
    words = {split: [re.findall(r"\w+|[^\w\s]", text.decode("utf-8", errors="ignore")) for text in found] for split, found in texts.items()}
    counted = Counter(word for text in words["train"] for word in text)
    index = {word: number for number, (word, _) in enumerate(counted.most_common(vocabulary), start=1)}
    length = max(len(text) for found in words.values() for text in found)
    inputs = {}
    for split, found in words.items():
        tokens = torch.full((len(found), length), UNKNOWN)
        mask = torch.zeros(len(found), length, dtype=torch.bool)
        for row, text in enumerate(found):
            tokens[row, : len(text)] = torch.tensor([index.get(word, UNKNOWN) for word in text], dtype=torch.long)
            mask[row, : max(1, len(text))] = True
        inputs[split] = {"tokens": tokens, "mask": mask}
    return inputs, Tokens(len(index) + 1, length)
