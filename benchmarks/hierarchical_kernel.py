"""Hierarchical kernels in C++ against NumPy by blocks and against the plain form that holds every leaf of every pair at once; one thread.

    python benchmarks/hierarchical_kernel.py

Every figure is a ratio of medians from this one run, of processor time. Memory is what a call adds to the process at its peak, in a
process of its own; the kernel itself is part of it. Both peers compute in float64; the plain form multiplies by PyTorch.
"""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from assay.measure import medians, peak_resident_bytes, reset_peak, resident_bytes
from assay.theory.hierarchical_kernels import hierarchical_kernel, on_multisphere

CASES: dict[str, tuple[tuple[int, ...], tuple[int, ...], int]] = {
    "8 numbers, filters 2 · 2 · 2": ((8,), (2, 2, 2), 1024),
    "64 numbers, filters 4 · 4 · 4": ((64,), (4, 4, 4), 1024),
    "8 × 8 images, filters 2 · 2 · 2": ((1, 8, 8), (2, 2, 2), 1024),
}
RIVALS = ("plain", "reference", "compiled")


def plain(x: Tensor, filters: tuple[int, ...]) -> Tensor:
    """The tangent kernel on the multisphere as the equations stand, of patches (leaves, n, numbers) in the order of the tree."""
    cosine = x @ x.mT
    tangent = cosine
    sizes = [*filters[1:], len(x) // math.prod(filters[1:])]
    for size in sizes:
        clipped = cosine.clamp(-1, 1)
        supplement = math.pi - clipped.arccos()
        risen = ((1 - clipped.square()).sqrt() + supplement * clipped) / math.pi
        tangent = (risen + tangent * supplement / math.pi).unflatten(0, (-1, size)).mean(1)
        cosine = risen.unflatten(0, (-1, size)).mean(1)
    return tangent[0]


def call(name: str, shape: tuple[int, ...], filters: tuple[int, ...], count: int) -> Callable[[], Any]:
    """One rival's call on inputs of the multisphere."""
    x = on_multisphere(np.random.default_rng(0).standard_normal((count, *shape)), filters[0])
    if name != "plain":
        return partial(hierarchical_kernel, x, filters=filters, implementation=name)
    from assay.theory.hierarchical_kernels import patch_tree

    leaves = torch.from_numpy(patch_tree(x, filters).directions).mT.contiguous()
    counts = tuple(size ** (len(shape) - 1 or 1) for size in filters)
    return partial(plain, leaves, counts)


def peak(case: str, name: str) -> float:
    """Megabytes that one call adds at its peak, in a fresh process."""
    found = subprocess.run([sys.executable, __file__, case, name], check=True, capture_output=True, text=True)
    return float(found.stdout)


def measure_peak(case: str, name: str) -> None:
    """What `peak` runs: a small call first, so that only what grows with the inputs is seen."""
    torch.set_num_threads(1)
    shape, filters, count = CASES[case]
    call(name, shape, filters, 16)()
    function = call(name, shape, filters, count)
    reset_peak()
    before = resident_bytes()
    function()
    print((peak_resident_bytes() - before) / 1e6)


def main() -> None:
    torch.set_num_threads(1)
    print("tangent kernel of n = 1,024 inputs with themselves, float64, one thread", flush=True)
    for case, (shape, filters, count) in CASES.items():
        calls = {name: call(name, shape, filters, count) for name in RIVALS}
        expected = np.asarray(calls["compiled"]())
        difference = float(np.abs(np.asarray(calls["plain"]()) - expected)[~np.eye(count, dtype=bool)].max())
        taken = medians(calls, 3)
        memory = {name: peak(case, name) for name in RIVALS}
        print(
            f"  {case}: compiled {taken['plain'] / taken['compiled']:.1f} × faster than all leaves at once, "
            f"{taken['reference'] / taken['compiled']:.1f} × than NumPy by blocks; memory {memory['compiled']:.0f} MB against "
            f"{memory['plain']:.0f} and {memory['reference']:.0f}; the plain form differs by {difference:.0e} off the diagonal",
            flush=True,
        )


if __name__ == "__main__":
    measure_peak(*sys.argv[1:]) if len(sys.argv) > 1 else main()
