"""`sigmoid_attention`: attention whose weights are sigmoids of the scores, each key by itself, without a sum over the row.

    S_ij = scale · q_i · k_j − slope · |i − j| + b_i;   P_ij = sigmoid(S_ij), 0 where i does not see j;   o_i = Σ_j P_ij v_j

Because no row is normalised, the sum over keys falls into blocks that know nothing of each other: there are no running statistics, the
backward pass needs nothing but the inputs, and new keys are added to old outputs (`update`). Backward, with g = ∂L/∂o:

    ∂v_j = Σ_i P_ij g_i;   E_ij = (g_i · v_j) P_ij (1 − P_ij);   ∂q_i = scale Σ_j E_ij k_j;   ∂k_j = scale Σ_i E_ij q_i;   ∂b_i = Σ_j E_ij

Source: Ramapuram et al. (2024), Theory, Analysis, and Best Practices for Sigmoid Self-Attention.
"""

from __future__ import annotations

import itertools
import logging
import os
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from assay.ops import sigmoid_attention_compiled as compiled
from assay.ops.attention_scene import Scene

Implementation = Literal["auto", "plain", "blocked", "compiled", "triton"]
IMPLEMENTATIONS: tuple[Implementation, ...] = ("auto", "plain", "blocked", "compiled", "triton")
BLOCK = 256
"""Queries worked on at once by ``blocked``: the matrix of weights is (BLOCK, keys), never (queries, keys)."""
SMALL = 128 * 128
"""Queries times keys up to which the whole matrix of weights is no burden, and a compiled form no gain."""


def sigmoid_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    bias: float | Tensor = 0.0,
    *,
    scale: float | None = None,
    causal: bool = False,
    window: int | None = None,
    mask: Tensor | None = None,
    visible: Tensor | None = None,
    query_positions: Tensor | None = None,
    key_positions: Tensor | None = None,
    slopes: Tensor | None = None,
    score_bias: Tensor | None = None,
    dropout: float = 0.0,
    implementation: Implementation = "auto",
) -> Tensor:
    """Attention ``o_i = Σ_j sigmoid(scale · q_i · k_j − slope · |i − j| + b_i) v_j`` over the keys that each query sees.

    A query that sees nothing gives exactly zero.

    Args:
        queries: (batch, heads, queries, head width).
        keys: (batch, key heads, keys, head width); ``key heads`` divides ``heads``, each is shared by neighbouring heads of queries.
        values: (batch, key heads, keys, value width).
        bias: a number, (heads,), or (batch or 1, heads or 1, queries); ``−log(keys)`` starts at the size of a mean of the values.
        scale: of the products, by default ``head width^−½``.
        causal: a query sees keys at its own position and before it.
        window: a query sees keys less than ``window`` positions away.
        mask: (batch, keys), True = real: nobody sees the others.
        visible: (batch or 1, 1, queries, keys): nobody sees a key where it is False.
        query_positions: (batch or 1, queries), integers; by default those of the last keys.
        key_positions: (batch or 1, keys), integers, by default 0, 1, 2, …
        slopes: (heads,), a penalty on the distance (ALiBi); no gradient goes into it.
        score_bias: (batch or 1, heads, queries, keys), added to the scores; only ``plain`` knows it.
        dropout: probability of dropping a weight; only ``plain`` knows it.
        implementation: ``plain`` the equation; ``blocked`` a block of queries at a time; ``compiled`` C++ for this processor, float32
            inside; ``triton`` for a GPU; ``auto`` chooses. All but ``plain`` never hold a (queries, keys) matrix, and are
            differentiable once. A fast one that cannot run says so once in the log, and ``blocked`` runs.

    Returns:
        (batch, heads, queries, value width), in the queries' type.

    Raises:
        ValueError: shapes that do not fit, or an implementation that is unknown or cannot do what is asked.
    """
    _check(queries, keys, values, implementation)
    _check_scene(queries, keys, window, mask, visible, slopes)
    if key_positions is None:
        key_positions = torch.arange(keys.shape[2], device=keys.device)[None]
    if query_positions is None:
        query_positions = torch.arange(keys.shape[2] - queries.shape[2], keys.shape[2], device=keys.device)[None]
    factor = queries.shape[-1] ** -0.5 if scale is None else scale
    scene = Scene(factor, query_positions, key_positions, causal, window, mask, visible, slopes, score_bias)
    chosen = _chosen(implementation, queries, keys, score_bias is not None or dropout > 0)
    rows = bias_rows(bias, queries)
    if chosen == "compiled":
        return compiled.attention(queries, keys, values, rows, scene)
    if chosen == "triton":
        return _triton().attention(queries, keys, values, rows, scene)
    keys, values = _shared(keys, queries), _shared(values, queries)
    if chosen == "blocked":
        return _Blocked.apply(queries, keys, values, rows, scene)
    weights = _weights(queries, keys, rows, scene)
    return torch.dropout(weights, dropout, dropout > 0) @ values


