"""``torch.export``: a graph of the model that runs without Assay's code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from assay.errors import UserError
from assay.exporters.example import TensorView, example_batch, step_example


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
        view, arguments = step_example(model, model.signature)
        written.append(_write(view, arguments, folder / "step.pt2", None))
    return written


def _write(view: nn.Module, arguments: tuple[Any, ...], path: Path, dynamic: Any) -> Path:
    partial = path.with_suffix(".partial.pt2")
    try:
        torch.export.save(torch.export.export(view.eval(), arguments, dynamic_shapes=dynamic), str(partial))
        partial.replace(path)
    except Exception as error:  # the tracer raises many kinds; each means the same to a person
        reason = str(error).strip().splitlines()[0][:200]
        raise UserError(f"torch.export cannot trace this model: {reason}; use --to safetensors.") from error
    finally:
        partial.unlink(missing_ok=True)
    return path
