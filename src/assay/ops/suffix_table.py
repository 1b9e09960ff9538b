"""`SuffixTable`: the running sums of `successor_average` kept by n-gram, so that a stream continues in constant time a token.

Token j is an *event*: it follows the n-gram that ends at j − 1, and adds its value to that n-gram's running sum. Sums are an append-only
log, one record an event, found through hash chains: ``heads`` leads to the latest event of a bucket, ``previous`` from an event to the
one before it in its bucket, and tokens are compared, so that a collision costs a look and never an error. The first record found is
the n-gram's latest, and holds the sum over all of its events.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from assay.ops.compaction import Compaction
from assay.ops.suffix_matches import grouped_sums, rows_at, suffix_groups

FIRST_CAPACITY = 16


class SuffixTable(NamedTuple):
    """What was read so far, rows of different lengths side by side; capacity and buckets double when full.

    ``tokens`` (batch, capacity); ``sums`` (batch, capacity, width) and ``counts`` (batch, capacity), the running sum and number of an
    event's n-gram, the event included; ``previous`` (batch, capacity) and ``heads`` (batch, buckets), events by bucket, −1 for none;
    ``lengths`` (batch,) tokens read; ``written`` (batch,) tokens ever written into these buffers, by this state or a younger one: a
    state that is not the newest continues on a copy, so that a stream may be forked anywhere.
    """

    tokens: Tensor
    sums: Tensor
    counts: Tensor
    previous: Tensor
    heads: Tensor
    lengths: Tensor
    written: Tensor


def initial_suffix_table(batch_size: int, width: int, dtype: torch.dtype = torch.float32, device: Any = None) -> SuffixTable:
    """The table before the first token."""
    lengths = torch.zeros(batch_size, dtype=torch.long, device=device)
    return _empty(batch_size, FIRST_CAPACITY, width, lengths, dtype, device)


def extend(table: SuffixTable, values: Tensor, tokens: Tensor, order: int, mask: Tensor | None = None) -> tuple[Tensor, SuffixTable]:
    """`successor_average` of a chunk that continues what the table has read, and the table behind it.

    Args:
        table: of the same order, batch and width.
        values: (batch, length, width).
        tokens: (batch, length), integers ≥ 0.
        order: tokens that must agree.
        mask: (batch, length), True = real; a masked position changes nothing and its average is zero.

    Returns:
        Averages (batch, length, width) in the values' type, and the table. The work does not grow with what was read before.
    """
    if tokens.shape[1] == 0:
        return values, table
    if mask is not None:
        real = Compaction(mask)
        averages, table = _extend(table, real.pack(values), real.pack(tokens[..., None])[..., 0], order, real.counts)
        return real.unpack(averages), table
    return _extend(table, values, tokens, order, torch.full_like(table.lengths, tokens.shape[1]))


def _extend(table: SuffixTable, values: Tensor, tokens: Tensor, order: int, fresh: Tensor) -> tuple[Tensor, SuffixTable]:
    """`extend` by the first ``fresh`` tokens of each row."""
    length = tokens.shape[1]
    place = table.lengths[:, None] + torch.arange(length, device=tokens.device)
    real = place < (table.lengths + fresh)[:, None]
    grams, groups = _grams(table, tokens, order)
    complete = F.pad(real & (place >= order), (0, 1))  # an event needs a whole n-gram before it,
    asked = F.pad(real & (place >= order - 1), (1, 0))  # a question one that ends with its own token
    known = _lookup(table, grams, complete | asked, order)
    old_sums = torch.where(known[..., None] >= 0, rows_at(table.sums, known.clamp(min=0)), 0.0)
    old_counts = torch.where(known >= 0, table.counts.gather(1, known.clamp(min=0)), 0)

    keys = torch.where(complete, groups, -1)[:, :-1]
    queries = torch.where(asked, groups, -1)[:, 1:]
    sums, counts = grouped_sums(values, keys, queries)
    sums, counts = sums + old_sums[:, 1:], counts + old_counts[:, 1:]
    averages = (sums / counts.clamp(min=1)[..., None]).to(values.dtype)

    sums, counts = grouped_sums(values, keys, keys, inclusive=True)
    records = (sums + old_sums[:, :-1]).to(table.sums.dtype)
    return averages, _append(table, tokens, records, counts + old_counts[:, :-1], order, place, real)


def _grams(table: SuffixTable, tokens: Tensor, order: int) -> tuple[Tensor, Tensor]:
    """The n-grams that end right before the chunk and at each of its tokens: (batch, length + 1, order), and numbers for them."""
    back = table.lengths[:, None] - torch.arange(order, 0, -1, device=tokens.device)
    tail = table.tokens.gather(1, back.clamp(min=0))  # where fewer are read, the n-gram is not complete and never used
    together = torch.cat([tail, tokens], 1)
    return together.unfold(1, order, 1), suffix_groups(together, order)[:, order - 1 :]


def _lookup(table: SuffixTable, grams: Tensor, wanted: Tensor, order: int) -> Tensor:
    """The latest event of each n-gram, (batch, n-grams), −1 where there is none."""
    found = torch.where(wanted, table.heads.gather(1, _bucket(grams, table.heads.shape[1])), -1)
    while True:
        other = found >= table.lengths[:, None]  # a younger state's
        for back in range(order):
            there = table.tokens.gather(1, (found - 1 - back).clamp(min=0))
            other = other | (there != grams[..., order - 1 - back])
        other = other & (found >= 0)
        if not bool(other.any()):
            return found
        found = torch.where(other, table.previous.gather(1, found.clamp(min=0)), found)


def _append(table: SuffixTable, tokens: Tensor, records: Tensor, counts: Tensor, order: int, place: Tensor, real: Tensor) -> SuffixTable:
    """The table with the chunk's real tokens behind its own: in place if it is the newest on its buffers and they have room."""
    lengths = table.lengths + real.sum(1)
    needed = int(lengths.max()) if len(lengths) else 0
    recorded = torch.is_grad_enabled() and (records.requires_grad or table.sums.requires_grad)
    if recorded or needed > table.tokens.shape[1] or not torch.equal(table.written, table.lengths):
        table = _rebuilt(table, max(FIRST_CAPACITY, 1 << (needed - 1).bit_length()) if needed else FIRST_CAPACITY, order)
    row, column = real.nonzero(as_tuple=True)
    at = place[row, column]
    table.tokens[row, at] = tokens[row, column]
    table.sums[row, at] = records[row, column]
    table.counts[row, at] = counts[row, column]
    _chain(table, place, real & (place >= order), order)
    table.written.copy_(lengths)
    return table._replace(lengths=lengths)


