"""`walk`: a loop over positions that a graph for export holds as one operator, not as a copy of its body a position."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

Tensors = tuple[Tensor, ...]
Step = Callable[[Tensors, tuple[Any, ...]], tuple[Tensors, Tensors]]
SHORT = 16
"""Below this length a graph holds copies: they are few, and run without the operator's own cost."""


def walk(step: Step, state: Sequence[Tensor], inputs: Sequence[Tensor | None]) -> tuple[Tensors, Tensors]:
    """``state, outputs_t = step(state, inputs_t)`` for every position t in turn.

    In PyTorch it is the loop that it looks like, differentiated by autograd. A graph for export, which knows no loop of Python, holds
    PyTorch's higher-order scan, in ONNX the operator ``Scan``: a graph of any length is as large as that of one position. There ``step``
    may read tensors of its surroundings, no two of them views of one, and must not look at numbers.

    Args:
        step: of a position; the state it gives has the shapes and types of the one it takes.
        state: before the first position.
        inputs: each (batch, length, …), the first with at least one position; in place of one that is None ``step`` finds None, too.

    Returns:
        The state after the last position, and the outputs of all positions, each (batch, length, …).
    """
    present = [part for part in inputs if part is not None]

    def at(position: Sequence[Tensor]) -> tuple[Any, ...]:
        found = iter(position)
        return tuple(None if part is None else next(found) for part in inputs)

    if torch.compiler.is_exporting() and present[0].shape[1] >= SHORT and _graphs_hold_loops():
        return _scanned(lambda carried, position: step(carried, at(position)), tuple(state), present)
    current, outputs = tuple(state), []
    # unbind, not an index a position: the gradient of each index would be a tensor as large as all of them
    for position in zip(*(part.unbind(1) for part in present), strict=True):
        current, given = step(current, at(position))
        outputs.append(given)
    return current, tuple(torch.stack(parts, 1) for parts in zip(*outputs, strict=True))


@cache
def _graphs_hold_loops() -> bool:
    """Whether this PyTorch's exporter to ONNX knows the operator; where it does not, a graph holds copies."""
    try:
        from torch.onnx._internal.exporter._torchlib.ops import hop
    except ImportError:
        return False
    return hasattr(hop, "higher_order_scan")


def _scanned(step: Step, state: Tensors, inputs: Sequence[Tensor]) -> tuple[Tensors, Tensors]:
    from torch._higher_order_ops.scan import scan  # there is no public name for it yet

    def body(carried: Tensors, position: Tensors) -> tuple[Tensors, Tensors]:
        after, given = step(carried, position)
        return tuple(part.clone() for part in after), tuple(part.clone() for part in given)  # nothing may be given twice

    last, outputs = scan(body, tuple(part.clone() for part in state), tuple(part.transpose(0, 1) for part in inputs))
    return tuple(last), tuple(part.transpose(0, 1) for part in outputs)
