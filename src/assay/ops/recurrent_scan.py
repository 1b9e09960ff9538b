"""`recurrent_scan`: recurrences that no scan makes parallel (Elman, LSTM, GRU, sLSTM), with heads, a whole sequence in one call.

A head h of size D sees its own hidden state alone: the recurrent weights are block-diagonal, ``r_g = R_g h_{t−1}`` for each gate g. What a
step does with them is in `assay.ops.recurrent_cells`. Backward, with δ_g the gradient of a gate's pre-activation,

    ∂L/∂h_{t−1} = Σ_g R_gᵀ δ_g + direct,   ∂L/∂R_g = Σ_t δ_g h_{t−1}ᵀ,   ∂L/∂b = Σ_t δ,   ∂L/∂w = δ

where ∂L/∂R is one product over all steps after the walk back, not one a step.

On a CPU the weights stay in its caches and a tile of sums in its registers for the whole sequence, and heads and rows of the batch are
dealt out to threads that never wait for each other. On a GPU there are two published designs: *fused*, which holds R on the chip over all
steps and needs it to fit, and *alternating*, a matrix product and a pointwise kernel a step, for any size; the Triton form here is fused, a
head to a program.

Source: Pöppel, Beck, Hochreiter (2024), FlashRNN: Optimizing Traditional RNNs on Modern Hardware.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from assay.ops import recurrent_scan_compiled as compiled
from assay.ops.loop import Tensors, walk
from assay.ops.recurrent_cells import CELLS, Cell

Backend = Literal["auto", "reference", "closed", "compiled", "triton"]
BACKENDS: tuple[Backend, ...] = ("auto", "reference", "closed", "compiled", "triton")
SHORT = 4
"""Steps below which laying out the weights for the compiled form takes longer than it saves."""

TRITON_SIZES = (16, 32, 64)
"""Sizes of a head that the Triton form holds on the chip: powers of two, whose weights fit."""


@dataclass(frozen=True)
class Conditions:
    """What changes a step besides its inputs.

    Args:
        mask: (batch, length), True = real; elsewhere the states stay.
        reset: (batch, length), True = the states are zero before this position is read.
        clip: bound of the gradient that comes back through the recurrent weights.
        cut: no gradient comes back through them.
    """

    mask: Tensor | None = None
    reset: Tensor | None = None
    clip: float | None = None
    cut: bool = False


class Engine(Protocol):
    """One way to walk the sequence, forwards and backwards; every tensor dense, the states (states, batch, heads, size)."""

    def forward(
        self,
        function: str,
        inputs: Tensor,
        weights: Tensor,
        bias: Tensor,
        initial: Tensor,
        decay: Tensor | None,
        conditions: Conditions,
        keep: bool,
    ) -> tuple[Tensor, Tensor]:
        """All states (states, batch, length, heads, size); activations (batch, length, kept, heads, size), undefined unless ``keep``."""
        ...

    def backward(
        self,
        function: str,
        weights: Tensor,
        initial: Tensor,
        decay: Tensor | None,
        conditions: Conditions,
        states: Tensor,
        kept: Tensor,
        flow: Sequence[Tensor | None],
        last_flow: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Gradients of pre-activations (batch, length, biases, heads, size), bias, initial states and decays.

        ``flow`` has the gradient of each state at all positions (batch, length, heads, size), None where it is zero, ``last_flow`` that of
        the last states (states, batch, heads, size).
        """
        ...


