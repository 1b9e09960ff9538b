"""`surprise_scan`: a memory whose weights are trained by gradient descent while it reads, with momentum and forgetting, chunk by chunk.

The memory M is a small network without biases, ``M(x) = gelu(… gelu(x W_1) …) W_L``, with weights of its own for every row and head. With
``ℓ_t(M) = ‖M(k_t) − v_t‖²``, surprise and weights move as

    S_t = η_t S_{t−1} − θ_t ∇ℓ_t(M′),   M_t = (1 − α_t) M_{t−1} + S_t,   o_t = M_t(q_t),

where M′ are the weights at the last boundary of a chunk: boundaries stand at multiples of ``chunk``, counted over real positions from the
beginning of the stream. A chunk of one is the plain recurrence. The gradient at a position is one outer product a layer,
``∇_ℓ = a_ℓᵀ g_ℓ``, of what enters the layer and of the error that reaches its end. So within a chunk

    M_t = β_t M′ + γ_t S′ − Σ_{i≤t} C_ti θ_i ∇ℓ_i(M′),   C = A E,   A_tj = Π_{j<m≤t} (1 − α_m),   E_ji = Π_{i<m≤j} η_m,

    β_t = Π_{m≤t} (1 − α_m),   γ_t = Σ_j A_tj Π_{m≤j} η_m,

and a vector is sent through the layer of M_t by products with M′, S′ and the a's alone: ``h M_t = β_t h M′ + γ_t h S′ − Σ_i C_ti θ_i
(h · a_i) g_i``. No weights of a single position are ever formed, however deep the memory is.

With a ``gain`` g the memory is ``x + (1 + g) ∘ LayerNorm(M(x))``: it starts from what it is given, and its output keeps its size however
long the weights grow. g is learned outside alone; only the last error changes, by the norm's derivative.

Source: Behrouz, Zhong, Mirrokni (2024), Titans: Learning to Memorize at Test Time. That every layer can be read at every position this
way is ours; there chunks are parallel, and how they are read is left open.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from assay.ops.compaction import Compaction
from assay.ops.linear_attention import SMALLEST_LOG_DECAY, decay_ratios, in_chunks
from assay.ops.loop import Tensors, walk

Implementation = Literal["auto", "recurrent", "chunked"]
Gates = Literal["token", "chunk"]
Read = Literal["token", "after", "before"]
Weights: TypeAlias = tuple[Tensor, ...]
"""One matrix a layer, (batch, heads, entering, leaving)."""
NORM_EPSILON = 1e-5
POSITIONS = 1024
"""Positions whose chunks are read together: more would hold more copies of the weights at once and be no faster."""


class SurpriseState(NamedTuple):
    """What is carried from one call to the next.

    Args:
        weights: M at the last boundary, one (batch, heads, entering, leaving) a layer, in float32 or wider.
        surprise: S there, like the weights; empty without momentum.
        pending: keys, values, steps and gates of the positions behind the boundary, (batch, heads, chunk − 1, numbers).
        count: how many positions of each row are pending, (batch,).
    """

    weights: Weights
    surprise: Weights
    pending: Tensor
    count: Tensor


def initial_surprise(memory: Sequence[Tensor], batch_size: int, chunk: int, forget: bool = True, momentum: bool = True) -> SurpriseState:
    """The state before the first position: every row starts with a copy of the ``memory``, one (heads, entering, leaving) a layer.

    Args:
        memory: M_0.
        batch_size: rows.
        chunk: positions a chunk, as in the calls that follow.
        forget: whether the calls that follow forget.
        momentum: whether they have momentum.
    """
    dtype = torch.promote_types(memory[0].dtype, torch.float32)
    weights = tuple(layer.to(dtype).expand(batch_size, *layer.shape) for layer in memory)
    surprise = tuple(torch.zeros_like(layer) for layer in weights) if momentum else ()
    numbers = memory[0].shape[1] + memory[-1].shape[2] + 1 + forget + momentum
    pending = memory[0].new_zeros(batch_size, len(memory[0]), chunk - 1, numbers, dtype=dtype)
    return SurpriseState(weights, surprise, pending, torch.zeros(batch_size, dtype=torch.long, device=pending.device))


def apply_memory(weights: Sequence[Tensor], x: Tensor, gain: Tensor | None = None) -> Tensor:
    """``M(x)`` without an update: x (…, length, entering) through weights (…, entering, leaving) with GELU between the layers.

    With a ``gain`` (heads, width): ``x + (1 + gain) ∘ LayerNorm(M(x))``.
    """
    *inner, last = weights
    h = x
    for layer in inner:
        h = F.gelu(h @ layer)
    return _added(x, h @ last, gain)


def gradient_factors(
    weights: Sequence[Tensor], keys: Tensor, values: Tensor, gain: Tensor | None = None
) -> tuple[list[Tensor], list[Tensor]]:
    """What enters each layer, a (…, length, entering), and the errors g (…, length, leaving): position i's gradient is ``a_iᵀ g_i``.

    The gradient is that of ``‖M(k) − v‖²``, in plain operations, so that it can be differentiated again.

    Args:
        weights: of the memory, (…, entering, leaving) a layer.
        keys: k (…, length, key width).
        values: v (…, length, value width).
        gain: as `apply_memory`'s.
    """
    inputs, slopes = [keys], []
    for layer in weights[:-1]:
        before = inputs[-1] @ layer
        slopes.append(_gelu_slope(before))
        inputs.append(F.gelu(before))
    errors = [_last_error(keys, inputs[-1] @ weights[-1], values, gain)]
    for layer, slope in zip(reversed(weights[1:]), reversed(slopes), strict=True):
        errors.append(errors[-1] @ layer.transpose(-1, -2) * slope)
    return inputs, errors[::-1]


def surprise_scan(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    step: Tensor,
    forget: Tensor | None,
    momentum: Tensor | None,
    state: SurpriseState,
    mask: Tensor | None = None,
    *,
    chunk: int = 16,
    gates: Gates = "token",
    read: Read = "token",
    largest_gradient: float | None = None,
    gain: Tensor | None = None,
    implementation: Implementation = "auto",
) -> tuple[Tensor, SurpriseState]:
    """Outputs ``o_t = M_t(q_t)`` of the memory that learns ``M(k) ≈ v`` as it reads, continuing from ``state``.

    Args:
        queries: q (batch, heads, length, key width).
        keys: k, like the queries.
        values: v (batch, heads, length, value width).
        step: θ (batch, heads, length), at least 0. The loss is the sum over the value's numbers; for their mean divide by their count.
        forget: the logit of α, ``α = σ(·)``, like ``step``; None for no forgetting.
        momentum: the logit of η, like ``step``; None for no momentum (``S_t = −θ_t ∇ℓ_t``).
        state: of `initial_surprise`, or of the last call.
        mask: (batch, length), True = real; a masked position is skipped as if it were not there, and its own output is zero.
        chunk: positions between two boundaries.
        gates: ``token``: as above. ``chunk``: forgetting and momentum once a chunk, from the mean of its logits:
            ``S = η S′ − Σ_i θ_i ∇ℓ_i``, ``M = (1 − α) M′ + S``.
        read: ``token`` reads M_t itself. ``before`` reads the memory of the ⌊t / chunk⌋ chunks that ended before position t (from 0),
            ``after`` that of ⌊(t + 1) / chunk⌋, so that a chunk's last position sees its chunk.
        largest_gradient: a position's gradient, over all layers together, is scaled down to this norm; None for no limit.
        gain: (heads, width) of the normalised residual around the memory, which then maps a width to itself; None for none.
        implementation: ``recurrent`` a position at a time with `torch.autograd.grad`, the reference; ``chunked``; ``auto`` is that.

    Returns:
        Outputs (batch, heads, length, value width) in the values' type, and the state after the last position.

    Raises:
        ValueError: shapes that do not fit each other, or an option that has none of the values named.
    """
    _check(queries, keys, values, (step, forget, momentum), state, mask, chunk, (gates, read, implementation), largest_gradient)
    if gain is not None and not tuple(gain.shape) == (keys.shape[1], keys.shape[3]) == (values.shape[1], values.shape[3]):
        raise ValueError(
            f"gain must have shape (heads, width) of keys and values alike, {(keys.shape[1], keys.shape[3])}, got {tuple(gain.shape)}"
        )
    if values.shape[2] == 0:
        return values, state
    dtype = state.pending.dtype
    logits = [gate for gate in (forget, momentum) if gate is not None]
    sizes = [keys.shape[3], values.shape[3], 1, *[1] * len(logits)]
    tokens = torch.cat([keys, values, *(numbers[..., None] for numbers in (step, *logits))], -1).to(dtype)
    queries, tokens, packing, full = _aligned(queries.to(dtype), tokens, state, mask, chunk)
    keys, key_values, *numbers = in_chunks(tokens, chunk).split(sizes, -1)
    step, *logits = (number.squeeze(-1) for number in numbers)
    forget, momentum = (None if gate is None else logits.pop(0) for gate in (forget, momentum))

    learned = _Chunks(in_chunks(queries, chunk), keys, key_values, step, forget, momentum)
    run = _recurrent if implementation == "recurrent" else _chunked
    weights, surprise, parts = state.weights, state.surprise, []
    together = max(1, POSITIONS // chunk)
    for start in range(0, learned.keys.shape[2], together):
        piece = learned.piece(start, start + together)
        complete = full[:, start : start + together] if isinstance(full, Tensor) else max(0, full - start)
        outputs, weights, surprise = run(piece, weights, surprise, complete, gates, read, largest_gradient, gain)
        parts.append(outputs.flatten(2, 3))
    outputs = torch.cat(parts, 2)
    return _own_outputs(outputs, packing, state, values.shape[2]).to(values.dtype), _after(tokens, packing, state, weights, surprise, chunk)


# ------------------------------------------------------------------------------------------------ chunks of a stream


class _Chunks(NamedTuple):
    """What is read, in chunks: (batch, heads, chunks, chunk, width), and step and logits (batch, heads, chunks, chunk)."""

    queries: Tensor
    keys: Tensor
    values: Tensor
    step: Tensor
    forget: Tensor | None
    momentum: Tensor | None

    def piece(self, start: int, stop: int) -> _Chunks:
        parts: Any = (None if part is None else part[:, :, start:stop] for part in self)
        return _Chunks(*parts)


def _aligned(
    queries: Tensor, tokens: Tensor, state: SurpriseState, mask: Tensor | None, chunk: int
) -> tuple[Tensor, Tensor, Compaction | int, Tensor | int]:
    """Pending and new positions with the real ones of every row in front, so that all rows begin at a boundary.

    Besides: how they were moved there (the number of pending ones where all rows have equally many), and which chunks are complete
    (batch, chunks), or how many are.
    """
    count = state.count
    # An exported program is of any state, so it cannot look at the counts.
    if mask is None and not torch.compiler.is_exporting() and bool((count == count[:1]).all()):
        pending = int(count[0]) if len(count) else 0
        tokens = torch.cat([state.pending[:, :, :pending], tokens], 2)
        return F.pad(queries, (0, 0, pending, 0)), tokens, pending, tokens.shape[2] // chunk
    real = torch.ones(tokens.shape[0], tokens.shape[2], dtype=torch.bool, device=tokens.device) if mask is None else mask
    places = torch.arange(chunk - 1, device=tokens.device)
    packing = Compaction(torch.cat([places < count[:, None], real], 1))
    queries = _packed(packing, F.pad(queries, (0, 0, chunk - 1, 0)))
    tokens = _packed(packing, torch.cat([state.pending, tokens], 2))
    chunks = torch.arange(1, -(-tokens.shape[2] // chunk) + 1, device=tokens.device)
    return queries, tokens, packing, chunks * chunk <= packing.counts[:, None]


def _packed(packing: Compaction, x: Tensor) -> Tensor:
    return packing.pack(x.transpose(1, 2).flatten(2)).unflatten(2, (x.shape[1], -1)).transpose(1, 2)


def _own_outputs(outputs: Tensor, packing: Compaction | int, state: SurpriseState, length: int) -> Tensor:
    """The outputs of the new positions, at their places."""
    if isinstance(packing, int):
        return outputs[:, :, packing : packing + length]
    heads, pending = outputs.shape[1], state.pending.shape[2]
    rows = outputs[:, :, : pending + length].transpose(1, 2).flatten(2)
    return packing.unpack(rows)[:, pending:].unflatten(2, (heads, -1)).transpose(1, 2)


def _after(
    tokens: Tensor, packing: Compaction | int, state: SurpriseState, weights: Weights, surprise: Weights, chunk: int
) -> SurpriseState:
    """The state with what stands behind the last boundary of each row as pending."""
    if isinstance(packing, int):
        left = tokens.shape[2] % chunk
        pending = F.pad(tokens[:, :, tokens.shape[2] - left :], (0, 0, 0, chunk - 1 - left))
        return SurpriseState(weights, surprise, pending, torch.full_like(state.count, left))
    count = packing.counts % chunk
    tokens = F.pad(tokens, (0, 0, 0, chunk - 1))
    places = (packing.counts - count)[:, None] + torch.arange(chunk - 1, device=count.device)
    pending = tokens.gather(2, places[:, None, :, None].expand(-1, tokens.shape[1], -1, tokens.shape[3]))
    return SurpriseState(weights, surprise, pending, count)


# ------------------------------------------------------------------------------------------------ all positions of a chunk at once


class _Rates(NamedTuple):
    """How what a position reads, and what a chunk leaves, are made of M′, S′ and the chunk's gradients.

    Read at a position: ``keep · M′ + carry · S′ − Σ_i write_i ∇_i`` (…, chunk) and (…, chunk, chunk). Left at the end: M alike with the
    ``end`` ones (…) and (…, chunk), and ``S = momentum · S′ − Σ_i added_i ∇_i``.
    """

    keep: Tensor
    carry: Tensor
    write: Tensor
    end_keep: Tensor
    end_carry: Tensor
    end_write: Tensor
    momentum: Tensor
    added: Tensor


def _rates(chunks: _Chunks, gates: Gates, read: Read) -> _Rates:
    rates = _rates_by_token(chunks) if gates == "token" else _rates_by_chunk(chunks)
    if read == "token":
        return rates
    keep, carry, write = torch.ones_like(chunks.step), torch.zeros_like(chunks.step), torch.zeros_like(rates.write)
    if read == "after":
        keep, carry = (torch.cat([row[..., :-1], end[..., None]], -1) for row, end in ((keep, rates.end_keep), (carry, rates.end_carry)))
        write = torch.cat([write[..., :-1, :], rates.end_write[..., None, :]], -2)
    return rates._replace(keep=keep, carry=carry, write=write)


def _rates_by_token(chunks: _Chunks) -> _Rates:
    kept, total = _products(None if chunks.forget is None else -chunks.forget, chunks.step)
    step = chunks.step[..., None, :]
    if chunks.momentum is None:
        write, zero = kept * step, torch.zeros_like(total)
        return _Rates(total, zero, write, total[..., -1], zero[..., -1], write[..., -1, :], zero[..., -1], write[..., -1, :])
    moved, lasting = _products(chunks.momentum, chunks.step)
    write, carry = kept @ moved * step, (kept @ lasting[..., None])[..., 0]
    end = (total[..., -1], carry[..., -1], write[..., -1, :])
    return _Rates(total, carry, write, *end, lasting[..., -1], moved[..., -1, :] * chunks.step)


def _products(logit: Tensor | None, like: Tensor) -> tuple[Tensor, Tensor]:
    """``Π_{j<m≤t} σ(logit_m)`` for j ≤ t, else 0, (…, chunk, chunk), and the products from the chunk's beginning on (…, chunk)."""
    if logit is None:
        ones = torch.ones_like(like)
        return ones[..., None].expand(*like.shape, like.shape[-1]).tril(), ones
    ratios, total = decay_ratios(F.logsigmoid(logit).clamp(min=SMALLEST_LOG_DECAY))
    return ratios, total.exp()


