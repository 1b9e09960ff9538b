"""Three ways to join a neural memory with attention to what is near: the memory as context, as a gate, and as a layer before it.

Attention is accurate and short, the memory compresses and is long; learned persistent tokens hold what is true of the task whatever is
read.

Source: Behrouz, Zhong, Mirrokni (2024), Titans: Learning to Memorize at Test Time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypedDict

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from assay.nn.attention.cache import CacheState
from assay.nn.attention.cached import Positions
from assay.nn.attention.packed import packed
from assay.nn.attention.persistent import PersistentAttention
from assay.nn.memory.neural_memory import NeuralMemory, NeuralMemoryState
from assay.nn.mixer import StreamingMixer
from assay.ops.loop import Tensors, walk
from assay.ops.surprise_scan import SurpriseState


class TitansState(TypedDict):
    """The states of the two parts."""

    attention: CacheState
    memory: NeuralMemoryState


class MemoryGate(nn.Module):
    """``o = σ(norm(y)) ∘ σ(norm(m))``, both norms with a learned vector: to first order a sum of the two, to second each gates the other.

    Shapes: y and m (…, width).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.memory_norm = (nn.RMSNorm(width, eps=1e-6) for _ in "ym")

    def forward(self, y: Tensor, memory: Tensor) -> Tensor:
        """Gate."""
        return self.norm(y).sigmoid() * self.memory_norm(memory).sigmoid()


class Titans(StreamingMixer):
    """What the three share: `PersistentAttention`, `NeuralMemory` and their states; a kind writes how they are joined.

    Args:
        width: numbers per position.
        heads: heads of both; by default the largest of 4, 2, 1 that divides the width.
        head_width: numbers per head; by default ``width / heads``.
        persistent: tokens that every position sees and that the memory reads first; 0 for none.
        window: positions that attention sees, itself among them.
        positions: bias of the attention's scores, or None; a stream has no end, so none that depends on where it stands.
        memory: options of `NeuralMemory`.

    Raises:
        ValueError: what the two parts refuse.
    """

    positional = False  # the bias of the attention and the memory tell positions apart

    def __init__(
        self,
        width: int,
        heads: int | None = None,
        head_width: int | None = None,
        *,
        persistent: int = 4,
        window: int = 64,
        positions: Positions | None = "alibi",
        **memory: Any,
    ) -> None:
        super().__init__()
        self.attention = PersistentAttention(width, heads, head_width, tokens=persistent, window=window, positions=positions)
        self.memory = NeuralMemory(width, heads, head_width, **memory)

    def initial_state(self, batch_size: int) -> TitansState:
        """An empty cache, and the memory that has read the persistent tokens."""
        _, memory = self.memory.scan(self.attention.first(batch_size), self.memory.initial_state(batch_size))
        return {"attention": self.attention.initial_state(batch_size), "memory": memory}


