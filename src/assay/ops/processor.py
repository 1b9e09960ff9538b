"""What decides how work is cut and who does it: cores, caches, vectors, the maker."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_PROCESSORS = Path("/proc/cpuinfo")
_UNITS = {"K": 1024, "M": 1024**2, "G": 1024**3}
FIRST_LEVEL, SECOND_LEVEL = 32 * 1024, 1024**2
"""Bytes taken for the caches where the system does not tell."""


@dataclass(frozen=True)
class Processor:
    """Sizes of a processor.

    Args:
        cores: that this process may use.
        first_level: bytes of a core's first-level data cache.
        second_level: bytes of a core's second-level cache.
        lanes: float32 numbers of a vector register.
        registers: vector registers.
    """

    cores: int
    first_level: int
    second_level: int
    lanes: int
    registers: int


@cache
def this_processor(lanes: int, registers: int) -> Processor:
    """The processor this process runs on; the vectors are those that a kernel was compiled for."""
    sizes = _cache_sizes(_CACHES)
    return Processor(_cores(), sizes.get(1, FIRST_LEVEL), sizes.get(2, SECOND_LEVEL), lanes, registers)


def _cores() -> int:
    """Those that the scheduler and the control group leave to this process."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.exists():
        allowed, period = quota.read_text().split()
        if allowed != "max":
            cores = min(cores, max(1, int(allowed) // int(period)))
    return cores


def _cache_sizes(folder: Path) -> dict[int, int]:
    """Bytes of each level's data cache, as Linux tells them under ``/sys``."""
    sizes = {}
    for index in sorted(folder.glob("index*")):
        try:
            kind, level, size = ((index / name).read_text().strip() for name in ("type", "level", "size"))
        except OSError:
            continue
        if kind != "Instruction" and size[-1:] in _UNITS and size[:-1].isdigit():
            sizes[int(level)] = int(size[:-1]) * _UNITS[size[-1]]
    return sizes


@cache
def leaves_vectors_unused() -> bool:
    """Whether PyTorch's matrix products use narrower vectors than this processor has: MKL's do with AVX-512 on AMD's."""
    if not torch.backends.mkl.is_available() or not torch.backends.mkldnn.is_available():
        return False
    return torch.backends.cpu.get_cpu_capability() == "AVX512" and _vendor(_PROCESSORS) == "AuthenticAMD"


def _vendor(table: Path) -> str:
    """Who made the processor, as Linux tells it; empty where it does not."""
    lines = table.read_text().splitlines() if table.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")), "")