def _rates_by_chunk(chunks: _Chunks) -> _Rates:
    ones = torch.ones_like(chunks.step[..., 0])
    keep = ones if chunks.forget is None else (-chunks.forget.mean(-1)).sigmoid()
    momentum = torch.zeros_like(ones) if chunks.momentum is None else chunks.momentum.mean(-1).sigmoid()
    rows = chunks.step[..., None, :].expand(*chunks.step.shape, chunks.step.shape[-1])
    # what a position reads inside of a chunk is not defined here: only the shapes of the first three are used
    return _Rates(chunks.step, chunks.step, rows, keep, momentum, chunks.step, momentum, chunks.step)


def _chunked(
    chunks: _Chunks,
    weights: Weights,
    surprise: Weights,
    complete: Tensor | int,
    gates: Gates,
    read: Read,
    limit: float | None,
    gain: Tensor | None,
) -> tuple[Tensor, Weights, Weights]:
    rates, layers = _rates(chunks, gates, read), len(weights)

    def learnt(state: Tensors, keys: Tensor, values: Tensor) -> Tensors:
        """Weights and surprise at a chunk's beginning, what enters each layer, and the errors there."""
        entering, wrong = gradient_factors(state[:layers], keys, values, gain)
        return (*state, *entering, *(wrong if limit is None else _limited(entering, wrong, limit)))

    def step(state: Tensors, position: tuple[Any, ...]) -> tuple[Tensors, Tensors]:
        keys, values, *ends, full = position
        found = learnt(state, keys, values)
        before = (state[:layers], state[layers:])
        moved = _moved(*before, found[-2 * layers : -layers], found[-layers:], ends)
        moved = moved if full is None else _where(full, moved, before)
        return (*moved[0], *moved[1]), found

    state, pending = (*weights, *surprise), isinstance(complete, int) and complete < chunks.keys.shape[2]
    if pending and complete == 0:  # a step of a stream
        found = tuple(part[:, None] for part in learnt(state, chunks.keys[:, :, 0], chunks.values[:, :, 0]))
    else:
        ends = (rates.end_keep, rates.end_carry, rates.end_write, rates.momentum, rates.added)
        inputs = [part.transpose(1, 2) for part in (chunks.keys, chunks.values, *ends)]
        state, found = walk(step, state, [*inputs, complete if isinstance(complete, Tensor) else None])
        # a copy, or the state would keep all boundaries in memory
        state = tuple(part[:, complete].clone() for part in found[: len(state)]) if pending else state
    starts, factors = found[: len(state)], found[len(state) :]
    outputs = chunks.queries
    for layer in range(layers):
        outputs = F.gelu(outputs) if layer else outputs
        start, a, g = (part.transpose(1, 2) for part in (starts[layer], factors[layer], factors[layers + layer]))
        read_out = rates.keep[..., None] * (outputs @ start)
        if surprise:
            read_out = read_out + rates.carry[..., None] * (outputs @ starts[layers + layer].transpose(1, 2))
        outputs = read_out - (outputs @ a.transpose(-1, -2) * rates.write) @ g
    return _added(chunks.queries, outputs, gain), state[:layers], state[layers:]


