"""`masked_attention`: softmax attention in which a query is compared with some of the keys only, block by block or all at once.

Who is compared with whom is a list of `Groups`: in a group every query meets every key, and a rule on positions leaves pairs out. With P
the pairs of all groups,

    o_i = Σ_{(i,j) ∈ P} e^{s_ij} v_j / Σ_{(i,j) ∈ P} e^{s_ij},   s_ij = q_i · k_j / √(head width) + bias_ij;

a query without pairs gives zeros. Time and memory of the gathered form are those of the groups: Σ groups · queries · keys.

Source: Child, Gray, Radford, Sutskever (2019), Generating Long Sequences with Sparse Transformers; Zaheer et al. (2020), Big Bird.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from assay.ops.prefix_attention import PrefixState, combine, output

Rule = Callable[[Tensor, Tensor], Tensor]
"""``(query positions (…, queries), key positions (…, keys)) -> (…, queries, keys)``, True where the query sees the key."""
Bias = Callable[[Tensor, Tensor], Tensor]
"""``(query positions (groups, queries), key positions (groups, keys)) -> (groups, heads, queries, keys)``, added to the scores."""
Implementation = Literal["auto", "gathered", "dense"]
IMPLEMENTATIONS: tuple[Implementation, ...] = ("auto", "gathered", "dense")
DENSE_SHARE = 0.4
"""From this share of all pairs on, computing all pairs in one fused call was faster on a CPU core than gathering some."""


class Groups(NamedTuple):
    """Queries and keys that meet, group by group; both are numbers of runs of ``unit`` neighbouring positions.

    Args:
        queries: (groups, runs of queries), each run in one of the groups at most. −1, or a run beyond the sequence: none.
        keys: (groups, runs of keys), alike, but in any number of the groups.
        unit: positions a run.
        rule: leaves pairs out; None keeps them all.
    """

    queries: Tensor
    keys: Tensor
    unit: int = 1
    rule: Rule | None = None

    def pairs(self) -> int:
        """How many scores are computed a head."""
        return len(self.queries) * self.queries.shape[1] * self.keys.shape[1] * self.unit**2


def block_groups(layout: Tensor, unit: int, rule: Rule | None = None) -> list[Groups]:
    """The groups of a block mask: ``layout`` (blocks of queries, blocks of keys), True where a block is looked at.

    Rows with about equally many blocks go together (up to the next power of two), so that few full rows do not widen all others.

    Raises:
        ValueError: the layout is no matrix of booleans, or ``unit`` is below 1.
    """
    if layout.ndim != 2 or layout.dtype != torch.bool:
        raise ValueError(f"layout must be a matrix of booleans, got shape {tuple(layout.shape)} of {layout.dtype}")
    if unit < 1:
        raise ValueError(f"unit must be at least 1, got {unit}")
    counts = layout.sum(1)
    sizes = torch.where(counts > 0, 2 ** counts.clamp(min=1).double().log2().ceil().long(), 0).clamp(max=layout.shape[1])
    found = []
    for size in sizes[sizes > 0].unique().tolist():
        rows = (sizes == size).nonzero()[:, 0]
        there, keys = layout[rows].to(torch.int8).sort(dim=1, descending=True, stable=True)
        found.append(Groups(rows[:, None], torch.where(there[:, :size] > 0, keys[:, :size], -1), unit, rule))
    return found


def band_groups(length: int, unit: int, left: int, right: int, rule: Rule | None = None, device: torch.device | None = None) -> Groups:
    """Every run of ``unit`` queries with the runs that reach ``left`` positions before and ``right`` after any of them."""
    runs = torch.arange(_ceiling(length, unit), device=device)[:, None]
    return Groups(runs, runs + torch.arange(-_ceiling(left, unit), _ceiling(right, unit) + 1, device=device), unit, rule)


def _ceiling(number: int, unit: int) -> int:
    return -(-number // unit)


def masked_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    groups: Sequence[Groups],
    *,
    lengths: Tensor | None = None,
    bias: Bias | None = None,
    dropout: float = 0.0,
    implementation: Implementation = "auto",
) -> Tensor:
    """Attention over the pairs of ``groups``; a pair must not be in two of them, for it would count twice.

    Args:
        queries: (batch, heads, queries, head width).
        keys: (batch, key–value heads, keys, head width); heads are a multiple of key–value heads.
        values: (batch, key–value heads, keys, value width).
        groups: who is compared with whom.
        lengths: (batch,), keys of each row that are there, from the first on; None for all.
        bias: added to the scores.
        dropout: probability of dropping a weight.
        implementation: ``gathered`` copies each group's keys beside its queries; ``dense`` computes all pairs and masks, the reference;
            ``auto`` chooses by the share of pairs.

    Returns:
        (batch, heads, queries, value width).

    Raises:
        ValueError: shapes that do not fit, or an unknown implementation.
    """
    _check(queries, keys, values, lengths, implementation)
    if queries.shape[2] == 0 or keys.shape[2] == 0 or not groups:
        return queries.new_zeros(*queries.shape[:3], values.shape[3])
    if implementation == "auto":
        share = sum(group.pairs() for group in groups) / (queries.shape[2] * keys.shape[2])
        implementation = "dense" if share > DENSE_SHARE else "gathered"
    run = _dense if implementation == "dense" else _gathered
    return run(queries, keys, values, groups, lengths, bias, dropout)


def visible_pairs(groups: Sequence[Groups], queries: int, keys: int) -> Tensor:
    """(queries, keys): in how many groups a pair is; quadratic, for the dense form and for looking at."""
    count = torch.zeros((queries + 1) * (keys + 1), dtype=torch.long, device=groups[0].queries.device if groups else None)
    for group in groups:
        at, to = _positions(group.queries, group.unit, queries), _positions(group.keys, group.unit, keys)
        pairs = at[:, :, None] * (keys + 1) + to[:, None, :]
        seen = torch.ones_like(pairs) if group.rule is None else group.rule(at, to).long()
        count.index_add_(0, pairs.flatten(), seen.flatten())
    return count.view(queries + 1, keys + 1)[:queries, :keys]


# ------------------------------------------------------------------------------------------------ dense


def _dense(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    groups: Sequence[Groups],
    lengths: Tensor | None,
    bias: Bias | None,
    dropout: float,
) -> Tensor:
    seen = (visible_pairs(groups, queries.shape[2], keys.shape[2]) > 0)[None, None]
    if lengths is not None:
        seen = seen & (torch.arange(keys.shape[2], device=keys.device) < lengths[:, None])[:, None, None]
    grouped = queries.shape[1] != keys.shape[1]
    if bias is None and bool(seen.all()):  # without a mask the fused kernel is faster
        return F.scaled_dot_product_attention(queries, keys, values, dropout_p=dropout, enable_gqa=grouped)
    # A row that sees nothing has no softmax: it is computed over everything instead, and then replaced by zero.
    sees = seen.any(-1, keepdim=True)
    allowed = seen | ~sees
    if bias is not None:
        at, to = (torch.arange(x.shape[2], device=x.device)[None] for x in (queries, keys))
        allowed = torch.where(allowed, bias(at, to).to(queries.dtype), -torch.inf)
    mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=allowed, dropout_p=dropout, enable_gqa=grouped)
    return torch.where(sees, mixed, 0.0)


# ------------------------------------------------------------------------------------------------ gathered


def _gathered(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    groups: Sequence[Groups],
    lengths: Tensor | None,
    bias: Bias | None,
    dropout: float,
) -> Tensor:
    repeats = queries.shape[1] // keys.shape[1]
    if repeats > 1:
        keys, values = keys.repeat_interleave(repeats, 1), values.repeat_interleave(repeats, 1)
    length = queries.shape[2]
    places = [_positions(group.queries, group.unit, length) for group in groups]
    every = torch.cat([place.flatten() for place in places])
    run = (queries, keys, values)
    if bool((every[every < length].bincount(minlength=length) <= 1).all()):  # no query is in two groups: nothing to add up
        mixed = [_mixed(*run, group, at, lengths, bias, dropout) for group, at in zip(groups, places, strict=True)]
        return _in_order(torch.cat(mixed, 2) if len(mixed) > 1 else mixed[0], every, length)
    total: PrefixState | None = None
    for group, at in zip(groups, places, strict=True):
        summary = _summary(*run, group, at, lengths, bias, dropout)
        total = summary if total is None else combine(total, summary)
    assert total is not None  # there is at least one group
    return output(total).to(values.dtype)


def _mixed(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    group: Groups,
    at: Tensor,
    lengths: Tensor | None,
    bias: Bias | None,
    dropout: float,
) -> Tensor:
    """Outputs (batch, heads, groups · queries, width) of some groups by PyTorch's fused attention, each group an example of its own."""
    count = len(group.queries)
    parts = [(queries, group.queries), (keys, group.keys), (values, group.keys)]
    query, key, value = (_runs(x, runs, group.unit).transpose(1, 2).flatten(0, 1) for x, runs in parts)
    seen, to = _seen(group, at, keys.shape[2], lengths)
    seen = (
        seen.expand(queries.shape[0], -1, -1, -1, -1).flatten(0, 1) if seen.ndim == 5 else seen[:, None].repeat(queries.shape[0], 1, 1, 1)
    )
    sees = seen.any(-1, keepdim=True)
    allowed = seen | ~sees
    if bias is not None:
        added = _bias(bias, at, to, queries.shape[2], keys.shape[2]).to(query.dtype).repeat(queries.shape[0], 1, 1, 1)
        allowed = torch.where(allowed, added, -torch.inf)
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed, dropout_p=dropout)
    return torch.where(sees, mixed, 0.0).unflatten(0, (-1, count)).transpose(1, 2).flatten(2, 3)