def recurrent_scan(
    inputs: Tensor,
    weights: Tensor,
    bias: Tensor,
    states: Tensor | None = None,
    function: str = "lstm",
    backend: Backend = "auto",
    *,
    mask: Tensor | None = None,
    reset: Tensor | None = None,
    decay: Tensor | None = None,
    recurrent_grad_clip: float | None = None,
    cut_recurrent_gradient: bool = False,
    check_finite: bool = False,
) -> tuple[Tensor, Tensor]:
    """All states of a recurrence over a sequence, and the last of them.

    A key of `assay.ops.recurrent_cells.CELLS` fixes the numbers of gates and states: recurrent, input, bias gates and states are 1, 1, 1, 1
    for ``elman``, ``elman-relu`` and ``elman-sigmoid``, 4, 4, 4, 2 (h, c) for ``lstm``, 3, 3, 4, 1 for ``gru``, 4, 4, 4, 4 (h, c, n, m) for
    ``slstm``.

    Args:
        inputs: the projected input W x, (batch, length, input gates, heads, size).
        weights: R, (recurrent gates, heads, size, size), from the last dimension to the one before it.
        bias: (bias gates, heads, size).
        states: those before the first step, (states, batch, 1, heads, size); by default zero.
        function: the cell.
        backend: ``reference`` the equations step by step, differentiable any number of times, and what exporters see; ``closed`` the same
            with a backward pass of its own (once differentiable, as those below); ``compiled`` C++ for this processor, float32 inside;
            ``triton`` for a GPU, float32, heads of 16, 32 or 64, without the options below; ``auto`` chooses. Where a fast one cannot be
            had, the log says so once and ``closed`` runs.
        mask: (batch, length), True = real; a masked position leaves the states as they were and repeats them.
        reset: (batch, length), True = a new sequence begins here: the states are zero before this position is read.
        decay: γ (batch, length, heads, size): h becomes γ_t ∘ h before step t reads it, as GRU-D does for the time that has passed.
        recurrent_grad_clip: the gradient that comes back through R in each step is held within ± this.
        cut_recurrent_gradient: no gradient comes back through R: truncation to one step. Gates that keep a state still pass it.
        check_finite: look at inputs and states, and name the first step at which they are not finite. By default NaN and infinity pass
            through as in any layer: looking costs a pass over both.

    Returns:
        All states (states, batch, length, heads, size), of the inputs' type, and the last (states, batch, 1, heads, size), at least
        float32, so that a stream in bfloat16 loses nothing between chunks.

    Raises:
        ValueError: shapes that do not fit, an unknown function or backend, no steps, a bound that is not positive; with ``check_finite``,
            numbers that are not finite.
    """
    hidden, last, *others = scan_states(
        inputs,
        weights,
        bias,
        states,
        function,
        backend,
        mask=mask,
        reset=reset,
        decay=decay,
        recurrent_grad_clip=recurrent_grad_clip,
        cut_recurrent_gradient=cut_recurrent_gradient,
        check_finite=check_finite,
    )
    return torch.stack([hidden, *others]), last


def scan_states(
    inputs: Tensor,
    weights: Tensor,
    bias: Tensor,
    states: Tensor | None = None,
    function: str = "lstm",
    backend: Backend = "auto",
    *,
    mask: Tensor | None = None,
    reset: Tensor | None = None,
    decay: Tensor | None = None,
    recurrent_grad_clip: float | None = None,
    cut_recurrent_gradient: bool = False,
    check_finite: bool = False,
) -> tuple[Tensor, ...]:
    """`recurrent_scan` for layers, which read the hidden states alone: (hidden, last, other states …), nothing copied together.

    Returns:
        The hidden states (batch, length, heads, size), the last states as `recurrent_scan` gives them, and each other state as the first.
    """
    cell = _check(inputs, weights, bias, states, function, backend)
    _check_conditions(inputs, mask, reset, decay, recurrent_grad_clip)
    wide = torch.promote_types(inputs.dtype, torch.float32)
    if states is None:
        states = inputs.new_zeros(cell.states, inputs.shape[0], 1, *inputs.shape[3:], dtype=wide)
    if check_finite:
        _require_finite("inputs", inputs)
    if reset is not None and mask is not None:
        reset = reset & mask  # what is masked is not there, its reset neither
    conditions = Conditions(mask, reset, recurrent_grad_clip, cut_recurrent_gradient)
    chosen, decay = _chosen(backend, inputs), None if decay is None else decay.to(wide)
    found = _run(chosen, function, inputs.to(wide), weights.to(wide), bias.to(wide), states[:, :, 0].to(wide), decay, conditions)
    last, all_states = found[0][:, :, None], [state.to(inputs.dtype) for state in found[1:]]
    if check_finite:
        for state in all_states:
            _require_finite("states", state)
    return all_states[0], last, *all_states[1:]


