"""Recurrences in one call against PyTorch's layers, the same equations a step at a time, and ONNX Runtime where it is installed.

Every figure is a ratio of medians from this one run; above 1 the kernel is faster. The rivals take turns. Processor time is taken, with one
thread: it is the time a call needs, whatever else the machine does. ``--threads N`` takes wall time on N threads instead.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from assay.measure import medians, processor_seconds, wall_seconds
from assay.nn.recurrent import drop_in
from assay.ops.recurrent_cells import CELLS
from assay.ops.recurrent_scan import scan_states

SHAPES = (
    *((16, 512, 1, 128), (16, 512, 4, 32), (16, 512, 8, 16), (1, 4096, 1, 64), (1, 4096, 4, 16), (64, 128, 1, 512), (64, 128, 8, 64)),
    *((16, 512, 1, 96), (16, 512, 1, 192), (1, 512, 1, 192), (16, 128, 12, 64), (16, 256, 1, 256)),
)
"""(batch, length, heads, size)"""
CHUNK = 16
"""Steps that ``torch.compile`` unrolls: its compile time grows with them."""


def tensors(function: str, batch: int, length: int, heads: int, size: int) -> Any:
    cell = CELLS[function]
    shapes = ((batch, length, cell.inputs, heads, size), (cell.recurrent, heads, size, size), (cell.biases, heads, size))
    inputs, weights, bias = (torch.randn(shape) for shape in shapes)
    return [inputs, weights / size**0.5, bias]


def cells(function: str, shape: tuple[int, int, int, int], unroll: bool = False) -> dict[str, Callable[[], Any]]:
    """The recurrence alone, without gradient."""
    given = tensors(function, *shape)
    rivals: dict[str, Callable[[], Any]] = {
        "kernel": lambda: scan_states(*given, None, function, "compiled"),
        "a loop over steps": lambda: scan_states(*given, None, function, "reference"),
    }
    if unroll:
        rivals[f"torch.compile of {CHUNK} steps"] = unrolled(function, given)
    return rivals


def unrolled(function: str, given: Any) -> Callable[[], Any]:
    """The same equations by ``torch.compile``, a chunk of steps a call, compiled before anything is timed."""

    @torch.compile
    def chunk(inputs: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
        hidden, last, *_ = scan_states(inputs, *given[1:], states, function, "reference")
        return hidden, last

    def walk() -> Tensor:
        states, found = given[0].new_zeros(CELLS[function].states, len(given[0]), 1, *given[0].shape[3:]), []
        for part in given[0].split(CHUNK, 1):
            hidden, states = chunk(part, states)
            found.append(hidden)
        return torch.cat(found, 1)

    walk()
    return walk


def layers(ours: nn.Module, theirs: nn.Module, x: Tensor, training: bool) -> dict[str, Callable[[], Any]]:
    """Whole layers, input projection included."""

    def call(layer: nn.Module) -> Callable[[], Any]:
        return (lambda: layer(x)[0].sum().backward()) if training else (lambda: layer(x))

    return {"kernel": call(ours), "torch": call(theirs)}


def headed(layer: nn.Module, x: Tensor, heads: int, training: bool) -> dict[str, Callable[[], Any]]:
    """An LSTM with heads and dense input projection, and torch's LSTM of the same hidden size."""
    width = x.shape[-1]
    _, weights, bias = tensors("lstm", 1, 1, heads, width // heads)
    weights, bias = weights.requires_grad_(training), bias.requires_grad_(training)
    projection = nn.Linear(width, 4 * width, bias=False)

    def scan() -> Any:
        hidden = scan_states(projection(x).unflatten(-1, (4, heads, -1)), weights, bias)[0]
        if training:
            hidden.sum().backward()

    return {"kernel": scan, "torch": (lambda: layer(x)[0].sum().backward()) if training else (lambda: layer(x))}


def onnx(layer: nn.Module, x: Tensor) -> Callable[[], Any] | None:
    """The layer in ONNX Runtime, on as many threads as torch has."""
    try:
        import onnxruntime
    except ImportError:
        return None
    with TemporaryDirectory() as folder:
        file = str(Path(folder) / "layer.onnx")
        torch.onnx.export(layer, (x,), file, dynamo=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(file, options)
    name, values = session.get_inputs()[0].name, x.numpy()
    return lambda: session.run(None, {name: values})


def report(what: str, taken: dict[str, float]) -> None:
    ours = taken.pop("kernel")
    ratios = ", ".join(f"{other / ours:.2f} × {name}" for name, other in taken.items())
    print(f"{what}: {ours:.1f} ms, faster than others by {ratios}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--unroll", action="store_true", help="time torch.compile of the LSTM's loop too, at the first shape")
    parser.add_argument("--shapes", type=int, nargs=2, default=(0, len(SHAPES)), help="the first shape and the one after the last")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    timed = partial(
        medians, repeats=chosen.repeats, threads=chosen.threads, clock=processor_seconds if chosen.threads == 1 else wall_seconds
    )
    print(f"float32, {chosen.threads} thread(s), {'processor' if chosen.threads == 1 else 'wall'} time, medians of {chosen.repeats}")
    for batch, length, heads, size in SHAPES[slice(*chosen.shapes)]:
        shape, width = f"batch {batch}, {length} steps, {heads} × {size}", heads * size
        with torch.no_grad():
            for function in ("lstm", "gru", "elman", "slstm"):
                unroll = chosen.unroll and function == "lstm" and (batch, length, heads, size) == SHAPES[0]
                report(f"{function} recurrence, {shape}", timed(cells(function, (batch, length, heads, size), unroll)))
        for ours, theirs in ((drop_in.LSTM, nn.LSTM), (drop_in.GRU, nn.GRU)):
            layer, peer, x = ours(width, width, batch_first=True), theirs(width, width, batch_first=True), torch.randn(batch, length, width)
            name = f"{theirs.__name__} {'layer' if heads == 1 else f'with {heads} heads, torch without'}, {shape}"
            if heads > 1 and theirs is not nn.LSTM:
                continue
            for training in (False, True):
                rivals = layers(layer, peer, x, training) if heads == 1 else headed(peer, x, heads, training)
                if heads == 1 and not training and (session := onnx(peer, x)) is not None:
                    rivals["ONNX Runtime"] = session
                with torch.set_grad_enabled(training):
                    report(f"{name}, {'forward and backward' if training else 'forward'}", timed(rivals))


if __name__ == "__main__":
    main()
