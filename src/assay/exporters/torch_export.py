"""``torch.export``: a graph of the model that runs without Assay's code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from assay.exporters.example import TensorView, example_batch, step_example, tracing
from assay.nn.kept import as_constants


def to_torch(model: Any, folder: Path, *, step: bool = False) -> list[Path]:
    """Write ``model.pt2``, or ``step.pt2`` when that is asked for, loadable by ``torch.export.load(path).module()``.

    Args:
        model: a built network, in evaluation mode.
        folder: where the files go.
        step: export the step function of a streaming model instead.

    Raises:
        UserError: a part of the model cannot be traced.
    """
    if step:
        example = step_example(model, model.signature)
        return [_write(example.view, example.arguments, folder / "step.pt2", example.dynamic)]
    batch = example_batch(model.signature, batch_size=2)
    dynamic: Any = (tuple({0: torch.export.Dim("batch", min=1)} for _ in batch),)
    return [_write(TensorView(model, list(batch)), tuple(batch.values()), folder / "model.pt2", dynamic)]


def _write(view: nn.Module, arguments: tuple[Any, ...], path: Path, dynamic: Any) -> Path:
    partial = path.with_suffix(".partial.pt2")
    try:
        with as_constants(view.eval(), *arguments), tracing("This model"):
            torch.export.save(torch.export.export(view, arguments, dynamic_shapes=dynamic), str(partial))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path
