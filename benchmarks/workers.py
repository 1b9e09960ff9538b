"""Two workers against one, one thread a run in both: wall time of the same study (aim: at least 1.8 times as fast with 8 runs or more).

Run: ``python benchmarks/workers.py [--steps 1000] [--seeds 8]``. Two ratios are printed: of the training phase (processes starting, opening
and training), and of the whole command with measuring and the report, which are done by one process on purpose. A worker spends some two
seconds on starting, so the shorter the runs, the lower the ratio: the default makes runs of several seconds.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import assay
from assay.bench import study


def timed(folder: Path, workers: int, options: argparse.Namespace) -> tuple[float, float]:
    """Seconds of the training phase and of the whole study."""
    phases: list[float] = []
    real = study._train_all

    def train_all(*arguments):
        began = time.perf_counter()
        real(*arguments)
        phases.append(time.perf_counter() - began)

    study._train_all = train_all
    started = time.perf_counter()
    try:
        assay.compare(
            "digits", models=["aaren", "majority"], parameters=60_000, steps=options.steps, seeds=options.seeds, rates=(3e-3,), threads=1,
            workers=workers, output=folder, live=False,
        )  # fmt: skip
    finally:
        study._train_all = real
    return phases[0], time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        one = timed(Path(scratch) / "one", 1, options)
        two = timed(Path(scratch) / "two", 2, options)
    print(f"two workers / one, training phase: {one[0] / two[0]:.2f} times as fast  ({one[0]:.1f} s, {two[0]:.1f} s; aim ≥ 1.8)")
    print(f"two workers / one, whole study:    {one[1] / two[1]:.2f} times as fast  ({one[1]:.1f} s, {two[1]:.1f} s)")


if __name__ == "__main__":
    main()