def recurrent_step(inputs: Tensor, weights: Tensor, bias: Tensor, states: Tensor, function: str = "lstm") -> Tensor:
    """The states after one step.

    Args:
        inputs: (batch, input gates, heads, size).
        weights: as `recurrent_scan`'s.
        bias: as `recurrent_scan`'s.
        states: (states, batch, 1, heads, size).
        function: the cell.

    Returns:
        (states, batch, 1, heads, size), at least float32.

    Raises:
        ValueError: as `recurrent_scan`.
    """
    return recurrent_scan(inputs[:, None], weights, bias, states, function, "reference")[1]


# ------------------------------------------------------------------------------------------------ the equations, step by step


class _Position(NamedTuple):
    """What a step finds beside its states: inputs (batch, gates, heads, size), what the hidden state decays by, whether the row is real
    and whether a sequence begins, each (batch, 1, 1); None where there is no such thing.
    """

    inputs: Tensor
    decay: Tensor | None = None
    real: Tensor | None = None
    fresh: Tensor | None = None


def _position(t: int, inputs: Tensor, decay: Tensor | None, conditions: Conditions) -> _Position:
    return _Position(inputs[:, t], None if decay is None else decay[:, t], _at(conditions.mask, t), _at(conditions.reset, t))


def _reference(
    function: str, inputs: Tensor, weights: Tensor, bias: Tensor, initial: Tensor, decay: Tensor | None, conditions: Conditions
) -> tuple[Tensor, ...]:
    cell, matrix = CELLS[function], _stacked(weights)
    real, fresh = (None if where is None else where[..., None, None] for where in (conditions.mask, conditions.reset))

    def step(states: Tensors, now: tuple[Any, ...]) -> tuple[Tensors, Tensors]:
        after, _ = _forward_step(cell, _Position(*now), matrix, bias, states, conditions)
        return after, after

    last, walked = walk(step, tuple(initial), (inputs, decay, real, fresh))
    return torch.stack(last), *walked


def _forward_step(
    cell: Cell, now: _Position, matrix: Tensor, bias: Tensor, states: Sequence[Tensor], conditions: Conditions
) -> tuple[tuple[Tensor, ...], Sequence[Tensor]]:
    read = _as_read(now, states)
    hidden = read[0].detach() if conditions.cut else read[0]
    if conditions.clip is not None and hidden.requires_grad:
        hidden = _Clipped.apply(hidden, conditions.clip)
    after, kept = cell.forward(now.inputs, _product(hidden, matrix), bias, read)
    if now.real is not None:
        after = tuple(torch.where(now.real, new, old) for new, old in zip(after, states, strict=True))
    return tuple(after), kept


def _as_read(now: _Position, states: Sequence[Tensor]) -> list[Tensor]:
    """The states that a step reads: zero where it begins a sequence, the hidden one decayed."""
    read = list(states) if now.fresh is None else [torch.where(now.fresh, 0.0, state) for state in states]
    if now.decay is not None:
        read[0] = read[0] * now.decay
    return read


def _at(where: Tensor | None, t: int) -> Tensor | None:
    return None if where is None else where[:, t, None, None]


def _stacked(weights: Tensor) -> Tensor:
    """(heads, size, gates · size): what a head's hidden state is multiplied with."""
    return weights.permute(1, 3, 0, 2).flatten(2)


