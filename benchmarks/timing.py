"""`medians`: how every benchmark here takes its times."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any


def processor_seconds(function: Callable[[], Any]) -> float:
    """Processor time of one call, all threads: with one thread, the time it needs whatever else the machine does."""
    started = time.process_time()
    function()
    return time.process_time() - started


def wall_seconds(function: Callable[[], Any]) -> float:
    """Wall time of one call: what several threads are for."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def medians(
    rivals: Mapping[str, Callable[[], Any]], repeats: int, clock: Callable[[Callable[[], Any]], float] = processor_seconds, warm: int = 1
) -> dict[str, float]:
    """Median milliseconds of each rival's call; they take turns, so that a busy moment hits them all.

    Args:
        rivals: calls by name.
        repeats: timed calls of each.
        clock: seconds of one call.
        warm: calls of each before them that are not timed.
    """
    times: dict[str, list[float]] = {name: [] for name in rivals}
    for turn in range(-warm, repeats):
        for name, function in rivals.items():
            taken = clock(function)
            if turn >= 0:
                times[name].append(1e3 * taken)
    return {name: statistics.median(taken) for name, taken in times.items()}
