"""`SoftmaxAttention`: multi-head softmax attention, the reference mixer, with a cache of keys and values as its state."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from assay.nn.attention.heads import check_heads
from assay.nn.mixer import StreamingMixer
from assay.nn.position.rotary import rotate

FIRST_CAPACITY = 16


class CacheState(NamedTuple):
    """Keys and values read so far, (batch, heads, capacity, head width); ``lengths`` (batch,) entries of a row are filled.

    ``written`` (batch,) counts what was ever written into these buffers and is shared by all states on them: a state that finds more
    written than its own lengths is not the newest, and continues on a copy. So a stream may be forked at any state.
    """

    keys: Tensor
    values: Tensor
    lengths: Tensor
    written: Tensor


class SoftmaxAttention(StreamingMixer):
    """Multi-head attention ``y = W_o concat_heads(softmax(q kᵀ / √(width / heads)) v) + b_o`` with q, k, v linear in x.

    Causal, it streams: the state holds all keys and values, so its bytes grow linearly with the position. Buffers double when full
    (a step costs amortised constant copying) and are written in place where no gradient is recorded.

    Source: Vaswani et al. (2017), Attention Is All You Need.

    Args:
        width: numbers per position.
        heads: heads; by default the largest of 4, 2, 1 that divides the width.
        causal: a position sees itself and what is before it; else everything, and there is no state.
        bias: of the four projections.
        dropout: probability of dropping a weight, in training.
        rotary: turn queries and keys by their positions, counted over real positions.

    Shapes: x (batch, length, width); mask (batch, length), True = real. A masked position is seen by nobody; its own output is that
    of its query over what is visible, zero before ``W_o`` where nothing is.

    Raises:
        ValueError: heads do not divide the width, or an odd head width with rotary positions.
    """

    def __init__(
        self, width: int, heads: int | None = None, causal: bool = True, bias: bool = True, dropout: float = 0.0, rotary: bool = False
    ) -> None:
        super().__init__()
        self.heads = check_heads(width, heads)
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {dropout}")
        if rotary and (width // self.heads) % 2:
            raise ValueError(f"rotary positions need an even head width, got {width // self.heads}")
        self.width, self.causal, self.dropout, self.rotary = width, causal, dropout, rotary
        self.input_projection = nn.Linear(width, 3 * width, bias)
        self.output_projection = nn.Linear(width, width, bias)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mix the whole sequence (batch, length, width)."""
        _check_input(x, self.width)
        queries, keys, values = self._projected(x, _positions(x, mask) if self.rotary else None)
        if mask is None:
            return self._joined(self._attention(queries, keys, values, None, self.causal))
        visible = mask[:, None, None, :]
        if self.causal:
            visible = visible & torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()
        return self._joined(self._attention(queries, keys, values, visible, False))

    def initial_state(self, batch_size: int) -> CacheState:
        """An empty cache."""
        if not self.causal:
            raise ValueError("SoftmaxAttention(causal=False) sees the future: it has no state and cannot read a stream")
        weight = self.output_projection.weight
        empty = weight.new_zeros(batch_size, self.heads, 0, self.width // self.heads)
        lengths = torch.zeros(batch_size, dtype=torch.long, device=weight.device)
        return CacheState(empty, empty, lengths, lengths.clone())

    def scan(self, x: Tensor, state: CacheState, mask: Tensor | None = None) -> tuple[Tensor, CacheState]:
        """Mix a chunk (batch, length, width), continuing from the cache ``state``."""
        _check_input(x, self.width)
        state = CacheState(*state)
        if x.shape[1] == 0:
            return x, state
        real = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if mask is None else mask
        counts = state.lengths[:, None] + real.cumsum(1)
        queries, keys, values = self._projected(x, counts - 1 if self.rotary else None)
        even = mask is None and bool((state.lengths == state.lengths[0]).all()) if len(x) else True
        state = _append(state, keys, values, counts, None if even else real)
        filled = int(counts.max()) if counts.numel() else 0
        if even and x.shape[1] == 1:
            visible = None
        else:
            visible = (torch.arange(filled, device=x.device) < counts[..., None])[:, None]
        mixed = self._attention(queries, state.keys[:, :, :filled], state.values[:, :, :filled], visible, False)
        return self._joined(mixed), state

    def _projected(self, x: Tensor, positions: Tensor | None) -> list[Tensor]:
        parts = [part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.input_projection(x).chunk(3, -1)]
        if positions is not None:
            parts[:2] = [rotate(part, positions) for part in parts[:2]]
        return parts

    def _attention(self, queries: Tensor, keys: Tensor, values: Tensor, visible: Tensor | None, causal: bool) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        if visible is None:
            return F.scaled_dot_product_attention(queries, keys, values, dropout_p=dropout, is_causal=causal)
        if keys.shape[2] == 0:
            return torch.zeros_like(queries)
        # A row that sees nothing has no softmax: it is computed over everything instead, and then replaced by zero.
        sees = visible.any(-1, keepdim=True)
        mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=visible | ~sees, dropout_p=dropout)
        return torch.where(sees, mixed, 0.0)

    def _joined(self, mixed: Tensor) -> Tensor:
        return self.output_projection(mixed.transpose(1, 2).flatten(2))


def _append(state: CacheState, keys: Tensor, values: Tensor, counts: Tensor, real: Tensor | None) -> CacheState:
    """The cache with the chunk's real positions behind its own: in place if this is the newest state on its buffers and they have room."""
    lengths = counts[:, -1]
    needed = int(lengths.max()) if len(lengths) else 0
    before = needed - counts.shape[1]
    recorded = torch.is_grad_enabled() and (keys.requires_grad or state.keys.requires_grad)
    if recorded or needed > state.keys.shape[2] or not torch.equal(state.written, state.lengths):
        state = _copied(state, needed if recorded else max(FIRST_CAPACITY, 2 ** (needed - 1).bit_length() if needed else 0))
    if real is None:
        state.keys[:, :, before:needed] = keys
        state.values[:, :, before:needed] = values
    else:
        row, column = real.nonzero(as_tuple=True)
        place = counts[row, column] - 1
        state.keys[row, :, place] = keys[row, :, column]
        state.values[row, :, place] = values[row, :, column]
    state.written.copy_(lengths)
    return CacheState(state.keys, state.values, lengths, state.written)


def _copied(state: CacheState, capacity: int) -> CacheState:
    used = int(state.lengths.max()) if len(state.lengths) else 0
    batch, heads, _, head_width = state.keys.shape

    def copied(old: Tensor) -> Tensor:
        new = old.new_zeros(batch, heads, capacity, head_width)
        new[:, :, :used] = old[:, :, :used]
        return new

    return CacheState(copied(state.keys), copied(state.values), state.lengths, state.lengths.clone())


def _positions(x: Tensor, mask: Tensor | None) -> Tensor:
    return torch.arange(x.shape[1], device=x.device) if mask is None else mask.cumsum(1) - 1


def _check_input(x: Tensor, width: int) -> None:
    if x.ndim != 3 or x.shape[-1] != width:
        raise ValueError(f"x must have shape (batch, length, {width}), got {tuple(x.shape)}")
