"""`matrix_recurrence`: ``h_j = A h_{j−1} + b_j`` with one matrix for all positions, and a gradient that is three products.

The gradient is the same recurrence backwards with the transposed matrix: with ``g_j = ∂L/∂h_j + Aᵀ g_{j+1}``, ``∂L/∂b_j = g_j`` and
``∂L/∂A = Σ_j g_j h_{j−1}ᵀ``, which is one matrix product over all positions. A recurrence with numbers in place of the matrix is
`assay.ops.linear_recurrence`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def matrix_recurrence(matrix: Tensor, inputs: Tensor, state: Tensor) -> Tensor:
    """All states ``h_j = A h_{j−1} + b_j`` of many systems, a position at a time.

    Args:
        matrix: A, (systems, N, N).
        inputs: b, (systems, length, batch, N).
        state: h before the first position, (systems, batch, N).

    Returns:
        The states (systems, length, batch, N), differentiable any number of times.

    Raises:
        ValueError: shapes that do not fit.
    """
    if inputs.ndim != 4 or matrix.shape != (inputs.shape[0], inputs.shape[3], inputs.shape[3]):
        raise ValueError(
            f"matrix must be (systems, N, N) and inputs (systems, length, batch, N), got {tuple(matrix.shape)} and {tuple(inputs.shape)}"
        )
    if state.shape != (inputs.shape[0], *inputs.shape[2:]):
        raise ValueError(f"state must have shape {(inputs.shape[0], *inputs.shape[2:])}, got {tuple(state.shape)}")
    return _states(matrix, inputs, state)


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, matrix: Tensor, inputs: Tensor, state: Tensor) -> Tensor:
        states = torch.empty_like(inputs, memory_format=torch.contiguous_format)
        before, step = state, matrix.mT
        for b, h in zip(inputs.unbind(1), states.unbind(1), strict=True):
            torch.baddbmm(b, before, step, out=h)
            before = h
        ctx.save_for_backward(matrix, state, states)
        return states

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        matrix, state, states = ctx.saved_tensors
        (gradient,) = gradients
        g = _states(matrix.mT, gradient.flip(1), torch.zeros_like(state)).flip(1)
        if not g.shape[1]:
            return torch.zeros_like(matrix), g, torch.zeros_like(state)
        before = torch.cat([state[:, None], states[:, :-1]], 1)
        return g.flatten(1, 2).mT @ before.flatten(1, 2), g, g[:, 0] @ matrix


def _states(matrix: Tensor, inputs: Tensor, state: Tensor) -> Tensor:
    states = _Recurrence.apply(matrix, inputs, state)
    assert isinstance(states, Tensor)  # what its forward gives
    return states
