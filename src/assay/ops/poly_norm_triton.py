"""The passes of `assay.ops.poly_norm` as Triton kernels: one program a row, which reads it once and keeps its powers in registers."""

from __future__ import annotations

import math
from typing import Any

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

WIDEST = 65_536
"""Numbers a row at most: a program holds a whole row."""


def forward(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """As ``poly_norm._forward`` for weights (order,): the result, M (..., 1), and the factors (..., order)."""
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    count, size = rows.shape
    y, order = torch.empty_like(rows), len(weight)
    largest, factors = (torch.empty(count, width, dtype=torch.float32, device=x.device) for width in (1, order))
    with torch.cuda.device_of(x):
        _forward[(count,)](  # pyright: ignore[reportIndexIssue]
            rows, weight, bias, y, largest, factors, size, eps, math.sqrt(eps), order, **_launch(size)
        )
    return y.view_as(x), largest.view(*x.shape[:-1], 1), factors.view(*x.shape[:-1], order)


def backward(gradient: Tensor, x: Tensor, weight: Tensor, largest: Tensor, factors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As ``poly_norm._backward`` for weights (order,)."""
    rows, size, order = x.reshape(-1, x.shape[-1]).contiguous(), x.shape[-1], len(weight)
    flowing, change = gradient.reshape(-1, size).contiguous(), torch.empty_like(rows)
    moments = torch.empty(len(rows), order + 1, dtype=torch.float32, device=x.device)
    with torch.cuda.device_of(x):
        kept = (largest.contiguous(), factors.contiguous())
        _backward[(len(rows),)](flowing, rows, weight, *kept, change, moments, size, order, **_launch(size))  # pyright: ignore[reportIndexIssue]
    total = moments.sum(0).to(weight.dtype)
    return change.view_as(x), total[:order], total[order:]


def _launch(size: int) -> dict[str, Any]:
    block = triton.next_power_of_2(size)
    return {"BLOCK": block, "num_warps": min(16, max(1, block // 512))}


@triton.jit
def _forward(x, weight, bias, y, largest, factors, size, eps, least, ORDER: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < size
    value = tl.load(x + row * size + column, mask=inside, other=0.0).to(tl.float32)
    top = tl.maximum(tl.max(tl.abs(value), 0), least)
    top = tl.where(top == 0, 1.0, top)
    z = value / top
    result = tl.zeros_like(z) + tl.load(bias).to(tl.float32)
    powers = z
    height = top
    for power in tl.static_range(1, ORDER + 1):
        square = tl.sum(powers * powers, 0) / size + eps / (height * height)
        factor = 1.0 / tl.sqrt(tl.where(square == 0, 1.0, square))
        tl.store(factors + row * ORDER + (ORDER - power), factor)
        result += tl.load(weight + (ORDER - power)).to(tl.float32) * factor * powers
        powers *= z
        height *= top
    tl.store(largest + row, top)
    tl.store(y + row * size + column, result.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _backward(gradient, x, weight, largest, factors, change, moments, size, ORDER: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < size
    top = tl.load(largest + row)
    z = tl.load(x + row * size + column, mask=inside, other=0.0).to(tl.float32) / top
    flow = tl.load(gradient + row * size + column, mask=inside, other=0.0).to(tl.float32)
    result = tl.zeros_like(z)
    lower = tl.zeros_like(z) + 1.0
    for power in tl.static_range(1, ORDER + 1):
        factor = tl.load(factors + row * ORDER + (ORDER - power))
        coefficient = tl.load(weight + (ORDER - power)).to(tl.float32)
        scaled = flow * lower * factor
        moment = tl.sum(scaled * z, 0)
        tl.store(moments + row * (ORDER + 1) + (ORDER - power), moment)
        result += power * coefficient * (scaled - moment * factor * factor / size * lower * lower * z)
        lower *= z
    tl.store(moments + row * (ORDER + 1) + ORDER, tl.sum(flow, 0))
    tl.store(change + row * size + column, (result / top).to(change.dtype.element_ty), mask=inside)
