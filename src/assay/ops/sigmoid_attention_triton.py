"""`assay.ops.sigmoid_attention` as Triton kernels: a program takes a block of queries (backward also of keys) through all of the other."""

from __future__ import annotations

from typing import Any

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor
from torch.autograd.function import once_differentiable

from assay.ops.attention_scene import Scene

QUERIES, KEYS = 64, 64
"""Of a block."""


def attention(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor, scene: Scene) -> Tensor:
    """`assay.ops.sigmoid_attention.sigmoid_attention` on a GPU; sums in float32, ``bias`` (batch, heads, queries)."""
    return _Triton.apply(queries, keys, values, bias, scene)


class _Triton(torch.autograd.Function):
    """Only inputs are kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor, scene: Scene) -> Tensor:
        inputs = tuple(x.detach().contiguous() for x in (queries, keys, values, bias.float()))
        ctx.save_for_backward(*inputs)
        ctx.scene, ctx.bias_type = scene, bias.dtype
        outputs = queries.new_zeros(*queries.shape[:3], values.shape[3])
        if outputs.numel() and keys.numel():
            grid = (triton.cdiv(queries.shape[2], QUERIES), queries.shape[0] * queries.shape[1])
            _run(_forward, grid, inputs, scene, outputs)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        inputs = ctx.saved_tensors
        found = [torch.zeros_like(x) for x in inputs]
        if all(x.numel() for x in inputs):
            queries, keys = inputs[:2]
            arriving = gradients[0].contiguous()
            of_queries = (triton.cdiv(queries.shape[2], QUERIES), queries.shape[0] * queries.shape[1])
            of_keys = (triton.cdiv(keys.shape[2], KEYS), keys.shape[0] * keys.shape[1])
            _run(_backward_of_queries, of_queries, inputs, ctx.scene, arriving, found[0], found[3])
            _run(_backward_of_keys, of_keys, inputs, ctx.scene, arriving, found[1], found[2])
        return *found[:3], found[3].to(ctx.bias_type), None


def _run(kernel: Any, grid: tuple[int, int], inputs: tuple[Tensor, ...], scene: Scene, *others: Tensor) -> None:
    queries, keys, values, bias = inputs
    batch, heads, count, width = queries.shape
    nothing = bias  # stands for a tensor that is not there, and is not read
    mask = nothing if scene.mask is None else scene.mask.to(torch.uint8).contiguous()
    visible = nothing if scene.visible is None else scene.visible.to(torch.uint8).contiguous()
    slopes = nothing if scene.slopes is None else scene.slopes.float().contiguous()
    positions = [x.to(torch.int32).expand(batch, -1).contiguous() for x in (scene.query_positions, scene.key_positions)]
    sizes = (count, keys.shape[2], width, values.shape[3], heads, heads // keys.shape[1])
    stride = 0 if scene.visible is None or len(scene.visible) == 1 else count * keys.shape[2]
    switches = {
        **{"CAUSAL": scene.causal, "WINDOW": scene.window or 0, "SLOPES": scene.slopes is not None},
        **{"MASK": scene.mask is not None, "VISIBLE": scene.visible is not None},
        **{"BLOCK_Q": QUERIES, "BLOCK_K": KEYS, "WIDE": _wide(width), "WIDE_V": _wide(values.shape[3])},
    }
    with torch.cuda.device_of(queries):
        kernel[grid](*inputs, mask, visible, slopes, *positions, *others, stride, scene.scale, *sizes, **switches)


def _wide(width: int) -> int:
    return max(16, triton.next_power_of_2(width))


@triton.jit
def _weights(
    q, k, rows, columns, head, batch, mask, visible, slopes, query_at, key_at, bias, visible_stride, scale, queries, keys,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, SLOPES: tl.constexpr, MASK: tl.constexpr, VISIBLE: tl.constexpr,
):  # fmt: skip
    """P (queries, keys) of one tile."""
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale + bias[:, None]
    ahead = key_at[None, :] - query_at[:, None]
    if SLOPES:
        scores -= tl.load(slopes + head) * tl.abs(ahead).to(tl.float32)
    seen = (rows < queries)[:, None] & (columns < keys)[None, :]
    if CAUSAL:
        seen = seen & (ahead <= 0)
    if WINDOW > 0:
        seen = seen & (tl.abs(ahead) < WINDOW)
    if MASK:
        seen = seen & (tl.load(mask + batch * keys + columns, mask=columns < keys, other=0) != 0)[None, :]
    if VISIBLE:
        place = batch * visible_stride + rows.to(tl.int64)[:, None] * keys + columns[None, :]
        seen = seen & (tl.load(visible + place, mask=seen, other=0) != 0)
    return tl.where(seen, tl.sigmoid(scores), 0.0)


@triton.jit
def _tile(x, start, count, width, rows, BLOCK: tl.constexpr):
    """Rows of a (count, width) matrix that begins at row ``start`` of ``x``."""
    column = tl.arange(0, BLOCK)
    place = (start + rows.to(tl.int64))[:, None] * width + column[None, :]
    return tl.load(x + place, mask=(rows < count)[:, None] & (column < width)[None, :], other=0.0)


@triton.jit
def _store(x, start, count, width, rows, value, BLOCK: tl.constexpr):
    column = tl.arange(0, BLOCK)
    place = (start + rows.to(tl.int64))[:, None] * width + column[None, :]
    tl.store(x + place, value.to(x.dtype.element_ty), mask=(rows < count)[:, None] & (column < width)[None, :])


@triton.jit
def _near(query_low, query_high, key_low, key_high, CAUSAL: tl.constexpr, WINDOW: tl.constexpr):
    """Whether any query of a block can see any key of another, by their positions."""
    near = key_high >= key_low
    if CAUSAL:
        near = near & (key_low <= query_high)
    if WINDOW > 0:
        near = near & (query_low - key_high < WINDOW) & (key_low - query_high < WINDOW)
    return near


@triton.jit
def _forward(
    query, key, value, bias, mask, visible, slopes, query_positions, key_positions, output,
    visible_stride, scale, queries, keys, width, value_width, heads, group,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, SLOPES: tl.constexpr, MASK: tl.constexpr, VISIBLE: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, WIDE: tl.constexpr, WIDE_V: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    pair = tl.program_id(1).to(tl.int64)
    batch, head, key_pair = pair // heads, pair % heads, pair // group
    q = _tile(query, pair * queries, queries, width, rows, WIDE)
    own = tl.load(bias + pair * queries + rows, mask=rows < queries, other=0.0)
    here = tl.load(query_positions + batch * queries + rows, mask=rows < queries, other=0)
    low = tl.min(tl.where(rows < queries, here, 2147483647), 0)
    high = tl.max(tl.where(rows < queries, here, -2147483647), 0)
    total = tl.zeros([BLOCK_Q, WIDE_V], tl.float32)
    for start in range(0, keys, BLOCK_K):
        columns = start + tl.arange(0, BLOCK_K)
        there = tl.load(key_positions + batch * keys + columns, mask=columns < keys, other=0)
        nearest = tl.min(tl.where(columns < keys, there, 2147483647), 0)
        farthest = tl.max(tl.where(columns < keys, there, -2147483647), 0)
        if _near(low, high, nearest, farthest, CAUSAL, WINDOW):
            k = _tile(key, key_pair * keys, keys, width, columns, WIDE)
            v = _tile(value, key_pair * keys, keys, value_width, columns, WIDE_V)
            p = _weights(
                q, k, rows, columns, head, batch, mask, visible, slopes, here, there, own, visible_stride, scale, queries, keys,
                CAUSAL, WINDOW, SLOPES, MASK, VISIBLE,
            )  # fmt: skip
            total += tl.dot(p.to(v.dtype), v, input_precision="ieee")
    _store(output, pair * queries, queries, value_width, rows, total, WIDE_V)


@triton.jit
def _backward_of_queries(
    query, key, value, bias, mask, visible, slopes, query_positions, key_positions, gradient, query_gradient, bias_gradient,
    visible_stride, scale, queries, keys, width, value_width, heads, group,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, SLOPES: tl.constexpr, MASK: tl.constexpr, VISIBLE: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, WIDE: tl.constexpr, WIDE_V: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    pair = tl.program_id(1).to(tl.int64)
    batch, head, key_pair = pair // heads, pair % heads, pair // group
    q = _tile(query, pair * queries, queries, width, rows, WIDE)
    flow = _tile(gradient, pair * queries, queries, value_width, rows, WIDE_V)
    own = tl.load(bias + pair * queries + rows, mask=rows < queries, other=0.0)
    here = tl.load(query_positions + batch * queries + rows, mask=rows < queries, other=0)
    low = tl.min(tl.where(rows < queries, here, 2147483647), 0)
    high = tl.max(tl.where(rows < queries, here, -2147483647), 0)
    total = tl.zeros([BLOCK_Q, WIDE], tl.float32)
    bias_total = tl.zeros([BLOCK_Q], tl.float32)
    for start in range(0, keys, BLOCK_K):
        columns = start + tl.arange(0, BLOCK_K)
        there = tl.load(key_positions + batch * keys + columns, mask=columns < keys, other=0)
        nearest = tl.min(tl.where(columns < keys, there, 2147483647), 0)
        farthest = tl.max(tl.where(columns < keys, there, -2147483647), 0)
        if _near(low, high, nearest, farthest, CAUSAL, WINDOW):
            k = _tile(key, key_pair * keys, keys, width, columns, WIDE)
            v = _tile(value, key_pair * keys, keys, value_width, columns, WIDE_V)
            p = _weights(
                q, k, rows, columns, head, batch, mask, visible, slopes, here, there, own, visible_stride, scale, queries, keys,
                CAUSAL, WINDOW, SLOPES, MASK, VISIBLE,
            )  # fmt: skip
            error = tl.dot(flow, tl.trans(v), input_precision="ieee") * p * (1.0 - p)
            bias_total += tl.sum(error, 1)
            total += tl.dot(error.to(k.dtype), k, input_precision="ieee")
    _store(query_gradient, pair * queries, queries, width, rows, total * scale, WIDE)
    tl.store(bias_gradient + pair * queries + rows, bias_total, mask=rows < queries)


@triton.jit
def _backward_of_keys(
    query, key, value, bias, mask, visible, slopes, query_positions, key_positions, gradient, key_gradient, value_gradient,
    visible_stride, scale, queries, keys, width, value_width, heads, group,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, SLOPES: tl.constexpr, MASK: tl.constexpr, VISIBLE: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, WIDE: tl.constexpr, WIDE_V: tl.constexpr,
):  # fmt: skip
    columns = tl.program_id(0) * BLOCK_K + tl.arange(0, BLOCK_K)
    key_pair = tl.program_id(1).to(tl.int64)
    batch = key_pair // (heads // group)
    k = _tile(key, key_pair * keys, keys, width, columns, WIDE)
    v = _tile(value, key_pair * keys, keys, value_width, columns, WIDE_V)
    there = tl.load(key_positions + batch * keys + columns, mask=columns < keys, other=0)
    nearest = tl.min(tl.where(columns < keys, there, 2147483647), 0)
    farthest = tl.max(tl.where(columns < keys, there, -2147483647), 0)
    key_total = tl.zeros([BLOCK_K, WIDE], tl.float32)
    value_total = tl.zeros([BLOCK_K, WIDE_V], tl.float32)
    for member in range(0, group):
        pair = key_pair * group + member
        for start in range(0, queries, BLOCK_Q):
            rows = start + tl.arange(0, BLOCK_Q)
            here = tl.load(query_positions + batch * queries + rows, mask=rows < queries, other=0)
            low = tl.min(tl.where(rows < queries, here, 2147483647), 0)
            high = tl.max(tl.where(rows < queries, here, -2147483647), 0)
            if _near(low, high, nearest, farthest, CAUSAL, WINDOW):
                q = _tile(query, pair * queries, queries, width, rows, WIDE)
                flow = _tile(gradient, pair * queries, queries, value_width, rows, WIDE_V)
                own = tl.load(bias + pair * queries + rows, mask=rows < queries, other=0.0)
                p = _weights(
                    q, k, rows, columns, pair % heads, batch, mask, visible, slopes, here, there, own, visible_stride, scale, queries, keys,
                    CAUSAL, WINDOW, SLOPES, MASK, VISIBLE,
                )  # fmt: skip
                value_total += tl.dot(tl.trans(p.to(flow.dtype)), flow, input_precision="ieee")
                error = tl.dot(flow, tl.trans(v), input_precision="ieee") * p * (1.0 - p)
                key_total += tl.dot(tl.trans(error.to(q.dtype)), q, input_precision="ieee")
    _store(key_gradient, key_pair * keys, keys, width, columns, key_total * scale, WIDE)
    _store(value_gradient, key_pair * keys, keys, value_width, columns, value_total, WIDE_V)
