"""Opening against plain Pillow and plain pandas: the ratios of one run, median of repetitions that take turns.

Assay decodes, checks, hashes, divides and standardises; the plain loops only read. Usage: ``python benchmarks/opening.py [--small]``.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from assay import tasks


def make_pictures(folder: Path, count: int, generator: np.random.Generator) -> None:
    """Noisy 32×32 colour pictures in ten class folders, as PNG."""
    for label in range(10):
        (folder / f"class{label}").mkdir(parents=True)
    for index in range(count):
        base = np.full((32, 32, 3), 20 * (index % 10), dtype=np.int64)
        pixels = np.clip(base + generator.integers(0, 40, base.shape), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"class{index % 10}" / f"{index}.png")


def make_table(path: Path, rows: int, generator: np.random.Generator) -> None:
    """Ten columns: eight of numbers, one of words, one label."""
    frame = pd.DataFrame(generator.normal(size=(rows, 8)).round(5), columns=[f"feature_{index}" for index in "abcdefgh"])
    frame["city"] = generator.choice(["Berlin", "Lagos", "Lima", "Osaka", "Turin"], rows)
    frame["label"] = generator.choice(["no", "yes", "maybe"], rows)
    frame.to_csv(path, index=False)


def plain_pillow(folder: Path) -> np.ndarray:
    """What a person writes: open each, convert, stack."""
    pictures = []
    for file in sorted(folder.glob("*/*.png")):
        with Image.open(file) as image:
            pictures.append(np.asarray(image.convert("RGB")))
    return np.stack(pictures)


def timed(function: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def compare(ours: Callable[[], object], plain: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Median seconds of each, taking turns so that a busy machine hurts both; the first round warms the disk's cache."""
    ours(), plain()
    pairs = [(timed(ours), timed(plain)) for _ in range(repeats)]
    return statistics.median(pair[0] for pair in pairs), statistics.median(pair[1] for pair in pairs)


def show(what: str, seconds: tuple[float, float]) -> None:
    print(f"{what}: assay {seconds[0]:.2f} s, plain {seconds[1]:.2f} s, ratio {seconds[0] / seconds[1]:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="a tenth of the size")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    share = 10 if arguments.small else 1
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as temporary:
        folder, table = Path(temporary) / "pictures", Path(temporary) / "table.csv"
        count, rows = 20_000 // share, 1_000_000 // share
        make_pictures(folder, count, generator)
        show(
            f"{count:,} pictures against a Pillow loop",
            compare(lambda: tasks.open(folder), lambda: plain_pillow(folder), arguments.repeats),
        )
        make_table(table, rows, generator)
        opened = lambda: tasks.open(table)  # noqa: E731
        show(f"{rows:,} rows against pandas.read_csv", compare(opened, lambda: pd.read_csv(table), arguments.repeats))
        quick = lambda: pd.read_csv(table, engine="pyarrow")  # noqa: E731
        show(f'{rows:,} rows against pandas.read_csv(engine="pyarrow")', compare(opened, quick, arguments.repeats))


if __name__ == "__main__":
    main()
