"""Files that survive a kill at any moment: written to a temporary name, synced, renamed; a lock that dies with its holder."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from assay.errors import UserError


def write_text(path: Path, text: str) -> None:
    """Replace a file's content in one step: readers see the old content or the new, whatever happens."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with partial.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(path)
    sync_folder(path.parent)


def write_json(path: Path, values: Any) -> None:
    """`write_text` of JSON; numbers that are not finite become null."""
    write_text(path, json.dumps(finite(values), indent=1, ensure_ascii=False) + "\n")


def sync_folder(folder: Path) -> None:
    """Make the folder's entries (renames within it) durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Make every file below a folder durable, then the folder."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
    sync_folder(folder)


def finite(values: Any) -> Any:
    """The same nested values with NaN and infinities as None, which JSON can say."""
    if isinstance(values, dict):
        return {str(key): finite(value) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [finite(value) for value in values]
    if isinstance(values, float) and (values != values or values in (float("inf"), float("-inf"))):
        return None
    return values


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the study's folder; the system lets go of it when the process ends, however it ends.

    Raises:
        UserError: another process holds it.
    """
    import fcntl

    with (folder / "study.lock").open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            stream.seek(0)
            holder = stream.read().strip() or "unknown"
            raise UserError(f"{folder} is in use by another assay (process {holder}): wait for it, or choose another --output.") from error
        stream.seek(0)
        stream.truncate()
        stream.write(str(os.getpid()))
        stream.flush()
        yield
