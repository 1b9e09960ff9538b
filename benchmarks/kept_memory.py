"""What a process gains that keeps freed memory for the next tensor, against glibc's own ways.

    python benchmarks/kept_memory.py

One thread, float32, processor time (the system's included: that is what is saved), medians; with and without take turns. Networks of
100,000 parameters read 128 bytes: evaluated 256 texts at a time, trained on 32.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from assay.bench.processes import kept_memory
from assay.contracts import NextTokens, Signature, Tokens
from assay.measure import medians
from assay.models import build

MIXERS = ("attention", "hyena", "gated-delta", "mamba", "lstm")
LENGTH, VOCABULARY, REPEATS, WITHIN = 128, 256, 5, 4


def gain(function: Callable[[], None]) -> float:
    """Processor time of some calls in a row, without by with."""

    def usual() -> None:
        for _ in range(WITHIN):
            function()

    def kept() -> None:
        with kept_memory():
            usual()

    taken = medians({"kept": kept, "usual": usual}, REPEATS)
    return taken["usual"] / taken["kept"]


def network(name: str) -> None:
    """Both uses of one network."""
    model = build(name, Signature(Tokens(VOCABULARY, LENGTH), NextTokens(VOCABULARY)), 100_000)
    many, few = ({"tokens": torch.randint(VOCABULARY, (count, LENGTH))} for count in (256, 32))

    def evaluate() -> None:
        with torch.no_grad():
            model(many).prediction.log_softmax(-1)

    def train() -> None:
        model(few).prediction.square().mean().backward()

    print(f"{name}: evaluated {gain(evaluate):.2f} × as fast, trained {gain(train):.2f} ×", flush=True)


if __name__ == "__main__":
    torch.manual_seed(0)
    for mixer in MIXERS:
        network(mixer)
