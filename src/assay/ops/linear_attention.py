"""`linear_attention`: a matrix of keys times values that decays, read by queries; a position at a time or in chunks of matrix products.

The state S (key width, value width) and the output of a position are

    S_t = diag(a_t) S_{t−1} + k_tᵀ v_t,   o_t = q_t S_t,

where the decay a_t is one number a head, one a key channel, or absent. Within a chunk, with ``G_i = Σ_{l≤i} log a_l``,

    o_i = (q_i ∘ e^{G_i}) S_start + Σ_{j≤i} ((q_i ∘ e^{G_i − G_j}) · k_j) v_j,
    S_end = diag(e^{G_end}) S_start + Σ_j (k_j ∘ e^{G_end − G_j})ᵀ v_j.

Every exponent is at most 0, so no decay is too strong. The states between chunks are an elementwise `linear_recurrence`.

Source: Katharopoulos, Vyas, Pappas, Fleuret (2020), Transformers are RNNs; Sun et al. (2023), Retentive Network; Yang et al. (2023), Gated
Linear Attention Transformers with Hardware-Efficient Training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from assay.ops.linear_recurrence import linear_recurrence

Implementation = Literal["auto", "recurrent", "chunked"]
IMPLEMENTATIONS: tuple[Implementation, ...] = ("auto", "recurrent", "chunked")
CHUNK = 64
"""Positions a chunk: products within chunks grow with it, states between chunks shrink with it."""
SHORTER_CHUNK, SHORTEST_CHUNK = 16, 8
"""Positions a chunk where decays of key channels are too strong to be split into two factors over `CHUNK`, or over the shorter one."""
SEGMENT = 1024
"""Positions whose chunks are there at once: beyond it what they need leaves the cache."""
SMALLEST_LOG_DECAY = -1000.0
"""e to this is zero in float64 already; a larger size would only cost digits of the sums."""
LARGEST_EXPONENT = 60.0
"""Up to this total decay of a chunk ``e^{G_i}`` and ``e^{−G_j}`` are both far from the limits of float32."""


def linear_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    log_decay: Tensor | None = None,
    state: Tensor | None = None,
    mask: Tensor | None = None,
    implementation: Implementation = "auto",
) -> tuple[Tensor, Tensor]:
    """Outputs ``o_t = q_t S_t`` of ``S_t = diag(a_t) S_{t−1} + k_tᵀ v_t``, continuing from ``state``.

    Args:
        queries: q (batch, heads, length, key width).
        keys: k, like the queries.
        values: v (batch, heads, length, value width).
        log_decay: log a, at most 0: (batch, heads, length) or (batch, heads, length, key width); None for no decay.
        state: S before the first position, (batch, heads, key width, value width); by default zero.
        mask: (batch, length), True = real; a masked position leaves the state unchanged and reads it.
        implementation: ``recurrent`` a position at a time; ``chunked`` in matrix products, time and memory linear in the length;
            ``auto`` chooses.

    Returns:
        Outputs (batch, heads, length, value width) in the values' type, and the state after the last position, in float32 or wider.

    Raises:
        ValueError: shapes that do not fit, or an unknown implementation.
    """
    _check(queries, keys, values, log_decay, state, mask, implementation)
    dtype = torch.promote_types(values.dtype, torch.float32)
    if state is None:
        state = values.new_zeros(*keys.shape[:2], keys.shape[3], values.shape[3], dtype=dtype)
    if values.shape[2] == 0:
        return values, state
    out, dtype = values.dtype, torch.promote_types(dtype, state.dtype)
    queries, keys, values, state = (x.to(dtype) for x in (queries, keys, values, state))
    log_decay = None if log_decay is None else log_decay.to(dtype).clamp(min=SMALLEST_LOG_DECAY)
    if mask is not None:
        hidden = ~mask[:, None, :, None]
        keys, values = keys.masked_fill(hidden, 0.0), values.masked_fill(hidden, 0.0)
        log_decay = None if log_decay is None else log_decay.masked_fill(hidden if log_decay.ndim == 4 else hidden[..., 0], 0.0)
    if implementation == "auto":
        implementation = "recurrent" if values.shape[2] == 1 else "chunked"
    run = _recurrent if implementation == "recurrent" else _chunked
    outputs, state = in_segments(run, (queries, keys, values, log_decay), state)
    return outputs.to(out), state


def _recurrent(queries: Tensor, keys: Tensor, values: Tensor, log_decay: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:
    outputs = []
    decay = None if log_decay is None else (log_decay if log_decay.ndim == 4 else log_decay[..., None]).exp()
    for place in range(values.shape[2]):
        if decay is not None:
            state = decay[:, :, place, :, None] * state
        state = state + keys[:, :, place, :, None] * values[:, :, place, None, :]
        outputs.append((queries[:, :, place, None] @ state)[:, :, 0])
    return torch.stack(outputs, 2), state


def _chunked(queries: Tensor, keys: Tensor, values: Tensor, log_decay: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:
    length = values.shape[2]
    chunk = min(length, CHUNK if log_decay is None or log_decay.ndim == 3 else _chunk_of_channels(log_decay))
    queries, keys, values = (in_chunks(x, chunk) for x in (queries, keys, values))
    if log_decay is None:
        scores, entering, leaving, kept = (queries @ keys.transpose(-1, -2)).tril(), queries, keys, None
    elif log_decay.ndim == 3:
        scores, entering, leaving, kept = _decayed_by_head(queries, keys, in_chunks(log_decay, chunk))
    else:
        scores, entering, leaving, kept = _decayed_by_channel(queries, keys, in_chunks(log_decay, chunk), chunk <= SHORTEST_CHUNK)
    added = leaving.transpose(-1, -2) @ values
    starts, state = _between_chunks(added, kept, state)
    outputs = scores @ values + entering @ starts
    return outputs.flatten(2, 3)[:, :, :length], state


def _chunk_of_channels(log_decay: Tensor) -> int:
    # A graph cannot look at its numbers, so it takes the way that is safe for all.
    if torch.compiler.is_compiling() or torch.compiler.is_exporting():
        return SHORTEST_CHUNK
    fits = (chunk for chunk in (CHUNK, SHORTER_CHUNK) if bool((in_chunks(log_decay.detach(), chunk).sum(3) >= -LARGEST_EXPONENT).all()))
    return next(fits, SHORTEST_CHUNK)


def _decayed_by_head(queries: Tensor, keys: Tensor, log_decay: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scores, queries as the chunk's start sees them, keys as its end sees them, and what is kept of the start at the end."""
    ratio, total = decay_ratios(log_decay)
    scores = (queries @ keys.transpose(-1, -2)) * ratio
    return scores, queries * total.exp()[..., None], keys * ratio[..., -1, :, None], total[..., -1, None, None].exp()