def _product(hidden: Tensor, matrix: Tensor) -> Tensor:
    """R h of every gate, (batch, gates, heads, size)."""
    return (hidden.transpose(0, 1) @ matrix).unflatten(2, (-1, hidden.shape[-1])).permute(1, 2, 0, 3)


class _Clipped(torch.autograd.Function):
    """The identity, whose gradient is held within a bound."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bound: float) -> Tensor:
        ctx.bound = bound
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0].clamp(-ctx.bound, ctx.bound), None


# ------------------------------------------------------------------------------------------------ with a backward pass of its own


class Loop:
    """The `Engine` that walks in Python: what the compiled ones are held against, and what runs where they cannot."""

    def forward(
        self,
        function: str,
        inputs: Tensor,
        weights: Tensor,
        bias: Tensor,
        initial: Tensor,
        decay: Tensor | None,
        conditions: Conditions,
        keep: bool,
    ) -> tuple[Tensor, Tensor]:
        """As `Engine.forward`."""
        cell, states, matrix = CELLS[function], tuple(initial), _stacked(weights)
        batch, length, _, *head = inputs.shape
        walked = inputs.new_empty(cell.states, batch, length, *head)
        activations = inputs.new_empty(batch, length if keep else 0, cell.kept, *head)
        for t in range(length):
            states, kept = _forward_step(cell, _position(t, inputs, decay, conditions), matrix, bias, states, conditions)
            for s, state in enumerate(states):
                walked[s, :, t] = state
            for k, activation in enumerate(kept if keep else ()):
                activations[:, t, k] = activation
        return walked, activations

    def backward(
        self,
        function: str,
        weights: Tensor,
        initial: Tensor,
        decay: Tensor | None,
        conditions: Conditions,
        states: Tensor,
        kept: Tensor,
        flow: Sequence[Tensor | None],
        last_flow: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """As `Engine.backward`."""
        cell, matrix = CELLS[function], weights.permute(1, 0, 2, 3).flatten(1, 2)  # (heads, gates · size, size)
        _, batch, length, *head = states.shape
        deltas = states.new_empty(batch, length, cell.biases, *head)
        decay_gradient = None if decay is None else torch.empty_like(decay)
        carried: Sequence[Tensor] = list(torch.zeros_like(initial) if last_flow is None else last_flow)
        for t in reversed(range(length)):
            arrived = [later if own is None else own[:, t] + later for own, later in zip(flow, carried, strict=True)]
            old = states[:, :, t - 1] if t else initial
            now = _position(t, states[0], decay, conditions)  # inputs are not read here, the hidden state takes their place
            read = _as_read(now, list(old))
            delta, direct = cell.backward(arrived, kept[:, t].unbind(1), read, states[:, :, t].unbind(0))
            delta, earlier, real = torch.stack(tuple(delta), 1), list(direct), now.real
            if real is not None:
                delta = torch.where(real[:, None], delta, 0.0)
            if not conditions.cut:
                through = delta[:, : cell.recurrent].permute(2, 0, 1, 3).flatten(2) @ matrix  # (heads, batch, size)
                bound = conditions.clip
                earlier[0] = earlier[0] + (through if bound is None else through.clamp(-bound, bound)).transpose(0, 1)
            fresh = now.fresh
            if decay is not None and decay_gradient is not None:
                undecayed = old[0] if fresh is None else torch.where(fresh, 0.0, old[0])
                slope = earlier[0] * undecayed
                decay_gradient[:, t] = slope if real is None else torch.where(real, slope, 0.0)
                earlier[0] = earlier[0] * decay[:, t]
            if fresh is not None:
                earlier = [torch.where(fresh, 0.0, part) for part in earlier]
            if real is not None:
                earlier = [torch.where(real, part, same) for part, same in zip(earlier, arrived, strict=True)]
            carried, deltas[:, t] = earlier, delta
        return deltas, deltas.sum((0, 1)), torch.stack(tuple(carried)), decay_gradient


class _Scan(torch.autograd.Function):
    """(last states, each state at all positions) by an engine; states and activations of every step are kept for the way back."""

    @staticmethod
    @torch.compiler.disable
    def forward(
        ctx: Any,
        inputs: Tensor,
        weights: Tensor,
        bias: Tensor,
        initial: Tensor,
        decay: Tensor | None,
        function: str,
        conditions: Conditions,
        engine: Engine,
    ) -> tuple[Tensor, ...]:
        states, kept = engine.forward(function, inputs, weights, bias, initial, decay, conditions, keep=True)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(weights, initial, decay, states, kept)
        ctx.cell, ctx.call = CELLS[function], (function, conditions, engine)
        return states[:, :, -1].clone(), *(states[s] for s in range(len(states)))

    @staticmethod
    @once_differentiable
    @torch.compiler.disable
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        weights, initial, decay, states, kept = ctx.saved_tensors
        function, conditions, engine = ctx.call
        last_flow, *flow = [None if gradient is None else gradient.contiguous() for gradient in gradients]
        found = engine.backward(function, weights, initial, decay, conditions, states, kept, flow, last_flow)
        deltas, of_bias, of_initial, of_decay = found
        cell = ctx.cell
        of_weights = _weight_gradient(deltas[:, :, : cell.recurrent], _hidden_read(initial, states, decay, conditions))
        return deltas[:, :, cell.biases - cell.inputs :], of_weights, of_bias, of_initial, of_decay, None, None, None


def _hidden_read(initial: Tensor, states: Tensor, decay: Tensor | None, conditions: Conditions) -> Tensor:
    """The hidden state that each step multiplied with R, (batch, length, heads, size)."""
    hidden = torch.cat([initial[0, :, None], states[0, :, :-1]], 1)
    if conditions.reset is not None:
        hidden = torch.where(conditions.reset[..., None, None], 0.0, hidden)
    return hidden if decay is None else hidden * decay


def _weight_gradient(deltas: Tensor, hidden: Tensor) -> Tensor:
    """Σ_t δ_g h_{t−1}ᵀ, (gates, heads, size, size): one product over all steps and rows a gate and head."""
    right = hidden.flatten(0, 1).transpose(0, 1)  # (heads, batch · length, size)
    if hidden.shape[2] == 1:
        return (deltas.flatten(0, 1).flatten(1).T @ right[0]).unflatten(0, (deltas.shape[2], 1, -1))
    return torch.stack([delta.flatten(0, 1).permute(1, 2, 0) @ right for delta in deltas.unbind(2)])


# ------------------------------------------------------------------------------------------------ choice and checks


def _run(
    backend: Backend,
    function: str,
    inputs: Tensor,
    weights: Tensor,
    bias: Tensor,
    initial: Tensor,
    decay: Tensor | None,
    conditions: Conditions,
) -> tuple[Tensor, ...]:
    """The last states, and each state at all positions."""
    if backend == "reference" or inputs.numel() == 0:
        return _reference(function, inputs, weights, bias, initial, decay, conditions)
    engine: Engine = Loop()
    if backend == "compiled" and compiled.library() is not None:
        engine = compiled.Compiled()
    elif backend == "triton" and (decay is not None or conditions != Conditions()):
        _say_without_triton()
    elif backend == "triton":
        kernels = _triton()
        engine = engine if kernels is None else kernels.Triton()
    tensors = [None if x is None else x.contiguous() for x in (inputs, weights, bias, initial, decay)]
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors):
        return _Scan.apply(*tensors, function, conditions, engine)  # pyright: ignore[reportReturnType]
    inputs, weights, bias, initial, decay = tensors  # pyright: ignore[reportAssignmentType]
    states, _ = engine.forward(function, inputs, weights, bias, initial, decay, conditions, keep=False)
    return states[:, :, -1], *states


def _chosen(backend: Backend, inputs: Tensor) -> Backend:
    if backend == "auto":
        if torch.compiler.is_exporting():
            return "reference"
        if inputs.is_cuda:
            return "triton" if inputs.shape[-1] in TRITON_SIZES and inputs.dtype != torch.float64 and _triton() is not None else "closed"
        return "compiled" if inputs.dtype != torch.float64 and inputs.shape[1] >= SHORT and compiled.library() is not None else "closed"
    if backend == "compiled" and (inputs.dtype == torch.float64 or inputs.is_cuda):
        raise ValueError(f"backend 'compiled' computes in float32 on a CPU, got {inputs.dtype} on {inputs.device}")
    if backend == "triton" and (inputs.dtype == torch.float64 or inputs.shape[-1] not in TRITON_SIZES):
        sizes = ", ".join(map(str, TRITON_SIZES))
        raise ValueError(f"backend 'triton' computes heads of {sizes} in float32, got {inputs.dtype} and heads of {inputs.shape[-1]}")
    return backend


@cache
def _triton() -> Any:
    try:
        if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
            raise ImportError("there is no GPU")
        from assay.ops import recurrent_scan_triton
    except ImportError as error:
        logging.getLogger(__name__).warning("recurrent_scan cannot use Triton (%s): walking step by step", error)
        return None
    return recurrent_scan_triton


@cache
def _say_without_triton() -> None:
    logging.getLogger(__name__).warning(
        "recurrent_scan in Triton knows no mask, reset, decay, bound or cut of the gradient: walking step by step"
    )


def _check(inputs: Tensor, weights: Tensor, bias: Tensor, states: Tensor | None, function: str, backend: str) -> Cell:
    if function not in CELLS:
        raise ValueError(f"function must be one of {', '.join(CELLS)}, got {function!r}")
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    cell = CELLS[function]
    if inputs.ndim != 5 or inputs.shape[2] != cell.inputs:
        raise ValueError(f"inputs of {function} must have shape (batch, length, {cell.inputs}, heads, size), got {tuple(inputs.shape)}")
    if inputs.shape[1] == 0:
        raise ValueError("a scan needs at least one step, got inputs of length 0")
    batch, _, _, heads, size = inputs.shape
    for name, tensor, shape in (
        ("weights", weights, (cell.recurrent, heads, size, size)),
        ("bias", bias, (cell.biases, heads, size)),
        ("states", states, (cell.states, batch, 1, heads, size)),
    ):
        if tensor is not None and tensor.shape != shape:
            raise ValueError(f"{name} of {function} must have shape {shape}, got {tuple(tensor.shape)}")
        if tensor is not None and not tensor.is_floating_point():
            raise ValueError(f"{name} must be floating-point numbers, got {tensor.dtype}")
    return cell


def _check_conditions(inputs: Tensor, mask: Tensor | None, reset: Tensor | None, decay: Tensor | None, clip: float | None) -> None:
    batch, length, _, *head = inputs.shape
    for name, where in (("mask", mask), ("reset", reset)):
        if where is not None and (where.shape != (batch, length) or where.dtype != torch.bool):
            raise ValueError(f"{name} must be booleans of shape {(batch, length)}, got {where.dtype} of {tuple(where.shape)}")
    if decay is not None and decay.shape != (batch, length, *head):
        raise ValueError(f"decay must have shape {(batch, length, *head)}, got {tuple(decay.shape)}")
    if clip is not None and not clip > 0:
        raise ValueError(f"recurrent_grad_clip must be positive, got {clip}")


def _require_finite(name: str, x: Tensor) -> None:
    """``x`` (batch, length, …)."""
    finite = torch.isfinite(x).flatten(2).all(2)
    if not bool(finite.all()):
        step = int((~finite).any(0).int().argmax())
        row = int((~finite[:, step]).int().argmax())
        raise ValueError(f"{name} are not finite at step {step} (row {row} of the batch)")
