"""`linear_recurrence`: ``h_t = a_t h_{t−1} + b_t`` element by element, real or complex, a position at a time or many blocks at once.

The blocked form cuts the sequence into equal blocks and walks all of them together. A first walk finds what a block does as a whole,
``h_end = A h_start + B``; these maps are a linear recurrence of their own, as long as there are blocks; a second walk then starts every
block from its true beginning. Nothing is ever divided by a product of decays, so decays of any size, zero included, are safe.

The gradient is the same recurrence backwards: with ``g_t = ∂L/∂h_t + conj(a_{t+1}) g_{t+1}``, ``∂L/∂b_t = g_t`` and
``∂L/∂a_t = g_t conj(h_{t−1})``.

Source: Blelloch (1990), Prefix Sums and Their Applications; Martin, Cundy (2018), Parallelizing Linear Recurrent Neural Nets Over
Sequence Length.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from assay.ops.loop import Tensors, walk

Implementation = Literal["auto", "recurrent", "blocked"]
IMPLEMENTATIONS: tuple[Implementation, ...] = ("auto", "recurrent", "blocked")
ELEMENTS = 32768
"""Numbers that one call should work on: with fewer, calling costs more than computing; with more, they leave the cache."""
SHORT = 8
"""Up to this length a walk a position at a time is the fastest."""


def linear_recurrence(
    decay: Tensor, inputs: Tensor, state: Tensor | None = None, mask: Tensor | None = None, implementation: Implementation = "auto"
) -> tuple[Tensor, Tensor]:
    """All states ``h_t = a_t h_{t−1} + b_t`` of a sequence, continuing from ``state``.

    Args:
        decay: a, broadcastable to the inputs' shape.
        inputs: b, (batch, length, …), real or complex.
        state: h before the first position, (batch, …); by default zero.
        mask: (batch, length), True = real; a masked position repeats the state before it.
        implementation: ``recurrent`` a position at a time, differentiated by autograd; ``blocked`` many blocks at once, with its own
            backward pass (differentiable any number of times); ``auto`` chooses.

    Returns:
        The states (batch, length, …) and the last of them.

    Raises:
        ValueError: shapes that do not fit, or an unknown implementation.
    """
    _check(decay, inputs, state, mask, implementation)
    dtype = torch.promote_types(decay.dtype, inputs.dtype)
    if state is None:
        state = inputs.new_zeros(inputs.shape[:1] + inputs.shape[2:], dtype=dtype)
    dtype = torch.promote_types(dtype, state.dtype)
    decay, inputs, state = decay.to(dtype), inputs.to(dtype), state.to(dtype)
    if inputs.shape[1] == 0:
        return inputs, state
    if mask is not None:
        wide = mask.view(*mask.shape, *(1,) * (inputs.ndim - 2))
        decay, inputs = torch.where(wide, decay, 1.0), torch.where(wide, inputs, 0.0)
    decay = decay.expand_as(inputs)
    if implementation == "auto":
        # A graph for export knows plain operators only, and a step of a stream is one of them anyway.
        implementation = "recurrent" if inputs.shape[1] == 1 or torch.compiler.is_exporting() else "blocked"
    states = _recurrent(decay, inputs, state) if implementation == "recurrent" else _blocked_states(decay, inputs, state, False)
    return states, states[:, -1]


def _recurrent(decay: Tensor, inputs: Tensor, state: Tensor) -> Tensor:
    def step(state: Tensors, now: tuple[Any, ...]) -> tuple[Tensors, Tensors]:
        after = (torch.addcmul(now[1], now[0], state[0]),)
        return after, after

    return walk(step, (state,), (decay, inputs))[1][0]


def paired_linear_recurrence(decay: Tensor, inputs: Tensor, state: Tensor, mask: Tensor | None = None) -> Tensor:
    """`linear_recurrence` of complex numbers written as pairs of real ones, for exporters, whose graphs have no complex numbers.

    Args:
        decay: a, (…, 2), broadcastable to a position's inputs.
        inputs: b, (batch, length, …, 2).
        state: h before the first position, (batch, …, 2).
        mask: (batch, length), True = real; a masked position repeats the state before it.

    Returns:
        The states, (batch, length, …, 2).
    """

    def step(state: Tensors, now: tuple[Any, ...]) -> tuple[Tensors, Tensors]:
        (real, imaginary), (left, right) = decay.unbind(-1), state[0].unbind(-1)
        after = torch.stack([real * left - imaginary * right, real * right + imaginary * left], -1) + now[0]
        if now[1] is not None:
            after = torch.where(now[1].view(-1, *[1] * (after.ndim - 1)), after, state[0])
        return (after,), (after,)

    return walk(step, (state,), (inputs, mask))[1][0]


class _Blocked(torch.autograd.Function):
    """The states in order, or with ``backwards`` from the end to the beginning: ``h_t = a_t h_{t+1} + b_t``."""

    @staticmethod
    def forward(ctx: Any, decay: Tensor, inputs: Tensor, state: Tensor, backwards: bool) -> Tensor:
        states = torch.empty_like(inputs, memory_format=torch.contiguous_format)
        shape = (*inputs.shape[:2], -1) if inputs.numel() else (*inputs.shape[:2], 0)
        _blocked(decay.reshape(shape), inputs.reshape(shape), state.reshape(state.shape[0], shape[2]), states.view(shape), backwards)
        ctx.save_for_backward(decay, state, states)
        ctx.backwards = backwards
        return states

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        decay, state, states = ctx.saved_tensors
        if ctx.backwards:
            before = torch.cat([states[:, 1:], state[:, None]], 1)
            shifted = torch.cat([torch.zeros_like(decay[:, :1]), decay[:, :-1]], 1)
        else:
            before = torch.cat([state[:, None], states[:, :-1]], 1)
            shifted = torch.cat([decay[:, 1:], torch.zeros_like(decay[:, :1])], 1)
        wanted = _blocked_states(shifted.conj().resolve_conj(), gradients[0], torch.zeros_like(state), not ctx.backwards)
        first = -1 if ctx.backwards else 0
        decay_gradient = wanted * before.conj() if ctx.needs_input_grad[0] else None
        return decay_gradient, wanted, wanted[:, first] * decay[:, first].conj(), None


def _blocked_states(decay: Tensor, inputs: Tensor, state: Tensor, backwards: bool) -> Tensor:
    states = _Blocked.apply(decay, inputs, state, backwards)
    assert isinstance(states, Tensor)  # what its forward gives
    return states


def _blocked(decay: Tensor, inputs: Tensor, state: Tensor, states: Tensor, backwards: bool) -> None:
    """Fill ``states`` (batch, length, numbers); all tensors are flat behind the length."""
    batch, length, numbers = inputs.shape
    blocks = min(ELEMENTS // max(batch * numbers, 1), math.isqrt(length))
    if blocks < 2 or length <= SHORT:
        return _walk(decay, inputs, state, states, backwards)
    block = length // blocks
    # what does not fill a block is left for the end of the walk, and walked alone
    whole, rest = slice(0, blocks * block), slice(blocks * block, length)
    if backwards:
        whole, rest = slice(length - blocks * block, length), slice(0, length - blocks * block)
    a, b, h = (x[:, whole].unflatten(1, (blocks, block)).transpose(1, 2) for x in (decay, inputs, states))
    product, end = _summary(a, b, backwards)
    carries = torch.empty_like(end)
    _blocked(product, end, state, carries, backwards)
    starts = torch.cat([carries[:, 1:], state[:, None]] if backwards else [state[:, None], carries[:, :-1]], 1)
    _walk(a, b, starts, h, backwards)
    return _walk(decay[:, rest], inputs[:, rest], carries[:, 0 if backwards else -1], states[:, rest], backwards)


def _summary(decay: Tensor, inputs: Tensor, backwards: bool) -> tuple[Tensor, Tensor]:
    """What each walk along the second dimension does as a whole: the product of its decays, and its end from a beginning of zero."""
    pairs = list(zip(decay.unbind(1), inputs.unbind(1), strict=True))
    (first, begun), *others = reversed(pairs) if backwards else pairs
    product, end = first.clone(), begun.clone()
    for a, b in others:
        product.mul_(a)
        torch.addcmul(b, a, end, out=end)
    return product, end


def _walk(decay: Tensor, inputs: Tensor, state: Tensor, states: Tensor, backwards: bool) -> None:
    places = list(zip(decay.unbind(1), inputs.unbind(1), states.unbind(1), strict=True))
    for a, b, h in reversed(places) if backwards else places:
        state = torch.addcmul(b, a, state, out=h)


def _check(decay: Tensor, inputs: Tensor, state: Tensor | None, mask: Tensor | None, implementation: str) -> None:
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"implementation must be one of {', '.join(IMPLEMENTATIONS)}, got {implementation!r}")
    if inputs.ndim < 2:
        raise ValueError(f"inputs must have shape (batch, length, ...), got {tuple(inputs.shape)}")
    try:
        fits = torch.broadcast_shapes(decay.shape, inputs.shape) == inputs.shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(f"decay must be broadcastable to the inputs' shape {tuple(inputs.shape)}, got {tuple(decay.shape)}")
    expected = inputs.shape[:1] + inputs.shape[2:]
    if state is not None and state.shape != expected:
        raise ValueError(f"state must have shape {tuple(expected)}, got {tuple(state.shape)}")
    if mask is not None and mask.shape != inputs.shape[:2]:
        raise ValueError(f"mask must have shape {tuple(inputs.shape[:2])}, got {tuple(mask.shape)}")
