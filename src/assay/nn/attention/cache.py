"""The cache of keys and values that attention carries from one chunk of a stream to the next."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

FIRST_CAPACITY = 16


class CacheState(NamedTuple):
    """Keys and values read so far, (batch, heads, capacity, head width); ``lengths`` (batch,) entries of a row are filled.

    Entry n of a row stands at position ``dropped + n``: with a window, what no later query can see is dropped from the front.
    ``written`` (batch,) counts what was ever written into these buffers and is shared by all states on them: a state that finds more
    written than its own lengths is not the newest, and continues on a copy. So a stream may be forked at any state.
    """

    keys: Tensor
    values: Tensor
    lengths: Tensor
    dropped: Tensor
    written: Tensor


def empty_cache(batch_size: int, heads: int, head_width: int, like: Tensor, value_width: int | None = None) -> CacheState:
    """A cache without entries, of the type and device of ``like``; values are as wide as keys unless it is said."""
    keys = like.new_zeros(batch_size, heads, 0, head_width)
    values = like.new_zeros(batch_size, heads, 0, head_width if value_width is None else value_width)
    lengths = torch.zeros(batch_size, dtype=torch.long, device=like.device)
    return CacheState(keys, values, lengths, lengths.clone(), lengths.clone())


def is_even(state: CacheState) -> bool:
    """Whether all rows hold equally many entries."""
    return not len(state.lengths) or bool((state.lengths == state.lengths[0]).all())


def append(state: CacheState, keys: Tensor, values: Tensor, real: Tensor | None) -> CacheState:
    """The cache with a chunk's real positions behind its own: in place where this is the newest state on its buffers and they have room.

    Args:
        state: the cache before.
        keys: (batch, heads, length, head width).
        values: the same.
        real: (batch, length), or None where all positions are real and the rows are even.
    """
    counts = keys.shape[2] if real is None else real.sum(1)
    lengths = state.lengths + counts
    needed = int(lengths.max()) if len(lengths) else 0
    recorded = torch.is_grad_enabled() and (keys.requires_grad or state.keys.requires_grad)
    if recorded or needed > state.keys.shape[2] or not torch.equal(state.written, state.lengths):
        state = _copied(state, needed if recorded else max(FIRST_CAPACITY, 2 ** (needed - 1).bit_length() if needed else 0))
    if real is None:
        state.keys[:, :, needed - keys.shape[2] : needed] = keys
        state.values[:, :, needed - keys.shape[2] : needed] = values
    else:
        row, column = real.nonzero(as_tuple=True)
        place = (state.lengths[:, None] + real.cumsum(1))[row, column] - 1
        state.keys[row, :, place] = keys[row, :, column]
        state.values[row, :, place] = values[row, :, column]
    state.written.copy_(lengths)
    return state._replace(lengths=lengths)


def trimmed(state: CacheState, keep: int) -> CacheState:
    """The cache with the last ``keep`` entries of every row, cut only when it holds twice as many: a step copies constant bytes."""
    stored = int(state.lengths.max()) if len(state.lengths) else 0
    if stored <= 2 * keep + 1:
        return state
    kept = state.lengths.clamp(max=keep)
    place = (state.lengths - kept)[:, None] + torch.arange(keep, device=kept.device)
    place = place.clamp(max=stored - 1)[:, None, :, None]
    room = FIRST_CAPACITY + keep
    keys, values = (
        torch.cat([old.gather(2, place.expand(-1, old.shape[1], -1, old.shape[3])), old.new_zeros(*old.shape[:2], room, old.shape[3])], 2)
        for old in (state.keys, state.values)
    )
    return CacheState(keys, values, kept, state.dropped + state.lengths - kept, kept.clone())


def _copied(state: CacheState, capacity: int) -> CacheState:
    used = int(state.lengths.max()) if len(state.lengths) else 0

    def copied(old: Tensor) -> Tensor:
        new = old.new_zeros(*old.shape[:2], capacity, old.shape[3])
        new[:, :, :used] = old[:, :, :used]
        return new

    return CacheState(copied(state.keys), copied(state.values), state.lengths, state.dropped, state.lengths.clone())
