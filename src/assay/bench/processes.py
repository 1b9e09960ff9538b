"""What a process that trains is given: the environment of its threads, and the memory that it freed before."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
from collections.abc import Iterator

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # glibc's numbers, from malloc.h
_MOST = 2**31 - 1
_USUAL = {_MMAP_MAX: 1 << 16, _MMAP_THRESHOLD: 32 << 20, _TRIM_THRESHOLD: 64 << 20}  # where glibc's own adapting thresholds end


def thread_environment(threads: int) -> dict[str, str]:
    """The environment of this process with the thread count of every numerical library set.

    Threads that wait for one another sleep instead of spinning (``OMP_WAIT_POLICY``, unless it is set already): on a busy machine
    spinning threads keep the processors from those that work, and a step takes many times as long.
    """
    counts = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    return {"OMP_WAIT_POLICY": "PASSIVE"} | dict(os.environ) | counts


@contextlib.contextmanager
def kept_memory() -> Iterator[None]:
    """Within, freed memory is kept for the next tensor; afterwards it goes back to the system, as is usual.

    glibc gives large blocks back as soon as they are freed, and the system hands them out again page by page, each filled with zeros:
    for a network whose intermediate results pass 32 MB that can be half of a step. Numbers do not change; the process is some blocks
    larger, until they fit into one another. In a thread that is not the main one, blocks above 32 MB still go back, and elsewhere than
    on glibc this does nothing.
    """
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_MMAP_MAX, 0)
    libc.mallopt(_TRIM_THRESHOLD, _MOST)
    try:
        yield
    finally:
        for parameter, value in _USUAL.items():
            libc.mallopt(parameter, value)
        libc.malloc_trim(0)
