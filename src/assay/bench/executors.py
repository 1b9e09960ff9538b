"""Where a study's jobs run: in this process, in worker processes of this machine, or on a Ray cluster.

All three take jobs while they have `free` places and hand back events; what a job is, `assay.bench.running` knows.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

from assay.bench.processes import thread_environment
from assay.bench.running import Job, failed, perform
from assay.contracts import Task
from assay.errors import UserError


@dataclass(frozen=True)
class Event:
    """News of a job: its ``progress`` (the latest validation) or its ``result``."""

    job: Job
    progress: Mapping[str, Any] | None = None
    result: Mapping[str, Any] | None = None


class Executor(Protocol):
    """Takes jobs, hands back events."""

    def free(self) -> int:
        """How many jobs it would start at once now."""
        ...

    def start(self, job: Job) -> None:
        """Begin a job; only while there is a free place."""
        ...

    def wait(self, seconds: float) -> list[Event]:
        """Events since the last call; returns after ``seconds`` at the latest, unless a job runs in this very process."""
        ...

    def close(self) -> None:
        """Stop everything that still runs, without trace."""
        ...


class InProcess:
    """One job at a time in this process."""

    def __init__(self, task: Task, folder: Path, on_event: Callable[[Event], None]) -> None:
        self.task, self.folder, self.on_event = task, folder, on_event
        self.waiting: list[Job] = []

    def free(self) -> int:
        """One, unless a job waits."""
        return 1 - len(self.waiting)

    def start(self, job: Job) -> None:
        """Remember the job; `wait` does it."""
        self.waiting.append(job)

    def wait(self, seconds: float) -> list[Event]:
        """Do the job that waits."""
        if not self.waiting:
            return []
        job = self.waiting.pop()
        result = perform(job, self.task, self.folder, lambda history: self.on_event(Event(job, progress=history.curve[-1])))
        return [Event(job, result=result)]

    def close(self) -> None:
        """Nothing runs between calls."""
        self.waiting.clear()


# ------------------------------------------------------------------------------------------------ worker processes


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    errors: IO[bytes]
    job: Job | None = None
    ready: bool = False
    received: bytes = b""
    oom_kills: int = field(default_factory=lambda: _kernel_oom_kills())

    def say(self, message: Any) -> None:
        assert self.process.stdin is not None  # opened as a pipe
        self.process.stdin.write(json.dumps(message).encode() + b"\n")
        self.process.stdin.flush()


class Workers:
    """A pool of processes on this machine. One that dies is a failed run, and another takes its place.

    Args:
        count: number of processes.
        threads: of each.
        opening: what a worker opens: ``{"data", "opening", "folder"}``.
        task: the same task as the driver opened it, to describe a run whose process died.
    """

    def __init__(self, count: int, threads: int, opening: Mapping[str, Any], task: Task) -> None:
        if count < 1:
            raise UserError(f"--workers must be at least 1, got {count}.")
        self.threads, self.opening, self.task = threads, dict(opening), task
        self.folder = Path(opening["folder"])
        self.selector = selectors.DefaultSelector()
        self.workers: list[_Worker] = []
        for _ in range(count):
            self._spawn()

    def free(self) -> int:
        """Workers without a job."""
        return sum(worker.job is None for worker in self.workers)

    def start(self, job: Job) -> None:
        """Hand the job to an idle worker (one that is still opening the data will find it waiting)."""
        worker = next(worker for worker in self.workers if worker.job is None)
        worker.job = job
        with contextlib.suppress(BrokenPipeError):  # it died idle: the next `wait` reads its end and says so
            worker.say(job)

    def wait(self, seconds: float) -> list[Event]:
        """Read what the workers say."""
        events: list[Event] = []
        for key, _ in self.selector.select(seconds):
            worker: _Worker = key.data
            content = os.read(key.fd, 1 << 16)
            if not content:
                events += self._bury(worker)
                continue
            *lines, worker.received = (worker.received + content).split(b"\n")
            for line in lines:
                events += self._heard(worker, json.loads(line))
        return events

    def close(self) -> None:
        """Kill the workers; unfinished runs have left nothing that has a name."""
        for worker in self.workers:
            worker.process.kill()
        for worker in self.workers:
            self._forget(worker)
        self.workers.clear()
        self.selector.close()

    def _spawn(self) -> None:
        handle, path = tempfile.mkstemp()
        os.unlink(path)  # the file lives as long as it is open
        errors = os.fdopen(handle, "w+b")
        process = subprocess.Popen(
            [sys.executable, "-m", "assay.bench.worker", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=thread_environment(self.threads),
        )
        worker = _Worker(process, errors)
        assert process.stdout is not None  # opened as a pipe
        self.selector.register(process.stdout, selectors.EVENT_READ, worker)
        self.workers.append(worker)
        with contextlib.suppress(BrokenPipeError):  # it died at once: `wait` says why
            worker.say(self.opening)

    def _heard(self, worker: _Worker, message: Mapping[str, Any]) -> list[Event]:
        if "ready" in message:
            worker.ready = True
            return []
        job = worker.job
        assert job is not None  # a worker speaks of the job it was given
        if "progress" in message:
            return [Event(job, progress=message["progress"])]
        worker.job = None
        return [Event(job, result=message["finished"])]

    def _bury(self, worker: _Worker) -> list[Event]:
        code = worker.process.wait()
        worker.errors.seek(0)
        log = worker.errors.read().decode("utf-8", errors="replace")
        memory = _kernel_oom_kills() > worker.oom_kills
        self._forget(worker)
        self.workers.remove(worker)
        if not worker.ready:
            last = next((line for line in reversed(log.splitlines()) if line.strip()), f"exit code {code}")
            raise UserError(f"A worker process could not start ({last.strip()}): run with one worker, or mend the installation.")
        self._spawn()
        if worker.job is None:
            return []
        reason = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        status = "out-of-memory" if memory and code == -signal.SIGKILL else "failed"
        error = "the system ended the process for want of memory" if status == "out-of-memory" else f"the process died ({reason})"
        return [Event(worker.job, result=failed(worker.job, self.folder, self.task, status, error, log))]

    def _forget(self, worker: _Worker) -> None:
        assert worker.process.stdout is not None
        assert worker.process.stdin is not None
        self.selector.unregister(worker.process.stdout)
        worker.process.wait()
        worker.process.stdout.close()
        with contextlib.suppress(BrokenPipeError):  # unsent bytes for a process that is gone
            worker.process.stdin.close()
        worker.errors.close()


def _kernel_oom_kills() -> int:
    """How often the kernel has killed for want of memory; 0 where it does not tell."""
    counters = Path("/proc/vmstat")
    if counters.exists():
        for line in counters.read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0
