"""Sigmoid attention against PyTorch's softmax attention, softmax by the same blocks, and x-transformers where it is installed.

Every figure is a ratio of medians from this one run; above 1 the sigmoid is faster. The rivals take turns. On a CPU, processor time is
taken, with one thread: it is the time a call needs, whatever else the machine does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from assay.measure import medians, processor_seconds, wall_seconds
from assay.ops import sigmoid_attention_compiled
from assay.ops.sigmoid_attention import sigmoid_attention

HEADS, HEAD_WIDTH = 8, 64
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPE = torch.bfloat16 if DEVICE == "cuda" else torch.float32


def seconds(function: Callable[[], Any]) -> float:
    if DEVICE == "cpu":
        return processor_seconds(function)

    def finished() -> None:
        function()
        torch.cuda.synchronize()

    torch.cuda.synchronize()
    return wall_seconds(finished)


def inputs(length: int) -> list[Tensor]:
    shape = (1 if DEVICE == "cpu" else 4, HEADS, length, HEAD_WIDTH)
    return [torch.randn(shape, device=DEVICE, dtype=DTYPE) for _ in range(3)]


def forward_rivals(length: int, causal: bool) -> dict[str, Callable[[], Any]]:
    queries, keys, values = inputs(length)
    bias = -math.log(length)
    rivals: dict[str, Callable[[], Any]] = {
        "sigmoid": lambda: sigmoid_attention(queries, keys, values, bias, causal=causal),
        "SDPA": lambda: F.scaled_dot_product_attention(queries, keys, values, is_causal=causal),
    }
    if DEVICE == "cpu" and sigmoid_attention_compiled.library() is not None:
        rivals["softmax, same blocks"] = lambda: sigmoid_attention_compiled.softmax_attention(queries, keys, values, causal)
    if length <= 2048:
        rivals["the equation"] = lambda: sigmoid_attention(queries, keys, values, bias, causal=causal, implementation="plain")
    attend = x_transformers(causal)
    if attend is not None and length <= 2048:
        rivals["x-transformers"] = lambda: attend(queries, keys, values)
    return rivals


def backward_rivals(length: int, causal: bool) -> dict[str, Callable[[], Any]]:
    leaves = [x.requires_grad_() for x in inputs(length)]
    gradient, bias = torch.randn_like(leaves[0]), -math.log(length)
    ours = sigmoid_attention(*leaves, bias, causal=causal)
    theirs = F.scaled_dot_product_attention(*leaves, is_causal=causal)
    return {
        "sigmoid": lambda: torch.autograd.grad(ours, leaves, gradient, retain_graph=True),
        "SDPA": lambda: torch.autograd.grad(theirs, leaves, gradient, retain_graph=True),
    }


def x_transformers(causal: bool) -> Any:
    try:
        from x_transformers.attend import Attend
    except ImportError:
        return None
    return Attend(sigmoid=True, causal=causal).to(DEVICE)


def report(what: str, taken: dict[str, float]) -> None:
    ours = taken.pop("sigmoid")
    ratios = ", ".join(f"{other / ours:.2f} × {name}" for name, other in taken.items())
    print(f"{what}: {ours:.1f} ms, faster than others by {ratios}", flush=True)


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(
        f"{HEADS} heads of {HEAD_WIDTH}, {DTYPE}, {DEVICE}" + (", one thread" if DEVICE == "cpu" else f", {torch.cuda.get_device_name()}")
    )
    for length in (512, 1024, 2048, 4096):
        for causal in (False, True):
            name = f"{length} positions, {'causal' if causal else 'full'}"
            repeats = 15 if length <= 2048 else 7
            with torch.no_grad():
                report(f"forward,  {name}", medians(forward_rivals(length, causal), repeats, seconds))
            report(f"backward, {name}", medians(backward_rivals(length, causal), max(3, repeats // 2), seconds))


if __name__ == "__main__":
    main()
