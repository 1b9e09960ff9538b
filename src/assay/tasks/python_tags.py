"""Real tagging that every machine can do: what kind of token each character of Python's own library belongs to."""

from __future__ import annotations

import keyword
import sysconfig
import tokenize
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch

from assay.contracts import Class, Signature, Tokens
from assay.errors import UserError
from assay.tasks.base import ArrayTask

TAGS = ("space", "keyword", "name", "number", "string", "comment", "operator")
PACKAGES = (
    "asyncio",
    "concurrent",
    "email",
    "html",
    "http",
    "importlib",
    "json",
    "logging",
    "multiprocessing",
    "unittest",
    "urllib",
    "xml",
)
ASCII = 128
_KINDS = {tokenize.NUMBER: "number", tokenize.STRING: "string", tokenize.COMMENT: "comment", tokenize.OP: "operator"}


def python_tags(length: int = 64, windows: int = 3_000, seed: int = 0, name: str = "python-tags") -> ArrayTask:
    """A tag for every character of windows of source code; all windows of a file are in one split.

    Whether ``for`` begins a loop or a name (``format``) is only known from what follows, so a network that reads both ways has more to go
    by. The text differs a little from one Python release to the next.

    Args:
        length: characters of a window.
        windows: windows in all, at most: 70 % of them train, 15 % validate, 15 % test.
        seed: of the choice and the division.
        name: the task's name.

    Raises:
        ValueError: a length or a number of windows below 1.
        UserError: the standard library's source is not there.
    """
    if min(length, windows) < 1:
        raise ValueError(f"length and windows must be at least 1, got {length} and {windows}")
    library = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(path for package in PACKAGES for path in (library / package).rglob("*.py") if "test" not in path.parts)
    source = np.random.default_rng(seed)
    tagged = [found for index in source.permutation(len(files)) if (found := _tagged(files[index])) is not None and len(found[0]) >= length]
    if len(tagged) < 3:
        raise UserError(f"{library} holds no Python source to read: python-tags needs the standard library's files.")
    ends = [0, round(0.7 * len(tagged)), round(0.85 * len(tagged)), len(tagged)]
    splits: Any = {}
    for index, (split, share) in enumerate((("train", 0.7), ("validation", 0.15), ("test", 0.15))):
        rows = np.concatenate([_windows(*found, length) for found in tagged[ends[index] : ends[index + 1]]])
        rows = torch.from_numpy(rows[source.permutation(len(rows))[: max(1, round(share * windows))]])
        splits[split] = {"tokens": rows[:, 0], "target": rows[:, 1]}
    return ArrayTask(
        name,
        Signature(Tokens(ASCII, length), Class(len(TAGS)), per_position=True),
        splits,
        description=f"{sum(len(part['target']) for part in splits.values()):,} windows of {length} characters of source, {len(TAGS)} tags",
        notes=["Windows of one file are all in one split."],
        encoding={"labels": list(TAGS), "symbols": [chr(code) for code in range(ASCII)]},
    )


def _tagged(file: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """The codes of a file's characters and their tags; None where it is not plain ASCII or does not parse."""
    text = file.read_text(encoding="utf-8", errors="replace")
    if not text.isascii():
        return None
    starts = np.cumsum([0, *(len(line) for line in text.splitlines(keepends=True))])
    tags = np.zeros(len(text), dtype=np.int64)
    try:
        for token in tokenize.generate_tokens(StringIO(text).readline):
            kind = _KINDS.get(token.type)
            if token.type == tokenize.NAME:
                kind = "keyword" if keyword.iskeyword(token.string) else "name"
            if kind is not None:
                (row, column), (last_row, last_column) = token.start, token.end
                tags[starts[row - 1] + column : starts[last_row - 1] + last_column] = TAGS.index(kind)
    except (tokenize.TokenError, SyntaxError):
        return None
    return np.frombuffer(text.encode("ascii"), dtype=np.uint8).astype(np.int64), tags


def _windows(codes: np.ndarray, tags: np.ndarray, length: int) -> np.ndarray:
    """(windows, 2, length): characters and tags."""
    count = len(codes) // length
    return np.stack([codes[: count * length].reshape(count, length), tags[: count * length].reshape(count, length)], 1)
