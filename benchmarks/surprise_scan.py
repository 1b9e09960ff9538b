"""The memory that learns while it reads: chunks against single positions and titans-pytorch; Titans against attention with a cache.

    python benchmarks/surprise_scan.py

One thread, float32. Every figure is a ratio of medians from this run; the rivals take turns, and processor time is taken.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from assay.measure import medians, state_bytes
from assay.nn.attention.linear import LinearAttention
from assay.nn.attention.softmax import SoftmaxAttention
from assay.nn.memory.neural_memory import NeuralMemory
from assay.nn.memory.titans import MemoryAsContext, MemoryAsGate, MemoryAsLayer
from assay.nn.recurrent.gated_delta import GatedDelta
from assay.nn.recurrent.reference import GRU
from assay.ops.surprise_scan import initial_surprise, surprise_scan

LENGTH, HEAD_WIDTH, WIDTH, PIECE = 2048, 64, 64, 4096
LENGTHS = (16_384, 32_768, 65_536, 131_072)
CHUNK = 64
MIXERS: dict[str, Callable[[int], nn.Module]] = {
    "neural memory, linear": partial(NeuralMemory, layers=1),
    "neural memory": NeuralMemory,
    "as context": MemoryAsContext,
    "as gate": MemoryAsGate,
    "as layer": MemoryAsLayer,
}
PEERS: dict[str, Callable[[int], nn.Module]] = {"GRU": GRU, "linear attention": LinearAttention, "gated delta": GatedDelta}


def against_loop() -> None:
    print(f"{LENGTH} positions, one head of {HEAD_WIDTH}: chunks of 16 are faster than autograd a position at a time by", flush=True)
    for layers in (1, 2, 4):
        sizes = [HEAD_WIDTH, *[2 * HEAD_WIDTH] * (layers - 1), HEAD_WIDTH]
        memory = [0.1 * torch.randn(1, *pair) for pair in pairwise(sizes)]
        queries, values = torch.randn(2, 1, 1, LENGTH, HEAD_WIDTH)
        keys = F.normalize(torch.randn(1, 1, LENGTH, HEAD_WIDTH), dim=-1).requires_grad_()
        step, *logits = 0.01 * torch.rand(3, 1, 1, LENGTH)

        def run(way: Any, backward: bool, given: Any = (queries, keys, values, step, *logits), start: Any = memory) -> Any:
            outputs, _ = surprise_scan(*given, initial_surprise(start, 1, 16), implementation=way)
            return torch.autograd.grad(outputs.sum(), given[1]) if backward else outputs

        with torch.no_grad():
            forward = medians({way: partial(run, way, False) for way in ("recurrent", "chunked")}, 1)
        both = medians({way: partial(run, way, True) for way in ("recurrent", "chunked")}, 1)
        ratios = [taken["recurrent"] / taken["chunked"] for taken in (forward, both)]
        shown = f"({forward['chunked']:.0f} and {both['chunked']:.0f} ms)"
        print(f"  {layers} layers: {ratios[0]:5.1f} × forward, {ratios[1]:5.1f} × with backward   {shown}", flush=True)


def against_titans_pytorch() -> None:
    """Its memory alone, with the same sizes and chunks of the same length."""
    try:
        theirs = importlib.import_module("titans_pytorch")
    except ImportError as missing:
        print(f"SKIPPED: titans-pytorch ({missing})", flush=True)
        return
    x = torch.randn(1, LENGTH, WIDTH)
    for layers in (1, 2):
        network = theirs.MemoryMLP(WIDTH, layers, 2.0)
        other = theirs.NeuralMemory(WIDTH, chunk_size=CHUNK, batch_size=CHUNK, model=network, mem_model_norm_add_residual=False)
        options: dict[str, Any] = {"gates": "chunk", "read": "after", "kernel_size": None}
        own = NeuralMemory(WIDTH, 1, layers=layers, expansion=2, chunk=CHUNK, **options)
        taken = medians({"own": lambda own=own: trained(own(x)), "other": lambda other=other: trained(other(x)[0])}, 3)
        with torch.no_grad():
            read = medians({"own": lambda own=own: own(x), "other": lambda other=other: other(x)}, 3)
        ratios = f"{read['other'] / read['own']:5.1f} × forward, {taken['other'] / taken['own']:5.1f} × with backward"
        print(f"  {layers} layers, chunks of {CHUNK}: {ratios} faster than titans-pytorch", flush=True)


def trained(outputs: Tensor) -> None:
    outputs.square().sum().backward()


def against_peers() -> None:
    print(f"time by that of a neural memory, 16 rows of 256 positions, width {WIDTH}, forward and backward:", flush=True)
    x = torch.randn(16, 256, WIDTH)
    taken = medians({name: lambda made=make(WIDTH): trained(made(x)) for name, make in {**MIXERS, **PEERS}.items()}, 3)
    for name, milliseconds in taken.items():
        print(f"  {name:24} {milliseconds / taken['neural memory']:5.2f}   ({milliseconds:.0f} ms)", flush=True)


def streamed(mixer: Any, length: int) -> tuple[float, int]:
    """Seconds and bytes of state after reading a stream in pieces."""
    with torch.no_grad():
        state, started = mixer.initial_state(1), time.process_time()
        for _ in range(0, length, PIECE):
            _, state = mixer.scan(torch.randn(1, PIECE, WIDTH), state)
    return time.process_time() - started, state_bytes(state)


def against_a_cache() -> None:
    print(f"a stream read in pieces of {PIECE}: seconds of attention with a cache, by those of each; and bytes of state alike", flush=True)
    for length in LENGTHS:
        seconds, size = streamed(SoftmaxAttention(WIDTH), length)
        line = []
        for name, make in MIXERS.items():
            own_seconds, own_size = streamed(make(WIDTH), length)
            line.append(f"{name} {seconds / own_seconds:.2f} and {size / own_size:.0f}")
        print(f"  {length:7,} positions: {', '.join(line)}   ({seconds:.1f} s, {size:,} bytes)", flush=True)


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    against_loop()
    against_titans_pytorch()
    against_peers()
    against_a_cache()


if __name__ == "__main__":
    main()
