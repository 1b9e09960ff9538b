"""`GatedDelta`: a matrix per head that corrects what it holds for a key, and forgets at a rate the input chooses; without it, DeltaNet."""

from __future__ import annotations

import math
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from assay.nn.attention.heads import head_shape
from assay.nn.convolution.short import ShortConvolution
from assay.nn.linear import Linear
from assay.nn.mixer import StreamingMixer
from assay.nn.recurrent.head_norm import GatedHeadNorm
from assay.nn.state_space.step_size import inverse_softplus, log_uniform
from assay.ops.delta_rule import delta_rule

DeltaState: TypeAlias = dict[str, Tensor]
"""``sums`` (batch, heads, head width, head width), the matrices S; ``inputs``, the short convolution's last, where there is one."""


class GatedDelta(StreamingMixer):
    """``S_t = a_t (S_{t−1} − β_t k_tᵀ (k_t S_{t−1})) + β_t k_tᵀ v_t``, ``o_t = q_t S_t / √(head width)``, then norm, gate and map out.

    ``y = W_o(norm_heads(o) ∘ silu(W_g x))``; q, k, v are silu of a short convolution of linear maps of x, q and k then of length 1;
    ``β = σ(W_β x)`` and ``log a = −A softplus(W_a x + b)`` with a learned A > 0 a head.

    Source: Yang, Kautz, Hatamizadeh (2024), Gated Delta Networks: Improving Mamba2 with Delta Rule; without the gate Schlag, Irie,
    Schmidhuber (2021), Linear Transformers Are Secretly Fast Weight Programmers.

    Args:
        width: numbers per position.
        heads: heads; by default the largest of 4, 2, 1 that divides the width.
        head_width: numbers per head; by default ``width / heads``.
        bias: of the projections to and from the heads.
        gate: forget; else a = 1, which is DeltaNet.
        kernel_size: taps of the short convolution; None for none.

    Shapes: x (batch, length, width); mask (batch, length), True = real; state ``head_width²`` numbers a head, and the convolution's inputs.

    Raises:
        ValueError: sizes that do not fit each other; an input of another width.
    """

    positional = False  # decay and convolution tell positions apart

    def __init__(
        self,
        width: int,
        heads: int | None = None,
        head_width: int | None = None,
        *,
        bias: bool = False,
        gate: bool = True,
        kernel_size: int | None = 4,
    ) -> None:
        super().__init__()
        self.heads, self.head_width = head_shape(width, heads, head_width)
        self.width, self.gate = width, gate
        inner = self.heads * self.head_width
        self.input_projection = Linear(width, 4 * inner, bias)
        self.convolution = None if kernel_size is None else ShortConvolution(3 * inner, kernel_size, bias=False)
        self.strength_projection = Linear(width, self.heads, bias=False)
        if gate:
            self.decay_projection = Linear(width, self.heads)
            with torch.no_grad():
                self.decay_projection.bias.copy_(inverse_softplus(log_uniform((self.heads,), 1e-3, 1e-1)))
            self.log_rate = nn.Parameter(torch.empty(self.heads).uniform_(1, 16).log())
        self.norm = GatedHeadNorm(self.head_width)
        self.output_projection = Linear(inner, width, bias)  # last: edits find a mixer's last map by its place

    def initial_state(self, batch_size: int) -> DeltaState:
        """Zeros: nothing was read."""
        weight = self.output_projection.weight
        dtype = torch.promote_types(weight.dtype, torch.float32)
        state = {"sums": weight.new_zeros(batch_size, self.heads, self.head_width, self.head_width, dtype=dtype)}
        return state if self.convolution is None else state | {"inputs": self.convolution.initial_state(batch_size)}

    def scan(self, x: Tensor, state: DeltaState, mask: Tensor | None = None) -> tuple[Tensor, DeltaState]:
        """Mix a chunk (batch, length, width), continuing from ``state``."""
        if x.ndim != 3 or x.shape[-1] != self.width:
            raise ValueError(f"x must have shape (batch, length, {self.width}), got {tuple(x.shape)}")
        inner = self.heads * self.head_width
        projected, gate = self.input_projection(x).split([3 * inner, inner], -1)
        if self.convolution is not None:
            projected, inputs = self.convolution.scan(projected, state["inputs"], mask)
            state = state | {"inputs": inputs}
        queries, keys, values = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in F.silu(projected).chunk(3, -1))
        strength = self.strength_projection(x).sigmoid().transpose(1, 2)
        queries = _unit(queries) / math.sqrt(self.head_width)
        mixed, sums = delta_rule(queries, _unit(keys), values, strength, self._log_decay(x), state["sums"], mask)
        return self.output_projection(self.norm(mixed, gate)), state | {"sums": sums}

    def _log_decay(self, x: Tensor) -> Tensor | None:
        if not self.gate:
            return None
        return (-self.log_rate.exp() * F.softplus(self.decay_projection(x))).transpose(1, 2)


def _unit(x: Tensor) -> Tensor:
    """Length 1; zero stays zero, with a gradient."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)
