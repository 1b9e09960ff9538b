"""Kill a study's driver with signal 9 at random moments, resume it each time, and hold the end against an undisturbed study.

Run: ``python benchmarks/kill_resume.py [--kills 20] [--steps 400]``. Whenever a study ends, the next begins in a new folder, until all
kills are spent; every study that ends is checked:

- the same quality columns (rank, model, value, low, high) as the undisturbed study;
- every run once in ``results.jsonl``, every line whole, no leftovers;
- what was finished at a kill is not run again: its files keep their times;
- no worker outlives its driver.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

QUALITY = ["rank", "model", "value", "low", "high"]
PATIENCE = 600


@dataclass
class Trial:
    """The studies of one table: how to start one, and what came of the kills."""

    scratch: Path
    steps: int
    workers: int = 2
    kills: int = 0
    studies: int = 0
    moments: list[float] = field(default_factory=list)
    rows_at_kill: list[int] = field(default_factory=list)

    def prepare(self) -> None:
        """Write the table."""
        generator = np.random.default_rng(0)
        table = pd.DataFrame(generator.normal(size=(300, 4)).round(4), columns=list("abcd"))
        table["label"] = np.where(table.a + 0.5 * table.b * table.c > 0, "yes", "no")
        table.to_csv(self.scratch / "table.csv", index=False)

    def start(self, folder: Path) -> subprocess.Popen[bytes]:
        """Begin the study in a folder, or go on with it."""
        command = ["compare", "table.csv", "--target", "label", "--models", "mlp,logistic-regression", "--parameters", "2k"]
        command += ["--steps", str(self.steps), "--workers", str(self.workers), "--output", str(folder), "--resume"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        log = (self.scratch / "log.txt").open("ab")
        return subprocess.Popen(
            [sys.executable, "-m", "assay.cli", *command], cwd=self.scratch, stdout=log, stderr=log, env=environment, start_new_session=True
        )

    def undisturbed(self) -> tuple[pd.DataFrame, float]:
        """The table that every other study must end with, and the seconds it took."""
        started = time.perf_counter()
        if self.start(self.scratch / "whole").wait(PATIENCE):
            raise SystemExit((self.scratch / "log.txt").read_text()[-2000:])
        return quality(self.scratch / "whole"), time.perf_counter() - started

    def disturb(self, folder: Path, moment: float) -> bool:
        """Let the driver run for a while and kill it; True when it had ended by itself."""
        finished = stamps(folder)
        driver = self.start(folder)
        try:
            code = driver.wait(moment)
            if code:
                raise SystemExit((self.scratch / "log.txt").read_text()[-2000:])
            return True
        except subprocess.TimeoutExpired:
            os.kill(driver.pid, signal.SIGKILL)
            driver.wait()
        finally:
            kept = stamps(folder)
            assert finished.items() <= kept.items(), "a finished run was run again"
        self.kills += 1
        self.moments.append(moment)
        self.rows_at_kill.append(len(kept))
        outlived = survivors(driver.pid)
        assert not outlived, f"workers outlived their driver: {outlived}"
        return False

    def run(self, kills: int, seed: int = 0) -> None:
        """Kill until all kills are spent, and check every study that ends."""
        generator = random.Random(seed)
        self.prepare()
        expected, seconds = self.undisturbed()
        print(f"undisturbed: {seconds:.1f} s")
        while self.kills < kills:
            folder = self.scratch / f"killed-{self.studies}"
            while not self.disturb(folder, generator.uniform(0.1, seconds) if self.kills < kills else PATIENCE):
                print(f"kill {self.kills} after {self.moments[-1]:.1f} s, {self.rows_at_kill[-1]} runs on disk", flush=True)
            check(folder, expected)
            self.studies += 1


def quality(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "leaderboard.csv")[QUALITY]


def stamps(folder: Path) -> dict[str, int]:
    """When each finished run was written."""
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("runs/*/row.json") if not path.parent.name.startswith(".")}


def survivors(session: int) -> list[int]:
    """Processes of the driver's session that are still there a moment after its death."""
    for _ in range(50):
        alive = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == session and fields[0] != "Z":
                alive.append(int(entry.name))
        if not alive:
            return []
        time.sleep(0.1)
    return alive


def check(folder: Path, expected: pd.DataFrame) -> None:
    lines = (folder / "results.jsonl").read_text().splitlines()
    runs = [json.loads(line)["run"] for line in lines]
    assert len(set(runs)) == len(runs), "a run stands in results.jsonl twice"
    assert set(runs) == set(stamps(folder)), "results.jsonl and runs/ disagree"
    leftovers = [*folder.glob(".*.partial"), *folder.glob("*/.*.partial")]
    assert not leftovers, f"leftovers: {leftovers}"
    pd.testing.assert_frame_equal(quality(folder), expected)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        trial = Trial(Path(scratch), options.steps)
        trial.run(options.kills, options.seed)
    print(f"{trial.kills} kills in {trial.studies} studies: every final table equals the undisturbed one, nothing was run twice")


if __name__ == "__main__":
    main()
