"""The weights and the recipe alone: ``model.safetensors`` + ``config.json``, nothing pickled."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from assay.errors import UserError
from assay.models import save


def to_safetensors(model: nn.Module, folder: Path, *, step: bool = False) -> list[Path]:
    """Write the two files that `assay.models.load` reads.

    Raises:
        UserError: ``step`` is asked for, which weights alone do not have.
    """
    if step:
        raise UserError("--step needs --to onnx or --to torch: safetensors holds weights only.")
    save(model, folder)
    return [folder / "model.safetensors", folder / "config.json"]