def _rebuilt(table: SuffixTable, capacity: int, order: int) -> SuffixTable:
    """A copy of a state's own part with room for ``capacity`` tokens."""
    used = int(table.lengths.max()) if len(table.lengths) else 0
    batch, _, width = table.sums.shape
    new = _empty(batch, capacity, width, table.lengths, table.sums.dtype, table.sums.device)
    new.tokens[:, :used], new.sums[:, :used], new.counts[:, :used] = table.tokens[:, :used], table.sums[:, :used], table.counts[:, :used]
    place = torch.arange(used, device=table.sums.device).expand(batch, used)
    _chain(new, place, (place >= order) & (place < table.lengths[:, None]), order)
    return new


def _chain(table: SuffixTable, place: Tensor, events: Tensor, order: int) -> None:
    """Enter events, already in ``tokens`` at consecutive places (batch, length), into the buckets of the n-grams before them."""
    length, buckets = place.shape[1], table.heads.shape[1]
    if length == 0:
        return
    # places that are no events may lie beyond the capacity
    back = place[..., None] - torch.arange(order, 0, -1, device=place.device)
    grams = table.tokens.gather(1, back.clamp(0, table.tokens.shape[1] - 1).flatten(1)).view_as(back)
    bucket = torch.where(events, _bucket(grams, buckets), buckets)  # the others share a bucket of their own, which is not kept
    codes, index = (bucket * length + torch.arange(length, device=place.device)).sort(1)
    sorted_place = place.gather(1, index)
    same = F.pad(codes[:, 1:] // length == codes[:, :-1] // length, (1, 0))
    heads = F.pad(table.heads, (0, 1), value=-1)
    before = torch.where(same, F.pad(sorted_place, (1, -1)), heads.gather(1, bucket.gather(1, index)))
    row, column = events.gather(1, index).nonzero(as_tuple=True)
    table.previous[row, sorted_place[row, column]] = before[row, column]
    table.heads.copy_(heads.scatter_reduce(1, bucket, place, "amax")[:, :-1])


def _bucket(grams: Tensor, buckets: int) -> Tensor:
    """A bucket for each n-gram (…, order); ``buckets`` is a power of two."""
    code = torch.zeros_like(grams[..., 0])
    for token in grams.unbind(-1):
        code = (code + token + 1) * 0x9E3779B97F4A7C1  # odd; products wrap around
    return (code ^ (code >> 29)) & (buckets - 1)


def _empty(batch: int, capacity: int, width: int, lengths: Tensor, dtype: torch.dtype, device: Any) -> SuffixTable:
    def integers(columns: int, fill: int) -> Tensor:
        return torch.full((batch, columns), fill, dtype=torch.long, device=device)

    sums = torch.zeros(batch, capacity, width, dtype=dtype, device=device)
    return SuffixTable(
        integers(capacity, 0), sums, integers(capacity, 0), integers(capacity, -1), integers(2 * capacity, -1), lengths, lengths.clone()
    )
