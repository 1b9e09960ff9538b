"""Kernels of a full linear state space: doubled and split powers against one power after another, and against a diagonal system's kernel.

    python benchmarks/krylov.py

One thread. Every figure is a ratio of medians from this run; the rivals take turns, and processor time is taken. Memory is what a kernel
with its gradient adds to the process at its peak, in a process of its own.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from assay.measure import medians, peak_resident_bytes, reset_peak, resident_bytes
from assay.nn.kept import Kept
from assay.nn.state_space.diagonal import DiagonalStateSpace
from assay.nn.state_space.linear import LinearStateSpace
from assay.ops.krylov import krylov

CHANNELS, STATE = 16, 64
LENGTHS = (1_000, 4_000, 16_000)


def trained(function: Callable[[], Tensor], leaves: Sequence[Tensor]) -> Callable[[], Any]:
    """Forward and backward."""
    return lambda: torch.autograd.grad(function().square().sum(), leaves, allow_unused=True)


def kernels(length: int) -> None:
    full, diagonal = LinearStateSpace(CHANNELS, STATE), DiagonalStateSpace(CHANNELS, STATE)
    matrix, inputs = (part.detach() for part in full.discretised())
    output = full.output.detach().double()
    leaves = [parameter for parameter in full.parameters() if parameter.requires_grad]
    taken = medians(
        {
            "sequential": lambda: krylov(matrix, inputs, length, output, "sequential"),
            "doubled": lambda: output @ krylov(matrix, inputs, length),
            "split": lambda: krylov(matrix, inputs, length, output),
        },
        5,
    )
    with_gradient = medians(
        {
            "full": trained(lambda: full.kernel(length), leaves),
            "diagonal": trained(lambda: diagonal.kernel(length), list(diagonal.parameters())),
        },
        5,
    )
    print(
        f"  {length:>6} taps: split {taken['sequential'] / taken['split']:5.1f} × faster than one power after another, "
        f"{taken['doubled'] / taken['split']:4.1f} × than doubling alone; discretised and with its gradient "
        f"{with_gradient['diagonal'] / with_gradient['full']:4.1f} × as fast as S4D's   ({taken['split']:.1f} ms)",
        flush=True,
    )


def peak(way: str, length: int) -> float:
    """Megabytes that one kernel with its gradient adds at its peak, in a fresh process."""
    found = subprocess.run([sys.executable, __file__, way, str(length)], check=True, capture_output=True, text=True)
    return float(found.stdout)


def measure_peak(way: str, length: int) -> None:
    """What `peak` runs: a short call first, so that only what grows with the length is seen."""
    torch.set_num_threads(1)
    full, diagonal = LinearStateSpace(CHANNELS, STATE), DiagonalStateSpace(CHANNELS, STATE)
    matrix, inputs = (part.detach().requires_grad_() for part in full.discretised())
    output = full.output.double()
    ways: dict[str, tuple[Callable[[int], Tensor], Sequence[Tensor]]] = {
        "sequential": (lambda count: krylov(matrix, inputs, count, output, "sequential"), [matrix, inputs]),
        "doubled": (lambda count: output @ krylov(matrix, inputs, count), [matrix, inputs]),
        "split": (lambda count: krylov(matrix, inputs, count, output), [matrix, inputs]),
        "S4D": (diagonal.kernel, list(diagonal.parameters())),
    }
    run, leaves = ways[way]
    trained(lambda: run(64), leaves)()
    reset_peak()
    before = resident_bytes()
    trained(lambda: run(length), leaves)()
    print((peak_resident_bytes() - before) / 1e6)


def layers(length: int) -> None:
    """Forward and backward of a layer, batch 4."""
    x = torch.randn(4, length, CHANNELS, requires_grad=True)
    full, diagonal, lstm = LinearStateSpace(CHANNELS, STATE), DiagonalStateSpace(CHANNELS, STATE), nn.LSTM(CHANNELS, CHANNELS)
    start = full.initial_state(4)
    rivals: dict[str, tuple[nn.Module, Callable[[], Tensor]]] = {
        "transform": (full, lambda: full(x)),
        "chunks": (full, lambda: full.scan(x, start)[0]),
        "S4D": (diagonal, lambda: diagonal(x)),
        "LSTM": (lstm, lambda: lstm(x.transpose(0, 1))[0]),
    }
    taken = medians({name: trained(run, [x, *_trainable(module)]) for name, (module, run) in rivals.items()}, 5)
    ratios = ", ".join(f"{taken[name] / taken['transform']:4.1f} × as fast as {name}" for name in ("chunks", "S4D", "LSTM"))
    print(f"  {length:>6} positions, trained: by transform {ratios}   ({taken['transform']:.0f} ms)", flush=True)


def _trainable(module: nn.Module) -> list[Tensor]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def streams() -> None:
    """A step of a stream, and the same without the discretised system kept."""
    full, state = LinearStateSpace(CHANNELS, STATE), torch.zeros(1, CHANNELS, STATE)
    x = torch.randn(1, CHANNELS)

    def afresh() -> None:
        full._kept = Kept()
        full.step(x, state)

    with torch.no_grad():
        taken = medians({"kept": lambda: [full.step(x, state) for _ in range(100)], "afresh": afresh}, 5)
    print(f"  a step of a stream: {100 * taken['afresh'] / taken['kept']:.0f} × faster with the discretised system kept", flush=True)


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"{CHANNELS} channels, state {STATE}", flush=True)
    for length in LENGTHS:
        kernels(length)
    for length in LENGTHS:
        taken = ", ".join(f"{way} {peak(way, length):.0f}" for way in ("split", "doubled", "sequential", "S4D"))
        print(f"  {length:>6} taps with their gradient, MB at the peak: {taken}", flush=True)
    for length in LENGTHS:
        layers(length)
    streams()


if __name__ == "__main__":
    measure_peak(sys.argv[1], int(sys.argv[2])) if len(sys.argv) > 1 else main()
