"""`Retention`: linear attention that forgets at a fixed rate a head, in parallel over a sequence and with a matrix as its state."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from assay.nn.attention.heads import head_shape
from assay.nn.linear import Linear
from assay.nn.mixer import StreamingMixer
from assay.nn.position.rotary import rotate
from assay.nn.recurrent.head_norm import GatedHeadNorm
from assay.ops.linear_attention import linear_attention


class RetentionState(NamedTuple):
    """The matrices S (batch, heads, head width, head width), and the real positions read so far (batch,)."""

    sums: Tensor
    lengths: Tensor


class Retention(StreamingMixer):
    """``S_t = γ S_{t−1} + k_tᵀ v_t / √(head width)``, ``o_t = q_t S_t``, ``y = W_o(norm_heads(o) ∘ silu(W_g x))`` with q, k, v linear in x.

    Equally ``o = (q kᵀ ∘ D) v`` with ``D_ij = γ^{i−j}`` for i ≥ j. The published layer also divides the scores by two positive numbers a
    position and head; the norm that follows takes out any such number, so they are not computed.

    Source: Sun et al. (2023), Retentive Network: A Successor to Transformer for Large Language Models.

    Args:
        width: numbers per position.
        heads: heads; by default the largest of 4, 2, 1 that divides the width.
        head_width: numbers per head; by default ``width / heads``.
        bias: of the projections.
        decays: γ of each head, in (0, 1]; by default ``1 − 2^(−5 − h)`` for h = 0, 1, …
        rotary: turn queries and keys by their positions, counted over real positions.

    Shapes: x (batch, length, width); mask (batch, length), True = real; state ``head_width²`` numbers a head, whatever comes.

    Raises:
        ValueError: sizes that do not fit each other, a decay out of its range, an odd head width with rotary positions; an input of
            another width.
    """

    positional = False  # decay tells positions apart

    def __init__(
        self,
        width: int,
        heads: int | None = None,
        head_width: int | None = None,
        *,
        bias: bool = False,
        decays: Sequence[float] | None = None,
        rotary: bool = False,
    ) -> None:
        super().__init__()
        self.heads, self.head_width = head_shape(width, heads, head_width)
        if rotary and self.head_width % 2:
            raise ValueError(f"rotary positions need an even head width, got {self.head_width}")
        self.decays = tuple(1 - 2.0 ** (-5 - head) for head in range(self.heads)) if decays is None else tuple(decays)
        if len(self.decays) != self.heads or not all(0 < decay <= 1 for decay in self.decays):
            raise ValueError(f"decays must be {self.heads} numbers above 0 and at most 1, got {decays}")
        self.width, self.rotary = width, rotary
        inner = self.heads * self.head_width
        self.input_projection = Linear(width, 4 * inner, bias)
        self.norm = GatedHeadNorm(self.head_width)
        self.output_projection = Linear(inner, width, bias)  # last: edits find a mixer's last map by its place

    def initial_state(self, batch_size: int) -> RetentionState:
        """Zeros: nothing was read."""
        weight = self.output_projection.weight
        dtype = torch.promote_types(weight.dtype, torch.float32)
        sums = weight.new_zeros(batch_size, self.heads, self.head_width, self.head_width, dtype=dtype)
        return RetentionState(sums, torch.zeros(batch_size, dtype=torch.long, device=weight.device))

    def scan(self, x: Tensor, state: RetentionState, mask: Tensor | None = None) -> tuple[Tensor, RetentionState]:
        """Mix a chunk (batch, length, width), continuing from ``state``."""
        if x.ndim != 3 or x.shape[-1] != self.width:
            raise ValueError(f"x must have shape (batch, length, {self.width}), got {tuple(x.shape)}")
        state = RetentionState(*state)
        *parts, gate = self.input_projection(x).chunk(4, -1)
        queries, keys, values = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        read = torch.arange(1, x.shape[1] + 1, device=x.device).expand(x.shape[:2]) if mask is None else mask.cumsum(1)
        if self.rotary:
            queries, keys = (rotate(part, state.lengths[:, None] + read - 1) for part in (queries, keys))
        log_decay = state.sums.new_tensor([math.log(decay) for decay in self.decays])[:, None].expand(x.shape[0], -1, x.shape[1])
        mixed, sums = linear_attention(queries, keys / math.sqrt(self.head_width), values, log_decay, state.sums, mask)
        lengths = state.lengths + read[:, -1] if x.shape[1] else state.lengths
        return self.output_projection(self.norm(mixed, gate)), RetentionState(sums, lengths)