def _moved(
    weights: Weights, surprise: Weights, inputs: Sequence[Tensor], errors: Sequence[Tensor], rates: Sequence[Tensor]
) -> tuple[Weights, Weights]:
    """Weights and surprise at the chunk's end."""
    keep, carry, momentum = (rates[index][..., None, None] for index in (0, 1, 3))
    write, added = (rates[index][..., None] for index in (2, 4))
    new_weights, new_surprise = [], []
    for layer, (a, g) in enumerate(zip(inputs, errors, strict=True)):
        if not surprise:
            new_weights.append(keep * weights[layer] - a.transpose(-1, -2) @ (write * g))
            continue
        to_weights, to_surprise = (a.transpose(-1, -2) @ torch.cat([write * g, added * g], -1)).chunk(2, -1)
        new_weights.append(keep * weights[layer] + carry * surprise[layer] - to_weights)
        new_surprise.append(momentum * surprise[layer] - to_surprise)
    return tuple(new_weights), tuple(new_surprise)


def _where(complete: Tensor, moved: tuple[Weights, Weights], before: tuple[Weights, Weights]) -> tuple[Weights, Weights]:
    """The moved ones in rows whose chunk is complete, else those before."""
    wide = complete[:, None, None, None]
    weights, surprise = (
        tuple(torch.where(wide, new, old) for new, old in zip(*pair, strict=True)) for pair in zip(moved, before, strict=True)
    )
    return weights, surprise


