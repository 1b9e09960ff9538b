"""The one error a person sees: a sentence that says what is wrong, where, and what to do."""

from __future__ import annotations

import importlib
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
