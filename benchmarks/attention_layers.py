"""Attention layers against x-transformers': a forward pass, a training step, and reading a stream with a cache.

    pip install x-transformers
    python benchmarks/attention_layers.py

One thread, float32, width 128, 4 heads, batch 4. Every figure is a ratio of medians from this run; the rivals take turns, and processor
time is taken. Both sides have their fused kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from assay.measure import fixed_threads, medians
from assay.nn.attention.sliding_window import SlidingWindowAttention
from assay.nn.attention.softmax import SoftmaxAttention

WIDTH, HEADS, BATCH = 128, 4, 4
LENGTHS = (512, 2048)
STREAMED = 512


def peer(**options: Any) -> nn.Module:
    """x-transformers' attention of the same size, causal; with its own sequence-first loop hidden."""
    try:
        from x_transformers.x_transformers import Attention
    except ImportError as error:
        raise SystemExit("This benchmark's peer is missing: pip install x-transformers") from error
    return Attention(dim=WIDTH, heads=HEADS, dim_head=WIDTH // HEADS, causal=True, flash=True, **options)


def first(output: Any) -> Tensor:
    """The tensor of a module that returns more."""
    return output[0] if isinstance(output, tuple) else output


def forward(module: nn.Module, x: Tensor) -> Callable[[], Any]:
    """Without gradients."""

    def run() -> Tensor:
        with torch.no_grad():
            return first(module(x))

    return run


def training(module: nn.Module, x: Tensor) -> Callable[[], Any]:
    """Forward and backward."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return lambda: torch.autograd.grad(first(module(x)).square().mean(), parameters, allow_unused=True)


def stream(mixer: Any, x: Tensor) -> Callable[[], Any]:
    """Position by position, through `step`."""

    def run() -> None:
        with torch.no_grad():
            state = mixer.initial_state(len(x))
            for position in range(STREAMED):
                _, state = mixer.step(x[:, position], state)

    return run


def peer_stream(module: nn.Module, x: Tensor) -> Callable[[], Any]:
    """Position by position, through the peer's own cache of keys and values."""

    def run() -> None:
        with torch.no_grad():
            cache = None
            for position in range(STREAMED):
                _, cache = module(x[:, position : position + 1], cache=cache, return_intermediates=True)

    return run


def main() -> None:
    torch.manual_seed(0)
    with fixed_threads(1):
        for length in LENGTHS:
            x = torch.randn(BATCH, length, WIDTH)
            pairs = {"softmax": (SoftmaxAttention(WIDTH, heads=HEADS), peer())}
            pairs["window of 128"] = (SlidingWindowAttention(WIDTH, heads=HEADS, window=128), peer())
            for name, (ours, theirs) in pairs.items():
                for what, make in (("forward", forward), ("training", training)):
                    found = medians({"assay": make(ours, x), "x-transformers": make(theirs, x)}, 7)
                    print(f"{name:14} {what:9} length {length:5}: x-transformers / assay {found['x-transformers'] / found['assay']:.2f}")
        x = torch.randn(BATCH, STREAMED, WIDTH)
        found = medians({"assay": stream(SoftmaxAttention(WIDTH, heads=HEADS), x), "x-transformers": peer_stream(peer(), x)}, 3)
        print(f"softmax        stream of {STREAMED} positions: x-transformers / assay {found['x-transformers'] / found['assay']:.2f}")


if __name__ == "__main__":
    main()
