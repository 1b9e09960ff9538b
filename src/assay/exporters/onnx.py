"""ONNX, checked against ONNX Runtime before the file is kept."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from assay.errors import UserError, require
from assay.exporters.example import TensorView, example_batch, step_example

TOLERANCE = 1e-4


def to_onnx(model: Any, folder: Path, *, step: bool = False) -> list[Path]:
    """Write ``model.onnx`` (and ``step.onnx`` of a streaming model when asked), each equal to PyTorch within 1e-4.

    The forward file takes any batch size at the signature's length; the step file takes one position and the state, and returns the
    prediction and the next state. Input names are the batch's names.

    Args:
        model: a built network, in evaluation mode.
        folder: where the files go; nothing is left there when a check fails.
        step: export the step function too.

    Raises:
        UserError: a part of the model has no ONNX form, or ONNX Runtime disagrees by more than 1e-4.
    """
    require("onnxscript", "export", "Exporting to ONNX")
    require("onnxruntime", "export", "Checking an ONNX file")
    signature = model.signature
    batch = example_batch(signature, batch_size=2)
    written = [_checked(TensorView(model, list(batch)), tuple(batch.values()), list(batch), ["prediction"], folder / "model.onnx", True)]
    if step:
        view, arguments = step_example(model, signature)
        states = [f"state_{index}" for index in range(len(arguments) - 1)]
        outputs = ["prediction", *[f"next_{name}" for name in states]]
        written.append(_checked(view, arguments, ["x", *states], outputs, folder / "step.onnx", False))
    description = {"signature": signature.to_json(), "files": [path.name for path in written], "tolerance": TOLERANCE}
    (folder / "onnx.json").write_text(json.dumps(description, indent=1))
    return written


def _checked(view: nn.Module, arguments: tuple[Tensor, ...], inputs: list[str], outputs: list[str], path: Path, any_batch: bool) -> Path:
    partial = path.with_suffix(".partial.onnx")
    try:
        _write(view, arguments, inputs, outputs, partial, any_batch)
        others = [arguments, _repeated(arguments)] if any_batch else [arguments]
        worst = max(_largest_difference(view, given, inputs, partial) for given in others)
        if not worst <= TOLERANCE:
            raise UserError(f"ONNX Runtime differs from PyTorch by {worst:.1e} (allowed {TOLERANCE:.0e}): {path.name} was not kept.")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _write(view: nn.Module, arguments: tuple[Tensor, ...], inputs: list[str], outputs: list[str], path: Path, any_batch: bool) -> None:
    dynamic: Any = tuple({0: torch.export.Dim("batch", min=1)} for _ in arguments) if any_batch else None
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), _quiet():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                view.eval(),
                arguments,
                str(path),
                input_names=inputs,
                output_names=outputs,
                dynamo=True,
                external_data=False,
                dynamic_shapes=(dynamic,) if dynamic else None,
                verbose=False,
            )
    except Exception as error:  # the exporter raises many kinds; each means the same to a person
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise UserError(f"This model has no ONNX form: {reason}; use --to torch or --to safetensors.") from error


def _repeated(arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The same examples in a batch of another size."""
    return tuple(torch.cat([argument, argument[:1]]) for argument in arguments)


def _largest_difference(view: nn.Module, arguments: tuple[Tensor, ...], inputs: list[str], path: Path) -> float:
    import onnxruntime

    runtime = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    present = {entry.name for entry in runtime.get_inputs()}
    feed = {name: argument.numpy() for name, argument in zip(inputs, arguments, strict=True) if name in present}
    with torch.no_grad():
        expected = view(*arguments)
    expected = expected if isinstance(expected, tuple) else (expected,)
    found = runtime.run(None, feed)
    return max(_difference(want.numpy(), np.asarray(got)) for want, got in zip(expected, found, strict=True))


def _difference(want: np.ndarray, got: np.ndarray) -> float:
    same = np.isinf(want) & (want == got)  # the empty prefix's maximum is -inf on both sides
    return float(np.max(np.abs(np.where(same, 0, want) - np.where(same, 0, got)), initial=0.0))


@contextlib.contextmanager
def _quiet():
    """Keep the exporter's own progress off a person's screen."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "torch.export", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
