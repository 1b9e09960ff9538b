"""`OriginalGRU`: the gated recurrent unit whose reset gate acts before the recurrent product, as it was published."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from assay.measure import register_flops
from assay.nn.mixer import StreamingMixer
from assay.nn.recurrent.gates import Gate, states_around
from assay.ops.loop import Tensors, walk

State = tuple[Tensor]


class OriginalGRU(StreamingMixer):
    """``h_t = z ∘ h_{t−1} + (1 − z) ∘ tanh(W x_t + U (r ∘ h_{t−1}) + b)`` with ``r, z = σ(W' x_t + U' h_{t−1} + b')`` each.

    ``torch.nn.GRU`` and `assay.ops.recurrent_scan` compute ``r ∘ (U h_{t−1} + c)`` instead: one product a step, where this has two, the
    second after the first. Chung et al. (2014) write 1 − z where this and PyTorch write z.

    Source: Cho et al. (2014), Learning phrase representations using RNN encoder–decoder for statistical machine translation.

    Args:
        width: numbers per position, and hidden units.

    Shapes: x (batch, length, width); mask (batch, length), True = real, elsewhere the output is zero; state: h (batch, width) in a tuple.

    Raises:
        ValueError: a width below 1, an input of another width.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width must be at least 1, got {width}")
        self.width = width
        self.weight_ih = nn.Parameter(torch.empty(3 * width, width))  # reset, update, new, as torch's rows
        self.weight_hh = nn.Parameter(torch.empty(3 * width, width))
        self.bias = nn.Parameter(torch.empty(3 * width))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(width**-0.5), width**-0.5)

    def initial_state(self, batch_size: int) -> State:
        """Zeros."""
        return (self.weight_hh.new_zeros(batch_size, self.width),)

    def scan(self, x: Tensor, state: State, mask: Tensor | None = None) -> tuple[Tensor, State]:
        """Mix a chunk (batch, length, width), continuing from ``state``."""
        if x.ndim != 3 or x.shape[-1] != self.width:
            raise ValueError(f"x must have shape (batch, length, {self.width}), got {tuple(x.shape)}")
        if x.shape[1] == 0:
            return x, state

        def step(state: Tensors, now: tuple[Any, ...]) -> tuple[Tensors, Tensors]:
            (h,), (own, real) = state, now
            gates, new = self.weight_hh.split((2 * self.width, self.width))
            reset, update = torch.sigmoid(own[:, : 2 * self.width] + h @ gates.T).chunk(2, -1)
            fresh = torch.tanh(own[:, 2 * self.width :] + (reset * h) @ new.T)
            after = fresh + update * (h - fresh)
            if real is None:
                return (after,), (after,)
            return (torch.where(real, after, h),), (torch.where(real, after, 0.0),)

        own = nn.functional.linear(x, self.weight_ih, self.bias)
        (h,), (y,) = walk(step, state, (own, None if mask is None else mask[..., None]))
        return y, (h,)

    def gate_values(self, x: Tensor, state: State, mask: Tensor | None = None) -> list[Gate]:
        """Reset and update gate over a chunk."""
        (before,), _ = states_around(self, x, state, mask)
        rows = slice(2 * self.width)
        sums = nn.functional.linear(x, self.weight_ih[rows], self.bias[rows]) + before @ self.weight_hh[rows].T
        reset, update = torch.sigmoid(sums).chunk(2, -1)
        return [Gate("reset", reset), Gate("update", update, update)]


def _flops(module: nn.Module, args: tuple[Any, ...], _output: Any) -> int:
    assert isinstance(module, OriginalGRU)  # what it is registered for
    return 2 * args[0].shape[0] * args[0].shape[1] * (module.weight_ih.numel() + module.weight_hh.numel())


register_flops(OriginalGRU, _flops)
