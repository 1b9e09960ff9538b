"""`prefix_attention`: softmax attention of one fixed query over every prefix of a sequence, with a state of constant size.

For scores ``s_t`` and values ``v_t`` a prefix is summarised by the triple
``(m, u, w) = (max s_i, Σ exp(s_i − m), Σ exp(s_i − m) v_i)``, and its output is ``w / u``. Two summaries combine by

    m = max(m_A, m_B);  u = u_A e^{m_A − m} + u_B e^{m_B − m};  w = w_A e^{m_A − m} + w_B e^{m_B − m},

which is associative, with identity (−∞, 0, 0): so prefixes can be had one at a time, by a parallel scan, or block by block.

Source: Feng, Tung, Hajimirsadeghi, Ahmed, Bengio, Mori (2024), Attention as an RNN.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

Implementation = Literal["auto", "recurrent", "scan", "blocked", "dense"]
IMPLEMENTATIONS: tuple[Implementation, ...] = ("auto", "recurrent", "scan", "blocked", "dense")
BLOCK = 16
"""Positions a block: exponentials grow with it, the sums over blocks shrink with it; 16 was fastest on a CPU core at 1k to 16k."""
CHUNK = 128 * BLOCK
"""Positions worked on at once: the sums over blocks are a (blocks, blocks) product, so they must not be too many."""


class PrefixState(NamedTuple):
    """The summary of a prefix: ``maximum`` m and ``total`` u (batch, heads), ``weighted`` w (batch, heads, head width)."""

    maximum: Tensor
    total: Tensor
    weighted: Tensor


def initial_prefix_state(
    batch_size: int, heads: int, head_width: int, dtype: torch.dtype = torch.float32, device: Any = None
) -> PrefixState:
    """The summary of nothing, (−∞, 0, 0). With float32, increments of equal score are lost past 2²⁴ tokens; use float64 beyond."""
    maximum = torch.full((batch_size, heads), -torch.inf, dtype=dtype, device=device)
    total = torch.zeros(batch_size, heads, dtype=dtype, device=device)
    return PrefixState(maximum, total, torch.zeros(batch_size, heads, head_width, dtype=dtype, device=device))


def combine(first: PrefixState, second: PrefixState) -> PrefixState:
    """The summary of two disjoint sets of positions together; associative and commutative, any leading shape."""
    # The result does not depend on the maximum, so it needs no gradient; exp(−∞ − finite) = 0 covers the empty summary.
    maximum = torch.maximum(first.maximum, second.maximum).detach()
    shift = _finite(maximum)
    scale_first, scale_second = torch.exp(first.maximum.detach() - shift), torch.exp(second.maximum.detach() - shift)
    total = first.total * scale_first + second.total * scale_second
    weighted = first.weighted * scale_first[..., None] + second.weighted * scale_second[..., None]
    return PrefixState(maximum, total, weighted)


def leaf(scores: Tensor, values: Tensor, dtype: torch.dtype | None = None) -> PrefixState:
    """The summary of single positions: (s, 1, v), or the identity where s = −∞. The gradient of s travels in u and w."""
    scores, values = scores.to(dtype or scores.dtype), values.to(dtype or values.dtype)
    maximum = scores.detach()
    weight = torch.exp(scores - _finite(maximum))
    return PrefixState(maximum, weight, weight[..., None] * values)


def output(state: PrefixState) -> Tensor:
    """What attention gives for a summary: ``w / u``, and zero for the summary of nothing."""
    return state.weighted / torch.where(state.total == 0, 1.0, state.total)[..., None]


def prefix_attention(
    scores: Tensor,
    values: Tensor,
    state: PrefixState | None = None,
    mask: Tensor | None = None,
    implementation: Implementation = "auto",
) -> tuple[Tensor, PrefixState]:
    """Attention outputs ``o_t = Σ_{i≤t} e^{s_i} v_i / Σ_{i≤t} e^{s_i}`` of all prefixes, continuing from ``state``.

    Args:
        scores: (batch, heads, length); −∞ leaves a position out. NaN and +∞ are not hidden: outputs are NaN from there on
            (by blocks, those before it too).
        values: (batch, heads, length, head width).
        state: summary of what came before, by default nothing. It is computed in its own type: float32 or wider.
        mask: (batch, length) or (batch, heads, length), True = real. A masked position is the identity: its output repeats the
            last real prefix, and is zero where there is none.
        implementation: ``recurrent`` a position at a time; ``scan`` Hillis and Steele's parallel prefix scan, log2(length) rounds;
            ``blocked`` blocks of positions in matrix products, its own backward pass (once differentiable); ``dense`` a whole
            (length, length) matrix of weights, for exporters that know only plain operators; ``auto`` chooses.

    Returns:
        Outputs (batch, heads, length, head width) in the values' type, and the summary of everything so far.

    Raises:
        ValueError: shapes that do not fit, or an unknown implementation.
    """
    _check(scores, values, state, mask, implementation)
    dtype = torch.promote_types(torch.promote_types(scores.dtype, values.dtype), torch.float32)
    batch, heads, _, head_width = values.shape
    before = initial_prefix_state(batch, heads, head_width, dtype, values.device) if state is None else PrefixState(*state)
    if mask is not None:
        scores = scores.masked_fill(~(mask[:, None] if mask.ndim == 2 else mask), -torch.inf)
    if implementation == "auto":
        implementation = "dense" if torch.compiler.is_exporting() else "blocked"
    if not torch.compiler.is_exporting() and scores.shape[-1] == 0:
        return values, before
    outputs, after = _RUN[implementation](scores.to(dtype), values.to(dtype), before)
    return outputs.to(values.dtype), after


# ------------------------------------------------------------------------------------------------ recurrent, scan, dense


def _recurrent(scores: Tensor, values: Tensor, state: PrefixState) -> tuple[Tensor, PrefixState]:
    outputs = []
    for score, value in zip(scores.unbind(2), values.unbind(2), strict=True):
        state = combine(state, leaf(score, value, state.total.dtype))
        outputs.append(output(state))
    return torch.stack(outputs, 2), state


def _scan(scores: Tensor, values: Tensor, state: PrefixState) -> tuple[Tensor, PrefixState]:
    """After the round with stride 2^k every position holds the summary of its last 2^(k+1) positions."""
    summary = leaf(scores, values, state.total.dtype)
    stride = 1
    while stride < scores.shape[2]:
        combined = combine(
            PrefixState(*(part[:, :, :-stride] for part in summary)), PrefixState(*(part[:, :, stride:] for part in summary))
        )
        summary = PrefixState(*(torch.cat([old[:, :, :stride], new], 2) for old, new in zip(summary, combined, strict=True)))
        stride *= 2
    summary = combine(PrefixState(*(part.unsqueeze(2) for part in state)), summary)
    return output(summary), PrefixState(*(part[:, :, -1] for part in summary))


def _dense(scores: Tensor, values: Tensor, state: PrefixState) -> tuple[Tensor, PrefixState]:
    """Every weight ``exp(s_j − M_i)`` at once; the state is one more column. Mask before exp: an overflow above the diagonal would
    come back as NaN in the gradient.
    """
    length = scores.shape[2]
    # a comparison of counted positions instead of a triangle: the length may be symbolic
    positions = torch.arange(length, device=scores.device)
    visible = positions[None, :] <= positions[:, None]
    seen = scores.to(state.total.dtype)[:, :, None, :].masked_fill(~visible, -torch.inf)
    maximum = torch.maximum(seen.detach().amax(-1), state.maximum[:, :, None])
    shift = _finite(maximum)
    weights, carry = torch.exp(seen - shift[..., None]), torch.exp(state.maximum[:, :, None] - shift)
    total = weights.sum(-1) + carry * state.total[:, :, None]
    weighted = weights @ values.to(weights.dtype) + carry[..., None] * state.weighted[:, :, None]
    summary = PrefixState(maximum, total, weighted)
    return output(summary), PrefixState(*(part[:, :, -1] for part in summary))


def _finite(maximum: Tensor) -> Tensor:
    """The maximum with 0 in place of −∞, so that −∞ − maximum is −∞ and its exponential 0, never NaN."""
    return torch.where(maximum == -torch.inf, 0.0, maximum)


# ------------------------------------------------------------------------------------------------ blocked


def _blocked(scores: Tensor, values: Tensor, state: PrefixState) -> tuple[Tensor, PrefixState]:
    if scores.shape[2] == 1:  # a step of a stream: no block to speak of
        state = combine(state, leaf(scores[:, :, 0], values[:, :, 0], state.total.dtype))
        return output(state)[:, :, None], state
    outputs = []
    for start in range(0, scores.shape[2], CHUNK):
        part = slice(start, start + CHUNK)
        chunk, *summary = _BlockedPrefixAttention.apply(scores[:, :, part], values[:, :, part], *state)
        state = PrefixState(*summary)
        outputs.append(chunk)
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, 2), state


class _BlockedPrefixAttention(torch.autograd.Function):
    """Blocks of b positions; M_i is the running maximum, m_k its value at the end of block k, and m_{−1} the state's.

    Forward: ``w_i = Σ_{j in block, j≤i} e^{s_j − M_i} v_j + e^{m_{k−1} − M_i} c_{k−1}``, where the carries
    ``c_k = Σ_{l≤k} e^{m_l − m_k} W_l`` are one product of the blocks' sums ``W_l`` with a small matrix (blocks, blocks).

    Backward: with weights ``a_ij = e^{s_j − M_i} / u_i``, the outputs' gradient g and ``z_i = g_i · o_i``,
    ``dv_j = Σ_{i≥j} a_ij g_i`` and ``ds_j = v_j · dv_j − Σ_{i≥j} a_ij z_i``: the same sums over suffixes, with the same matrices.
    """

    @staticmethod
    def forward(ctx: Any, scores: Tensor, values: Tensor, maximum: Tensor, total: Tensor, weighted: Tensor) -> Any:
        batch, heads, length, head_width = values.shape
        rows, block = batch * heads, min(BLOCK, length)
        scores = _in_blocks(scores.reshape(rows, length), block, -torch.inf)
        values = _in_blocks(values.reshape(rows, length, head_width), block, 0.0)
        before = PrefixState(maximum.reshape(rows), total.reshape(rows), weighted.reshape(rows, head_width))
        running, ends = _running_maximum(scores, before.maximum.to(scores.dtype))
        shift = _finite(running)
        weights = _lower_exponentials(scores, shift)
        carry = torch.exp(ends[:, :-1, None] - shift)  # of the block before, as seen by each position
        between = _between_blocks(ends).to(before.total.dtype)
        sums = weights.sum(-1)
        carried_total, carried = _carried(between, before, sums[:, :, -1], weights[:, :, -1:] @ values)
        total_here = torch.addcmul(sums.to(carried_total.dtype), carry, carried_total[:, :-1, None])
        inverse = torch.where(total_here == 0, 0.0, total_here.reciprocal()).to(values.dtype)
        weights *= inverse[..., None]
        carry = carry * inverse
        outputs = (weights @ values).flatten(0, 1)
        outputs.baddbmm_(carry.flatten(0, 1)[..., None], carried[:, :-1].to(values.dtype).flatten(0, 1)[:, None])
        outputs = outputs.view(rows, -1, head_width)[:, :length].view(batch, heads, length, head_width)
        ctx.save_for_backward(scores, values, ends, weights, carry, between, outputs)
        ctx.mark_non_differentiable(last := ends[:, -1].to(maximum.dtype).view_as(maximum))
        return outputs, last, carried_total[:, -1].view_as(total), carried[:, -1].view_as(weighted)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> Any:
        gradient, _, total_gradient, weighted_gradient = gradients
        scores, values, ends, weights, carry, between, outputs = ctx.saved_tensors
        batch, heads, length, head_width = outputs.shape
        rows, count, block = scores.shape
        projected = _in_blocks((gradient * outputs).sum(-1).reshape(rows, length), block, 0.0)  # z
        gradient = _in_blocks(gradient.reshape(rows, length, head_width), block, 0.0)

        # what later blocks, and whoever uses the final state, want of each block's carry
        arriving = (carry[:, :, None] @ gradient)[:, :, 0].to(between.dtype)
        arriving = torch.cat([arriving, weighted_gradient.reshape(rows, 1, head_width).to(between.dtype)], 1)
        arriving_projected = torch.cat(
            [(carry * projected).sum(-1).to(between.dtype), -total_gradient.reshape(rows, 1).to(between.dtype)], 1
        )
        wanted = between.transpose(1, 2) @ arriving
        wanted_projected = (between.transpose(1, 2) @ arriving_projected[..., None])[..., 0]

        leaving = torch.exp(scores - _finite(ends[:, 1:, None]))  # weight of a position in its block's end
        value_gradient = (weights.transpose(-1, -2) @ gradient).flatten(0, 1)
        value_gradient.baddbmm_(leaving.flatten(0, 1)[..., None], wanted[:, 1:].to(values.dtype).flatten(0, 1)[:, None])
        value_gradient = value_gradient.view(rows, count, block, head_width)
        score_gradient = (values * value_gradient).sum(-1)
        score_gradient -= (projected[:, :, None] @ weights)[:, :, 0] + leaving * wanted_projected[:, 1:, None].to(values.dtype)
        return (
            score_gradient.view(rows, -1)[:, :length].view(batch, heads, length),
            value_gradient.view(rows, -1, head_width)[:, :length].view_as(outputs),
            None,
            -wanted_projected[:, 0].view(batch, heads),
            wanted[:, 0].view(batch, heads, head_width),
        )


def _in_blocks(x: Tensor, block: int, fill: float) -> Tensor:
    """(rows, length, …) as (rows, blocks, block, …), filled up at the end."""
    missing = -x.shape[1] % block
    if missing:
        x = F.pad(x, (0,) * (2 * (x.ndim - 2)) + (0, missing), value=fill)
    return x.unflatten(1, (-1, block))


def _running_maximum(scores: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
    """``max(before, s_0 … s_i)`` at every position (rows, blocks, block), and before and after every block (rows, blocks + 1)."""
    running = torch.cat([before[:, None], scores.flatten(1)], 1).cummax(1).values
    return running[:, 1:].view_as(scores), running[:, :: scores.shape[2]]


def _lower_exponentials(scores: Tensor, shift: Tensor) -> Tensor:
    """``exp(s_j − M_i)`` for j ≤ i within a block, else 0. Clamping at 0 (true for j ≤ i already) keeps the others from overflowing."""
    weights = scores[:, :, None, :] - shift[..., None]
    return weights.clamp_(max=0.0).exp_().tril_()


def _between_blocks(ends: Tensor) -> Tensor:
    """``exp(m_l − m_k)`` for l ≤ k: what the state (l = 0) and each block's sum weigh at a block's end (rows, blocks + 1, blocks + 1)."""
    difference = ends[:, None, :] - _finite(ends)[:, :, None]
    return difference.clamp_(max=0.0).exp_().tril_()


def _carried(between: Tensor, before: PrefixState, totals: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
    """Total (rows, blocks + 1) and weighted sum (rows, blocks + 1, head width) before the first and after every block."""
    dtype = between.dtype
    totals = torch.cat([before.total[:, None], totals.to(dtype)], 1)
    sums = torch.cat([before.weighted[:, None], sums[:, :, 0].to(dtype)], 1)
    return (between @ totals[..., None])[..., 0], between @ sums


# ------------------------------------------------------------------------------------------------ choice and checks

_RUN = {"recurrent": _recurrent, "scan": _scan, "blocked": _blocked, "dense": _dense}


def _check(scores: Tensor, values: Tensor, state: PrefixState | None, mask: Tensor | None, implementation: str) -> None:
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"implementation must be one of {', '.join(IMPLEMENTATIONS)}, got {implementation!r}")
    if scores.ndim != 3 or values.ndim != 4 or scores.shape != values.shape[:3]:
        raise ValueError(
            "scores must have shape (batch, heads, length) and values (batch, heads, length, head width), "
            f"got {tuple(scores.shape)} and {tuple(values.shape)}"
        )
    if mask is not None and mask.shape not in ((scores.shape[0], scores.shape[2]), scores.shape):
        raise ValueError(f"mask must have shape {(scores.shape[0], scores.shape[2])}, got {tuple(mask.shape)}")
    if state is not None and state[2].shape != (*scores.shape[:2], values.shape[3]):
        raise ValueError(f"the state's weighted sum must have shape {(*scores.shape[:2], values.shape[3])}, got {tuple(state[2].shape)}")
