"""`SoftmaxAttention`: multi-head softmax attention, the reference mixer, with a cache of keys and values as its state."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from assay.nn.attention.cached import CachedAttention, Scope


class SoftmaxAttention(CachedAttention):
    """Multi-head attention ``y = W_o concat_heads(softmax(q kᵀ / √head_width + bias) v) + b_o``, with q, k, v linear in x.

    Positions, grouped queries, windows, normalised queries and keys, masks and the cache are those of
    `assay.nn.attention.cached.CachedAttention`, with its arguments, shapes and errors.

    Source: Vaswani et al. (2017), Attention Is All You Need.
    """

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, scope: Scope) -> Tensor:
        """Softmax-weighted means of the values."""
        if keys.shape[2] == 0:
            return torch.zeros_like(queries)
        options = {"dropout_p": self.dropout if self.training else 0.0, "enable_gqa": self.key_value_heads < self.heads}
        if self.score_bias is None and scope.visible is None:
            return F.scaled_dot_product_attention(queries, keys, values, is_causal=scope.causal, **options)
        seen = scope.seen()
        # A row that sees nothing has no softmax: it is computed over everything instead, and then replaced by zero.
        sees = seen.any(-1, keepdim=True)
        allowed = seen | ~sees
        if self.score_bias is not None:
            bias = self.score_bias(scope.query_positions, scope.key_positions).to(queries.dtype)
            allowed = torch.where(allowed, bias, -torch.inf)
        mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=allowed, **options)
        return torch.where(sees, mixed, 0.0)

    def weights(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The attention weights (batch, heads, length, length) of inputs (batch, length, width), for looking at; rows sum to one."""
        scope = self.whole_scope(x, mask)
        queries, keys, _ = self.projected(x, scope.query_positions)
        scores = queries @ keys.repeat_interleave(self.heads // self.key_value_heads, 1).transpose(-1, -2) / math.sqrt(self.head_width)
        if self.score_bias is not None:
            scores = scores + self.score_bias(scope.query_positions, scope.key_positions)
        return torch.where(scope.seen(), scores, -torch.inf).softmax(-1).nan_to_num(0.0)
