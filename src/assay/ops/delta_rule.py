"""`delta_rule`: a matrix of keys times values that corrects what it holds for a key, optionally forgetting; in chunks of matrix products.

    S_t = a_t (S_{t−1} − β_t k_tᵀ (k_t S_{t−1})) + β_t k_tᵀ v_t,   o_t = q_t S_t.

Within a chunk, with ``G_i = Σ_{l≤i} log a_l``, every position adds one outer product,

    S_i = e^{G_i} S_start + Σ_{j≤i} e^{G_i − G_j} k_jᵀ u_j,

and the corrected values u solve a triangular system,

    (I + L) U = diag(β) V − diag(β e^G) K S_start,   L_ij = β_i e^{G_i − G_j} (k_i · k_j) for j < i.

So ``U = U_0 − W S_start`` with two solutions that do not need the state, and only the states between chunks are found one after another.
Every exponent is at most 0.

Source: Yang, Wang, Zhang, Shen, Kim (2024), Parallelizing Linear Transformers with the Delta Rule over Sequence Length; Yang, Kautz,
Hatamizadeh (2024), Gated Delta Networks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from assay.ops.linear_attention import (
    IMPLEMENTATIONS,
    SMALLEST_LOG_DECAY,
    Implementation,
    check_shapes,
    decay_ratios,
    in_chunks,
    in_segments,
)
from assay.ops.loop import Tensors, walk

CHUNK = 64
"""Positions a chunk: the triangular systems grow with it, the states found one after another shrink with it."""


def delta_rule(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    strength: Tensor,
    log_decay: Tensor | None = None,
    state: Tensor | None = None,
    mask: Tensor | None = None,
    implementation: Implementation = "auto",
) -> tuple[Tensor, Tensor]:
    """Outputs ``o_t = q_t S_t`` of ``S_t = a_t (S_{t−1} − β_t k_tᵀ (k_t S_{t−1})) + β_t k_tᵀ v_t``, continuing from ``state``.

    Args:
        queries: q (batch, heads, length, key width).
        keys: k, like the queries; the rule is stable where ``β ‖k‖² ≤ 2``.
        values: v (batch, heads, length, value width).
        strength: β (batch, heads, length).
        log_decay: log a, at most 0, (batch, heads, length); None for no forgetting.
        state: S before the first position, (batch, heads, key width, value width); by default zero.
        mask: (batch, length), True = real; a masked position leaves the state unchanged and reads it.
        implementation: ``recurrent`` a position at a time; ``chunked`` in matrix products, time and memory linear in the length;
            ``auto`` chooses.

    Returns:
        Outputs (batch, heads, length, value width) in the values' type, and the state after the last position, in float32 or wider.

    Raises:
        ValueError: shapes that do not fit, or an unknown implementation.
    """
    _check(queries, keys, values, strength, log_decay, state, mask, implementation)
    dtype = torch.promote_types(values.dtype, torch.float32)
    if state is None:
        state = values.new_zeros(*keys.shape[:2], keys.shape[3], values.shape[3], dtype=dtype)
    if values.shape[2] == 0:
        return values, state
    out, dtype = values.dtype, torch.promote_types(dtype, state.dtype)
    log_decay = None if log_decay is None else log_decay.to(dtype).clamp(min=SMALLEST_LOG_DECAY)
    if mask is not None:
        hidden = ~mask[:, None]
        strength = strength.masked_fill(hidden, 0.0)
        log_decay = None if log_decay is None else log_decay.masked_fill(hidden, 0.0)
    if implementation == "auto":
        # A graph for export has no triangular systems.
        implementation = "recurrent" if values.shape[2] == 1 or torch.compiler.is_exporting() else "chunked"
    run = _recurrent if implementation == "recurrent" else _chunked
    queries, keys, values, strength, state = (x.to(dtype) for x in (queries, keys, values, strength, state))
    outputs, state = in_segments(run, (queries, keys, values, strength, log_decay), state)
    return outputs.to(out), state


def _recurrent(
    queries: Tensor, keys: Tensor, values: Tensor, strength: Tensor, log_decay: Tensor | None, state: Tensor
) -> tuple[Tensor, Tensor]:
    def step(state: Tensors, now: tuple[Any, ...]) -> tuple[Tensors, Tensors]:
        (memory,), (query, key, value, strength, log_decay) = state, now
        if log_decay is not None:
            memory = log_decay[..., None, None].exp() * memory
        wanted = strength[..., None, None] * (value[:, :, None] - key[:, :, None] @ memory)
        memory = memory + key[..., None] * wanted
        return (memory,), ((query[:, :, None] @ memory)[:, :, 0],)

    by_position = [None if part is None else part.transpose(1, 2) for part in (queries, keys, values, strength, log_decay)]
    (state,), (outputs,) = walk(step, (state,), by_position)
    return outputs.transpose(1, 2), state


def _chunked(
    queries: Tensor, keys: Tensor, values: Tensor, strength: Tensor, log_decay: Tensor | None, state: Tensor
) -> tuple[Tensor, Tensor]:
    length = values.shape[2]
    chunk = min(CHUNK, length)
    queries, keys, values, strength = (in_chunks(x, chunk) for x in (queries, keys, values, strength))
    if log_decay is None:
        ratio, decay = keys.new_ones(chunk, chunk).tril(), keys.new_ones(*keys.shape[:3], chunk, 1)
    else:
        ratio, total = decay_ratios(in_chunks(log_decay, chunk))
        decay = total.exp()[..., None]
    free, seen = _corrected(keys, values, strength, ratio, decay)
    leaving = (keys * ratio[..., -1, :, None]).transpose(-1, -2)
    starts, state = _between_chunks(leaving @ free, leaving @ seen, decay[..., -1:, :], state)
    scores = (queries @ keys.transpose(-1, -2)) * ratio
    outputs = scores @ (free - seen @ starts) + (queries * decay) @ starts
    return outputs.flatten(2, 3)[:, :, :length], state


def _corrected(keys: Tensor, values: Tensor, strength: Tensor, ratio: Tensor, decay: Tensor) -> tuple[Tensor, Tensor]:
    """U_0 (…, chunk, value width) and W (…, chunk, key width): the corrected values are ``U_0 − W S_start``."""
    system = strength[..., None] * (keys @ keys.transpose(-1, -2)) * ratio
    right = strength[..., None] * torch.cat([values, decay * keys], -1)
    solution = torch.linalg.solve_triangular(system.tril(-1), right, upper=False, unitriangular=True)
    return solution[..., : values.shape[-1]], solution[..., values.shape[-1] :]


def _between_chunks(added: Tensor, removed: Tensor, kept: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """The state at the start of every chunk, and behind the last: ``S_end = kept S_start − removed S_start + added``."""
    starts = []
    for plus, minus, factor in zip(added.unbind(2), removed.unbind(2), kept.unbind(2), strict=True):
        starts.append(state)
        state = factor * state - minus @ state + plus
    return torch.stack(starts, 2), state


def _check(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    strength: Tensor,
    log_decay: Tensor | None,
    state: Tensor | None,
    mask: Tensor | None,
    implementation: str,
) -> None:
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"implementation must be one of {', '.join(IMPLEMENTATIONS)}, got {implementation!r}")
    check_shapes(queries, keys, values, state, mask)
    for name, numbers in (("strength", strength), ("log_decay", log_decay)):
        if numbers is not None and numbers.shape != keys.shape[:3]:
            raise ValueError(f"{name} must have shape {tuple(keys.shape[:3])}, got {tuple(numbers.shape)}")