class MemoryAsGate(Titans):
    """MAG: ``o = σ(norm(y)) ∘ σ(norm(m))`` of attention ``y = SWA([P; x])`` and memory ``m = M([P; x])`` side by side.

    Source, args and errors as `Titans`.

    Shapes: x (batch, length, width); mask (batch, length), True = real; the state does not grow.
    """

    def __init__(self, width: int, heads: int | None = None, head_width: int | None = None, **options: Any) -> None:
        super().__init__(width, heads, head_width, **options)
        self.gate = MemoryGate(width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mix the whole sequence (batch, length, width)."""
        read, _ = self.memory.scan(x, self.initial_state(x.shape[0])["memory"], mask)
        return self.gate(self.attention(x, mask), read)

    def scan(self, x: Tensor, state: TitansState, mask: Tensor | None = None) -> tuple[Tensor, TitansState]:
        """Mix a chunk (batch, length, width), continuing from ``state``."""
        y, attention = self.attention.scan(x, state["attention"], mask)
        read, memory = self.memory.scan(x, state["memory"], mask)
        return self.gate(y, read), {"attention": attention, "memory": memory}


class MemoryAsLayer(Titans):
    """MAL: attention over what the memory made of the input, ``o = SWA([P; M([P; x])])``.

    What the memory makes of P does not depend on the input, so attention is given P itself in its place. Source, args and errors as
    `Titans`.

    Shapes: x (batch, length, width); mask (batch, length), True = real; the state does not grow.
    """

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mix the whole sequence (batch, length, width)."""
        read, _ = self.memory.scan(x, self.initial_state(x.shape[0])["memory"], mask)
        return self.attention(read, mask)

    def scan(self, x: Tensor, state: TitansState, mask: Tensor | None = None) -> tuple[Tensor, TitansState]:
        """Mix a chunk (batch, length, width), continuing from ``state``."""
        read, memory = self.memory.scan(x, state["memory"], mask)
        y, attention = self.attention.scan(read, state["attention"], mask)
        return y, {"attention": attention, "memory": memory}


class MemoryAsContext(StreamingMixer):
    """MAC: segment by segment, attention over persistent tokens, what the memory recalls for the segment, and the segment itself.

    For a segment x of positions, with M the memory after the segments before it,

        h_t = M(W_Q x_t),   y = attention([P; h; x]),   M ← written with y,   o_t = σ(norm(y_t)) ∘ σ(norm(M_t(W_Q y_t))).

    Position t sees h and x up to its own place, and M_t holds y up to its own place: the paper does not say so, but nothing else is causal.
    A memory's chunk is the segment.

    Source: Behrouz, Zhong, Mirrokni (2024), Titans: Learning to Memorize at Test Time.

    Args:
        width: numbers per position.
        heads: heads of attention and memory; by default the largest of 4, 2, 1 that divides the width.
        head_width: numbers per head; by default ``width / heads``.
        persistent: tokens that every position sees; 0 for none.
        segment: positions a segment.
        positions: bias of the attention's scores, or None; a stream has no end, so none that depends on where it stands.
        memory: options of `NeuralMemory`, but for the chunk.

    Shapes: x (batch, length, width); mask (batch, length), True = real; the state does not grow.

    Raises:
        ValueError: what the two parts refuse.
    """

    positional = False

    def __init__(
        self,
        width: int,
        heads: int | None = None,
        head_width: int | None = None,
        *,
        persistent: int = 4,
        segment: int = 32,
        positions: Positions | None = "alibi",
        **memory: Any,
    ) -> None:
        super().__init__()
        # what is recalled for a position stands just before it, so that a segment is twice as long
        self.attention = PersistentAttention(width, heads, head_width, tokens=persistent, segment=2 * segment, positions=positions)
        self.memory = NeuralMemory(width, heads, head_width, chunk=segment, **memory)
        self.gate = MemoryGate(width)
        self.segment = segment

    def initial_state(self, batch_size: int) -> TitansState:
        """An empty cache and an empty memory."""
        return {"attention": self.attention.initial_state(batch_size), "memory": self.memory.initial_state(batch_size)}

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mix the whole sequence (batch, length, width)."""
        return packed(self._forward_packed, x, mask)

    def scan(self, x: Tensor, state: TitansState, mask: Tensor | None = None) -> tuple[Tensor, TitansState]:
        """Mix a chunk (batch, length, width), continuing from ``state``."""
        attention, memory, outputs = state["attention"], state["memory"], []
        for piece in self._pieces(SurpriseState(*memory["memory"]).count, x, mask):
            part, real = x[:, piece], None if mask is None else mask[:, piece]
            y, attention = self.attention.scan(self._pairs(part, memory), attention, None if real is None else real.repeat_interleave(2, 1))
            y = y[:, 1::2]
            read, memory = self.memory.scan(y, memory, real)
            outputs.append(self.gate(y, read))
        return torch.cat(outputs, 1) if outputs else x, {"attention": attention, "memory": memory}

    def _forward_packed(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """Rows whose real positions are the first ``lengths``: all segments begin at the same places, and attention needs no cache."""
        leaves, structure = pytree.tree_flatten(self.memory.initial_state(x.shape[0]))

        def step(state: Tensors, position: tuple[Any, ...]) -> tuple[Tensors, Tensors]:
            part, real = position
            memory = pytree.tree_unflatten(state, structure)
            y = self.attention(self._pairs(part, memory), None if real is None else real.repeat_interleave(2, 1))[:, 1::2]
            read, memory = self.memory.scan(y, memory, real)
            return tuple(pytree.tree_leaves(memory)), (self.gate(y, read),)

        real = None if lengths is None else torch.arange(x.shape[1], device=x.device) < lengths[:, None]
        whole, state, outputs = x.shape[1] - x.shape[1] % self.segment, tuple(leaves), []
        if whole:
            segments = [None if part is None else part[:, :whole].unflatten(1, (-1, self.segment)) for part in (x, real)]
            state, (y,) = walk(step, state, segments)
            outputs.append(y.flatten(1, 2))
        if whole < x.shape[1]:
            _, last = step(state, (x[:, whole:], None if real is None else real[:, whole:]))
            outputs.extend(last)
        return torch.cat(outputs, 1) if outputs else x

    def _pairs(self, x: Tensor, memory: NeuralMemoryState) -> Tensor:
        """What is recalled for each position, then the position: (batch, 2 · length, width)."""
        return torch.stack([self.memory.recall(x, memory), x], 2).flatten(1, 2)

    def _pieces(self, count: Tensor, x: Tensor, mask: Tensor | None) -> Iterator[slice]:
        """The chunk cut wherever a segment of any row ends; ``count`` (batch,) real positions of the present one were read before."""
        if x.shape[1] == 1:  # never cut, so that an exported step need not look at the counts
            yield slice(0, 1)
            return
        real = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if mask is None else mask
        ends = real & ((count[:, None] + real.cumsum(1)) % self.segment == 0)
        cuts = [index + 1 for index in ends.any(0).nonzero()[:, 0].tolist()]
        for start, stop in zip([0, *cuts], [*cuts, x.shape[1]], strict=True):
            if start < stop:
                yield slice(start, stop)
