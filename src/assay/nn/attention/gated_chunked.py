"""`GatedChunkedAttention`: exact attention inside chunks, a moving average or a convolution across them, and gates; `Mega`, `TCNCA`."""

from __future__ import annotations

import math
import warnings
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from assay.contracts import State
from assay.nn.attention.local import LocalAttention
from assay.nn.convolution.dilated import DilatedTCN
from assay.nn.linear import Linear
from assay.nn.mixer import StreamingMixer
from assay.nn.norm import norm as make_norm
from assay.nn.position.relative import OffsetTable
from assay.nn.position.rotary_bias import RotaryBias
from assay.nn.recurrent.damped_ema import DampedEMA
from assay.ops.compaction import Compaction

LongRange = Literal["ema", "tcn"]
Weighting = Literal["softmax", "laplace", "relu2"]
Bias = Literal["simple", "rotary"]
Triple = tuple[Tensor, Tensor, Tensor]
DEVIATION = 0.02
"""Standard deviation of all linear maps and of γ at the start, as published."""
MEAN, SPREAD = math.sqrt(0.5), math.sqrt(0.25 / math.pi)
"""Of the Laplace function: where it has the value and the slope that ``relu(x)²`` has."""


class ChunkState(NamedTuple):
    """The state of what reaches far, and the chunk that is being read: ``filled`` (batch,) of its keys and values are there, others are 0.

    ``keys`` (batch, chunk − 1, query width), ``values`` (batch, chunk − 1, value width): a chunk that is full is forgotten. With an overlap
    the chunk before stands in front of it, and there is room for 2 · chunk − 1.
    """

    long_range: State
    keys: Tensor
    values: Tensor
    filled: Tensor


