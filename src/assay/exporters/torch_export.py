"""``torch.export``: a graph of the model that runs without Assay's code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from assay.exporters.example import TensorView, example_batch, step_example, tracing
from assay.nn.kept import as_constants


def to_torch(model: Any, folder: Path, *, step: bool = False) -> list[Path]:
    """Write ``model.pt2`` (and ``step.pt2``), loadable by ``torch.export.load(path).module()``.

    Args:
        model: a built network, in evaluation mode.
        folder: where the files go.
        step: export the step function of a streaming model too.

    Raises:
        UserError: a part of the model cannot be traced.
    """
    batch = example_batch(model.signature, batch_size=2)
    dynamic: Any = (tuple({0: torch.export.Dim("batch", min=1)} for _ in batch),)
    written = [_write(TensorView(model, list(batch)), tuple(batch.values()), folder / "model.pt2", dynamic)]
    if step:
        example = step_example(model, model.signature)
        written.append(_write(example.view, example.arguments, folder / "step.pt2", example.dynamic))
    return written


def _write(view: nn.Module, arguments: tuple[Any, ...], path: Path, dynamic: Any) -> Path:
    partial = path.with_suffix(".partial.pt2")
    try:
        with as_constants(view.eval(), *arguments), tracing("This model"):
            torch.export.save(torch.export.export(view, arguments, dynamic_shapes=dynamic), str(partial))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path
