"""`successor_average`: the average of what followed earlier occurrences of the present n-gram, in time linear in the length.

For tokens x, position p matches position i at order n when their last n tokens are equal, ``x_{p−k} = x_{i−k}`` for k = 0 … n − 1.
The weights of order n look at the successors of earlier matches,

    A_n[i, j] = 1 / |{j}|  for 1 ≤ j < i where j − 1 matches i,  else 0,

and a row without a match is zero. The dense form builds A_n, (length, length); the grouped form gives every n-gram a number, sorts the
successors by the number of the n-gram before them, and takes differences of cumulative sums.

Source: Akyürek, Wang, Kim, Andreas (2024), In-Context Language Learning: Architectures and Algorithms.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from assay.ops.compaction import Compaction

Implementation = Literal["auto", "dense", "grouped"]
IMPLEMENTATIONS: tuple[Implementation, ...] = ("auto", "dense", "grouped")
LARGEST = 2**40
"""Numbers of n-grams stay below it, so that a number and a position fit into one 64-bit integer."""


def successor_average(
    values: Tensor, tokens: Tensor, order: int = 1, mask: Tensor | None = None, implementation: Implementation = "auto"
) -> Tensor:
    """``A_n values``: at every position the mean of the values right after earlier occurrences of its last ``order`` tokens.

    Args:
        values: (batch, length, width).
        tokens: (batch, length), integers ≥ 0.
        order: n, the number of tokens that must agree.
        mask: (batch, length), True = real. A masked position is skipped as if it were not there, and its own row is zero.
        implementation: ``dense`` the matrix A_n; ``grouped`` O(length · width); ``auto`` chooses.

    Returns:
        (batch, length, width), zero where the n-gram has not occurred before. Sums are taken in float64.

    Raises:
        ValueError: shapes that do not fit, an order below 1, or an unknown implementation.
    """
    _check(values, tokens, order, mask)
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"implementation must be one of {', '.join(IMPLEMENTATIONS)}, got {implementation!r}")
    if not torch.compiler.is_exporting() and tokens.shape[1] == 0:
        return values
    if implementation == "dense" or (implementation == "auto" and torch.compiler.is_exporting()):
        return successor_weights(tokens, order, mask, values.dtype) @ values
    if mask is None:
        return _grouped(values, suffix_groups(tokens, order))
    real = Compaction(mask)
    groups = suffix_groups(real.pack(tokens[..., None])[..., 0], order)
    groups = torch.where(torch.arange(tokens.shape[1], device=tokens.device) < real.counts[:, None], groups, -1)
    return real.unpack(_grouped(real.pack(values), groups))


def successor_weights(tokens: Tensor, order: int = 1, mask: Tensor | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
    """The matrix A_n, (batch, length, length), built as it is defined: the reference, and what attention is held against."""
    _check(None, tokens, order, mask)
    if mask is not None:
        # Packed, real tokens come first and look only at tokens before them, so no weight falls on a masked one.
        real = Compaction(mask)
        weights = real.unpack(successor_weights(real.pack(tokens[..., None])[..., 0], order, None, dtype))
        return real.unpack(weights.transpose(1, 2)).transpose(1, 2)
    matches = tokens[:, :, None] == tokens[:, None, :]
    agreeing = matches
    for _ in range(order - 1):
        matches = F.pad(matches, (1, -1, 1, -1))  # one token earlier on both sides
        agreeing = agreeing & matches
    successors = F.pad(agreeing, (1, -1)).tril(-1)
    return successors.to(dtype) / successors.sum(2, keepdim=True).clamp(min=1).to(dtype)


def suffix_groups(tokens: Tensor, order: int) -> Tensor:
    """A number for the last ``order`` tokens at every position, (batch, length): equal where these are; −1 where they are fewer.

    Numbers are exact, never hashes: codes in base (largest token + 1), replaced by their ranks before they grow beyond `LARGEST`.
    """
    if tokens.numel() == 0:
        return tokens.long()
    smallest, largest = (int(bound) for bound in tokens.aminmax())
    if smallest < 0:
        raise ValueError(f"tokens must be at least 0, got {smallest}")
    tokens, base = tokens.long(), largest + 1
    groups, bound = tokens, base
    for _ in range(order - 1):
        if bound * base > LARGEST:
            groups = groups.unique(return_inverse=True)[1]
            bound = groups.numel()
        groups = F.pad(groups, (1, -1)) * base + tokens
        bound *= base
    if bound > LARGEST:
        groups = groups.unique(return_inverse=True)[1]
    return torch.where(torch.arange(tokens.shape[1], device=tokens.device) < order - 1, -1, groups)


def grouped_sums(values: Tensor, keys: Tensor, queries: Tensor, inclusive: bool = False) -> tuple[Tensor, Tensor]:
    """For every position i, the sum of the earlier values whose key is its query, and their number.

    ``sums_i = Σ_{j < i, keys_j = queries_i} values_j`` (j ≤ i if ``inclusive``); a negative key or query matches nothing.

    Args:
        values: (batch, length, width).
        keys: (batch, length), below `LARGEST`.
        queries: (batch, length), below `LARGEST`.
        inclusive: whether a position counts among its own.

    Returns:
        Sums (batch, length, width), float64, and numbers (batch, length), long.
    """
    length = values.shape[1]
    if length == 1:  # a step of a stream: nothing to sort
        counts = ((keys == queries) & (keys >= 0)).long() * int(inclusive)
        return values.double() * counts[..., None], counts
    place = torch.arange(length, device=values.device)
    span = length + 1
    codes, order = (keys * span + place).sort(1)  # by key, then by time
    first = torch.searchsorted(codes, queries * span)
    last = torch.searchsorted(codes, queries * span + place + int(inclusive))
    last = torch.where(queries < 0, first, last)
    # Cumulative sums run over one row only, and in double precision: a difference of two of them loses no digit that counts.
    totals = F.pad(rows_at(values.double(), order).cumsum(1), (0, 0, 1, 0))
    return rows_at(totals, last) - rows_at(totals, first), last - first


def rows_at(values: Tensor, index: Tensor) -> Tensor:
    """``values[b, index[b, t]]``, (batch, length, width)."""
    start = torch.arange(len(values), device=values.device)[:, None] * values.shape[1]
    return values.flatten(0, 1).index_select(0, (index + start).flatten()).view(*index.shape, values.shape[2])


def _grouped(values: Tensor, groups: Tensor) -> Tensor:
    sums, counts = grouped_sums(values, F.pad(groups, (1, -1), value=-1), groups)
    return (sums / counts.clamp(min=1)[..., None]).to(values.dtype)


def _check(values: Tensor | None, tokens: Tensor, order: int, mask: Tensor | None) -> None:
    if order < 1:
        raise ValueError(f"order must be at least 1, got {order}")
    if tokens.ndim != 2 or tokens.is_floating_point():
        raise ValueError(f"tokens must be integers of shape (batch, length), got {tokens.dtype} of {tuple(tokens.shape)}")
    if values is not None and (values.ndim != 3 or values.shape[:2] != tokens.shape):
        raise ValueError(f"values must have shape {(*tokens.shape, 'width')}, as the tokens have, got {tuple(values.shape)}")
    if mask is not None and mask.shape != tokens.shape:
        raise ValueError(f"mask must have shape {tuple(tokens.shape)}, got {tuple(mask.shape)}")
