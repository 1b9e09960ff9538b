"""Selective attention against attention at every position, at the same weights' sizes; one thread.

Every figure is a ratio of medians from this one run. The rivals take turns, and processor time is taken: with one thread it is the time a
call needs, whatever else the machine does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from assay.measure import medians
from assay.nn.attention.selective import SelectiveAttention
from assay.nn.attention.softmax import SoftmaxAttention

WIDTH = 128
LENGTHS = (512, 1024, 2048, 4096, 8192)


def rivals(length: int) -> dict[str, Callable[[], Any]]:
    """Forward calls; a position's token repeats with the odds that leave about √n repeats."""
    x = torch.randn(1, length, WIDTH)
    tokens = torch.arange(length)[None].clone()
    repeats = torch.randperm(length)[: math.isqrt(length)]
    tokens[0, repeats] = 0
    every, some = SoftmaxAttention(WIDTH), SelectiveAttention(WIDTH, selection="programmatic")
    random = SelectiveAttention(WIDTH, selection="random")
    return {"attention": lambda: every(x), "programmatic": lambda: some(x, tokens=tokens), "random": lambda: random(x)}


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"width {WIDTH}, 4 heads, about √n of n positions selected, batch 1, float32, one thread")
    found = {}
    with torch.no_grad():
        for length in LENGTHS:
            taken = found[length] = medians(rivals(length), repeats=9 if length <= 2048 else 3)
            ratios = ", ".join(f"{name} {taken['attention'] / taken[name]:.1f} ×" for name in ("programmatic", "random"))
            print(f"  {length:>5} positions: faster than attention at all of them: {ratios}", flush=True)
    last, before = found[LENGTHS[-1]], found[LENGTHS[-3]]
    slopes = ", ".join(f"{name} {math.log(last[name] / before[name]) / math.log(LENGTHS[-1] / LENGTHS[-3]):.2f}" for name in last)
    print(f"  time grows with length, from {LENGTHS[-3]} on, to the power: {slopes}")


if __name__ == "__main__":
    main()
