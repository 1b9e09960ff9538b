"""The one error a person sees: a sentence that says what is wrong, where, and what to do."""

from __future__ import annotations

import importlib
import traceback
from pathlib import Path
from types import ModuleType


class UserError(ValueError):
    """Unusable input: one sentence saying what, where (file, row, column) and what to do; the command line exits with 2."""


class MissingExtra(UserError):
    """An optional library is not installed; the message names the extra that brings it."""

    def __init__(self, library: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs {library}, which is not installed: run `pip install 'assay[{extra}]'`.")


def require(library: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional library, or say in one line which extra installs it.

    Args:
        library: the module to import, for example ``"torch_geometric"``.
        extra: the name of the extra in ``pyproject.toml`` that brings it.
        purpose: what the library is needed for, as the start of a sentence ("Opening a .ts file").

    Raises:
        MissingExtra: the library, or something it imports, is not installed.
    """
    try:
        return importlib.import_module(library)
    except ModuleNotFoundError as error:
        raise MissingExtra(library, extra, purpose) from error


def described(error: BaseException) -> str:
    """An exception in one line: its type, its message, and the last line of the person's own code that it passed, or the very last line."""
    frames = traceback.extract_tb(error.__traceback__)
    house = str(Path(__file__).parent)
    own = [frame for frame in frames if not frame.filename.startswith(house) and "site-packages" not in Path(frame.filename).parts]
    where = (own or frames)[-1:]
    place = "".join(f" ({Path(frame.filename).name}, line {frame.lineno})" for frame in where)
    return f"{type(error).__name__}: {error}{place}"
