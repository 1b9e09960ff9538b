"""The environment of processes that compute with a given number of threads."""

from __future__ import annotations

import os


def thread_environment(threads: int) -> dict[str, str]:
    """The environment of this process with the thread count of every numerical library set.

    Threads that wait for one another sleep instead of spinning (``OMP_WAIT_POLICY``, unless it is set already): on a busy machine
    spinning threads keep the processors from those that work, and a step takes many times as long.
    """
    counts = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    return {"OMP_WAIT_POLICY": "PASSIVE"} | dict(os.environ) | counts