def _limited(inputs: list[Tensor], errors: list[Tensor], limit: float) -> list[Tensor]:
    """Errors scaled so that no position's gradient is longer than ``limit``: an outer product is as long as its factors' product."""
    square = sum(a.square().sum(-1) * g.square().sum(-1) for a, g in zip(inputs, errors, strict=True))
    assert isinstance(square, Tensor)  # there is a layer
    factor = limit * square.clamp(min=limit**2).rsqrt()[..., None]
    return [factor * g for g in errors]


def _added(x: Tensor, y: Tensor, gain: Tensor | None) -> Tensor:
    """``x + (1 + gain) ∘ LayerNorm(y)`` for x and y (batch, heads, …, width); y without a gain."""
    return y if gain is None else x + (1 + _wide(gain, y)) * F.layer_norm(y, y.shape[-1:], eps=NORM_EPSILON)


def _last_error(keys: Tensor, y: Tensor, values: Tensor, gain: Tensor | None) -> Tensor:
    """The derivative of ``‖M(k) − v‖²`` by y, what the last layer gives."""
    if gain is None:
        return 2 * (y - values)
    scale = 1 + _wide(gain, y)
    inverse = torch.rsqrt(y.var(-1, correction=0, keepdim=True) + NORM_EPSILON)
    normal = (y - y.mean(-1, keepdim=True)) * inverse
    wrong = 2 * (keys + scale * normal - values) * scale
    return inverse * (wrong - wrong.mean(-1, keepdim=True) - normal * (wrong * normal).mean(-1, keepdim=True))


