"""`PersistentAttention`: attention to the neighbourhood and to learned tokens that every position sees, whatever was read."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from assay.nn.attention.cached import CachedAttention, Scope


class PersistentAttention(CachedAttention):
    """Causal softmax attention over a window or a segment, and over ``tokens`` learned vectors P, as if they stood before everything.

    ``y_t = W_o concat_heads(softmax([q_t P_kᵀ, q_t K_tᵀ + bias] / …) [P_v, V_t]) + b_o``, with keys and values of P by the same maps as
    those of the input. Position i sees j where ``0 ≤ i − j < window``, or with a ``segment``, where ``j ≤ i`` and
    ``⌊i / segment⌋ = ⌊j / segment⌋``. No bias of positions applies to P. Linear in the length; the state is bounded by the window.

    Source: Sukhbaatar, Grave, Lample, Jegou, Joulin (2019), Augmenting Self-attention with Persistent Memory; Behrouz, Zhong, Mirrokni
    (2024), Titans: Learning to Memorize at Test Time.

    Args:
        width: numbers per position.
        heads: heads; by default the largest of 4, 2, 1 that divides the width.
        head_width: numbers per head; by default ``width / heads``.
        tokens: how many vectors P; 0 for none.
        segment: positions a segment, in place of a window.
        options: as `assay.nn.attention.cached.CachedAttention`; always causal, and positions not ``rotary``, for what is seen of P would
            then depend on how long the stream is already.

    Shapes: x (batch, length, width); mask (batch, length), True = real.

    Raises:
        ValueError: ``tokens`` below 0, a segment below 1 or beside a window, rotary positions, or sizes that do not fit each other.
    """

    def __init__(
        self,
        width: int,
        heads: int | None = None,
        head_width: int | None = None,
        *,
        tokens: int = 4,
        segment: int | None = None,
        **options: Any,
    ) -> None:
        if tokens < 0:
            raise ValueError(f"tokens must be at least 0, got {tokens}")
        if segment is not None and (segment < 1 or options.get("window") is not None):
            raise ValueError(f"segment must be at least 1, and without a window, got {segment} and {options.get('window')}")
        if options.get("positions") == "rotary":
            raise ValueError("positions must not be 'rotary': the persistent tokens stand nowhere")
        self.tokens, self.segment = tokens, segment
        options["window"] = options.get("window") if segment is None else segment
        super().__init__(width, heads, head_width, causal=True, **options)

    def make_parameters(self) -> None:
        """P (tokens, width)."""
        self.persistent = nn.Parameter(torch.empty(self.tokens, self.width).normal_()) if self.tokens else None

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mix the whole sequence (batch, length, width)."""
        if not torch.compiler.is_exporting():
            return super().forward(x, mask)
        scope = self.whole_scope(x, mask)  # blocks are of one length, an exported program is of any
        return self.joined(self.attend(*self.projected(x, scope.query_positions), scope))

    def first(self, batch_size: int) -> Tensor:
        """P for every row, (batch, tokens, width)."""
        if self.persistent is None:
            return self.output_projection.weight.new_zeros(batch_size, 0, self.width)
        return self.persistent.repeat(batch_size, 1, 1)  # a copy: counting operations fails where a layer reads a view of a parameter

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, scope: Scope) -> Tensor:
        """Softmax over P and what the scope and the segment let a query see."""
        seen = scope.seen()
        if self.segment is not None:
            segments = [places // self.segment for places in (scope.query_positions, scope.key_positions)]
            seen = seen & (segments[0][:, :, None] == segments[1][:, None, :])[:, None]
        bias = 0.0 if self.score_bias is None else self.score_bias(scope.query_positions, scope.key_positions).to(queries.dtype)
        # Without persistent tokens a row may see nothing: it is computed over everything instead, and then replaced by zero.
        sees = seen.any(-1, keepdim=True) | (self.persistent is not None)
        allowed = torch.where(seen | ~sees, bias, torch.full((), -torch.inf, dtype=queries.dtype, device=queries.device))
        if self.persistent is not None:
            _, own_keys, own_values = self.projected(self.first(1), seen.new_zeros(1, self.tokens, dtype=torch.long))
            keys, values = (
                torch.cat([own.expand(rest.shape[0], -1, -1, -1), rest], 2) for own, rest in ((own_keys, keys), (own_values, values))
            )
            allowed = F.pad(allowed, (self.tokens, 0))
        dropout = self.dropout if self.training else 0.0
        grouped = self.key_value_heads < self.heads
        mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=allowed, dropout_p=dropout, enable_gqa=grouped)
        return torch.where(sees, mixed, 0.0)