def update(outputs: Tensor, queries: Tensor, new_keys: Tensor, new_values: Tensor, bias: float | Tensor = 0.0, **options: Any) -> Tensor:
    """The outputs that old queries would have had with further keys: ``o_i + Σ_new P_ij v_j``, the old keys unread.

    Softmax attention cannot do this from its outputs alone, for the row's sum changes.

    Args:
        outputs: what `sigmoid_attention` gave before, (batch, heads, queries, value width).
        queries: (batch, heads, queries, head width), those of before.
        new_keys: (batch, key heads, new, head width).
        new_values: (batch, key heads, new, value width).
        bias: as before.
        options: of `sigmoid_attention`; positions must be given where they matter (causal, window, slopes).
    """
    return outputs + sigmoid_attention(queries, new_keys, new_values, bias, **options)


def packed_sigmoid_attention(
    queries: Tensor, keys: Tensor, values: Tensor, cumulative_lengths: Tensor, bias: float | Tensor = 0.0, **options: Any
) -> Tensor:
    """Attention within each of several sequences that lie end to end in one: nothing is padded and none sees another.

    Args:
        queries: (heads, total, head width).
        keys: (key heads, total, head width).
        values: (key heads, total, value width).
        cumulative_lengths: (sequences + 1,), integers 0 = c_0 ≤ c_1 ≤ … ≤ total: sequence s lies at c_s … c_{s+1} − 1.
        bias: a number, or (heads,).
        options: of `sigmoid_attention`; positions count from each sequence's start.

    Returns:
        (heads, total, value width).

    Raises:
        ValueError: cumulative lengths that do not go from 0 to the total without falling.
    """
    stops = [int(stop) for stop in cumulative_lengths]
    if stops[:1] != [0] or stops[-1] != queries.shape[1] or stops != sorted(stops):
        raise ValueError(f"cumulative_lengths must rise from 0 to the {queries.shape[1]} positions, got {stops}")
    parts = [
        sigmoid_attention(queries[None, :, start:stop], keys[None, :, start:stop], values[None, :, start:stop], bias, **options)[0]
        for start, stop in itertools.pairwise(stops)
    ]
    return torch.cat(parts, 1) if parts else queries.new_zeros(*queries.shape[:2], values.shape[-1])


def bias_rows(bias: float | Tensor, queries: Tensor) -> Tensor:
    """The bias as (batch, heads, queries), whatever it was given as."""
    shape = queries.shape[:3]
    rows = bias.to(queries.dtype) if isinstance(bias, Tensor) else torch.full((), bias, dtype=queries.dtype, device=queries.device)
    if rows.ndim == 1:
        rows = rows[None, :, None]
    if rows.ndim not in (0, 3) or any(size not in (1, wanted) for size, wanted in zip(rows.shape, shape, strict=False)):
        raise ValueError(f"bias must be a number, (heads,) or (batch, heads, queries) = {tuple(shape)}, got {tuple(rows.shape)}")
    return rows.expand(shape)


def _weights(queries: Tensor, keys: Tensor, bias: Tensor, scene: Scene) -> Tensor:
    """P (batch, heads, queries, keys)."""
    weights, seen = torch.sigmoid(scene.scores(queries, keys) + bias[..., None]), scene.seen()
    return weights if seen is None else weights.masked_fill(~seen, 0.0)


# ------------------------------------------------------------------------------------------------ blocked