def _wide(gain: Tensor, like: Tensor) -> Tensor:
    """(heads, width) beside (batch, heads, …, width)."""
    return gain.to(like.dtype).reshape(len(gain), *[1] * (like.ndim - 3), -1)


def _gelu_slope(x: Tensor) -> Tensor:
    """``Φ(x) + x φ(x)``, the derivative of ``x Φ(x)``."""
    return 0.5 * (1 + torch.erf(x * math.sqrt(0.5))) + x * torch.exp(-0.5 * x * x) * (1 / math.sqrt(2 * math.pi))


# ------------------------------------------------------------------------------------------------ a position at a time


def _recurrent(
    chunks: _Chunks,
    weights: Weights,
    surprise: Weights,
    complete: Tensor | int,
    gates: Gates,
    read: Read,
    limit: float | None,
    gain: Tensor | None,
) -> tuple[Tensor, Weights, Weights]:
    outputs = []
    size = chunks.step.shape[3]
    for place in range(chunks.step.shape[2]):
        anchor, before = weights, (weights, surprise)
        moving = surprise or tuple(torch.zeros_like(layer) for layer in weights)
        forget, momentum = (
            None
            if gate is None
            else gate[:, :, place].sigmoid()
            if gates == "token"
            else gate[:, :, place].mean(-1, keepdim=True).sigmoid()
            for gate in (chunks.forget, chunks.momentum)
        )
        for at in range(size):
            keys, values, query = (x[:, :, place, at, None] for x in (chunks.keys, chunks.values, chunks.queries))
            gradient = _gradient(anchor, keys, values, limit, gain)
            step = chunks.step[:, :, place, at, None, None]
            last = at == size - 1
            # with gates a chunk the old surprise fades once, at its beginning, and the weights move once, at its end
            fading = gates == "token" or at == 0
            lasting = 0.0 if momentum is None else _gate(momentum, at)
            moving = tuple((lasting * s if fading else s) - step * u for s, u in zip(moving, gradient, strict=True))
            if gates == "token" or last:
                keep = 1.0 if forget is None else 1 - _gate(forget, at)
                weights = tuple(keep * layer + s for layer, s in zip(weights, moving, strict=True))
            seen = weights if read == "token" or (read == "after" and last) else anchor
            outputs.append(apply_memory(seen, query, gain)[:, :, 0])
        moved = (weights, moving if surprise else ())
        if isinstance(complete, Tensor):
            moved = _where(complete[:, place], moved, before)
        elif place >= complete:
            moved = before
        weights, surprise = moved
    return torch.stack(outputs, 2).unflatten(2, (-1, size)), weights, surprise


