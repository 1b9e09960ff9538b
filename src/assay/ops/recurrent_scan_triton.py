"""`assay.ops.recurrent_scan` as Triton kernels: a program takes a head and some rows through all steps, its weights held on the chip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

from assay.ops.recurrent_cells import CELLS

if TYPE_CHECKING:
    from assay.ops.recurrent_scan import Conditions

ROWS = 16
"""Of the batch that a program takes: the fewest that a matrix unit multiplies."""
ELMAN, RECTIFIED, LSTM, GRU, SLSTM, LOGISTIC = map(tl.constexpr, range(6))


class Triton:
    """The `assay.ops.recurrent_scan.Engine` on a GPU, sums in float32; for scans without mask, reset, decay, clip and cut."""

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
        """As `assay.ops.recurrent_scan.Engine.forward`."""
        cell, (batch, length, _, heads, size) = CELLS[function], inputs.shape
        states = inputs.new_empty(cell.states, batch, length, heads, size)
        kept = inputs.new_empty(batch, length if keep else 0, cell.kept, heads, size)
        grid = (triton.cdiv(batch, ROWS), heads)
        number = list(CELLS).index(function)
        _launch(
            _forward, grid, inputs, weights, bias, initial, states, kept, batch, length, heads, number, size, ROWS, keep and cell.kept > 0
        )
        return states, kept

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
        """As `assay.ops.recurrent_scan.Engine.backward`."""
        cell, (_, batch, length, heads, size) = CELLS[function], states.shape
        deltas = states.new_empty(batch, length, cell.biases, heads, size)
        of_initial = torch.zeros_like(initial) if last_flow is None else last_flow.clone()  # read as the flow that arrives, then replaced
        arriving = torch.stack([torch.zeros_like(states[0]) if part is None else part for part in flow])
        grid, number = (triton.cdiv(batch, ROWS), heads), list(CELLS).index(function)
        _launch(_backward, grid, weights, initial, states, kept, arriving, deltas, of_initial, batch, length, heads, number, size, ROWS)
        return deltas, deltas.sum((0, 1)), of_initial, None


def _launch(kernel: Any, grid: tuple[int, int], *arguments: Any) -> None:
    kernel[grid](*arguments)


@triton.jit
def _tanh(x):
    return 2.0 * tl.sigmoid(2.0 * x) - 1.0


@triton.jit
def _weight(weights, gate, head, heads, rows, columns, SIZE: tl.constexpr):
    """R of a gate and head, [rows, columns]."""
    return tl.load(weights + ((gate * heads + head) * SIZE + rows) * SIZE + columns)


@triton.jit
def _product(left, right):
    return tl.dot(left, right, input_precision="ieee")


@triton.jit
def _forward(
    inputs, weights, bias, initial, states, kept, batch, length, heads,
    FUNCTION: tl.constexpr, SIZE: tl.constexpr, ROWS: tl.constexpr, KEEP: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    head = tl.program_id(1)
    unit, other = tl.arange(0, SIZE)[None, :], tl.arange(0, SIZE)[:, None]
    there = row < batch
    position = heads * SIZE
    at = head * SIZE + unit
    plane = tl.cast(batch, tl.int64) * length * position  # a batch of one is a constant, which has no method `to`
    CELL: tl.constexpr = (FUNCTION == LSTM) | (FUNCTION == SLSTM)  # it has a state c
    GATED: tl.constexpr = CELL | (FUNCTION == GRU)
    GATES: tl.constexpr = 4 if CELL else 3 if GATED else 1
    KEPT: tl.constexpr = 5 if FUNCTION == SLSTM else 4
    h = tl.load(initial + row * position + at, mask=there, other=0.0)
    r0 = _weight(weights, 0, head, heads, unit, other, SIZE)  # transposed: a product is h Rᵀ
    b0 = tl.load(bias + at)
    if GATED:
        r1 = _weight(weights, 1, head, heads, unit, other, SIZE)
        r2 = _weight(weights, 2, head, heads, unit, other, SIZE)
        b1 = tl.load(bias + position + at)
        b2 = tl.load(bias + 2 * position + at)
        b3 = tl.load(bias + 3 * position + at)
    if CELL:
        r3 = _weight(weights, 3, head, heads, unit, other, SIZE)
        c = tl.load(initial + (batch + row) * position + at, mask=there, other=0.0)
    if FUNCTION == SLSTM:
        n = tl.load(initial + (2 * batch + row) * position + at, mask=there, other=0.0)
        m = tl.load(initial + (3 * batch + row) * position + at, mask=there, other=0.0)
    for t in range(length):
        place = row.to(tl.int64) * length + t
        w = inputs + place * GATES * position + at
        to = states + place * position + at
        keep = kept + place * KEPT * position + at
        a0 = _product(h, r0) + b0
        w0 = tl.load(w, mask=there, other=0.0)
        if FUNCTION == ELMAN:
            h = _tanh(w0 + a0)
        elif FUNCTION == RECTIFIED:
            h = tl.maximum(w0 + a0, 0.0)
        elif FUNCTION == LOGISTIC:
            h = tl.sigmoid(w0 + a0)
        else:
            a1, a2 = _product(h, r1) + b1, _product(h, r2) + b2
            w1 = tl.load(w + position, mask=there, other=0.0)
            w2 = tl.load(w + 2 * position, mask=there, other=0.0)
            if FUNCTION == GRU:
                k0, k1, k2 = a0, tl.sigmoid(w0 + a1), tl.sigmoid(w1 + a2)
                k3 = _tanh(w2 + b3 + k1 * a0)
                h = k3 + k2 * (h - k3)
            else:
                a3 = _product(h, r3) + b3
                k2 = _tanh(w2 + a2)
                k3 = tl.sigmoid(tl.load(w + 3 * position, mask=there, other=0.0) + a3)
                if FUNCTION == LSTM:
                    k0, k1 = tl.sigmoid(w0 + a0), tl.sigmoid(w1 + a1)
                    c = k1 * c + k0 * k2
                    h = k3 * _tanh(c)
                else:
                    i, f = w0 + a0, w1 + a1
                    forgotten = tl.minimum(f, 0.0) - tl.log(1.0 + tl.exp(-tl.abs(f))) + m
                    m = tl.where(n == 0.0, i, tl.maximum(i, forgotten))
                    k0 = tl.exp(i - m)
                    k1 = tl.where(n == 0.0, 0.0, tl.exp(tl.minimum(forgotten - m, 0.0)))
                    c = k1 * c + k0 * k2
                    n = tl.maximum(k1 * n + k0, 1.0)
                    h = k3 * c / n
                    tl.store(to + 2 * plane, n, mask=there)
                    tl.store(to + 3 * plane, m, mask=there)
                    if KEEP:
                        tl.store(keep + 4 * position, tl.sigmoid(-f), mask=there)
                tl.store(to + plane, c, mask=there)
            if KEEP:
                tl.store(keep, k0, mask=there)
                tl.store(keep + position, k1, mask=there)
                tl.store(keep + 2 * position, k2, mask=there)
                tl.store(keep + 3 * position, k3, mask=there)
        tl.store(to, h, mask=there)


@triton.jit
def _backward(
    weights, initial, states, kept, flow, deltas, carried, batch, length, heads,
    FUNCTION: tl.constexpr, SIZE: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    head = tl.program_id(1)
    unit, other = tl.arange(0, SIZE)[None, :], tl.arange(0, SIZE)[:, None]
    there = row < batch
    position = heads * SIZE
    at = head * SIZE + unit
    plane = tl.cast(batch, tl.int64) * length * position  # a batch of one is a constant, which has no method `to`
    CELL: tl.constexpr = (FUNCTION == LSTM) | (FUNCTION == SLSTM)
    GATED: tl.constexpr = CELL | (FUNCTION == GRU)
    BIASES: tl.constexpr = 4 if GATED else 1
    KEPT: tl.constexpr = 5 if FUNCTION == SLSTM else 4
    begin = row * position + at  # of a state in `initial` and `carried`
    first = batch * position
    r0 = _weight(weights, 0, head, heads, other, unit, SIZE)
    if GATED:
        r1 = _weight(weights, 1, head, heads, other, unit, SIZE)
        r2 = _weight(weights, 2, head, heads, other, unit, SIZE)
    if CELL:
        r3 = _weight(weights, 3, head, heads, other, unit, SIZE)
        dc = tl.load(carried + first + begin, mask=there, other=0.0)
    if FUNCTION == SLSTM:
        dn = tl.load(carried + 2 * first + begin, mask=there, other=0.0)
    dh = tl.load(carried + begin, mask=there, other=0.0)
    for back in range(length):
        t = length - 1 - back
        place = row.to(tl.int64) * length + t
        here = place * position + at
        to = deltas + place * BIASES * position + at
        keep = kept + place * KEPT * position + at
        step = tl.zeros([ROWS, 1], tl.int32) + t
        earlier, start = there & (step > 0), there & (step == 0)
        dh += tl.load(flow + here, mask=there, other=0.0)
        if not GATED:
            h = tl.load(states + here, mask=there, other=0.0)
            if FUNCTION == ELMAN:
                d0 = dh * (1.0 - h * h)
            elif FUNCTION == LOGISTIC:
                d0 = dh * h * (1.0 - h)
            else:
                d0 = tl.where(h > 0.0, dh, 0.0)
            tl.store(to, d0, mask=there)
            dh = _product(d0, r0)
        else:
            k0 = tl.load(keep, mask=there, other=0.0)
            k1 = tl.load(keep + position, mask=there, other=0.0)
            k2 = tl.load(keep + 2 * position, mask=there, other=0.0)
            k3 = tl.load(keep + 3 * position, mask=there, other=0.0)
            if FUNCTION == GRU:
                before = tl.load(states + here - position, mask=earlier, other=0.0) + tl.load(initial + begin, mask=start, other=0.0)
                d3 = dh * (1.0 - k2) * (1.0 - k3 * k3)
                d0 = d3 * k1
                d1 = d3 * k0 * k1 * (1.0 - k1)
                d2 = dh * (before - k3) * k2 * (1.0 - k2)
                dh = dh * k2 + _product(d0, r0) + _product(d1, r1) + _product(d2, r2)
            else:
                c = tl.load(states + plane + here, mask=there, other=0.0)
                old = tl.load(states + plane + here - position, mask=earlier, other=0.0)
                old += tl.load(initial + first + begin, mask=start, other=0.0)
                dc += tl.load(flow + plane + here, mask=there, other=0.0)
                if FUNCTION == LSTM:
                    shown = _tanh(c)
                    dc += dh * k3 * (1.0 - shown * shown)
                    d0, d1 = dc * k2 * k0 * (1.0 - k0), dc * old * k1 * (1.0 - k1)
                    d2 = dc * k0 * (1.0 - k2 * k2)
                else:
                    n = tl.load(states + 2 * plane + here, mask=there, other=1.0)
                    old_n = tl.load(states + 2 * plane + here - position, mask=earlier, other=0.0)
                    old_n += tl.load(initial + 2 * first + begin, mask=start, other=0.0)
                    closed = tl.load(keep + 4 * position, mask=there, other=0.0)
                    shown = c / n
                    dc += dh * k3 / n
                    dn += tl.load(flow + 2 * plane + here, mask=there, other=0.0) - dh * k3 * shown / n
                    dn = tl.where(k1 * old_n + k0 < 1.0, 0.0, dn)
                    d0, d1 = (dc * k2 + dn) * k0, (dc * old + dn * old_n) * k1 * closed
                    d2 = dc * k0 * (1.0 - k2 * k2)
                    dn = dn * k1
                d3 = dh * shown * k3 * (1.0 - k3)
                dc = dc * k1
                dh = _product(d0, r0) + _product(d1, r1) + _product(d2, r2) + _product(d3, r3)
            tl.store(to, d0, mask=there)
            tl.store(to + position, d1, mask=there)
            tl.store(to + 2 * position, d2, mask=there)
            tl.store(to + 3 * position, d3, mask=there)
    tl.store(carried + begin, dh, mask=there)
    if CELL:
        tl.store(carried + first + begin, dc, mask=there)
    if FUNCTION == SLSTM:
        tl.store(carried + 2 * first + begin, dn, mask=there)
        tl.store(carried + 3 * first + begin, tl.zeros([ROWS, SIZE], tl.float32), mask=there)