def _summary(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    group: Groups,
    at: Tensor,
    lengths: Tensor | None,
    bias: Bias | None,
    dropout: float,
) -> PrefixState:
    """Maximum, sum of exponentials and weighted sum of values (batch, heads, queries[, width]) over the pairs of some groups."""
    scores = _runs(queries / math.sqrt(queries.shape[3]), group.queries, group.unit) @ _runs(keys, group.keys, group.unit).mT
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    seen, to = _seen(group, at, keys.shape[2], lengths)
    if bias is not None:
        scores = scores + _bias(bias, at, to, queries.shape[2], keys.shape[2]).transpose(0, 1).to(scores.dtype)
    scores = scores.masked_fill(~(seen.transpose(1, 2) if seen.ndim == 5 else seen), -torch.inf)
    maximum = scores.detach().amax(-1)
    weights = torch.exp(scores - torch.where(maximum == -torch.inf, 0.0, maximum)[..., None])
    total = weights.sum(-1)
    if dropout:
        weights = F.dropout(weights, dropout)
    weighted = (weights.to(values.dtype) @ _runs(values, group.keys, group.unit)).to(total.dtype)
    at, length = at.flatten(), queries.shape[2]
    return PrefixState(
        _in_order(maximum.flatten(2), at, length, -torch.inf),
        _in_order(total.flatten(2), at, length),
        _in_order(weighted.flatten(2, 3), at, length),
    )


