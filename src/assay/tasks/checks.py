"""Checks of paths before anything is read: existence, permissions (also for root), symbolic links, emptiness."""

from __future__ import annotations

import difflib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from assay.contracts import SplitName
from assay.tasks.rules import refuse, some

# left behind by operating systems and version control: never data
IGNORED_NAMES = {"Thumbs.db", "desktop.ini", "__MACOSX", "__pycache__"}
SPLIT_NAMES: dict[str, SplitName] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}


def check_path(path: Path) -> None:
    """Refuse a path that does not exist, is a symbolic link to itself, may not be read, or is a file of 0 bytes.

    Raises:
        UserError: one of the rules ``missing-path``, ``symlink-loop``, ``unreadable``, ``empty-file`` applies.
    """
    try:
        path.stat()
    except FileNotFoundError as error:
        raise refuse("missing-path", path=path, near=near_names(path)) from error
    except NotADirectoryError as error:
        raise refuse("missing-path", path=path, near="a part of it is a file, not a folder") from error
    except PermissionError as error:
        raise refuse("unreadable", path=path, mode="those of a folder above it") from error
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise refuse("missing-path", path=path, near=str(error.strerror).lower()) from error
        raise refuse("symlink-loop", path=path) from error
    check_readable(path)
    if path.is_file() and path.stat().st_size == 0:
        raise refuse("empty-file", path=path)


def check_readable(path: Path) -> None:
    """Refuse what may not be read, judged by the mode bits too: root may read everything, the person's colleague may not.

    Raises:
        UserError: the rule ``unreadable`` applies.
    """
    mode = path.stat().st_mode
    needed = os.R_OK | os.X_OK if stat.S_ISDIR(mode) else os.R_OK
    anybody = bool(mode & 0o444) and (not stat.S_ISDIR(mode) or bool(mode & 0o111))
    if not anybody or not os.access(path, needed):
        raise refuse("unreadable", path=path, mode=stat.filemode(mode))


def walk_files(folder: Path) -> Iterator[tuple[str, ...]]:
    """The relative parts of every file below a folder, in sorted order; hidden and system files are passed over.

    Raises:
        UserError: a link leads to a folder around it (``symlink-loop``), or something may not be read (``unreadable``).
    """
    yield from _walk(str(folder), (), {os.path.realpath(folder)})


def _walk(folder: str, parts: tuple[str, ...], around: set[str]) -> Iterator[tuple[str, ...]]:
    with os.scandir(folder) as scan:
        entries = sorted(scan, key=lambda entry: entry.name)
    folders: list[os.DirEntry[str]] = []
    for entry in entries:
        if entry.name.startswith(".") or entry.name in IGNORED_NAMES:
            continue
        if entry.is_symlink() and not os.path.exists(entry.path):
            raise _broken_link(entry.path)
        if entry.is_dir():
            folders.append(entry)
        else:
            yield (*parts, entry.name)
    for entry in folders:
        real = os.path.realpath(entry.path) if entry.is_symlink() else os.path.join(os.path.realpath(folder), entry.name)
        if real in around:
            raise refuse("symlink-loop", path=entry.path)
        check_readable(Path(entry.path))
        yield from _walk(entry.path, (*parts, entry.name), around | {real})


def _broken_link(path: str) -> Exception:
    try:
        os.stat(path)
    except FileNotFoundError:
        return refuse("missing-path", path=path, near="it is a symbolic link to a file that is gone; remove the link")
    except OSError:
        pass
    return refuse("symlink-loop", path=path)


def near_names(path: Path) -> str:
    """What to do about a path that does not exist: the nearest names beside it, or the part that is missing."""
    parent = path.parent
    while not parent.exists() and parent != parent.parent:
        path, parent = parent, parent.parent
    try:
        beside = sorted(entry.name for entry in parent.iterdir())
    except OSError:
        return "check the name"
    near = difflib.get_close_matches(path.name, beside, n=3, cutoff=0.5)
    if near:
        return "did you mean " + ", ".join(str(parent / name) for name in near) + "?"
    where = "this folder" if str(parent) == "." else str(parent)
    return f"{where} holds {some(beside)}" if beside else f"{where} is empty"


def check_text(data: bytes, path: object) -> str:
    """Decode UTF-8 (a byte order mark is passed over).

    Raises:
        UserError: the rule ``non-utf-8`` applies; the message has the byte's offset and line.
    """
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise refuse("non-utf-8", path=path, byte=f"0x{data[0]:02x}", offset=0, place="it begins as UTF-16 does")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        offset = error.start + (3 if data[:3] == b"\xef\xbb\xbf" else 0)
        line = data.count(b"\n", 0, offset) + 1
        raise refuse("non-utf-8", path=path, byte=f"0x{data[offset]:02x}", offset=offset, place=f"line {line:,}") from error
