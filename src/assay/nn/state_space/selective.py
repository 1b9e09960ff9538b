"""`SelectiveStateSpace`: a state space whose step size, input and output maps are chosen by the input (Mamba's S6 layer)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from assay.nn.convolution.short import ShortConvolution
from assay.nn.linear import Linear
from assay.nn.mixer import StreamingMixer
from assay.nn.recurrent.cost import register_recurrence
from assay.nn.state_space.step_size import inverse_softplus, log_uniform
from assay.ops.linear_recurrence import linear_recurrence

CHUNK = 256
"""Positions whose states are there at once; for the gradient they are computed again rather than kept."""


class SelectiveState(NamedTuple):
    """The short convolution's last inputs (batch, kernel_size − 1, inner), and h (batch, inner, state)."""

    inputs: Tensor
    system: Tensor


class SelectiveStateSpace(StreamingMixer):
    """``h_t = e^{Δ_t A} h_{t−1} + Δ_t B_t u_t``, ``s_t = C_t h_t + D u_t``, ``y = W_o(s ∘ silu(z))``.

    ``[u, z] = W x``, u then through a short convolution and silu; ``Δ = softplus(W_Δ W_r u + b)`` a channel, B and C linear in u and shared
    by channels; ``A = −e^{log A}``, −1 … −state at the start. Softplus of b starts log-uniform between 0.001 and 0.1.

    Source: Gu, Dao (2023), Mamba: Linear-Time Sequence Modeling with Selective State Spaces.

    Args:
        width: numbers per position.
        state: numbers of a channel's state.
        expand: channels over width.
        kernel_size: taps of the short convolution.
        rank: size between the two maps to Δ; by default ``⌈width / 16⌉``.
        bias: of the projections to and from the channels.

    Shapes: x (batch, length, width); mask (batch, length), True = real; state ``expand · width · (state + kernel_size − 1)`` numbers.

    Raises:
        ValueError: an argument below 1; an input of another width.
    """

    positional = False  # decay and convolution tell positions apart

    def __init__(
        self, width: int, state: int = 16, expand: int = 2, kernel_size: int = 4, rank: int | None = None, *, bias: bool = False
    ) -> None:
        super().__init__()
        rank = math.ceil(width / 16) if rank is None else rank
        if min(width, state, expand, rank) < 1:
            raise ValueError(f"width, state, expand and rank must be at least 1, got {width}, {state}, {expand} and {rank}")
        self.width, self.size, self.inner, self.rank = width, state, expand * width, rank
        self.input_projection = Linear(width, 2 * self.inner, bias)
        self.convolution = ShortConvolution(self.inner, kernel_size)
        self.selection_projection = Linear(self.inner, rank + 2 * state, bias=False)
        self.step_projection = Linear(rank, self.inner)
        nn.init.uniform_(self.step_projection.weight, -(rank**-0.5), rank**-0.5)
        with torch.no_grad():
            self.step_projection.bias.copy_(inverse_softplus(log_uniform((self.inner,), 1e-3, 1e-1)))
        self.log_rate = nn.Parameter(torch.arange(1.0, state + 1).log().repeat(self.inner, 1))
        self.skip = nn.Parameter(torch.ones(self.inner))
        self.output_projection = Linear(self.inner, width, bias)

    def initial_state(self, batch_size: int) -> SelectiveState:
        """Nothing was read."""
        dtype = torch.promote_types(self.skip.dtype, torch.float32)
        return SelectiveState(
            self.convolution.initial_state(batch_size), self.skip.new_zeros(batch_size, self.inner, self.size, dtype=dtype)
        )

    def scan(self, x: Tensor, state: SelectiveState, mask: Tensor | None = None) -> tuple[Tensor, SelectiveState]:
        """Mix a chunk (batch, length, width), continuing from ``state``."""
        if x.ndim != 3 or x.shape[-1] != self.width:
            raise ValueError(f"x must have shape (batch, length, {self.width}), got {tuple(x.shape)}")
        inputs, system = state
        driven, gate = self.input_projection(x).chunk(2, -1)
        driven, inputs = self.convolution.scan(driven, inputs, mask)
        driven = F.silu(driven)
        low, entering, leaving = self.selection_projection(driven).split([self.rank, self.size, self.size], -1)
        step = F.softplus(self.step_projection(low))
        rate, parts = -self.log_rate.to(system.dtype).exp(), []
        for start in range(0, x.shape[1], CHUNK):
            chunk = [part[:, start : start + CHUNK].to(system.dtype) for part in (step, entering, leaving, driven)]
            real = None if mask is None else mask[:, start : start + CHUNK]
            y, system = _chunk(rate, *chunk, system, real)
            parts.append(y)
        y = (torch.cat(parts, 1).to(x.dtype) if parts else driven) + self.skip * driven
        return self.output_projection(y * F.silu(gate)), SelectiveState(inputs, system)


def _chunk(
    rate: Tensor, step: Tensor, entering: Tensor, leaving: Tensor, driven: Tensor, system: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    if torch.is_grad_enabled() and step.shape[1] > 1:
        arguments = (rate, step, entering, leaving, driven, system, mask)
        return checkpoint(_selective_scan, *arguments, use_reentrant=False, preserve_rng_state=False)  # pyright: ignore[reportReturnType]
    return _selective_scan(rate, step, entering, leaving, driven, system, mask)


def _selective_scan(
    rate: Tensor, step: Tensor, entering: Tensor, leaving: Tensor, driven: Tensor, system: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """C h (batch, length, inner), and the last h, where every state h (batch, length, inner, state) is there at once."""
    decay = (step[..., None] * rate).exp()
    states, system = linear_recurrence(decay, (step * driven)[..., None] * entering[:, :, None], system, mask)
    return (states @ leaving[..., None])[..., 0], system


# per channel and number of its state: exponential, input, multiply-add and the sum read; per channel: convolution, gate and skip
register_recurrence(SelectiveStateSpace, lambda module: module.inner * (8 * module.size + 2 * module.convolution.kernel_size + 4))
