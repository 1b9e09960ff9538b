"""ONNX, checked against ONNX Runtime before the file is kept."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from assay.errors import UserError, require
from assay.exporters.example import TensorView, example_batch, step_example, tracing
from assay.nn.kept import as_constants

TOLERANCE = 1e-4
STREAMED = 1000
"""Positions that a step file is run over, beside the model in PyTorch."""


def to_onnx(model: Any, folder: Path, *, step: bool = False) -> list[Path]:
    """Write ``model.onnx``, or of a streaming model ``step.onnx`` when that is asked for, equal to PyTorch within 1e-4.

    The forward file takes any batch size at the signature's length; the step file takes one position and the state, and returns the
    prediction and the next state. Input names are the batch's names. The state of a step begins as `model.initial_state(1)`; what grows
    with the stream (keys and values that were read) begins empty and comes back longer from each call, with a window up to its size.

    Args:
        model: a built network, in evaluation mode.
        folder: where the files go; one that does not pass its check is not kept.
        step: export the step function instead.

    Raises:
        UserError: a part of the model has no ONNX form, or ONNX Runtime disagrees by more than 1e-4.
    """
    require("onnxscript", "export", "Exporting to ONNX")
    require("onnxruntime", "export", "Checking an ONNX file")
    path = _write_step(model, folder / "step.onnx") if step else _write_model(model, folder / "model.onnx")
    description = {"signature": model.signature.to_json(), "file": path.name, "tolerance": TOLERANCE}
    path.with_suffix(".json").write_text(json.dumps(description, indent=1))
    return [path]


def _write_model(model: Any, path: Path) -> Path:
    batch = example_batch(model.signature, batch_size=2)
    view, names = TensorView(model, list(batch)), list(batch)
    arguments, sizes = tuple(batch.values()), (tuple({0: torch.export.Dim("batch", min=1)} for _ in batch),)
    with _checked(path) as (partial, differences):
        _write(view, arguments, names, ["prediction"], partial, sizes)
        differences += [_largest_difference(view, given, names, partial) for given in (arguments, _repeated(arguments))]
    return path


def _write_step(model: Any, path: Path) -> Path:
    example = step_example(model, model.signature)
    states = [f"state_{index}" for index in range(len(example.initial) - 1)]
    outputs = ["prediction", *(f"next_{name}" for name in states)]
    with _checked(path) as (partial, differences):
        _write(example.view, example.arguments, ["x", *states], outputs, partial, example.dynamic)
        differences.append(_difference_in_a_stream(model, example.initial[1:], states, partial))
    return path


@contextlib.contextmanager
def _checked(path: Path) -> Iterator[tuple[Path, list[float]]]:
    """A name to write under and a list for the differences found; the file gets its own name if all are small, and else goes."""
    partial, differences = path.with_suffix(".partial.onnx"), []
    try:
        yield partial, differences
        worst = max(differences)
        if not worst <= TOLERANCE:
            raise UserError(f"ONNX Runtime differs from PyTorch by {worst:.1e} (allowed {TOLERANCE:.0e}): {path.name} was not kept.")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _write(view: nn.Module, arguments: tuple[Tensor, ...], inputs: list[str], outputs: list[str], path: Path, dynamic: Any) -> None:
    with as_constants(view.eval(), *arguments), tracing("This model"):
        torch.onnx.export(
            view,
            arguments,
            str(path),
            input_names=inputs,
            output_names=outputs,
            dynamo=True,
            external_data=False,
            dynamic_shapes=dynamic,
            verbose=False,
        )


def _difference_in_a_stream(model: Any, state: tuple[Tensor, ...], names: list[str], path: Path) -> float:
    """Between the file's predictions, a position at a time from the initial state, and those of the model's `scan`."""
    x, expected = _stream(model)
    runtime = _runtime(path)
    present = {entry.name for entry in runtime.get_inputs()}
    values = [leaf.detach().numpy() for leaf in state]  # a memory starts from learned weights
    worst = 0.0
    for position in range(x.shape[1]):
        feed = {"x": x[:, position].numpy(), **dict(zip(names, values, strict=True))}
        prediction, *values = _answers(runtime, {name: value for name, value in feed.items() if name in present})
        worst = max(worst, _difference(expected[:, position].numpy(), np.asarray(prediction)))
    return worst


def _stream(model: Any) -> tuple[Tensor, Tensor]:
    """Random inputs of `STREAMED` positions, or of the signature's length where a part reaches no further, and the predictions."""
    for length in (STREAMED, model.signature.input.length):
        signature = replace(model.signature, input=replace(model.signature.input, length=length))
        x = next(iter(example_batch(signature, batch_size=1).values()))
        try:
            with torch.no_grad():
                return x, model.scan(x, model.initial_state(1))[0]
        except ValueError:
            if length == model.signature.input.length:
                raise
    raise AssertionError("the signature's own length serves")


def _repeated(arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The same examples in a batch of another size."""
    return tuple(torch.cat([argument, argument[:1]]) for argument in arguments)


def _largest_difference(view: nn.Module, arguments: tuple[Tensor, ...], inputs: list[str], path: Path) -> float:
    runtime = _runtime(path)
    present = {entry.name for entry in runtime.get_inputs()}
    feed = {name: argument.numpy() for name, argument in zip(inputs, arguments, strict=True) if name in present}
    with torch.no_grad():
        expected = view(*arguments)
    expected = expected if isinstance(expected, tuple) else (expected,)
    found = _answers(runtime, feed)
    return max(_difference(want.numpy(), np.asarray(got)) for want, got in zip(expected, found, strict=True))


def _answers(runtime: Any, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    """What a file gives.

    Raises:
        UserError: it cannot be run.
    """
    try:
        return runtime.run(None, feed)
    except Exception as error:  # ONNX Runtime's own kinds have no common base
        shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in feed.items())
        raise UserError(f"ONNX Runtime cannot run what was exported on {shapes}: {str(error).splitlines()[0]}.") from error


def _runtime(path: Path) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def _difference(want: np.ndarray, got: np.ndarray) -> float:
    same = np.isinf(want) & (want == got)  # the empty prefix's maximum is -inf on both sides
    return float(np.max(np.abs(np.where(same, 0, want) - np.where(same, 0, got)), initial=0.0))
