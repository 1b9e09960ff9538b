"""Which tiles the recurrent kernel uses for a model's layers on this processor, and what choosing them saves."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from assay.contracts import Finding, Task
from assay.errors import UserError
from assay.nn.recurrent import drop_in
from assay.nn.recurrent.multi_head import MultiHeadRNN
from assay.ops.recurrent_cells import CELLS
from assay.ops.recurrent_plan import Plan
from assay.ops.recurrent_scan import Conditions
from assay.ops.recurrent_scan_compiled import Compiled, backward_plan, forward_plan, library

FIXED = Plan(rows=4, vectors=3, depth=2**30, task_rows=4)
"""The tile to compare with: the largest of four rows that fits the sixteen registers of any x86 processor, chosen for no shape."""


class Kernels:
    """For each recurrent layer: its cell, heads and sizes, the tile forwards and backwards, and its speed beside one fixed tile.

    Args:
        length: steps that are timed.
        repeats: timed walks of each of the two, in turns; their medians are compared.
    """

    def __init__(self, length: int = 64, repeats: int = 9) -> None:
        self.length = length
        self.repeats = repeats

    def __call__(self, model: nn.Module, task: Task) -> Finding:
        """Look at the shapes of the first training batch; the model is left as it was.

        Raises:
            UserError: no layer of the model is one that the kernel runs.
        """
        shapes = _shapes(model, task)
        if not shapes:
            raise UserError("No layer of this model runs the recurrent kernel: it is for MultiHeadRNN and assay.nn.recurrent.drop_in.")
        if library() is None:
            return Finding("There is no C++ compiler, so recurrent layers walk step by step in Python: install g++ or clang++.")
        table = [{"layer": name, **self._row(*shape)} for name, shape in shapes.items()]
        better = statistics.median(row["faster than the fixed tile"] for row in table)
        compared = f"{better:.2f} times as fast as" if better > 1 else "no faster than"
        sentence = (
            f"{len(table)} recurrent {'layer runs' if len(table) == 1 else 'layers run'} in C++ on {torch.get_num_threads()} threads; "
            f"tiles chosen for their shapes are {compared} a fixed one of {FIXED.rows} × {FIXED.vectors}."
        )
        return Finding(sentence, table)

    def _row(self, function: str, batch: int, heads: int, size: int) -> dict[str, Any]:
        forwards, backwards = forward_plan(function, batch, heads, size), backward_plan(function, batch, heads, size)
        chosen, fixed = self._seconds(function, batch, heads, size)
        return {
            "cell": function,
            "batch": batch,
            "heads": f"{heads} × {size}",
            "tile forwards": f"{forwards.rows} rows × {forwards.vectors} vectors × {forwards.depth} deep",
            "tile backwards": f"{backwards.rows} rows × {backwards.vectors} vectors × {backwards.depth} deep",
            "tasks": forwards.tasks,
            "heads a task": forwards.bundle,
            "weights": "stay in the second-level cache" if forwards.resident else "come from beyond the second-level cache each step",
            "microseconds a step": 1e6 * chosen / self.length,
            "faster than the fixed tile": fixed / chosen,
        }

    def _seconds(self, function: str, batch: int, heads: int, size: int) -> tuple[float, float]:
        """Median seconds of a walk forwards with the chosen and with the fixed tile."""
        cell, generator = CELLS[function], torch.Generator().manual_seed(0)
        inputs = torch.randn(batch, self.length, cell.inputs, heads, size, generator=generator)
        weights = torch.randn(cell.recurrent, heads, size, size, generator=generator) / size**0.5
        bias, initial = torch.zeros(cell.biases, heads, size), torch.zeros(cell.states, batch, heads, size)

        def walk(engine: Compiled) -> Callable[[], object]:
            return lambda: engine.forward(function, inputs, weights, bias, initial, None, Conditions(), keep=False)

        return _medians(walk(Compiled()), walk(Compiled(FIXED)), self.repeats)


def _medians(first: Callable[[], object], second: Callable[[], object], repeats: int) -> tuple[float, float]:
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(repeats + 1):
        for function, taken in zip((first, second), times, strict=True):
            started = time.perf_counter()
            function()
            if turn:  # the first call of each makes its plan
                taken.append(time.perf_counter() - started)
    return statistics.median(times[0]), statistics.median(times[1])


def _shapes(model: nn.Module, task: Task) -> dict[str, tuple[str, int, int, int]]:
    """(cell, batch, heads, size) of each layer that the kernel runs, as the first training batch reaches it."""
    found: dict[str, tuple[str, int, int, int]] = {}
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, MultiHeadRNN | drop_in.LSTM | drop_in.GRU | drop_in.RNN):
            handles.append(module.register_forward_pre_hook(partial(_note, found, name)))
    training = model.training
    try:
        with torch.no_grad():
            model.eval()(next(task.training_batches(32, seed=0)))
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return found


def _note(found: dict[str, tuple[str, int, int, int]], name: str, layer: nn.Module, args: tuple[Any, ...]) -> None:
    found.setdefault(name, _shape(layer, args[0]))


def _shape(layer: Any, x: Any) -> tuple[str, int, int, int]:
    if isinstance(layer, MultiHeadRNN):
        return layer.function, x.shape[0], layer.heads, layer.head_width
    batch = int(x.batch_sizes[0]) if isinstance(x, PackedSequence) else 1 if x.ndim == 2 else x.shape[0 if layer.batch_first else 1]
    return layer.cell, batch, 1, layer.hidden_size
