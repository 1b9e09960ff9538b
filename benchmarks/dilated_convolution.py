"""Dilated convolutions against PyTorch's grouped ones, and networks of them against moving averages by Fourier transform; one thread.

Every figure is a ratio of medians from this one run, of processor time. Memory is what a call adds to the process at its peak, in a
process of its own.
"""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from assay.measure import medians, peak_resident_bytes, reset_peak, resident_bytes
from assay.nn.convolution.dilated import DilatedTCN
from assay.nn.recurrent.damped_ema import DampedEMA
from assay.ops.dilated_convolution import dilated_convolution

WIDTH, TAPS = 64, 17
LENGTHS = tuple(2**power for power in range(12, 18))
LAYERS: dict[str, Callable[[], nn.Module]] = {"convolutions": lambda: DilatedTCN(WIDTH), "averages": lambda: DampedEMA(WIDTH)}


def operation(dilation: int, length: int = 16_384) -> None:
    """One convolution, compiled, against ``conv1d`` and against shifted inputs added up."""
    torch.manual_seed(0)
    x, weight, bias = (part.requires_grad_() for part in (torch.randn(1, length, WIDTH), torch.randn(TAPS, WIDTH), torch.randn(WIDTH)))
    kinds: tuple[Any, ...] = ("compiled", "direct", "shifted")
    forward = {kind: partial(silent, dilated_convolution, x, weight, bias, dilation, implementation=kind) for kind in kinds}
    outputs = {kind: dilated_convolution(x, weight, bias, dilation, implementation=kind).sum() for kind in kinds}
    backward = {kind: partial(torch.autograd.grad, output, (x, weight, bias), retain_graph=True) for kind, output in outputs.items()}
    words = []
    for name, rivals in (("forward", forward), ("backward", backward)):
        taken = medians(rivals, 5)
        others = ", ".join(f"{taken[kind] / taken['compiled']:.1f} × faster than {kind}" for kind in kinds[1:])
        words.append(f"{name} {others}")
    print(f"  {TAPS} taps {dilation:>3} apart, {length} positions: {'; '.join(words)}", flush=True)


def silent(function: Callable[..., Tensor], *args: Any, **options: Any) -> None:
    """A call without gradients."""
    with torch.no_grad():
        function(*args, **options)


def trained(layer: nn.Module, x: Tensor) -> None:
    """A call with its backward pass."""
    torch.autograd.grad(layer(x).sum(), [x, *layer.parameters()])


def networks() -> None:
    """Whole networks at each length: time and memory, and how time grows."""
    torch.manual_seed(0)
    layers = {name: make() for name, make in LAYERS.items()}
    averages: Any = layers["averages"]
    times: dict[int, dict[str, float]] = {}
    for length in LENGTHS:
        x = torch.randn(1, length, WIDTH)
        rivals: dict[str, Callable[[], Any]] = {name: partial(silent, layer, x) for name, layer in layers.items()}
        rivals["recurrence"] = partial(silent, lambda x: averages.scan(x, averages.initial_state(1))[0], x)
        taken = times[length] = medians(rivals, 7 if length <= 2**15 else 3)
        recorded = x.clone().requires_grad_()
        back = medians({name: partial(trained, layer, recorded) for name, layer in layers.items()}, 5 if length <= 2**15 else 3)
        memory = {name: peak(name, length, "forward") for name in layers}
        training = {name: peak(name, length, "trained") for name in layers}
        print(
            f"  {length:>6} positions: {taken['averages'] / taken['convolutions']:.2f} × faster than the transform, "
            f"{taken['recurrence'] / taken['convolutions']:.2f} × than the recurrence; with backward "
            f"{back['averages'] / back['convolutions']:.2f} × than the transform; memory {memory['convolutions']:.0f} MB against "
            f"{memory['averages']:.0f}, with backward {training['convolutions']:.0f} against {training['averages']:.0f}",
            flush=True,
        )
    for name in (*layers, "recurrence"):
        growth = math.log(times[LENGTHS[-1]][name] / times[LENGTHS[0]][name]) / math.log(LENGTHS[-1] / LENGTHS[0])
        print(f"  time of {name} grows with the length to the power {growth:.2f}")


def peak(name: str, length: int, way: str) -> float:
    """Megabytes that one call adds at its peak, in a fresh process."""
    found = subprocess.run([sys.executable, __file__, name, str(length), way], check=True, capture_output=True, text=True)
    return float(found.stdout)


def measure_peak(name: str, length: int, way: str) -> None:
    """What `peak` runs: a short call first, so that only what grows with the length is seen."""
    torch.set_num_threads(1)
    layer, call = LAYERS[name](), trained if way == "trained" else silent
    call(layer, torch.randn(1, 4096, WIDTH, requires_grad=True))
    x = torch.randn(1, length, WIDTH, requires_grad=True)
    reset_peak()
    before = resident_bytes()
    call(layer, x)
    print((peak_resident_bytes() - before) / 1e6)


def main() -> None:
    torch.set_num_threads(1)
    print(f"width {WIDTH}, batch 1, float32, one thread")
    for dilation in (1, 8, 64):
        operation(dilation)
    print(f"3 blocks of {TAPS} taps, factor 8, against 16 moving averages a channel:")
    networks()


if __name__ == "__main__":
    measure_peak(sys.argv[1], int(sys.argv[2]), sys.argv[3]) if len(sys.argv) > 1 else main()
