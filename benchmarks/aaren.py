"""Prefix attention by blocks against its scan and PyTorch's attention, and a streamed token against a KV cache; one thread.

Every figure is a ratio of medians from this one run. The rivals take turns, and processor time is taken: with one thread it is the time a
call needs, whatever else the machine does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from assay.measure import medians
from assay.nn import Aaren, SoftmaxAttention
from assay.ops.prefix_attention import prefix_attention

HEADS, HEAD_WIDTH = 8, 64
WIDTH = HEADS * HEAD_WIDTH
STREAMED = 16_384


def forward_rivals(length: int) -> dict[str, Callable[[], Any]]:
    scores, values = torch.randn(1, HEADS, length), torch.randn(1, HEADS, length, HEAD_WIDTH)
    keys = torch.randn_like(values)
    queries = torch.randn(1, HEADS, 1, HEAD_WIDTH).expand_as(values).contiguous()  # the one query, repeated
    return {
        "blocked": lambda: prefix_attention(scores, values),
        "scan": lambda: prefix_attention(scores, values, implementation="scan"),
        "SDPA": lambda: F.scaled_dot_product_attention(queries, keys, values, is_causal=True),
    }


def training_rivals(length: int) -> dict[str, Callable[[], Any]]:
    x = torch.randn(1, length, WIDTH)

    def step(layer: torch.nn.Module) -> Callable[[], Any]:
        return lambda: torch.autograd.grad(layer(x).square().mean(), list(layer.parameters()))

    return {"Aaren": step(Aaren(WIDTH, HEADS)), "softmax attention": step(SoftmaxAttention(WIDTH, HEADS))}


def streaming_rivals() -> dict[str, Callable[[], Any]]:
    token, rivals = torch.randn(1, WIDTH), {}
    for name, layer in (
        ("Aaren", Aaren(WIDTH, HEADS)),
        ("Aaren, folded", Aaren(WIDTH, HEADS).fold()),
        ("KV cache", SoftmaxAttention(WIDTH, HEADS)),
    ):
        state = layer.initial_state(1)
        for _ in range(STREAMED // 512 - 1):
            _, state = layer.scan(torch.randn(1, 512, WIDTH), state)
        _, state = layer.scan(torch.randn(1, 511, WIDTH), state)
        rivals[name] = lambda layer=layer, state=state: layer.step(token, state)
    return rivals


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"forward, {HEADS} heads of {HEAD_WIDTH}, batch 1, float32, one thread")
    with torch.no_grad():
        for length in (1024, 2048, 4096, 8192, 16_384):
            taken = medians(forward_rivals(length), repeats=9 if length <= 4096 else 3)
            ratios = [f"{taken[name] / taken['blocked']:.1f} × {name}" for name in ("scan", "SDPA")]
            print(f"  {length:>6} positions: blocked {taken['blocked']:.1f} ms, faster than others by {', '.join(ratios)}", flush=True)
    taken = medians(training_rivals(2048), repeats=9)
    print(f"a layer's forward and backward at 2048: {taken['softmax attention'] / taken['Aaren']:.1f} × softmax attention", flush=True)
    with torch.no_grad():
        taken = medians(streaming_rivals(), repeats=201)
    for name in ("Aaren", "Aaren, folded"):
        print(f"a streamed token at {STREAMED}: {name} {1e3 * taken[name]:.0f} µs, {taken['KV cache'] / taken[name]:.1f} × KV cache")


if __name__ == "__main__":
    main()
