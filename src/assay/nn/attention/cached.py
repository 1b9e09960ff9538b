"""`CachedAttention`: what all attention over keys and values shares; a kind writes only how the weights are made."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from assay.nn.attention.cache import CacheState, append, empty_cache, is_even, trimmed
from assay.nn.attention.heads import head_shape
from assay.nn.linear import Linear
from assay.nn.mixer import StreamingMixer, padded_right
from assay.nn.position.alibi import Alibi
from assay.nn.position.relative import OffsetTable, RelativeBias
from assay.nn.position.rotary import rotate

Positions = Literal["rotary", "alibi", "relative", "offset"]
LEAST_BLOCK = 64  # queries that are worked on together under a window: fewer would make the products too small


class Scope(NamedTuple):
    """Where the queries and keys of one call stand, and which see which.

    Args:
        query_positions: (batch or 1, queries), counted over real positions from the stream's start.
        key_positions: (batch or 1, keys).
        visible: (batch or 1, 1, queries, keys), True where the query sees the key; None where each sees all, or the triangle.
        causal: with ``visible`` None: queries and keys are the same positions, and each sees itself and what is before it.
    """

    query_positions: Tensor
    key_positions: Tensor
    visible: Tensor | None = None
    causal: bool = False

    def seen(self) -> Tensor:
        """``visible`` written out, whatever was given."""
        if self.visible is not None:
            return self.visible
        seen = torch.ones(self.query_positions.shape[1], self.key_positions.shape[1], dtype=torch.bool, device=self.query_positions.device)
        return (seen.tril() if self.causal else seen)[None, None]


class CachedAttention(StreamingMixer):
    """Queries, keys and values of several heads, positions, masks, windows and the cache; a subclass writes `attend`.

    ``[q, k, v] = W_in x + b_in`` per head; optionally ``q, k ← LayerNorm(q), LayerNorm(k)`` and rotary positions on both;
    ``y = W_o concat_heads(attend(q, k, v)) + b_o``. Causal, it streams: the state holds all keys and values, or with a window the last of
    them. Buffers double when full and are written in place where no gradient is recorded, so a step copies amortised constant bytes.

    Args:
        width: numbers per position.
        heads: heads; by default the largest of 4, 2, 1 that divides the width.
        head_width: numbers per head; by default ``width / heads``.
        causal: a position sees itself and what is before it; else everything, and there is no state.
        bias: of the projections.
        dropout: probability of dropping a weight, in training.
        key_value_heads: heads of keys and values, each shared by equally many heads of queries (grouped queries).
        positions: ``rotary`` turns queries and keys; ``alibi``, ``relative`` (learned, a bucket of distances) and ``offset`` (learned, an
            offset) bias the scores; None leaves positions to the model.
        length: longest sequence, for what depends on it: the reach of ``offset``.
        window: a position sees itself and the ``window − 1`` before it (and, not causal, after it); None for no limit.
        query_key_norm: normalise each head's queries and keys before their product.

    Shapes: x (batch, length, width); mask (batch, length), True = real. A masked position is seen by nobody that is real; its own
    output means nothing.

    Raises:
        ValueError: sizes that do not fit each other, an odd head width with rotary positions, or a window below 1.
    """

    def __init__(
        self,
        width: int,
        heads: int | None = None,
        head_width: int | None = None,
        *,
        causal: bool = True,
        bias: bool = True,
        dropout: float = 0.0,
        key_value_heads: int | None = None,
        positions: Positions | None = None,
        length: int = 1024,
        window: int | None = None,
        query_key_norm: bool = False,
    ) -> None:
        super().__init__()
        self.heads, self.head_width = head_shape(width, heads, head_width)
        self.key_value_heads = self.heads if key_value_heads is None else key_value_heads
        if self.key_value_heads < 1 or self.heads % self.key_value_heads:
            raise ValueError(f"key_value_heads must divide the {self.heads} heads, got {key_value_heads}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {dropout}")
        if positions not in (None, *get_args(Positions)):
            raise ValueError(f"positions must be {', '.join(get_args(Positions))} or None, got {positions!r}")
        if positions == "rotary" and self.head_width % 2:
            raise ValueError(f"rotary positions need an even head width, got {self.head_width}")
        if length < 1:
            raise ValueError(f"length must be at least 1, got {length}")
        if window is not None and window < 1:
            raise ValueError(f"window must be at least 1, got {window}")
        self.width, self.causal, self.dropout, self.positions, self.length, self.window = width, causal, dropout, positions, length, window
        self.positional = positions is None  # whether the model is to add positions of its own
        self.input_projection = Linear(width, (self.heads + 2 * self.key_value_heads) * self.head_width, bias)
        self.score_bias = _score_bias(positions, self.heads, causal, length)
        self.query_norm, self.key_norm = (nn.LayerNorm(self.head_width) if query_key_norm else nn.Identity() for _ in "qk")
        self.make_parameters()
        self.output_projection = Linear(self.heads * self.head_width, width, bias)  # last: edits find a mixer's last map by its place

    # -------------------------------------------------------------------------------------------- what a kind writes

    def make_parameters(self) -> None:
        """Register what `attend` needs."""

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, scope: Scope) -> Tensor:
        """Mix values by the kind's weights.

        Args:
            queries: (batch, heads, queries, head width).
            keys: (batch, key–value heads, keys, head width); there may be none.
            values: as the keys.
            scope: who sees whom; a query that sees nothing gives zeros.

        Returns:
            As the queries.
        """
        raise NotImplementedError(f"{type(self).__name__} must define attend(queries, keys, values, scope)")

    # -------------------------------------------------------------------------------------------- the contract

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mix the whole sequence (batch, length, width)."""
        self._check_input(x)
        if mask is not None and self.causal and not torch.compiler.is_compiling() and bool(mask[:, :1].all()) and padded_right(mask):
            mask = None  # padding that lies in everyone's future is seen by nobody real: no need to write out who sees whom
        if self.causal and self.window is not None and self.window < x.shape[1] and not torch.compiler.is_exporting():
            return self.scan(x, self.initial_state(x.shape[0]), mask)[0]  # block by block: linear in the length
        positions = _positions(x, mask)
        queries, keys, values = self.projected(x, positions)
        return self.joined(self.attend(queries, keys, values, self.whole_scope(x, mask)))

    def initial_state(self, batch_size: int) -> CacheState:
        """An empty cache."""
        if not self.causal:
            raise ValueError(f"{type(self).__name__}(causal=False) sees the future: it has no state and cannot read a stream")
        return empty_cache(batch_size, self.key_value_heads, self.head_width, self.output_projection.weight)

    def scan(self, x: Tensor, state: CacheState, mask: Tensor | None = None) -> tuple[Tensor, CacheState]:
        """Mix a chunk (batch, length, width), continuing from the cache ``state``."""
        self._check_input(x)
        state = CacheState(*state)
        if x.shape[1] == 0:
            return x, state
        if torch.compiler.is_exporting() and mask is None:
            return self._scan_filled(x, state)
        even = mask is None and is_even(state)
        real = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if mask is None else mask
        positions = (state.dropped + state.lengths)[:, None] + real.cumsum(1) - 1
        queries, keys, values = self.projected(x, positions)
        state = append(state, keys, values, None if even else real)
        mixed = self._attend_cached(queries, state, positions, even and x.shape[1] == 1)
        if self.window is not None:
            state = trimmed(state, self.window - 1)
        return self.joined(mixed), state

    # -------------------------------------------------------------------------------------------- for kinds and probes

    def projected(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (batch, heads, length, head width), keys and values of inputs (batch, length, width)."""
        sizes = [count * self.head_width for count in (self.heads, self.key_value_heads, self.key_value_heads)]
        parts = self.input_projection(x).split(sizes, -1)
        queries, keys, values = (part.unflatten(-1, (-1, self.head_width)).transpose(1, 2) for part in parts)
        queries, keys = self.query_norm(queries), self.key_norm(keys)
        if self.positions == "rotary":
            queries, keys = rotate(queries, positions), rotate(keys, positions)
        return queries, keys, values

    def joined(self, mixed: Tensor) -> Tensor:
        """The output (batch, length, width) of the heads' mixtures (batch, heads, length, head width)."""
        return self.output_projection(mixed.transpose(1, 2).flatten(2))

    def whole_scope(self, x: Tensor, mask: Tensor | None) -> Scope:
        """Who sees whom within one whole sequence."""
        positions = _positions(x, mask)
        if mask is None and self.window is None:
            return Scope(positions, positions, None, self.causal)
        ahead = positions[:, None, :] - positions[:, :, None]  # key position − query position
        visible = torch.ones_like(ahead, dtype=torch.bool) if mask is None else mask[:, None, :].expand(ahead.shape)
        if self.causal:
            visible = visible & (ahead <= 0)
        if self.window is not None:
            visible = visible & (ahead.abs() < self.window)
        return Scope(positions, positions, visible[:, None])

    # -------------------------------------------------------------------------------------------- inside

    def _scan_filled(self, x: Tensor, state: CacheState) -> tuple[Tensor, CacheState]:
        """A chunk in a graph that cannot look at numbers: buffers hold what was read and no more, and grow by concatenation."""
        positions = (state.dropped + state.lengths)[:, None] + torch.arange(x.shape[1], device=x.device)
        queries, keys, values = self.projected(x, positions)
        keys, values = torch.cat([state.keys, keys], 2), torch.cat([state.values, values], 2)
        entries = state.dropped[:, None] + torch.arange(keys.shape[2], device=x.device)
        visible = None
        if x.shape[1] > 1 or self.window is not None:
            ahead = entries[:, None, :] - positions[..., None]
            visible = ahead <= 0 if self.window is None else (ahead <= 0) & (ahead > -self.window)
            visible = visible[:, None]
        mixed = self.attend(queries, keys, values, Scope(positions, entries, visible))
        everything = keys.shape[2]
        if self.window is not None:
            keys, values = (old[:, :, max(0, everything - self.window + 1) :] for old in (keys, values))
        dropped = state.dropped + (everything - keys.shape[2])
        lengths = state.lengths + (x.shape[1] - everything + keys.shape[2])
        return self.joined(mixed), CacheState(keys, values, lengths, dropped, lengths.clone())

    def _attend_cached(self, queries: Tensor, state: CacheState, positions: Tensor, newest: bool) -> Tensor:
        """Queries over the cache, those under a window block by block; ``newest``: one query a row, at the last entry."""
        if self.window is None:
            return self._attend_block(queries, state, positions, newest)
        size = max(self.window, LEAST_BLOCK)
        blocks = zip(queries.split(size, 2), positions.split(size, 1), strict=True)
        return torch.cat([self._attend_block(block, state, at, False) for block, at in blocks], 2)

    def _attend_block(self, queries: Tensor, state: CacheState, positions: Tensor, newest: bool) -> Tensor:
        last = positions - state.dropped[:, None]  # the newest entry that each query sees: its own, if it is real
        stop = int(last.max()) + 1 if last.numel() else 0
        start = 0 if self.window is None or not last.numel() else max(0, int(last.min()) - self.window + 1)
        entries = torch.arange(start, stop, device=positions.device)
        visible = None
        if not newest:
            visible = entries <= last[..., None]
            if self.window is not None:
                visible = visible & (entries > last[..., None] - self.window)
            visible = visible[:, None]
        scope = Scope(positions, state.dropped[:, None] + entries, visible)
        return self.attend(queries, state.keys[:, :, start:stop], state.values[:, :, start:stop], scope)

    def _check_input(self, x: Tensor) -> None:
        if x.ndim != 3 or x.shape[-1] != self.width:
            raise ValueError(f"x must have shape (batch, length, {self.width}), got {tuple(x.shape)}")


def _score_bias(positions: Positions | None, heads: int, causal: bool, length: int) -> nn.Module | None:
    if positions == "alibi":
        return Alibi(heads)
    if positions == "offset":
        return OffsetTable(heads, length)
    return RelativeBias(heads, causal) if positions == "relative" else None


def _positions(x: Tensor, mask: Tensor | None) -> Tensor:
    """(batch or 1, length): each position's number among the real ones."""
    return torch.arange(x.shape[1], device=x.device)[None] if mask is None else mask.cumsum(1) - 1
