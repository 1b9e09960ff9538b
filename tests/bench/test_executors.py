"""Worker processes: one that dies is a row, the pool goes on, and no worker outlives its driver; a killed study resumes to the same end."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small import FAMILIES, QUICK, write_table

import assay


@pytest.fixture
def unmeasured(monkeypatch):
    monkeypatch.setattr("assay.bench.study.measured", lambda *_args: {})


@pytest.mark.slow
def test_a_worker_that_dies_is_a_failed_row_and_the_pool_goes_on(tmp_path, unmeasured):
    write_table(tmp_path / "table.csv")
    (tmp_path / "mine.py").write_text(FAMILIES)
    models = [f"{tmp_path}/mine.py:Suicidal", f"{tmp_path}/mine.py:Sound", "majority"]
    options = QUICK | {"workers": 1, "seeds": 1}
    study = assay.compare(tmp_path / "table.csv", target="label", models=models, output=tmp_path / "s", **options)
    rows = {row["model"]: row for row in study.rows}
    assert rows["mine.py:Suicidal"]["status"] in ("failed", "out-of-memory")
    assert rows["mine.py:Suicidal"]["error"]
    assert (study.folder / "runs" / rows["mine.py:Suicidal"]["run"] / "log.txt").exists()
    assert rows["mine.py:Sound"]["status"] == rows["majority"]["status"] == "done"


@pytest.mark.slow
def test_workers_and_one_process_give_the_same_quality(tmp_path, unmeasured):
    write_table(tmp_path / "table.csv")
    options = {"target": "label", "models": ["mlp", "majority"], **QUICK}
    alone = assay.compare(tmp_path / "table.csv", output=tmp_path / "alone", **options)
    together = assay.compare(tmp_path / "table.csv", output=tmp_path / "together", **options | {"workers": 2})
    assert [(row["run"], row["value"]) for row in alone.rows] == [(row["run"], row["value"]) for row in together.rows]


def test_a_worker_ends_when_its_driver_is_gone():
    driver = (
        "import subprocess, sys, os, time\n"
        "child = subprocess.Popen([sys.executable, '-m', 'assay.bench.worker', str(os.getpid())], stdin=subprocess.PIPE)\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", driver], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    worker = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 60
    while running(worker):
        assert time.monotonic() < deadline, "the worker outlived its driver"
        os.sched_yield()


def running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
def test_killed_at_random_moments_a_study_resumes_to_the_same_end(tmp_path):
    place = Path(__file__).parents[2] / "benchmarks" / "kill_resume.py"
    spec = importlib.util.spec_from_file_location("kill_resume", place)
    module = importlib.util.module_from_spec(spec)
    sys.modules["kill_resume"] = module
    spec.loader.exec_module(module)
    trial = module.Trial(tmp_path, steps=60)
    trial.run(kills=3, seed=1)
    assert trial.kills == 3
    assert trial.studies >= 1
