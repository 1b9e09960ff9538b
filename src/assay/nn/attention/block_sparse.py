"""`BlockSparseAttention`: attention among blocks: neighbours, a few global ones, and a few at random."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from assay.nn.attention.cached import Scope
from assay.nn.attention.sparse import SparseAttention
from assay.ops.masked_attention import Groups, visible_pairs


class BlockSparseAttention(SparseAttention):
    """Attention in which a block of queries sees its neighbours, the first and last blocks, and some others drawn once a layer.

    Of I blocks, block i sees those within ``⌊window_blocks / 2⌋`` of it, the ``global_blocks`` first and as many last ones, and
    ``random_blocks`` of the remaining; the global blocks see all. One softmax runs over the union; where the union is everything, it is
    plain attention. Linear in the length. The last blocks are those of each example's real positions, and what is drawn depends on
    their number alone, so padding changes nothing. Not causal.

    Source: Zaheer, Guruganesh, Dubey, Ainslie, Alberti, Ontanon, Pham, Ravula, Wang, Yang, Ahmed (2020), Big Bird: Transformers for Longer
    Sequences.

    Args:
        width: numbers per position.
        heads: heads; by default the largest of 4, 2, 1 that divides the width.
        head_width: numbers per head; by default ``width / heads``.
        block: positions a block.
        window_blocks: blocks of the neighbourhood, the own one in the middle: an odd number.
        global_blocks: at each end.
        random_blocks: of each block of queries that is not global.
        options: as `assay.nn.attention.cached.CachedAttention`, but for causal and window.

    Shapes: x (batch, length, width); mask (batch, length), True = real.

    Raises:
        ValueError: a number out of its range, or sizes that do not fit each other.
    """

    causal = False

    def __init__(
        self,
        width: int,
        heads: int | None = None,
        head_width: int | None = None,
        *,
        block: int = 64,
        window_blocks: int = 3,
        global_blocks: int = 1,
        random_blocks: int = 3,
        **options: Any,
    ) -> None:
        if block < 1:
            raise ValueError(f"block must be at least 1, got {block}")
        if window_blocks < 1 or window_blocks % 2 == 0:
            raise ValueError(f"window_blocks must be odd and at least 1, got {window_blocks}")
        if min(global_blocks, random_blocks) < 0:
            raise ValueError(f"global_blocks and random_blocks must be at least 0, got {global_blocks} and {random_blocks}")
        self.block, self.window_blocks, self.global_blocks, self.random_blocks = block, window_blocks, global_blocks, random_blocks
        if options.pop("causal", False) or options.pop("window", None) is not None:
            raise ValueError("blocks at the end are seen by all: this attention has no causal form, and no window but its own")
        super().__init__(width, heads, head_width, causal=False, **options)
        self.draw: Tensor
        self.register_buffer("draw", torch.randint(2**31, (), device="cpu"))  # what the random blocks follow from, kept with the weights
        self._seed = int(self.draw)
        self.register_load_state_dict_post_hook(_read_seed)

    def groups(self, length: int) -> list[Groups]:
        """The global blocks with all; each other block with those it sees."""
        count = -(-length // self.block)
        everything = torch.arange(count)
        ends = min(self.global_blocks, -(-count // 2))
        inner = everything[ends : count - ends]
        seen = 2 * ends + self.window_blocks + self.random_blocks
        if not len(inner) or count <= seen:
            return [Groups(everything[:, None], everything.expand(count, -1), self.block)]
        fixed = torch.cat([everything[:ends], everything[count - ends :]])
        blocks = _inner_blocks(count, ends, self.window_blocks // 2, self.random_blocks, self._seed)
        found = [Groups(inner[:, None], torch.tensor(blocks), self.block)]
        return [*found, Groups(fixed[None], everything[None], self.block)] if len(fixed) else found

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, scope: Scope) -> Tensor:
        """Softmax over the pairs of the scope, in which the blocks are written out already."""
        return super(SparseAttention, self).attend(queries, keys, values, scope)

    def whole_scope(self, x: Tensor, mask: Tensor | None) -> Scope:
        """Who sees whom within one whole sequence, written out: each example by its own number of blocks."""
        scope = super(SparseAttention, self).whole_scope(x, mask)
        lengths = [x.shape[1]] if mask is None else mask.sum(1).tolist()
        seen = x.new_zeros(len(lengths), x.shape[1], x.shape[1], dtype=torch.bool)
        for row, (length, places) in enumerate(zip(lengths, scope.query_positions.clamp(min=0), strict=True)):
            if length:
                seen[row] = (visible_pairs(self.groups(length), length, length) > 0).to(x.device)[places][:, places]
        return scope._replace(visible=scope.seen() & seen[:, None])

    # -------------------------------------------------------------------------------------------- inside

    def _forward_packed(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """Rows of equally many blocks together, for their last block and their random ones are the same."""
        if lengths is None:
            return super()._forward_packed(x, None)
        counts = -(-lengths // self.block)
        y = torch.zeros_like(x)
        for count in counts.unique().tolist():
            rows = (counts == count).nonzero()[:, 0]
            part = x[rows, : count * self.block]
            mixed = super()._forward_packed(part, lengths[rows])
            y = y.index_put((rows[:, None], torch.arange(part.shape[1], device=x.device)), mixed)
        return y


def _read_seed(layer: BlockSparseAttention, _unused: Any) -> None:
    """After loading: the number itself, so that nothing is read back from the device at every call."""
    layer._seed = int(layer.draw)


@lru_cache(maxsize=64)
def _inner_blocks(count: int, ends: int, half: int, random: int, seed: int) -> np.ndarray:
    """(inner blocks, blocks that each sees), each once; −1 where the neighbourhood is cut short."""
    everything = np.arange(count)
    inner, fixed = everything[ends : count - ends, None], np.concatenate([everything[:ends], everything[count - ends :]])
    first, stop = np.maximum(inner - half, ends), np.minimum(inner + half + 1, count - ends)  # the neighbourhood, less what is global
    near = inner + np.arange(-half, half + 1)
    near = np.where((near >= first) & (near < stop), near, -1)
    places = _distinct(count - 2 * ends - (stop - first)[:, 0], random, np.random.default_rng((seed, count))) + ends
    drawn = places + np.where(places >= first, stop - first, 0)  # numbered among those outside the neighbourhood
    return np.concatenate([np.broadcast_to(fixed, (len(inner), len(fixed))), near, drawn], 1)


def _distinct(below: np.ndarray, count: int, source: np.random.Generator) -> np.ndarray:
    """(rows, count): different whole numbers from 0 on, below ``below`` (rows,), every choice equally likely."""
    chosen = np.zeros((len(below), 0), dtype=np.int64)
    for taken in range(count):
        number = source.integers(below - taken)
        for column in range(taken):  # the n-th of those left: step over what was taken before
            number = number + (number >= chosen[:, column])
        chosen = np.sort(np.concatenate([chosen, number[:, None]], 1), axis=1)
    return chosen
