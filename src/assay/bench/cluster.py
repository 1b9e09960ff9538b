"""A study's jobs on a Ray cluster: a node trains, the driver writes."""

from __future__ import annotations

import io
import logging
import re
import shutil
import socket
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from assay.bench.executors import Event
from assay.bench.files import sync_folder, sync_tree, write_json
from assay.bench.running import Job, failed, perform
from assay.contracts import Task
from assay.errors import UserError, require


def check_cluster(address: str, threads: int) -> None:
    """Refuse a cluster that does not answer, or none of whose nodes can hold a run: it would wait for ever.

    Args:
        address: as `ray.init` takes it.
        threads: processors each run asks for.

    Raises:
        MissingExtra: Ray is not installed.
        UserError: no cluster answers at the address, or its largest node has fewer processors than a run asks for.
    """
    ray: Any = require("ray", extra="cluster", purpose="Running a study on a cluster")
    owned = not ray.is_initialized()
    try:
        if owned:
            _knock(address)
            ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
        largest = max((int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]), default=0)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"No Ray cluster answers at {address} ({reason}): start one with `ray start --head`, or name its address."
        ) from error
    finally:
        if owned:
            ray.shutdown()
    if largest < threads:
        raise UserError(f"A run asks for {threads} processors and the cluster's largest node has {largest}: choose fewer with --threads.")


def _knock(address: str) -> None:
    """Raise OSError at once where nothing listens at ``host:port``; Ray itself goes on trying for minutes."""
    place = re.fullmatch(r"(?:ray://)?([^:/]+):(\d+)", address)
    if place:
        socket.create_connection((place[1], int(place[2])), timeout=10).close()


class RayExecutor:
    """Sends every job to the cluster with the task (put into its object store once) and writes what comes back into the study's folder.

    A file of the user's (``mine.py:MyMixer``) must lie at the same path on every node.

    Args:
        address: as `ray.init` takes it: ``auto``, ``host:port``, ``ray://…``, or ``local``.
        threads: processors each run asks for.
        folder: the study's folder, on the driver.
        task: the study's task.

    Raises:
        MissingExtra: Ray is not installed.
    """

    def __init__(self, address: str, threads: int, folder: Path, task: Task) -> None:
        self.ray: Any = require("ray", extra="cluster", purpose="Running a study on a cluster")
        self.owned = not self.ray.is_initialized()
        if self.owned:
            self.ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
        self.folder, self.task = folder, task
        self.reference = self.ray.put(task)
        self.remote = self.ray.remote(num_cpus=threads, max_retries=1)(_remote_job)
        self.places = max(1, int(self.ray.cluster_resources().get("CPU", 1)) // threads)
        self.running: dict[Any, Job] = {}

    def free(self) -> int:
        """Places of the cluster that no job of ours has: twice its processors, so that none waits for the driver."""
        return 2 * self.places - len(self.running)

    def start(self, job: Job) -> None:
        """Hand a job to the cluster."""
        self.running[self.remote.remote(job, self.reference)] = job

    def wait(self, seconds: float) -> list[Event]:
        """Collect the jobs that are ready."""
        if not self.running:
            return []
        ready, _ = self.ray.wait(list(self.running), num_returns=1, timeout=seconds)
        return [self._collect(reference, self.running.pop(reference)) for reference in ready]

    def close(self) -> None:
        """Cancel what still runs; leave a cluster that was connected before as it was."""
        for reference in self.running:
            self.ray.cancel(reference, force=True)
        self.running.clear()
        if self.owned:
            self.ray.shutdown()

    def _collect(self, reference: Any, job: Job) -> Event:
        try:
            result, archive = self.ray.get(reference)
        except self.ray.exceptions.RayError as error:
            memory = isinstance(error, self.ray.exceptions.OutOfMemoryError)
            text = str(error).strip().splitlines()[0]
            status = "out-of-memory" if memory else "failed"
            return Event(job, result=failed(job, self.folder, self.task, status, f"{type(error).__name__}: {text}"[:300], str(error)))
        if job["kind"] == "trial":
            (self.folder / "searches").mkdir(exist_ok=True)
            write_json(self.folder / "searches" / f"{job['name']}.json", result)
        else:
            _unpack(archive, self.folder / "runs", job["name"])
        return Event(job, result=result)


def _remote_job(job: Job, task: Task) -> tuple[Mapping[str, Any], bytes]:
    """On a node: do the job in a folder of its own and send the run's files back."""
    with tempfile.TemporaryDirectory() as scratch:
        result = perform(job, task, Path(scratch))
        stream = io.BytesIO()
        if job["kind"] == "run":
            with tarfile.open(fileobj=stream, mode="w") as archive:
                archive.add(Path(scratch) / "runs" / job["name"], arcname=".")
        return result, stream.getvalue()


def _unpack(archive: bytes, parent: Path, name: str) -> None:
    parent.mkdir(exist_ok=True)
    partial = parent / f".{name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        opened.extractall(partial, filter="data")
    sync_tree(partial)
    partial.rename(parent / name)
    sync_folder(parent)
