"""The C++ form of `assay.ops.recurrent_scan`: one call a direction, tiled as `assay.ops.recurrent_plan` says."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from assay.ops import extension
from assay.ops.processor import Processor, this_processor
from assay.ops.recurrent_cells import CELLS
from assay.ops.recurrent_plan import Plan, plan

if TYPE_CHECKING:
    from assay.ops.recurrent_scan import Conditions

SOURCE = Path(__file__).parent / "kernels" / "recurrent_scan.cpp"
_SIZES = ("function", "batch", "length", "heads", "size", "task_rows", "bundle", "threads", "cut", "rows", "vectors", "depth")
_TENSORS = (
    *("inputs", "bias", "initial", "panels", "decay", "real", "fresh", "states", "kept"),
    *("flow0", "flow1", "flow2", "flow3", "last_flow", "deltas", "bias_gradient", "initial_gradient", "decay_gradient"),
)


class _Problem(ctypes.Structure):
    """The ``Problem`` of the C++ source."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in _SIZES),
        ("clip", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in _TENSORS),
    ]


def library() -> ctypes.CDLL | None:
    """The compiled functions, or None where they cannot be had."""
    return extension.compiled(SOURCE)


@cache
def _processor() -> Processor:
    """The processor, with the vectors that the kernels were compiled for."""
    functions = library()
    assert functions is not None  # an engine is made of it
    lanes, registers = functions.recurrent_lanes(), functions.recurrent_registers()
    return this_processor(lanes, registers)


class Compiled:
    """The `assay.ops.recurrent_scan.Engine` in C++; float32 on a CPU.

    Args:
        forward_plan: how the walk forwards is tiled; by default what `assay.ops.recurrent_plan.plan` finds for each call.
        backward_plan: how the walk backwards is.
    """

    def __init__(self, forward_plan: Plan | None = None, backward_plan: Plan | None = None) -> None:
        self.forward_plan, self.backward_plan = forward_plan, backward_plan

    def forward(
        self,
        function: str,
        inputs: Tensor,
        weights: Tensor,
        bias: Tensor,
        initial: Tensor,
        decay: Tensor | None,
        conditions: Conditions,
        keep: bool,
    ) -> tuple[Tensor, Tensor]:
        """As `assay.ops.recurrent_scan.Engine.forward`."""
        cell, (batch, length, _, heads, size) = CELLS[function], inputs.shape
        tiling = self.forward_plan or forward_plan(function, batch, heads, size)
        states = inputs.new_empty(cell.states, batch, length, heads, size)
        kept = inputs.new_empty(batch, length if keep else 0, cell.kept, heads, size)
        tensors = {"inputs": inputs, "bias": bias, "states": states, "kept": kept if keep and cell.kept else None}
        panels = _panels(weights.permute(1, 3, 0, 2).flatten(2), tiling)
        _call("recurrent_forward", function, tiling, initial, decay, conditions, length, panels=panels, **tensors)
        return states, kept

    def backward(
        self,
        function: str,
        weights: Tensor,
        initial: Tensor,
        decay: Tensor | None,
        conditions: Conditions,
        states: Tensor,
        kept: Tensor,
        flow: Sequence[Tensor | None],
        last_flow: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """As `assay.ops.recurrent_scan.Engine.backward`."""
        cell, (_, batch, length, heads, size) = CELLS[function], states.shape
        tiling = self.backward_plan or backward_plan(function, batch, heads, size)
        deltas, of_initial = states.new_empty(batch, length, cell.biases, heads, size), torch.empty_like(initial)
        of_decay = None if decay is None else torch.empty_like(decay)
        groups = states.new_empty(math.ceil(batch / tiling.task_rows), cell.biases, heads, size)
        tensors = {"states": states, "kept": kept, "deltas": deltas, "bias_gradient": groups, "last_flow": last_flow}
        tensors |= {f"flow{s}": gradient for s, gradient in enumerate(flow)}
        panels = _panels(weights.permute(1, 0, 2, 3).flatten(1, 2), tiling)
        results = {"initial_gradient": of_initial, "decay_gradient": of_decay}
        _call("recurrent_backward", function, tiling, initial, decay, conditions, length, panels=panels, **tensors, **results)
        return deltas, groups.sum(0), of_initial, of_decay


def forward_plan(function: str, batch: int, heads: int, size: int) -> Plan:
    """How the walk forwards is tiled here: a product of the hidden state with all gates' weights."""
    return plan(size, CELLS[function].recurrent * size, batch, heads, torch.get_num_threads(), _processor())


def backward_plan(function: str, batch: int, heads: int, size: int) -> Plan:
    """How the walk backwards is tiled here: a product of all gates' gradients with the weights."""
    return plan(CELLS[function].recurrent * size, size, batch, heads, torch.get_num_threads(), _processor())


def _panels(matrix: Tensor, tiling: Plan) -> Tensor:
    """(heads, depth, columns) as (heads, panels, depth, columns of a tile), zero beyond the last column."""
    width = tiling.vectors * _processor().lanes
    panels = math.ceil(matrix.shape[2] / width)
    padded = F.pad(matrix, (0, panels * width - matrix.shape[2]))
    return padded.unflatten(2, (panels, width)).transpose(1, 2).contiguous()


def _call(
    name: str,
    function: str,
    tiling: Plan,
    initial: Tensor,
    decay: Tensor | None,
    conditions: Conditions,
    length: int,
    **tensors: Tensor | None,
) -> None:
    functions = library()
    assert functions is not None  # an engine is made of it
    _, batch, heads, size = initial.shape
    mask, reset = conditions.mask, conditions.reset
    tensors |= {"initial": initial, "decay": decay}
    tensors["real"] = None if mask is None else mask.contiguous()
    tensors["fresh"] = None if reset is None else reset.contiguous()
    shape = (list(CELLS).index(function), batch, length, heads, size)
    sizes = (*shape, tiling.task_rows, tiling.bundle, torch.get_num_threads(), int(conditions.cut))
    clip = math.inf if conditions.clip is None else conditions.clip
    addresses = (None if (tensor := tensors.get(key)) is None else tensor.data_ptr() for key in _TENSORS)
    getattr(functions, name)(ctypes.byref(_Problem(*sizes, tiling.rows, tiling.vectors, tiling.depth, clip, *addresses)))
