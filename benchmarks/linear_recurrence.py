"""Linear recurrences in chunks against a loop over positions and flash-linear-attention's plain functions; every mixer's time by length.

    python benchmarks/linear_recurrence.py

One thread, float32. Every figure is a ratio of medians from this run; the rivals take turns, and processor time is taken.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from assay.measure import medians
from assay.nn.attention.linear import LinearAttention
from assay.nn.attention.random_feature import RandomFeatureAttention
from assay.nn.attention.taylor import TaylorAttention
from assay.nn.recurrent.gated_delta import GatedDelta
from assay.nn.recurrent.gated_linear_attention import GatedLinearAttention
from assay.nn.recurrent.linear_recurrent_unit import LinearRecurrentUnit
from assay.nn.recurrent.min_gru import MinGRU, MinLSTM
from assay.nn.recurrent.retention import Retention
from assay.nn.recurrent.rwkv4 import RWKV4TimeMix
from assay.nn.state_space.h3 import H3
from assay.nn.state_space.s4d import S4D
from assay.nn.state_space.selective import SelectiveStateSpace
from assay.ops.delta_rule import delta_rule
from assay.ops.linear_attention import linear_attention
from assay.ops.linear_recurrence import linear_recurrence

LENGTH, HEADS, HEAD_WIDTH, WIDTH = 2048, 4, 32, 64
LENGTHS = (1024, 2048, 4096, 8192, 16_384)
MIXERS: dict[str, Callable[[int], nn.Module]] = {
    "LinearAttention": LinearAttention,
    "RandomFeatureAttention": RandomFeatureAttention,
    "TaylorAttention": TaylorAttention,
    "Retention": Retention,
    "GatedLinearAttention": GatedLinearAttention,
    "GatedDelta": GatedDelta,
    "RWKV4TimeMix": RWKV4TimeMix,
    "S4D": S4D,
    "SelectiveStateSpace": SelectiveStateSpace,
    "H3": H3,
    "MinGRU": MinGRU,
    "MinLSTM": MinLSTM,
    "LinearRecurrentUnit": LinearRecurrentUnit,
}


def trained(function: Callable[[], Tensor], leaves: list[Tensor]) -> Callable[[], Any]:
    """Forward and backward."""
    return lambda: torch.autograd.grad(function().square().sum(), leaves)


def forms() -> dict[str, tuple[Callable[[str], Tensor], list[Tensor], str]]:
    """Each form of the core: the function of an implementation, its leaves, and the name of the fast implementation."""
    draw = torch.randn
    shape = (1, HEADS, LENGTH, HEAD_WIDTH)
    queries, keys, values = (draw(shape).requires_grad_() for _ in "qkv")
    unit = F.normalize(draw(shape), dim=-1).requires_grad_()
    head, channel = ((-0.1 * torch.rand(size)).requires_grad_() for size in (shape[:3], shape))
    strong, strength = ((-10 * torch.rand(shape)).requires_grad_(), torch.rand(shape[:3]).requires_grad_())
    decay, inputs = (torch.rand(1, LENGTH, 256).requires_grad_() for _ in "ab")
    turning = torch.polar(decay.detach(), draw(1, LENGTH, 256)).requires_grad_()
    driven = torch.complex(*draw(2, 1, LENGTH, 256)).requires_grad_()

    def matrix(log_decay: Tensor | None) -> tuple[Callable[[str], Tensor], list[Tensor], str]:
        leaves = [queries, keys, values] + ([] if log_decay is None else [log_decay])
        return lambda way: linear_attention(queries, keys, values, log_decay, implementation=way)[0], leaves, "chunked"

    def delta(log_decay: Tensor | None) -> tuple[Callable[[str], Tensor], list[Tensor], str]:
        leaves = [queries, unit, values, strength] + ([] if log_decay is None else [log_decay])
        return lambda way: delta_rule(queries, unit, values, strength, log_decay, implementation=way)[0], leaves, "chunked"

    return {
        "elementwise, real": (lambda way: linear_recurrence(decay, inputs, implementation=way)[0], [decay, inputs], "blocked"),
        "elementwise, complex": (lambda way: linear_recurrence(turning, driven, implementation=way)[0].real, [turning, driven], "blocked"),
        "matrix, no decay": matrix(None),
        "matrix, decay a head": matrix(head),
        "matrix, decay a channel": matrix(channel),
        "matrix, strong decay a channel": matrix(strong),
        "delta rule": delta(None),
        "delta rule, gated": delta(head),
    }


def against_loops() -> None:
    print(f"{LENGTH} positions, 256 numbers or {HEADS} heads of {HEAD_WIDTH}: chunks are faster than a loop over positions by", flush=True)
    for name, (function, leaves, fast) in forms().items():
        with torch.no_grad():
            forward = medians({way: partial(function, way) for way in ("recurrent", fast)}, 3)
        both = medians({way: trained(partial(function, way), leaves) for way in ("recurrent", fast)}, 1)
        ratios = [taken["recurrent"] / taken[fast] for taken in (forward, both)]
        print(
            f"  {name:32} {ratios[0]:5.1f} × forward, {ratios[1]:5.1f} × with backward   ({forward[fast]:.1f} and {both[fast]:.1f} ms)",
            flush=True,
        )


def against_flash_linear_attention() -> None:
    """Its plain PyTorch functions; they need Triton to be installed even where none is used."""
    try:
        retention = importlib.import_module("fla.ops.retention.naive").naive_retention
        gated = importlib.import_module("fla.ops.gla.naive").naive_recurrent_gla
        delta = importlib.import_module("fla.ops.delta_rule.naive").delta_rule_chunkwise
    except ImportError as missing:
        print(f"SKIPPED: flash-linear-attention's plain functions ({missing})", flush=True)
        return
    queries, keys, values = (torch.randn(1, HEADS, LENGTH, HEAD_WIDTH) for _ in "qkv")
    keys, strength = F.normalize(keys, dim=-1), torch.rand(1, HEADS, LENGTH)
    log_decay, channels = torch.full((1, HEADS, LENGTH), math.log(31 / 32)), -0.1 * torch.rand_like(keys)
    swapped = [x.transpose(1, 2) for x in (queries, keys, values, channels)]
    pairs: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "retention": (lambda: linear_attention(queries, keys, values, log_decay), lambda: retention(queries, keys, values)),
        "gated linear attention": (lambda: linear_attention(queries, keys, values, channels), lambda: gated(*swapped)),
        "delta rule": (lambda: delta_rule(queries, keys, values, strength), lambda: delta(queries, keys, values, strength)),
    }
    with torch.no_grad():
        for name, (mine, theirs) in pairs.items():
            taken = medians({"mine": mine, "theirs": theirs}, 3)
            print(f"  {name:32} {taken['theirs'] / taken['mine']:5.1f} × flash-linear-attention's plain function, forward", flush=True)


def slopes() -> None:
    print(f"exponent e of time ~ length^e over {LENGTHS[0]} … {LENGTHS[-1]} positions, width {WIDTH}: forward, with backward", flush=True)
    for name, make in MIXERS.items():
        mixer = make(WIDTH)
        parameters, line = list(mixer.parameters()), []
        for backward in (False, True):
            rivals: dict[str, Callable[[], Any]] = {}
            for length in LENGTHS:
                x = torch.randn(1, length, WIDTH)
                run = partial(mixer, x)
                rivals[str(length)] = trained(run, parameters) if backward else torch.no_grad()(run)
            taken = medians(rivals, 3)
            line.append(slope(LENGTHS, [taken[str(length)] for length in LENGTHS]))
        print(f"  {name:24} {line[0]:.2f}, {line[1]:.2f}", flush=True)


def slope(lengths: tuple[int, ...], times: list[float]) -> float:
    x, y = torch.tensor(lengths).double().log(), torch.tensor(times).double().log()
    return float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    against_loops()
    against_flash_linear_attention()
    slopes()


if __name__ == "__main__":
    main()