def decay_ratios(log_decay: Tensor) -> tuple[Tensor, Tensor]:
    """``e^{G_i − G_j}`` for j ≤ i, else 0, (…, chunk, chunk), and ``G_i = Σ_{l≤i} log a_l`` (…, chunk) of decays (…, chunk).

    The difference of two sums loses digits where one decay dwarfs the rest, so sums are kept in float64.
    """
    total = log_decay.double().cumsum(-1)
    # Clamping at 0 (true for j ≤ i already) keeps the others from overflowing: an infinity times the triangle's zero has no gradient.
    ratio = (total[..., :, None] - total[..., None, :]).clamp(max=0.0).to(log_decay.dtype).exp().tril()
    return ratio, total.to(log_decay.dtype)


def _decayed_by_channel(queries: Tensor, keys: Tensor, log_decay: Tensor, direct: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `_decayed_by_head`; ``direct`` forms every e^{G_i − G_j}, else two products share them out."""
    total = log_decay.cumsum(-2)
    entering, end = queries * total.exp(), total[..., -1:, :]
    if direct:
        place = torch.arange(total.shape[-2], device=total.device)
        past = place[:, None] >= place
        # sums of log a between j and i, not differences of sums: exact however unequal the decays are
        between = torch.where((place[:, None] > place)[..., None], log_decay[..., :, None, :], 0.0).cumsum(-3)
        ratio = torch.where(past[..., None], between, -torch.inf).exp()
        scores = torch.einsum("...ic,...jc,...ijc->...ij", queries, keys, ratio)
        return scores, entering, keys * ratio[..., -1, :, :], end.transpose(-1, -2).exp()
    scores = (entering @ (keys * (-total).exp()).transpose(-1, -2)).tril()
    return scores, entering, keys * (end - total).exp(), end.transpose(-1, -2).exp()


def _between_chunks(added: Tensor, kept: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:
    """The state at the start of every chunk (batch, heads, chunks, key width, value width), and behind the last."""
    batch, heads = state.shape[:2]
    if kept is None:
        ends = state[:, :, None] + added.cumsum(2)
    else:
        ends = linear_recurrence(kept.flatten(0, 1), added.flatten(0, 1), state.flatten(0, 1))[0].unflatten(0, (batch, heads))
    return torch.cat([state[:, :, None], ends[:, :, :-1]], 2), ends[:, :, -1]


def in_segments(run: Callable[..., tuple[Tensor, Tensor]], inputs: Sequence[Tensor | None], state: Tensor) -> tuple[Tensor, Tensor]:
    """``run(*inputs, state)`` segment by segment along the third dimension: outputs of all, and the last state."""
    length = next(x.shape[2] for x in inputs if x is not None)
    parts = []
    for start in range(0, length, SEGMENT):
        segment = (None if x is None else x[:, :, start : start + SEGMENT] for x in inputs)
        outputs, state = run(*segment, state)
        parts.append(outputs)
    return parts[0] if len(parts) == 1 else torch.cat(parts, 2), state


def in_chunks(x: Tensor, chunk: int) -> Tensor:
    """(batch, heads, length, …) as (batch, heads, chunks, chunk, …), filled up with zeros at the end."""
    missing = -x.shape[2] % chunk
    if missing:
        x = F.pad(x, (0, 0) * (x.ndim - 3) + (0, missing))
    return x.unflatten(2, (-1, chunk))


def _check(
    queries: Tensor, keys: Tensor, values: Tensor, log_decay: Tensor | None, state: Tensor | None, mask: Tensor | None, implementation: str
) -> None:
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"implementation must be one of {', '.join(IMPLEMENTATIONS)}, got {implementation!r}")
    check_shapes(queries, keys, values, state, mask)
    if log_decay is not None and log_decay.shape not in (keys.shape[:3], keys.shape):
        raise ValueError(f"log_decay must have shape {tuple(keys.shape[:3])} or {tuple(keys.shape)}, got {tuple(log_decay.shape)}")


def check_shapes(queries: Tensor, keys: Tensor, values: Tensor, state: Tensor | None, mask: Tensor | None) -> None:
    """Raise ValueError unless queries, keys and values of heads, a state and a mask fit each other."""
    if queries.ndim != 4 or queries.shape != keys.shape or values.ndim != 4 or values.shape[:3] != keys.shape[:3]:
        raise ValueError(
            "queries and keys must have shape (batch, heads, length, key width) and values (batch, heads, length, value width), "
            f"got {tuple(queries.shape)}, {tuple(keys.shape)} and {tuple(values.shape)}"
        )
    expected = (*keys.shape[:2], keys.shape[3], values.shape[3])
    if state is not None and state.shape != expected:
        raise ValueError(f"state must have shape {expected}, got {tuple(state.shape)}")
    if mask is not None and mask.shape != (keys.shape[0], keys.shape[2]):
        raise ValueError(f"mask must have shape {(keys.shape[0], keys.shape[2])}, got {tuple(mask.shape)}")
