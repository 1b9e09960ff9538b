"""Seconds until ``assay --help`` has answered (aim: at most 0.5), beside an empty Python and ``import torch`` in the same run.

Run: ``python benchmarks/startup.py [--repeats 7]``.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "assay --help": [sys.executable, "-m", "assay.cli", "--help"],
    "import torch": [sys.executable, "-c", "import torch"],
}


def seconds(command: list[str], repeats: int) -> float:
    """Median wall time; the first, cold, run is not counted."""
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    taken = {name: seconds(command, repeats) for name, command in COMMANDS.items()}
    for name, value in taken.items():
        print(f"{name:<16} {value:6.3f} s")
    print(f"assay --help / import torch: {taken['assay --help'] / taken['import torch']:.2f}")


if __name__ == "__main__":
    main()
