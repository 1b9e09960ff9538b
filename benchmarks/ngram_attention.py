"""N-gram attention: the grouped form against the matrix form and against softmax attention, and a streamed token; one thread.

Every figure is a ratio of medians from this one run. The rivals take turns, and processor time is taken: with one thread it is the time a
call needs, whatever else the machine does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from assay.measure import medians
from assay.nn import SoftmaxAttention
from assay.nn.attention.ngram import NGramAttention
from assay.ops.suffix_matches import successor_average

BATCH, WIDTH, SYMBOLS, ORDER = 4, 64, 20, 3
LENGTHS = (250, 500, 1000, 2000)
STREAMED = (1_000, 16_000)


def averages(length: int, training: bool) -> dict[str, Callable[[], Any]]:
    tokens = torch.randint(SYMBOLS, (BATCH, length))
    values = torch.randn(BATCH, length, WIDTH, requires_grad=training)

    def run(implementation: Any) -> Any:
        found = successor_average(values, tokens, ORDER, implementation=implementation)
        return torch.autograd.grad(found.sum(), values) if training else found

    return {"grouped": lambda: run("grouped"), "dense": lambda: run("dense")}


def layers(length: int) -> dict[str, Callable[[], Any]]:
    tokens, x = torch.randint(SYMBOLS, (BATCH, length)), torch.randn(BATCH, length, WIDTH)
    wired, attention = NGramAttention(WIDTH, ORDER), SoftmaxAttention(WIDTH)

    def step(layer: torch.nn.Module, **inputs: Any) -> Any:
        return torch.autograd.grad(layer(x, **inputs).square().mean(), list(layer.parameters()))

    return {"n-gram": lambda: step(wired, tokens=tokens), "softmax": lambda: step(attention)}


def streams() -> dict[str, Callable[[], Any]]:
    wired, attention = NGramAttention(WIDTH, ORDER), SoftmaxAttention(WIDTH)
    rivals: dict[str, Callable[[], Any]] = {}
    for read in STREAMED:
        states = [layer.initial_state(1) for layer in (wired, attention)]
        for _ in range(read // 500):
            chunk, tokens = torch.randn(1, 500, WIDTH), torch.randint(SYMBOLS, (1, 500))
            _, states[0] = wired.scan(chunk, states[0], tokens=tokens)
            _, states[1] = attention.scan(chunk, states[1])
        rivals[f"n-gram {read}"] = continuing(wired, states[0], tokens=torch.randint(SYMBOLS, (1,)))
        rivals[f"softmax {read}"] = continuing(attention, states[1])
    return rivals


def continuing(layer: Any, state: Any, **inputs: Any) -> Callable[[], Any]:
    """A call that reads one more token of a stream."""
    x_t, kept = torch.randn(1, WIDTH), [state]

    def step() -> None:
        _, kept[0] = layer.step(x_t, kept[0], **inputs)

    return step


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"order {ORDER}, {SYMBOLS} symbols, width {WIDTH}, batch {BATCH}, float32, one thread")
    grouped = []
    for length in LENGTHS:
        with torch.no_grad():
            forward = medians(averages(length, False), 5)
        both = medians(averages(length, True), 5)
        layer = medians(layers(length), 5)
        grouped.append(forward["grouped"])
        print(
            f"  {length:>5} tokens: grouped faster than dense by {forward['dense'] / forward['grouped']:.1f} × forward, "
            f"{both['dense'] / both['grouped']:.1f} × with gradient; a layer's step by {layer['softmax'] / layer['n-gram']:.1f} × softmax "
            "attention's",
            flush=True,
        )
    exponent = math.log2(grouped[-1] / grouped[0]) / math.log2(LENGTHS[-1] / LENGTHS[0])
    print(f"exponent of the grouped form's time in the length: {exponent:.2f}")
    with torch.no_grad():
        taken = medians(streams(), 201)
    early, late = STREAMED
    for name in ("n-gram", "softmax"):
        print(f"a streamed token after {late}: {taken[f'{name} {late}'] / taken[f'{name} {early}']:.2f} × its time after {early}, {name}")
    print(f"n-gram against softmax after {late}: {taken[f'softmax {late}'] / taken[f'n-gram {late}']:.2f} × faster")


if __name__ == "__main__":
    main()
