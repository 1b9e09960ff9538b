"""`Aaren`: attention whose query is a learned vector, so that it trains in parallel and streams with a state of constant size."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from assay.nn.attention.heads import head_shape
from assay.nn.linear import Linear
from assay.nn.mixer import StreamingMixer
from assay.ops.prefix_attention import PrefixState, initial_prefix_state, prefix_attention

DECAY_CHUNK = 4096  # positions between two corrections of the maximum: the growing bias stays small enough for its type


class _PrefixMixer(StreamingMixer):
    """Values, prefix attention over scores that a subclass computes, and the output projection."""

    def __init__(
        self,
        width: int,
        heads: int | None = None,
        bias: bool = True,
        dropout: float = 0.0,
        queries: int = 1,
        decay: float = 0.0,
        state_dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.heads, _ = head_shape(width, heads)
        if queries < 1:
            raise ValueError(f"queries must be at least 1, got {queries}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {dropout}")
        if not (decay >= 0 and math.isfinite(decay)):
            raise ValueError(f"decay must be finite and at least 0, got {decay}")
        if state_dtype not in (torch.float32, torch.float64):
            raise ValueError(f"state_dtype must be torch.float32 or torch.float64, got {state_dtype}")
        self.width, self.bias, self.dropout, self.queries, self.decay, self.state_dtype = width, bias, dropout, queries, decay, state_dtype
        self.value_projection = Linear(width, width, bias)
        self.make_score_parameters()
        self.output_projection = Linear(queries * width, width, bias)  # last: edits find a mixer's last map by its place

    def make_score_parameters(self) -> None:
        """Register what `scores` needs."""
        raise NotImplementedError

    def scores(self, x: Tensor) -> Tensor:
        """Scores (batch, heads · queries, length) of inputs (batch, length, width)."""
        raise NotImplementedError

    def initial_state(self, batch_size: int) -> PrefixState:
        """The summary of nothing: width · queries + 2 · heads · queries numbers an example, whatever comes."""
        weight = self.value_projection.weight
        dtype = torch.promote_types(self.state_dtype, weight.dtype)
        return initial_prefix_state(batch_size, self.heads * self.queries, self.width // self.heads, dtype, weight.device)

    def scan(self, x: Tensor, state: PrefixState, mask: Tensor | None = None) -> tuple[Tensor, PrefixState]:
        """Mix a chunk (batch, length, width), continuing from ``state``; a masked position repeats the last real output."""
        if x.ndim != 3 or x.shape[-1] != self.width:
            raise ValueError(f"x must have shape (batch, length, {self.width}), got {tuple(x.shape)}")
        scores = self.scores(x)
        values = self.value_projection(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        if self.queries > 1:
            values = values.repeat_interleave(self.queries, 1)
        if self.dropout and self.training:
            # A dropped position leaves numerator and denominator together, so the others' weights still add up to one.
            scores = scores.masked_fill(torch.rand_like(scores) < self.dropout, -torch.inf)
        mixed, state = self._attend(scores, values, PrefixState(*state), mask)
        mixed = mixed.unflatten(1, (self.heads, self.queries)).permute(0, 3, 2, 1, 4).flatten(2)
        return self.output_projection(mixed), state

    def _attend(self, scores: Tensor, values: Tensor, state: PrefixState, mask: Tensor | None) -> tuple[Tensor, PrefixState]:
        if not self.decay:
            return prefix_attention(scores, values, state, mask)
        parts, start = [], 0
        while start < max(scores.shape[2], 1):
            part = slice(start, start + DECAY_CHUNK)
            mixed, state = self._attend_decaying(scores[:, :, part], values[:, :, part], state, None if mask is None else mask[:, part])
            parts.append(mixed)
            start += DECAY_CHUNK
        return torch.cat(parts, 2), state

    def _attend_decaying(self, scores: Tensor, values: Tensor, state: PrefixState, mask: Tensor | None) -> tuple[Tensor, PrefixState]:
        """Scores that grow by λ a real position give the same weights as summaries that shrink by λ a position."""
        slopes = self.decay * 2.0 ** (-8.0 * torch.arange(self.heads, device=scores.device, dtype=torch.float64) / self.heads)
        slopes = slopes.repeat_interleave(self.queries)
        age = torch.ones_like(scores[:, 0], dtype=torch.float64) if mask is None else mask.double()
        age = age.cumsum(1)
        wide = PrefixState(*(part.double() for part in state))
        mixed, wide = prefix_attention(scores.double() + slopes[:, None] * age[:, None], values, wide, mask)
        read = age[:, -1:] if age.shape[1] else age.new_zeros(len(age), 1)
        after = (wide.maximum - slopes * read, wide.total, wide.weighted)
        return mixed, PrefixState(*(part.to(old.dtype) for part, old in zip(after, state, strict=True)))


class Aaren(_PrefixMixer):
    """Multi-head attention of one learned query over every prefix: an attention layer that is also a recurrent network.

    ``q = W_q q⁰ + b_q``; per head ``s_t = q · (W_k x_t + b_k) / √(width / heads)``, ``v_t = W_v x_t + b_v``;
    ``y_t = W_o concat_heads(Σ_{i≤t} e^{s_i} v_i / Σ_{i≤t} e^{s_i}) + b_o``. No positions of its own; before any real position the
    average is zero. Because the query is constant, ``s_t`` is computed as one product ``(W_kᵀ q) · x_t``: half of the arithmetic.

    What it cannot do: the query does not depend on the input, so one layer cannot look up by the content of the current token (no
    associative recall); a token of enormous score holds the average for ever, unless ``decay`` is given. With a float32 state,
    increments of equal score are lost past 2²⁴ tokens: ``state_dtype=torch.float64`` is the remedy.

    Source: Feng, Tung, Hajimirsadeghi, Ahmed, Bengio, Mori (2024), Attention as an RNN. ``queries``, ``decay`` and `fold` are ours.

    Args:
        width: numbers per position.
        heads: heads; by default the largest of 4, 2, 1 that divides the width.
        bias: of the four projections.
        dropout: probability that a position is left out of the average, in training.
        queries: learned queries a head; their outputs are concatenated and projected back.
        decay: forgetting: a position k real positions ago has its score lowered by λ_h k, λ_h = decay · 2^(−8h / heads) for head h.
        state_dtype: type of the state, float32 or float64, whatever the parameters' type.

    Shapes: x (batch, length, width); state ``PrefixState`` of (batch, heads · queries) twice and (batch, heads · queries, width / heads).

    Raises:
        ValueError: heads do not divide the width, or another argument is out of its range.
    """

    def make_score_parameters(self) -> None:
        """The learned queries and the projections of queries and keys."""
        self.query = nn.Parameter(0.02 * torch.randn(self.queries, self.width))
        self.query_projection = Linear(self.width, self.width, self.bias)
        self.key_projection = Linear(self.width, self.width, self.bias)

    def scores(self, x: Tensor) -> Tensor:
        """``(W_kᵀ q) · x_t + b_k · q``, over √(width / heads)."""
        weight, offset = self.score_map()
        return F.linear(x, weight, offset).transpose(1, 2)

    def score_map(self) -> tuple[Tensor, Tensor | None]:
        """The linear map from an input to its scores: (heads · queries, width) and (heads · queries,)."""
        query = self.query_projection(self.query).unflatten(-1, (self.heads, -1)).transpose(0, 1) / math.sqrt(self.width / self.heads)
        weight = (query @ self.key_projection.weight.unflatten(0, (self.heads, -1))).flatten(0, 1)
        bias = self.key_projection.bias
        # The offset shifts all scores of a head alike, so it changes nothing but the state's maximum.
        return weight, None if bias is None else (query * bias.view(self.heads, 1, -1)).sum(-1).flatten()

    def fold(self) -> FoldedAaren:
        """The same function without ``q⁰, W_q, W_k``: half of the parameters. Outputs agree to rounding; states are not interchangeable."""
        folded = FoldedAaren(self.width, self.heads, self.bias, self.dropout, self.queries, self.decay, self.state_dtype)
        folded.to(self.query.device, self.query.dtype).train(self.training)
        folded.value_projection.load_state_dict(self.value_projection.state_dict())
        folded.output_projection.load_state_dict(self.output_projection.state_dict())
        with torch.no_grad():
            folded.score_weight.copy_(self.score_map()[0])
        return folded


class FoldedAaren(_PrefixMixer):
    """What `Aaren.fold` returns: ``s_t = A x_t`` with A (heads · queries, width) in place of the query and the keys.

    The constant ``b_k · q`` is gone, for it cancels in the softmax. Arguments as `Aaren`'s.
    """

    def make_score_parameters(self) -> None:
        """The map A."""
        self.score_weight = nn.Parameter(torch.randn(self.heads * self.queries, self.width) / self.width)

    def scores(self, x: Tensor) -> Tensor:
        """``A x_t``."""
        return F.linear(x, self.score_weight).transpose(1, 2)

    def fold(self) -> Any:
        """Itself: there is nothing left to fold."""
        return self