class GatedChunkedAttention(StreamingMixer):
    """Gated attention in chunks over what a long-range part M has mixed: the change ``u ∘ (H − x)`` that a residual sum adds to x.

        x̂ = norm(x);  V = silu(W_v x̂);  S = M(x̂);  [u, z, r, h] = W S;  u ← σ(u);  z, r ← silu(z), silu(r)
        Q = γ_0 ∘ z + β_0;  K = γ_1 ∘ z + β_1;  O = f(Q Kᵀ + bias) V within each chunk
        H = silu(h + W_h (O ∘ r));  y = u ∘ (H − x)

    f is ``softmax`` (scores scaled by query width^−½), ``laplace`` (`laplace`) or ``relu2``, the square of relu; the last two divide scores
    by the number of keys that a query sees. With an ``overlap`` a query also sees all of the chunk before its own (not causal: and of the
    chunk after it), so that it always sees at least ``chunk`` positions back, at twice the cost. In a block,
    ``x + y = (1 − u) ∘ x + u ∘ H``, the published gated residual; since y needs x itself, the norm is in here and the block around puts
    none before (``normalises``). All that crosses a border from farther away comes through M. Linear in the length; a step costs O(chunk)
    and M's step.

    Source: Ma, Zhou, Kong, He, Gui, Neubig, May, Zettlemoyer (2022), Mega: Moving Average Equipped Gated Attention.

    Args:
        width: numbers per position.
        query_width: numbers of Q and K; by default a quarter of the width, even.
        value_width: numbers of V; by default twice the width.
        chunk: positions a chunk.
        long_range: M: ``ema`` (`DampedEMA`), ``tcn`` (`DilatedTCN`), or a mixer of your own.
        attention: f.
        bias: of the scores, by offset: ``simple``, a learned number each, or ``rotary`` (`RotaryBias`).
        overlap: whether the neighbouring chunk is seen, too; published without.
        input_norm: ``layer`` or ``rms``; ``none`` where the block normalises after its sum.
        causal: a position sees itself and what is before it; else its whole chunk, and M both sides.
        dropout: on S and H.
        attention_dropout: on the weights.
        hidden_dropout: on V.

    Shapes: x (batch, length, width); mask (batch, length), True = real. A masked position is skipped as if it were not there, chunks too
    count real positions alone; its output is zero.

    Raises:
        ValueError: a size below 1, an odd query width with a rotary bias, an unknown name, or an M that does not fit ``causal``.
    """

    positional = False  # bias and M tell distances apart

    def __init__(
        self,
        width: int,
        query_width: int | None = None,
        value_width: int | None = None,
        chunk: int = 128,
        long_range: LongRange | nn.Module = "ema",
        attention: Weighting = "softmax",
        bias: Bias = "simple",
        *,
        overlap: bool = False,
        input_norm: str = "layer",
        causal: bool = True,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        hidden_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.query_width = 2 * max(1, width // 8) if query_width is None else query_width
        self.value_width = 2 * width if value_width is None else value_width
        if min(width, self.query_width, self.value_width, chunk) < 1:
            sizes = (width, self.query_width, self.value_width, chunk)
            raise ValueError(f"width, query_width, value_width and chunk must be at least 1, got {', '.join(map(str, sizes))}")
        if not 0 <= attention_dropout < 1:
            raise ValueError(f"attention_dropout must be at least 0 and below 1, got {attention_dropout}")
        for name, value, known in (("attention", attention, Weighting), ("bias", bias, Bias)):
            if value not in get_args(known):
                raise ValueError(f"{name} must be one of {', '.join(get_args(known))}, got {value!r}")
        self.width, self.chunk, self.overlap, self.attention, self.causal = width, chunk, overlap, attention, causal
        self.normalises = input_norm != "none"
        self.norm = make_norm(input_norm, width) if self.normalises else nn.Identity()
        self.long_range: Any = _long_range(long_range, width, causal)
        self.span = 2 * chunk if overlap else chunk
        _warn_if_blind(self.long_range, self.span)
        self.value_projection = Linear(width, self.value_width)
        self.gate_projection = Linear(width, 2 * width + self.query_width + self.value_width)
        self.scale = nn.Parameter(DEVIATION * torch.randn(2, self.query_width))
        self.shift = nn.Parameter(torch.zeros(2, self.query_width))
        self.bias = _bias(bias, self.span, self.query_width)
        self.dropout, self.hidden_dropout, self.attention_dropout = nn.Dropout(dropout), nn.Dropout(hidden_dropout), attention_dropout
        self.output_projection = Linear(self.value_width, width)
        for layer in (self.value_projection, self.gate_projection, self.output_projection):
            nn.init.normal_(layer.weight, std=DEVIATION)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The change of a whole sequence (batch, length, width)."""
        self._check(x)
        normal = self.norm(x)
        attended, gates = self._projected(normal, self.long_range(normal, mask))
        return self._gated(x, self._attend_whole(*attended, mask), gates, mask)

    def initial_state(self, batch_size: int) -> ChunkState:
        """An empty chunk."""
        if not self.causal:
            raise ValueError(f"{type(self).__name__}(causal=False) sees the future: it has no state and cannot read a stream")
        keys, values = (self.scale.new_zeros(batch_size, self.span - 1, width) for width in (self.query_width, self.value_width))
        filled = torch.zeros(batch_size, dtype=torch.long, device=self.scale.device)
        return ChunkState(self.long_range.initial_state(batch_size), keys, values, filled)

    def scan(self, x: Tensor, state: ChunkState, mask: Tensor | None = None) -> tuple[Tensor, ChunkState]:
        """The change of a chunk of a stream (batch, length, width), continuing from ``state``."""
        self._check(x)
        state, normal = ChunkState(*state), self.norm(x)
        mixed, long_range = self.long_range.scan(normal, state.long_range, mask)
        parts, gates = self._projected(normal, mixed)
        attended, state = self._attend_stream(*parts, state._replace(long_range=long_range), mask)
        return self._gated(x, attended, gates, mask), state

    # -------------------------------------------------------------------------------------------- projections and gates

    def _projected(self, normal: Tensor, mixed: Tensor) -> tuple[Triple, Triple]:
        """Queries, keys and values; and the gates u and r with the direct term of H; from x̂ and M(x̂)."""
        values = self.hidden_dropout(F.silu(self.value_projection(normal)))
        sizes = [self.width, self.query_width, self.value_width, self.width]
        update, shared, reset, direct = self.gate_projection(self.dropout(mixed)).split(sizes, -1)
        queries, keys = (F.silu(shared)[..., None, :] * self.scale + self.shift).unbind(-2)
        return (queries, keys, values), (update.sigmoid(), F.silu(reset), direct)

    def _gated(self, x: Tensor, attended: Tensor, gates: Triple, mask: Tensor | None) -> Tensor:
        update, reset, direct = gates
        candidate = self.dropout(F.silu(direct + self.output_projection(attended * reset)))
        y = update * (candidate - x)
        return y if mask is None else torch.where(mask[..., None], y, 0.0)

    # -------------------------------------------------------------------------------------------- attention

    def _attend_whole(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        if mask is None:
            return self._attend_chunks(queries, keys, values, None)
        compaction = Compaction(mask)
        real = torch.arange(mask.shape[1], device=mask.device) < compaction.counts[:, None]
        queries, keys, values = map(compaction.pack, (queries, keys, values))
        return compaction.unpack(self._attend_chunks(queries, keys, values, real))

    def _attend_chunks(self, queries: Tensor, keys: Tensor, values: Tensor, real: Tensor | None) -> Tensor:
        """From chunk borders on; ``real`` (batch, length) marks the positions in front that are there."""
        length = queries.shape[1]
        size = max(1, min(self.chunk, length))
        padding = -length % size
        queries, keys, values = (F.pad(part, (0, 0, 0, padding)).unflatten(1, (-1, size)) for part in (queries, keys, values))
        if self.overlap:
            keys, values = self._with_neighbours(keys), self._with_neighbours(values)
        places, others = (torch.arange(count, device=queries.device)[None] for count in (size, keys.shape[2]))
        places = places + (size if self.overlap else 0)
        seen = self._seen_in_chunks(queries, places, others, length, real)
        return self._weighted(queries, keys, values, self.bias(places, others), seen).flatten(1, 2)[:, :length]

    def _seen_in_chunks(self, queries: Tensor, places: Tensor, others: Tensor, length: int, real: Tensor | None) -> Tensor | None:
        """Which keys the queries (batch, chunks, size, …) of a sequence of ``length`` see; None for all of their own chunk."""
        count, size = queries.shape[1:3]
        if self.causal:  # what fills up the last chunk comes later than all that is real
            seen = others <= places.T
            if not self.overlap:
                return seen
            return seen & self._with_neighbours(seen.new_ones(1, count, size, 1))[..., 0][:, :, None]
        if not self.overlap and real is None and length == count * size:
            return None
        real = torch.ones(queries.shape[0], length, dtype=torch.bool, device=queries.device) if real is None else real
        there = F.pad(real, (0, count * size - length)).unflatten(1, (-1, size))
        seen = (self._with_neighbours(there[..., None])[..., 0] if self.overlap else there)[:, :, None]
        return seen | ~seen.any(-1, keepdim=True)  # a row without any key would have no softmax

    def _with_neighbours(self, chunks: Tensor) -> Tensor:
        """Every chunk (batch, chunks, size, width) behind the one before it, and not causal, before the one after it; zeros at the ends."""
        around = [F.pad(chunks, (0, 0, 0, 0, 1, 0))[:, :-1], chunks]
        if not self.causal:
            around.append(F.pad(chunks, (0, 0, 0, 0, 0, 1))[:, 1:])
        return torch.cat(around, 2)

    def _attend_stream(
        self, queries: Tensor, keys: Tensor, values: Tensor, state: ChunkState, mask: Tensor | None
    ) -> tuple[Tensor, ChunkState]:
        """Chunks that begin before the new positions: old keys and values are laid out in front of the new ones."""
        length = queries.shape[1]
        compaction = None if mask is None else Compaction(mask)
        if compaction is not None:
            queries, keys, values = map(compaction.pack, (queries, keys, values))
        counts = torch.full_like(state.filled, length) if compaction is None else compaction.counts
        places = state.filled[:, None] + torch.arange(length, device=queries.device)
        keys, values = (_laid(old, new, places) for old, new in ((state.keys, keys), (state.values, values)))
        if length < self.chunk:
            entries = torch.arange(keys.shape[1], device=keys.device)
            seen = (entries <= places[..., None]) & (entries // self.chunk >= places[..., None] // self.chunk - int(self.overlap))
            bias = self.bias(places, entries[None])
            attended = self._weighted(queries[:, None], keys[:, None], values[:, None], bias, seen[:, None])[:, 0]
        else:
            queries = _laid(torch.zeros_like(state.keys), queries, places)
            attended = self._attend_chunks(queries, keys, values, None)
            attended = attended.gather(1, places[..., None].expand(-1, -1, attended.shape[2]))
        attended = attended if compaction is None else compaction.unpack(attended)
        return attended, self._rest(keys, values, state, counts)

    def _rest(self, keys: Tensor, values: Tensor, state: ChunkState, counts: Tensor) -> ChunkState:
        """The chunk that is not full yet, with an overlap behind the one before it."""
        reached = state.filled + counts
        passed = self.chunk * (reached // self.chunk - int(self.overlap)).clamp(min=0)
        filled = reached - passed
        within = torch.arange(self.span - 1, device=keys.device)
        index = (passed[:, None] + within).clamp(max=max(0, keys.shape[1] - 1))[..., None]
        there = (within < filled[:, None])[..., None]
        rest = [torch.where(there, part.gather(1, index.expand(-1, -1, part.shape[2])), 0.0) for part in (keys, values)]
        return ChunkState(state.long_range, rest[0], rest[1], filled)

    def _weighted(self, queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor, seen: Tensor | None) -> Tensor:
        """(batch, chunks, queries, value width) from (batch, chunks, queries or keys, …)."""
        dropout = self.attention_dropout if self.training else 0.0
        bias = bias.to(queries.dtype)
        if self.attention == "softmax":
            scores = bias if seen is None else torch.where(seen, bias, -torch.inf)
            return F.scaled_dot_product_attention(queries, keys, values, scores, dropout)
        count = keys.shape[2] if seen is None else seen.sum(-1, keepdim=True)
        scores = queries @ keys.transpose(-1, -2) / count + bias
        weights = F.relu(scores).square() if self.attention == "relu2" else laplace(scores)
        weights = weights if seen is None else torch.where(seen, weights, 0.0)
        return torch.dropout(weights, dropout, dropout > 0) @ values

    def _check(self, x: Tensor) -> None:
        if x.ndim != 3 or x.shape[-1] != self.width:
            raise ValueError(f"x must have shape (batch, length, {self.width}), got {tuple(x.shape)}")


class Mega(GatedChunkedAttention):
    """`GatedChunkedAttention` over a `DampedEMA`.

    Source: as `GatedChunkedAttention`.

    Args:
        width: numbers per position.
        order: moving averages of a channel.
        reach: positions that an average sees, None for all (published as truncation).
        causal: as `GatedChunkedAttention`'s.
        options: of `GatedChunkedAttention`, but for ``long_range``.

    Raises:
        ValueError: as `GatedChunkedAttention` and `DampedEMA`.
    """

    def __init__(self, width: int, *, order: int = 16, reach: int | None = None, causal: bool = True, **options: Any) -> None:
        super().__init__(width, long_range=DampedEMA(width, order, causal=causal, reach=reach), causal=causal, **options)


class TCNCA(GatedChunkedAttention):
    """`GatedChunkedAttention` over a `DilatedTCN`.

    Source: Terzic, Hersche, Karunaratne, Benini, Sebastian, Rahimi (2023), TCNCA: Temporal Convolution Network with Chunked Attention for
    Scalable Sequence Processing.

    Args:
        width: numbers per position.
        kernel, factor, blocks, depthwise: of `DilatedTCN`.
        causal: as `GatedChunkedAttention`'s.
        options: of `GatedChunkedAttention`, but for ``long_range``.

    Raises:
        ValueError: as `GatedChunkedAttention` and `DilatedTCN`.
    """

    def __init__(
        self, width: int, *, kernel: int = 17, factor: int = 8, blocks: int = 3, depthwise: bool = True, causal: bool = True, **options: Any
    ) -> None:
        network = DilatedTCN(width, kernel, factor, blocks, depthwise=depthwise, causal=causal)
        super().__init__(width, long_range=network, causal=causal, **options)


class SimplifiedTCNCA(StreamingMixer):
    """``W_o attention(T)`` in chunks, with ``T = TCN(x)`` the source of queries, keys and values; no gates and no products but attention's.

    Source: as `TCNCA`, whose abstract leaves out "excessive multiplicative and additive interactions" for associative recall; which ones is
    a choice made here.

    Args:
        width: numbers per position.
        chunk: positions a chunk.
        kernel, factor, blocks, depthwise: of `DilatedTCN`.
        causal: a position sees itself and what is before it.
        heads, head_width: of the attention, by default one head.
        dropout: on the weights of the attention.

    Shapes: x (batch, length, width); mask (batch, length), True = real.

    Raises:
        ValueError: as `DilatedTCN` and `assay.nn.attention.local.LocalAttention`.
    """

    positional = False  # offsets within a chunk and the convolutions tell distances apart

    def __init__(
        self,
        width: int,
        chunk: int = 128,
        *,
        kernel: int = 17,
        factor: int = 8,
        blocks: int = 3,
        depthwise: bool = True,
        causal: bool = True,
        heads: int = 1,
        head_width: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if chunk < 1:
            raise ValueError(f"chunk must be at least 1, got {chunk}")
        self.causal = causal
        self.long_range = DilatedTCN(width, kernel, factor, blocks, depthwise=depthwise, causal=causal)
        _warn_if_blind(self.long_range, chunk)
        options: dict[str, Any] = {"positions": "offset", "length": chunk, "dropout": dropout}
        self.attention = LocalAttention(width, heads, head_width, block=chunk, causal=causal, **options)
        self.attention.score_bias = OffsetTable(heads, chunk, beyond="clamp")  # what lies beyond is another chunk's, and hidden

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mix the whole sequence (batch, length, width)."""
        return self.attention(self.long_range(x, mask), mask)

    def initial_state(self, batch_size: int) -> State:
        """Of the convolutions, and of the chunk that is being read."""
        return self.long_range.initial_state(batch_size), self.attention.initial_state(batch_size)

    def scan(self, x: Tensor, state: State, mask: Tensor | None = None) -> tuple[Tensor, State]:
        """Mix a chunk of a stream (batch, length, width), continuing from ``state``."""
        mixed, long_range = self.long_range.scan(x, state[0], mask)
        y, attention = self.attention.scan(mixed, state[1], mask)
        return y, (long_range, attention)


def laplace(scores: Tensor) -> Tensor:
    """``½ (1 + erf((s − μ) / (σ √2)))`` with μ = √½ and σ = (4π)^−½: a bounded stand-in for ``relu(s)²``, with its value and slope at μ."""
    return 0.5 * (1 + torch.erf((scores - MEAN) / (SPREAD * math.sqrt(2))))


def _laid(old: Tensor, new: Tensor, places: Tensor) -> Tensor:
    """``new`` (batch, length, width) at its places behind ``old``."""
    room = F.pad(old, (0, 0, 0, new.shape[1])).to(new.dtype)
    return room.scatter(1, places[..., None].expand_as(new), new)


def _bias(kind: Bias, chunk: int, width: int) -> nn.Module:
    if kind == "rotary":
        return RotaryBias(width, DEVIATION)
    return OffsetTable(1, chunk, deviation=DEVIATION, beyond="clamp")  # offsets beyond are of keys in other chunks, which are hidden


def _long_range(given: LongRange | nn.Module, width: int, causal: bool) -> nn.Module:
    if isinstance(given, nn.Module):
        if getattr(given, "causal", False) != causal:
            raise ValueError(f"long_range must have causal={causal} as the attention has, {type(given).__name__} has not")
        return given
    if given not in get_args(LongRange):
        raise ValueError(f"long_range must be a module or one of {', '.join(get_args(LongRange))}, got {given!r}")
    return DampedEMA(width, causal=causal) if given == "ema" else DilatedTCN(width, causal=causal)


def _warn_if_blind(long_range: nn.Module, chunk: int) -> None:
    if isinstance(long_range, DilatedTCN) and long_range.receptive_field <= chunk:
        reach = f"the convolutions see {long_range.receptive_field} positions, no more than a chunk of {chunk}"
        warnings.warn(f"{reach}: what lies farther back is lost at every border; use more blocks or a larger factor", stacklevel=3)