class _Blocked(torch.autograd.Function):
    """A block of queries at a time; only inputs are kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor, scene: Scene) -> Tensor:
        ctx.save_for_backward(queries, keys, values, bias)
        ctx.scene = scene
        outputs = queries.new_empty(*queries.shape[:3], values.shape[3])
        for rows in _blocks(queries):
            outputs[:, :, rows] = _weights(queries[:, :, rows], keys, bias[:, :, rows], scene.rows(rows)) @ values
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gradient,) = gradients
        queries, keys, values, bias = ctx.saved_tensors
        scale = ctx.scene.scale
        query_gradient, bias_gradient = torch.empty_like(queries), torch.empty_like(queries[..., 0])
        key_gradient, value_gradient = torch.zeros_like(keys), torch.zeros_like(values)
        for rows in _blocks(queries):
            here, arriving = queries[:, :, rows], gradient[:, :, rows]
            weights = _weights(here, keys, bias[:, :, rows], ctx.scene.rows(rows))
            value_gradient += weights.transpose(-1, -2) @ arriving
            errors = (arriving @ values.transpose(-1, -2)) * weights * (1 - weights)
            query_gradient[:, :, rows] = scale * (errors @ keys)
            key_gradient += scale * (errors.transpose(-1, -2) @ here)
            bias_gradient[:, :, rows] = errors.sum(-1)
        return query_gradient, key_gradient, value_gradient, bias_gradient, None


def _blocks(queries: Tensor) -> list[slice]:
    return [slice(start, start + BLOCK) for start in range(0, queries.shape[2], BLOCK)]


def _shared(x: Tensor, queries: Tensor) -> Tensor:
    """Keys or values with as many heads as the queries."""
    return x if x.shape[1] == queries.shape[1] else x.repeat_interleave(queries.shape[1] // x.shape[1], 1)


# ------------------------------------------------------------------------------------------------ choice and checks


def _chosen(implementation: Implementation, queries: Tensor, keys: Tensor, plain_only: bool) -> Implementation:
    if plain_only and implementation not in ("auto", "plain"):
        raise ValueError(f"score_bias and dropout need implementation 'plain' or 'auto', got {implementation!r}")
    if implementation == "auto":
        if plain_only or torch.compiler.is_exporting() or queries.shape[2] * keys.shape[2] <= SMALL:
            return "plain"
        if queries.is_cuda:
            implementation = "triton"
        elif queries.dtype != torch.float64 and queries.shape[2] >= compiled.LEAST_QUERIES:
            implementation = "compiled"
    if implementation == "compiled" and not queries.is_cuda and compiled.library() is not None:
        return "compiled"
    if implementation == "triton" and (queries.is_cuda or os.environ.get("TRITON_INTERPRET") == "1") and _triton() is not None:
        return "triton"
    return "plain" if implementation == "plain" else "blocked"


@cache
def _triton() -> Any:
    try:
        from assay.ops import sigmoid_attention_triton
    except ImportError as error:
        logging.getLogger(__name__).warning("sigmoid attention cannot use Triton (%s): using blocks of queries", error)
        return None
    return sigmoid_attention_triton


def _check(queries: Tensor, keys: Tensor, values: Tensor, implementation: str) -> None:
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"implementation must be one of {', '.join(IMPLEMENTATIONS)}, got {implementation!r}")
    shapes = f"got {tuple(queries.shape)}, {tuple(keys.shape)} and {tuple(values.shape)}"
    if any(x.ndim != 4 for x in (queries, keys, values)):
        raise ValueError(f"queries, keys and values must have shape (batch, heads, length, width), {shapes}")
    if queries.shape[0] != keys.shape[0] or queries.shape[3] != keys.shape[3] or keys.shape[:3] != values.shape[:3]:
        raise ValueError(f"queries, keys and values must fit each other, {shapes}")
    if not keys.shape[1] or queries.shape[1] % keys.shape[1]:
        raise ValueError(f"the heads of keys must divide those of queries, {shapes}")


def _check_scene(
    queries: Tensor, keys: Tensor, window: int | None, mask: Tensor | None, visible: Tensor | None, slopes: Tensor | None
) -> None:
    if window is not None and window < 1:
        raise ValueError(f"window must be at least 1, got {window}")
    pairs = (1, queries.shape[2], keys.shape[2])
    if any(x is not None and x.dtype != torch.bool for x in (mask, visible)):
        raise ValueError("mask and visible must be booleans, True = seen")
    if visible is not None and (visible.ndim != 4 or visible.shape[1:] != pairs or len(visible) not in (1, len(keys))):
        raise ValueError(f"visible must have shape {(len(keys), *pairs)}, got {tuple(visible.shape)}")
    if mask is not None and mask.shape != (keys.shape[0], keys.shape[2]):
        raise ValueError(f"mask must have shape {(keys.shape[0], keys.shape[2])}, got {tuple(mask.shape)}")
    if slopes is not None and slopes.shape != (queries.shape[1],):
        raise ValueError(f"slopes must have shape ({queries.shape[1]},), got {tuple(slopes.shape)}")
