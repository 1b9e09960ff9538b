"""Dividing examples into training, validation and test parts without leakage: 60/20/20, by class, group, time or as given."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from assay.contracts import SplitName
from assay.tasks.checks import SPLIT_NAMES
from assay.tasks.rules import note, refuse, some

PARTS: tuple[SplitName, ...] = ("train", "validation", "test")
HELD_OUT = 0.2  # share of validation, and of test


def divide(
    count: int,
    *,
    path: object,
    seed: int = 0,
    labels: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    given: np.ndarray | None = None,
    fingerprints: np.ndarray | None = None,
    repeats_are_natural: bool = False,
) -> tuple[dict[SplitName, np.ndarray], list[str]]:
    """Sorted row numbers of each part, and what is to be said of them.

    Args:
        count: number of examples.
        path: named in messages.
        seed: of the shuffle.
        labels: (count,) integers; each part gets its share of every label.
        groups: (count,) integers; a group is never divided.
        given: (count,) of 0 (train), 1 (validation), 2 (test); honoured; a part that is missing is taken from training.
        fingerprints: (count,) hashes of the inputs; equal ones end on one side.
        repeats_are_natural: rows of few distinct values: where more than half repeat, copies are only warned of.

    Raises:
        UserError: too few examples or groups for three parts, or given parts without training.
    """
    notes: list[str] = []
    if count < 5:
        raise refuse("too-few-examples", path=path, count=count, what="examples", needed=5)
    copies = pd.Series(fingerprints).duplicated().to_numpy() if fingerprints is not None else np.zeros(count, dtype=bool)
    copied = int(copies.sum())
    if repeats_are_natural and copied > count / 2:
        notes.append(note("repeating-rows", count=copied, total=count))
        copied = 0
    if given is not None:
        part = _complete(np.asarray(given), labels, groups, path, seed)
    elif groups is not None:
        part = _by_unit(groups, labels, path, seed, "groups")
    elif copied and fingerprints is not None:
        part = _by_unit(pd.factorize(fingerprints)[0], labels, path, seed, "distinct examples")
        notes.append(note("duplicates", count=copied, total=count))
    else:
        part = _shares(count, labels, seed)
    if copied and fingerprints is not None and (given is not None or groups is not None):
        part, left_out = _without_copies(part, fingerprints)
        if left_out:
            notes.append(note("duplicates-across-splits", count=left_out))
    splits: dict[SplitName, np.ndarray] = {name: np.flatnonzero(part == code) for code, name in enumerate(PARTS)}
    if any(len(rows) == 0 for rows in splits.values()):
        raise refuse("too-few-examples", path=path, count=int((part >= 0).sum()), what="usable examples", needed="more, in every part,")
    return splits, notes


def divide_in_order(count: int, shares: tuple[float, float] = (0.6, 0.2)) -> dict[SplitName, slice]:
    """Contiguous parts in the order of time: the first share trains, the next validates, the rest tests."""
    first, second = round(count * shares[0]), round(count * (shares[0] + shares[1]))
    return {"train": slice(0, first), "validation": slice(first, second), "test": slice(second, count)}


def row_fingerprints(frame: pd.DataFrame) -> np.ndarray:
    """(rows,) hashes, equal where all cells are equal."""
    hashes = np.full(len(frame), 0x9E3779B97F4A7C15, dtype=np.uint64)
    for name in frame.columns:
        hashes ^= _bits(frame[name])
        hashes *= np.uint64(0xBF58476D1CE4E5B9)  # multiply and fold, as splitmix64 does (Steele, Lea, Flood, 2014)
        hashes ^= hashes >> np.uint64(32)
        hashes *= np.uint64(0x94D049BB133111EB)
        hashes ^= hashes >> np.uint64(29)
    return hashes


def _bits(values: pd.Series) -> np.ndarray:
    """64 bits a cell, equal where cells are equal: those of the float, or the number of the distinct value."""
    if pd.api.types.is_float_dtype(values.dtype) and isinstance(values.dtype, np.dtype):
        floats = values.to_numpy(dtype=np.float64) + 0.0  # −0 and 0 are equal
        floats[np.isnan(floats)] = np.nan  # one of the many NaNs
        return floats.view(np.uint64)
    if pd.api.types.is_integer_dtype(values.dtype) and isinstance(values.dtype, np.dtype):
        return values.to_numpy().astype(np.int64).view(np.uint64)
    if isinstance(values.dtype, pd.CategoricalDtype):
        return values.cat.codes.to_numpy().astype(np.int64).view(np.uint64)
    return pd.factorize(values)[0].astype(np.int64).view(np.uint64)


def split_codes(values: Sequence[object]) -> np.ndarray | None:
    """0, 1, 2 for values that all name a part ("train", "val", "test" …), or None if any does not."""
    names = pd.Series(values, dtype=object)
    codes = names.map(lambda value: SPLIT_NAMES.get(str(value).strip().lower())).map({name: code for code, name in enumerate(PARTS)})
    return None if codes.isna().any() else codes.to_numpy(dtype=np.int64)


def label_notes(labels: np.ndarray, names: Sequence[str], splits: dict[SplitName, np.ndarray]) -> list[str]:
    """Warnings of labels that training lacks and of classes with fewer than three examples."""
    notes: list[str] = []
    counts = np.bincount(labels, minlength=len(names))
    trained = np.bincount(labels[splits["train"]], minlength=len(names))
    unseen = [str(names[index]) for index in np.flatnonzero((counts > 0) & (trained == 0))]
    if unseen:
        notes.append(note("labels-only-in-test", labels=some(unseen), verb="appears" if len(unseen) == 1 else "appear"))
    rare = [str(names[index]) for index in np.flatnonzero((counts > 0) & (counts < 3))]
    if rare:
        notes.append(note("rare-classes", labels=some(rare), verb="has" if len(rare) == 1 else "have"))
    return notes


def contradictions(fingerprints: np.ndarray, labels: np.ndarray, place: str = "row") -> list[str]:
    """A warning if equal inputs carry different labels."""
    frame = pd.DataFrame({"fingerprint": fingerprints, "label": labels})
    repeated = frame[frame["fingerprint"].duplicated(keep=False)]
    if not len(repeated):
        return []
    first = repeated.groupby("fingerprint")["label"].transform("first")
    wrong = repeated.index.to_numpy()[(repeated["label"] != first).to_numpy()]
    return [note("contradicting-copies", count=len(wrong), place=f"{place} {wrong[0] + 1:,}")] if len(wrong) else []


def check_classes(labels: np.ndarray, names: Sequence[str], path: object, place: str) -> None:
    """Refuse one class, and fewer than two examples a class.

    Raises:
        UserError: ``one-class`` or ``fewer-rows-than-classes`` applies.
    """
    if len(names) < 2:
        raise refuse("one-class", path=path, label=str(names[0]) if len(names) else "", place=place)
    if len(labels) < 2 * len(names):
        raise refuse("fewer-rows-than-classes", path=path, rows=len(labels), classes=len(names), place=place)


def _proportional(count: int, labels: np.ndarray | None, seed: int) -> np.ndarray:
    """0/1/2 for each example: a fifth of every label to validation and to test, at least one to training."""
    generator = np.random.default_rng(seed)
    kinds = np.zeros(count, dtype=np.int64) if labels is None else np.asarray(labels)
    small = kinds.max(initial=0) < 2**15  # few labels sort by radix
    by_kind = np.argsort(kinds.astype(np.int16) if small else kinds, kind="stable")
    part = np.zeros(count, dtype=np.int8)
    start = 0
    for size in np.bincount(kinds):
        held_out = max(round(size * HELD_OUT), 1)
        codes = np.zeros(size, dtype=np.int8)
        if size >= 2:
            codes[:held_out] = 2
        if size >= 3:
            codes[held_out : 2 * held_out] = 1
        generator.shuffle(codes)
        part[by_kind[start : start + size]] = codes
        start += size
    return part


def _shares(count: int, labels: np.ndarray | None, seed: int) -> np.ndarray:
    """`_proportional`, but regardless of labels where they are so rare that a part would stay empty."""
    part = _proportional(count, labels, seed)
    return part if len(np.unique(part)) == 3 else _proportional(count, None, seed)


def _by_unit(units: np.ndarray, labels: np.ndarray | None, path: object, seed: int, what: str) -> np.ndarray:
    """As `_proportional`, for whole units (groups, or an example with its copies)."""
    codes, uniques = pd.factorize(units)
    count = len(uniques)
    if count < 3:
        raise refuse("too-few-examples", path=path, count=count, what=what, needed=3)
    unit_labels = None
    if labels is not None:
        unit_labels = np.zeros(count, dtype=np.int64)
        unit_labels[codes[::-1]] = np.asarray(labels)[::-1]  # the label of a unit's first example
    return _shares(count, unit_labels, seed)[codes]


def _complete(given: np.ndarray, labels: np.ndarray | None, groups: np.ndarray | None, path: object, seed: int) -> np.ndarray:
    """Take the parts that were not given from training."""
    part = given.copy()
    present = set(np.unique(part).tolist())
    if 0 not in present:
        raise refuse("bad-split", path=path, found=" and ".join(PARTS[code] for code in sorted(present)))
    training = np.flatnonzero(part == 0)
    if len(present) == 3:
        return part
    inner_labels = None if labels is None else labels[training]
    if groups is not None:
        inner = _by_unit(groups[training], inner_labels, path, seed, "training groups")
    else:
        inner = _shares(len(training), inner_labels, seed)
    for missing in {1, 2} - present:
        part[training[inner == missing]] = missing
    return part


def _without_copies(part: np.ndarray, fingerprints: np.ndarray) -> tuple[np.ndarray, int]:
    """Leave out (-1) training copies of validation or test examples, and validation copies of test examples."""
    part = part.copy()
    left_out = 0
    for code in (0, 1):
        later = fingerprints[part > code]
        copies = (part == code) & np.isin(fingerprints, later)
        part[copies] = -1
        left_out += int(copies.sum())
    return part, left_out
