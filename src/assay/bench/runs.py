"""A run's folder: the checkpoint and what is needed to read further data the same way."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from assay.contracts import Predictor, Task
from assay.errors import UserError
from assay.models import load_predictor
from assay.training import predictor


@dataclass
class Run:
    """A trained model with the way its data were read.

    Args:
        folder: where it lies.
        model: the network or estimator; ``model(batch)`` predicts.
        data: the path or name that was opened.
        options: how it was opened (target, task kind …).
        encoding: labels, statistics and columns of the training data.
    """

    folder: Path
    model: Any
    data: str
    options: dict[str, Any]
    encoding: dict[str, Any]

    def task(self, data: str | None = None) -> Task:
        """The run's own data, or further data read exactly the same way (all of it in the test split)."""
        from assay import tasks

        if data is None:
            return tasks.open(self.data, **self.options)
        return tasks.open(data, encoding=self.encoding)

    @property
    def predictor(self) -> Predictor:
        """The model, called with a batch on any device."""
        return predictor(self.model) if isinstance(self.model, nn.Module) else self.model

    @property
    def network(self) -> Any:
        """The model, where it is a network.

        Raises:
            UserError: the run holds a classical estimator.
        """
        if not isinstance(self.model, nn.Module):
            raise UserError(f"{self.folder} holds {type(self.model).__name__}, a classical baseline: only networks can do this.")
        return self.model


def open_run(folder: str | Path) -> Run:
    """Open a run's folder.

    Raises:
        UserError: it is not a run's folder, or a file of it is damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: name a run, as printed by `assay compare` or `assay train`.")
    with torch.random.fork_rng():  # building the network draws its first weights; the caller's random state stays
        model = load_predictor(folder)
    known = _read(folder / "encoding.json")
    return Run(folder, model, known["data"], known["options"], known["encoding"])


def write_source(folder: Path, data: str, options: dict[str, Any], task: Task) -> None:
    """Write ``encoding.json``: what was opened, how, and the encoding learnt from its training part."""
    partial = folder / "encoding.json.partial"
    partial.write_text(json.dumps({"data": data, "options": options, "encoding": task.encoding}))
    partial.replace(folder / "encoding.json")


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: the run's folder is not complete.") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not readable JSON (line {error.lineno}): the run's folder is damaged.") from error
