"""`Gate`: how far a recurrent layer's gates stood open as it read a sequence, and what of its state they kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import _pytree as pytree

from assay.nn.mixer import StreamingMixer


class Gate(NamedTuple):
    """One gate of a layer at every position of every row.

    A layer shows its gates by a method ``gate_values(x, state, mask=None)``, with the arguments of its ``scan``.

    Args:
        name: ``forget``, say.
        values: how far it stands open, 0 to 1, (batch, length, units).
        kept: the share of the old state in the new one, where this gate decides it, like ``values``.
    """

    name: str
    values: Tensor
    kept: Tensor | None = None


def affine_gates(mode: str, x: Tensor, before: Tensor, weights: Sequence[Tensor]) -> list[Gate]:
    """The gates of PyTorch's ``lstm`` and ``gru``: ``σ(W x_t + b + U h_{t−1} + c)`` each.

    Args:
        mode: ``lstm`` (input, forget, output) or ``gru`` (reset, update).
        x: (batch, length, inputs).
        before: h_{t−1} at every position, (batch, length, units).
        weights: W (gates · units, inputs), U (gates · units, units), b and c (gates · units), rows in PyTorch's order.

    Raises:
        ValueError: a mode without gates.
    """
    if mode not in ("lstm", "gru"):
        raise ValueError(f"mode must be lstm or gru to have gates, got {mode!r}")
    rows, recurrent, bias, recurrent_bias = weights
    sums = F.linear(x, rows, bias) + F.linear(before, recurrent, recurrent_bias)
    first, second, *_, last = sums.chunk(4 if mode == "lstm" else 3, -1)
    first, second = first.sigmoid(), second.sigmoid()
    if mode == "gru":
        return [Gate("reset", first), Gate("update", second, second)]
    return [Gate("input", first), Gate("forget", second, second), Gate("output", last.sigmoid())]


def shifted(states: Tensor, initial: Tensor) -> Tensor:
    """The states before every position: (batch, length, …) after it, and ``initial`` (batch, …) before the first."""
    return torch.cat([initial[:, None], states[:, :-1]], 1)


def states_around(layer: StreamingMixer, x: Tensor, state: Any, mask: Tensor | None = None) -> tuple[Any, Any]:
    """A layer's states before and after every position: its pytree, with tensors (batch, length, …).

    Args:
        layer: a causal mixer; it is asked for one position after another.
        x: (batch, length, width), at least one position.
        state: before the first.
        mask: (batch, length), True = real.
    """
    before, after = [], []
    for t in range(x.shape[1]):
        before.append(state)
        _, state = layer.scan(x[:, t : t + 1], state, None if mask is None else mask[:, t : t + 1])
        after.append(state)
    old, new = (pytree.tree_map(lambda *parts: torch.stack(parts, 1), *states) for states in (before, after))
    return old, new
