"""`translation`: real sentence pairs that a machine already holds (the messages of its programs), or a user's own two columns."""

from __future__ import annotations

import os
import random
import re
import struct
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from assay.contracts import Signature, Tokens, TokenSequence
from assay.errors import UserError
from assay.tasks.sequences import SequenceTask, ended_targets, padded_sources

VARIABLE = "ASSAY_TRANSLATIONS"
UNKNOWN = 1
"""The symbol, of both languages, of what training did not show (0 is the end)."""

_MAGIC = {b"\xde\x12\x04\x95": "<", b"\x95\x04\x12\xde": ">"}
_PLACEHOLDER = re.compile(r"[%{}<>\\$\n\t]")
_LEAST = 100


def translation(
    path: str | Path | None = None,
    language: str = "de",
    unit: Literal["characters", "words"] = "characters",
    longest: int = 32,
    count: int = 12_000,
    vocabulary: int = 4_000,
    metric: str = "bits_per_token",
    seed: int = 0,
    name: str = "translation",
) -> SequenceTask:
    """English to another language, from the message catalogues (``.mo``) of installed programs, or from a file of pairs.

    Short messages without placeholders; accelerators (``_``, ``&``) and what is the same in both languages are left out, and a message that
    occurs twice is used once. Which programs are there differs from machine to machine, and with them the pairs: a file of pairs does not.

    Args:
        path: a text file with a pair a line, the two separated by a tab; or a ``.mo`` file; or a folder with
            ``LANGUAGE/LC_MESSAGES/*.mo``. By default what ``ASSAY_TRANSLATIONS`` names, else the system's ``share/locale``.
        language: whose messages are read, where there are several.
        unit: ``characters``, or ``words`` (and single signs).
        longest: most units of either side.
        count: most pairs; 80 % train, 10 % validate, 10 % test.
        vocabulary: most different units of either side; all rarer ones are one unit more.
        metric: the primary metric, see `SequenceTask`.
        seed: of the choice and the division.
        name: the task's name.

    Raises:
        UserError: there is no such file or folder, it cannot be read, or it has too few pairs.
        ValueError: an unknown unit, or a number below 1.
    """
    if unit not in ("characters", "words"):
        raise ValueError(f"unit must be characters or words, got {unit!r}")
    if min(longest, count, vocabulary) < 1:
        raise ValueError(f"longest, count and vocabulary must be at least 1, got {longest}, {count} and {vocabulary}")
    place = _place(path)
    split: Callable[[str], list[str]] = list if unit == "characters" else lambda text: re.findall(r"\w+|[^\w\s]", text)
    pairs = [(split(source), split(target)) for source, target in sorted(_pairs(place, language).items())]
    pairs = [pair for pair in pairs if all(0 < len(side) <= longest for side in pair)]
    if len(pairs) < _LEAST:
        raise UserError(
            f"{place} has {len(pairs)} usable pairs in {language!r}, and translation needs {_LEAST}: name a file of pairs, or a folder "
            f"with LANGUAGE/LC_MESSAGES/*.mo, in path or {VARIABLE}."
        )
    random.Random(seed).shuffle(pairs)
    pairs = pairs[:count]
    held_out = max(1, len(pairs) // 10)
    rows = {"test": pairs[:held_out], "validation": pairs[held_out : 2 * held_out], "train": pairs[2 * held_out :]}
    symbols = [_symbols([pair[side] for pair in rows["train"]], vocabulary) for side in (0, 1)]
    numbers = [{symbol: index for index, symbol in enumerate(found)} for found in symbols]
    splits: Any = {part: _tensors(found, numbers, longest) for part, found in rows.items()}
    return SequenceTask(
        name,
        Signature(Tokens(len(symbols[0]), longest), TokenSequence(len(symbols[1]), longest + 1)),
        splits,
        metric=metric,
        description=f"{len(pairs):,} pairs of up to {longest} {unit}, English to {language}; "
        f"{len(symbols[0]):,} and {len(symbols[1]):,} symbols",
        notes=[f"Pairs come from {place}."],
        encoding={"symbols": symbols[0], "target_symbols": symbols[1], "between": "" if unit == "characters" else " "},
        source={"kind": "text", "names": ["".join(target) for _, target in rows["test"]]},
    )


def read_mo(file: Path) -> dict[str, str]:
    """The messages of a compiled gettext catalogue with their translations; of plural forms, the first.

    Raises:
        UserError: it is not such a file.

    Source: GNU gettext manual, The Format of GNU MO Files.
    """
    data = file.read_bytes()
    order = _MAGIC.get(data[:4])
    if order is None:
        raise UserError(f"{file} is not a message catalogue: it does not begin as .mo files do.")
    try:
        count, sources, targets = struct.unpack_from(order + "3I", data, 8)
        texts = [(_entry(data, order, sources + 8 * index), _entry(data, order, targets + 8 * index)) for index in range(count)]
        header = next((target for source, target in texts if not source), b"").decode("utf-8", errors="replace")
        found = re.search(r"charset=([\w-]+)", header)
        charset = found.group(1) if found else "utf-8"
        return {source.split(b"\0")[0].decode(charset): target.split(b"\0")[0].decode(charset) for source, target in texts if source}
    except (struct.error, UnicodeDecodeError, LookupError) as error:
        raise UserError(f"{file} is not a readable message catalogue ({error}).") from error


def _entry(data: bytes, order: str, at: int) -> bytes:
    length, start = struct.unpack_from(order + "2I", data, at)
    return data[start : start + length]


def _place(path: str | Path | None) -> Path:
    named = path or os.environ.get(VARIABLE)
    candidates = [Path(named).expanduser()] if named else [Path(sys.base_prefix, "share", "locale"), Path("/usr/share/locale")]
    for place in candidates:
        if place.exists() and (named or any(place.glob("*/LC_MESSAGES/*.mo"))):
            return place
    hint = f"name a file of pairs, or a folder with LANGUAGE/LC_MESSAGES/*.mo, in path or {VARIABLE}"
    raise UserError(f"{candidates[0]} holds no translations: {hint}.")


def _pairs(place: Path, language: str) -> dict[str, str]:
    """Usable pairs by their source; of several translations, the first in the files' order."""
    found: dict[str, str] = {}
    for source, target in _raw_pairs(place, language):
        source, target = _plain(source), _plain(target)
        if source and target and source != target and not _PLACEHOLDER.search(source + target):
            found.setdefault(source, target)
    return found


def _raw_pairs(place: Path, language: str) -> Iterator[tuple[str, str]]:
    if place.is_file() and place.suffix != ".mo":
        yield from _columns(place)
        return
    for file in [place] if place.is_file() else sorted(place.glob(f"{language}/LC_MESSAGES/*.mo")):
        try:
            yield from read_mo(file).items()
        except UserError:
            if place.is_file():
                raise  # one of many may be broken, the only one may not


def _columns(file: Path) -> Iterator[tuple[str, str]]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 (byte {error.start:,}): save it as UTF-8.") from error
    for number, line in enumerate(lines, 1):
        columns = line.split("\t")
        if line.strip() and len(columns) < 2:
            raise UserError(f"{file}, line {number:,}: it has no tab; write a pair a line, the two separated by a tab.")
        if line.strip():
            yield columns[0], columns[1]


def _plain(text: str) -> str:
    return re.sub(r"[_&](?=\w)", "", text).strip()


def _symbols(rows: Sequence[Sequence[str]], most: int) -> list[str]:
    """End, unknown, then the units from the most frequent on; of equals, in the alphabet's order."""
    counts = Counter(unit for row in rows for unit in row)
    return ["", "?", *sorted(counts, key=lambda unit: (-counts[unit], unit))[:most]]


def _tensors(pairs: Sequence[tuple[list[str], list[str]]], numbers: Sequence[dict[str, int]], longest: int) -> dict[str, Any]:
    sources, targets = ([[numbers[side].get(unit, UNKNOWN) for unit in pair[side]] for pair in pairs] for side in (0, 1))
    return padded_sources(sources, longest) | ended_targets(targets, longest + 1)
