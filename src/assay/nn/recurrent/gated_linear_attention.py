"""`GatedLinearAttention`: linear attention that forgets each key channel at a rate the input chooses."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from assay.nn.attention.heads import head_shape
from assay.nn.linear import Linear
from assay.nn.mixer import StreamingMixer
from assay.nn.recurrent.head_norm import GatedHeadNorm
from assay.ops.linear_attention import linear_attention

TEMPERATURE = 16.0
"""The gate's root: it keeps the decay near 1 at the start."""


class GatedLinearAttention(StreamingMixer):
    """``S_t = diag(a_t) S_{t−1} + k_tᵀ v_t``, ``o_t = q_t S_t / √(key width)``, ``y = W_o(norm_heads(o) ∘ silu(W_g x))``.

    q, k, v are linear in x, and the decay is ``a = σ(W_2 W_1 x + b)^(1/16)``, one number a key channel.

    Source: Yang, Wang, Shen, Panda, Kim (2023), Gated Linear Attention Transformers with Hardware-Efficient Training.

    Args:
        width: numbers per position.
        heads: heads; by default the largest of 4, 2, 1 that divides the width.
        head_width: numbers per head of the values; by default ``width / heads``.
        bias: of the projections.
        key_width: numbers per head of queries and keys; by default half of ``head_width``.
        gate_rank: size between the gate's two maps.

    Shapes: x (batch, length, width); mask (batch, length), True = real; state (batch, heads, key_width, head_width).

    Raises:
        ValueError: sizes that do not fit each other; an input of another width.
    """

    positional = False  # decay tells positions apart
    bfloat16_bound = 0.15  # a head is normalised however small its output is, and the rounding in it with it

    def __init__(
        self,
        width: int,
        heads: int | None = None,
        head_width: int | None = None,
        *,
        bias: bool = False,
        key_width: int | None = None,
        gate_rank: int = 16,
    ) -> None:
        super().__init__()
        self.heads, self.head_width = head_shape(width, heads, head_width)
        self.width, self.key_width = width, max(1, self.head_width // 2) if key_width is None else key_width
        if self.key_width < 1 or gate_rank < 1:
            raise ValueError(f"key_width and gate_rank must be at least 1, got {key_width} and {gate_rank}")
        keys, values = self.heads * self.key_width, self.heads * self.head_width
        self.sizes = (keys, keys, values, values)
        self.input_projection = Linear(width, sum(self.sizes), bias)
        self.decay_projection = nn.Sequential(Linear(width, gate_rank, bias=False), Linear(gate_rank, keys))
        self.norm = GatedHeadNorm(self.head_width)
        self.output_projection = Linear(values, width, bias)  # last: edits find a mixer's last map by its place

    def initial_state(self, batch_size: int) -> Tensor:
        """Zeros: nothing was read."""
        weight = self.output_projection.weight
        dtype = torch.promote_types(weight.dtype, torch.float32)
        return weight.new_zeros(batch_size, self.heads, self.key_width, self.head_width, dtype=dtype)

    def scan(self, x: Tensor, state: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mix a chunk (batch, length, width), continuing from ``state``."""
        if x.ndim != 3 or x.shape[-1] != self.width:
            raise ValueError(f"x must have shape (batch, length, {self.width}), got {tuple(x.shape)}")
        *parts, gate = self.input_projection(x).split(self.sizes, -1)
        log_decay = F.logsigmoid(self.decay_projection(x)) / TEMPERATURE
        queries, keys, values, log_decay = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (*parts, log_decay))
        mixed, state = linear_attention(queries / math.sqrt(self.key_width), keys, values, log_decay, state, mask)
        return self.output_projection(self.norm(mixed, gate)), state