def _seen(group: Groups, at: Tensor, length: int, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
    """Who sees whom, (groups, queries, keys) or with lengths (batch, groups, 1, queries, keys), and the keys' positions."""
    to = _positions(group.keys, group.unit, length)
    seen = (to < length)[:, None, :].expand(-1, at.shape[1], -1)
    if group.rule is not None:
        seen = seen & group.rule(at, to)
    if lengths is not None:
        seen = seen[:, None] & (to < lengths[:, None, None])[:, :, None, None, :]
    return seen, to


def _bias(bias: Bias, at: Tensor, to: Tensor, queries: int, keys: int) -> Tensor:
    """(groups, heads, queries, keys); what stands for no position is looked up as the last one, lest it be beyond a table."""
    return bias(at.clamp(max=queries - 1), to.clamp(max=keys - 1)).expand(len(at), -1, -1, -1)


def _positions(runs: Tensor, unit: int, length: int) -> Tensor:
    """(groups, runs · unit): the positions in runs; ``length`` stands for none."""
    positions = (runs[:, :, None] * unit + torch.arange(unit, device=runs.device)).flatten(1)
    return torch.where((positions >= 0) & (positions < length), positions, length)


def _runs(x: Tensor, runs: Tensor, unit: int) -> Tensor:
    """(batch, heads, length, width) as (batch, heads, groups, runs · unit, width); zeros where there is none."""
    length = x.shape[2]
    count = _ceiling(length, unit)
    if runs.numel() == count and bool((runs.flatten() == torch.arange(count, device=runs.device)).all()):  # all, in order: no copy
        return F.pad(x, (0, 0, 0, count * unit - length)).unflatten(2, (len(runs), -1))
    there = torch.where((runs >= 0) & (runs < count), runs, count)
    padded = F.pad(x, (0, 0, 0, (count + 1) * unit - length)).unflatten(2, (count + 1, unit))
    return padded.index_select(2, there.flatten()).unflatten(2, runs.shape).flatten(3, 4)


def _in_order(x: Tensor, at: Tensor, length: int, fill: float = 0.0) -> Tensor:
    """``x`` (batch, heads, slots[, width]) in the order of the slots' positions ``at``; ``fill`` where a position has no slot."""
    if len(at) >= length and bool((at[:length] == torch.arange(length, device=at.device)).all()):
        return x[:, :, :length]
    slots = at.new_full((length + 1,), -1).scatter(0, at, torch.arange(len(at), device=at.device))[:length]
    found = x.index_select(2, slots.clamp(min=0))
    return found.masked_fill((slots < 0) if x.ndim == 3 else (slots < 0)[:, None], fill)


def _check(queries: Tensor, keys: Tensor, values: Tensor, lengths: Tensor | None, implementation: str) -> None:
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"implementation must be one of {', '.join(IMPLEMENTATIONS)}, got {implementation!r}")
    if queries.ndim != 4 or keys.ndim != 4 or values.shape[:3] != keys.shape[:3] or keys.shape[3] != queries.shape[3]:
        raise ValueError(
            "queries, keys and values must have shape (batch, heads, length, width) with one head width and keys as many as values, got "
            f"{tuple(queries.shape)}, {tuple(keys.shape)} and {tuple(values.shape)}"
        )
    if keys.shape[0] != queries.shape[0] or keys.shape[1] == 0 or queries.shape[1] % keys.shape[1]:
        raise ValueError(f"heads of keys must divide those of queries, batches must agree, got {tuple(queries.shape)}, {tuple(keys.shape)}")
    if lengths is not None and lengths.shape != queries.shape[:1]:
        raise ValueError(f"lengths must have shape ({queries.shape[0]},), got {tuple(lengths.shape)}")