def _gate(gate: Tensor, at: int) -> Tensor:
    """The gate (batch, heads, 1, 1) of a position, or of its chunk."""
    return gate[..., min(at, gate.shape[-1] - 1), None, None]


def _gradient(weights: Weights, keys: Tensor, values: Tensor, limit: float | None, gain: Tensor | None) -> Weights:
    recorded = torch.is_grad_enabled()
    with torch.enable_grad():
        leaves = tuple(layer if layer.requires_grad else layer.detach().requires_grad_() for layer in weights)
        loss = (apply_memory(leaves, keys, gain) - values).square().sum()
        found = torch.autograd.grad(loss, leaves, create_graph=recorded)
    if limit is None:
        return found
    square = torch.stack([layer.square().sum((-1, -2), keepdim=True) for layer in found]).sum(0)
    factor = limit * square.clamp(min=limit**2).rsqrt()
    return tuple(factor * layer for layer in found)


# ------------------------------------------------------------------------------------------------ checks


def _check(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    gates: tuple[Tensor | None, ...],
    state: SurpriseState,
    mask: Tensor | None,
    chunk: int,
    options: tuple[str, str, str],
    limit: float | None,
) -> None:
    for name, given, known in zip(("gates", "read", "implementation"), options, (Gates, Read, Implementation), strict=True):
        if given not in get_args(known):
            raise ValueError(f"{name} must be one of {', '.join(get_args(known))}, got {given!r}")
    if options[0] == "chunk" and options[1] == "token":
        raise ValueError("gates of a chunk leave no memory of single positions: read must be after or before, got 'token'")
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1, got {chunk}")
    if limit is not None and not limit > 0:
        raise ValueError(f"largest_gradient must be above 0, got {limit}")
    if queries.ndim != 4 or queries.shape != keys.shape or values.ndim != 4 or values.shape[:3] != keys.shape[:3]:
        raise ValueError(
            "queries and keys must have shape (batch, heads, length, key width) and values (batch, heads, length, value width), "
            f"got {tuple(queries.shape)}, {tuple(keys.shape)} and {tuple(values.shape)}"
        )
    for name, numbers in zip(("step", "forget", "momentum"), gates, strict=True):
        if numbers is not None and numbers.shape != keys.shape[:3]:
            raise ValueError(f"{name} must have shape {tuple(keys.shape[:3])}, got {tuple(numbers.shape)}")
    if mask is not None and mask.shape != (keys.shape[0], keys.shape[2]):
        raise ValueError(f"mask must have shape {(keys.shape[0], keys.shape[2])}, got {tuple(mask.shape)}")
    first, last = state.weights[0].shape, state.weights[-1].shape
    expected = (*keys.shape[:2], keys.shape[3], values.shape[3])
    if (*first[:3], last[3]) != expected:
        raise ValueError(f"the state's memory must map (batch, heads, key width) to values as {expected}, got {(*first[:3], last[3])}")
    pending = (*keys.shape[:2], chunk - 1, sum(gate is not None for gate in gates) + keys.shape[3] + values.shape[3])
    if state.pending.shape != pending or bool(state.surprise) != (gates[2] is not None):
        raise ValueError(
            f"the state must be of this chunk and these gates: pending {pending}, got {tuple(state.pending.shape)}; "
            f"momentum {gates[2] is not None}, got {bool(state.surprise)}"
        )
