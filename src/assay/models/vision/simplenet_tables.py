"""The layer tables of SimpleNet: how they are written, read, and which strides and drop rates go with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

# widths of the convolutions in order; P = pool, x1 = a 1×1 kernel instead of 3×3
TABLES: dict[str, str] = {
    "cifar-5m": "64 128 128 128 P 128 128 256 P 256 256 P 512 2048x1 256x1 P 256",
    "cifar-5m-extra-pool": "64 128 128 128 P 128 128 256 P 256 256 P 512 P 2048x1 256x1 P 256",
    "cifar-310k": "64 32 32 32 P 32 32 64 P 64 64 P 128 256x1 64x1 P 64",
    "cifar-460k": "32 32 32 64 P 64 64 64 P 64 64 P 96 96x1 96x1 P 100",
    "cifar-460k-original": "32 32 32 64 P 64 64 64 P 64 64 P 96 96 96 P 100x1",
    "imagenet-5m": "64 128 128 128 128 128 P 256 256 256 512 P 2048x1 256x1 256",
    "imagenet-9m": "128 192 192 192 192 192 P 320 320 320 640 P 2560x1 320x1 320",
    "tiny": "16 32 32 32 P 32 32 64 P 64 64 P 128 256x1 64x1 64",
}
STRIDE_MODES: dict[int, dict[int, int]] = {
    0: {},
    1: {0: 2, 1: 2, 2: 2},
    2: {0: 2, 1: 2, 2: 1, 3: 2},
    3: {0: 2, 1: 2, 2: 1, 3: 1, 4: 2},
    4: {0: 2, 1: 1, 2: 2, 3: 1, 4: 2, 5: 1},
}


@dataclass(frozen=True)
class Entry:
    """One place of a layer table: a convolution (``width`` > 0) or a pool (``width`` 0)."""

    width: int
    kernel: int = 3
    stride: int = 1
    dropout: float = 0.0

    @property
    def is_pool(self) -> bool:
        """Whether this is a pool."""
        return self.width == 0


def read_table(stages: str) -> list[Entry]:
    """A table by name, or written out as in `TABLES`.

    Raises:
        ValueError: an entry is neither P nor a width nor a width with x1; or there is no convolution, or a pool comes first.
    """
    entries = [_read_entry(text, stages) for text in TABLES.get(stages, stages).split()]
    if not entries or entries[0].is_pool or entries[-1].is_pool:
        raise ValueError(f"a layer table must begin and end with a convolution, got {stages!r}; named tables: {', '.join(TABLES)}")
    return entries


def _read_entry(text: str, table: str) -> Entry:
    if text == "P":
        return Entry(0, kernel=2, stride=2)
    width, _, kernel = text.partition("x")
    if not width.isdigit() or int(width) < 1 or kernel not in ("", "1"):
        raise ValueError(
            f"{text!r} in the layer table {table!r} is neither P nor a width such as 64 or 64x1; named tables: {', '.join(TABLES)}"
        )
    return Entry(int(width), 1 if kernel else 3)


def keep_pools(entries: list[Entry], pools: int) -> list[Entry]:
    """The same table with its first ``pools`` pools only.

    Raises:
        ValueError: the table has fewer pools than that.
    """
    available = sum(entry.is_pool for entry in entries)
    if not 0 <= pools <= available:
        raise ValueError(f"pools must be 0 to {available}, got {pools}")
    kept, left = [], pools
    for entry in entries:
        if entry.is_pool:
            left -= 1
        if not entry.is_pool or left >= 0:
            kept.append(entry)
    return kept


def with_strides(entries: list[Entry], mode: int | Mapping[int, int]) -> list[Entry]:
    """The table with a stride mode: convolution at place i gets stride ``mode[i]``; pools keep theirs.

    Args:
        entries: the table.
        mode: a key of `STRIDE_MODES` (higher is slower and more accurate), or the strides by place; places may be left out.

    Raises:
        ValueError: the mode is unknown.
    """
    if isinstance(mode, int):
        if mode not in STRIDE_MODES:
            raise ValueError(f"stride_mode must be one of {sorted(STRIDE_MODES)}, or a stride for each place, got {mode}")
        mode = STRIDE_MODES[mode]
    strides = {int(place): int(stride) for place, stride in mode.items()}  # JSON has no whole numbers for keys
    return [entry if entry.is_pool else replace(entry, stride=strides.get(place, 1)) for place, entry in enumerate(entries)]


def with_dropout(entries: list[Entry], dropout: float | Mapping[int, float], everywhere: bool) -> list[Entry]:
    """The table with its drop rates.

    Args:
        entries: the table.
        dropout: a rate by place; or one rate for every place but the last, as in the authors' "dropout all" networks.
        everywhere: with one rate, convolutions directly before a pool have it too; else the pool's own dropout serves.

    Raises:
        ValueError: a rate is not in [0, 1), or a place does not exist.
    """
    if not isinstance(dropout, Mapping):
        places = range(len(entries) - 1)
        dropout = {place: dropout for place in places if everywhere or entries[place].is_pool or not entries[place + 1].is_pool}
    dropout = {int(place): float(rate) for place, rate in dropout.items()}  # JSON has no whole numbers for keys
    for place, rate in dropout.items():
        if not 0 <= rate < 1 or not 0 <= place < len(entries):
            raise ValueError(f"dropout needs rates in [0, 1) at places 0 to {len(entries) - 1}, got {rate} at {place}")
    return [replace(entry, dropout=dropout.get(place, 0.0)) for place, entry in enumerate(entries)]


def output_size(entries: list[Entry], size: int) -> int:
    """Side of the last map for a picture of side ``size``: ceil(size / stride) at a convolution, floor at a pool."""
    for entry in entries:
        size = size // entry.stride if entry.is_pool else -(-size // entry.stride)
    return size


def smallest_size(entries: list[Entry], final: int = 1) -> int:
    """The least side of a picture whose last map still has side ``final``."""
    size = 1
    while output_size(entries, size) < final:
        size += 1
    return size
