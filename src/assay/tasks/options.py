"""What a person asked for when opening data, handed from opener to opener."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from assay.contracts import Task


@dataclass
class Options:
    """The arguments of `assay.tasks.open`, and what was found on the way.

    Args:
        path: the file or folder (or the name of a hub data set), as the person wrote it; messages and the task are named by it.
        task, target, group, time, horizon, tokenizer, seed: as in `assay.tasks.open`.
        encoding: of an earlier task; then all examples are test examples, read the same way.
        maximum_size: longest side of pictures.
        maximum_length: longest text, in bytes or tokens.
        given: 0/1/2 per row, where the files are already divided.
        notes: what was said so far.
    """

    path: Path
    task: str | None = None
    target: str | None = None
    group: str | None = None
    time: str | None = None
    horizon: int | None = None
    tokenizer: str | None = None
    seed: int = 0
    encoding: dict[str, Any] | None = None
    maximum_size: int = 64
    maximum_length: int = 512
    given: np.ndarray | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Short name of the task: the file's or folder's own."""
        return Path(self.path).stem or Path(self.path).resolve().name


def made_in_python(task: Task, opening: Mapping[str, Any]) -> Task:
    """The task as it is; a misspelt argument of a caller would otherwise pass for an option of opening, and be lost.

    Raises:
        TypeError: there is an option.
    """
    given = [name for name, value in opening.items() if value is not None]
    if given:
        raise TypeError(f"{', '.join(given)}: no argument of this call, and {task.name!r} was made in Python: nothing is opened")
    return task
