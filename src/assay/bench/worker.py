"""A process that does a study's jobs one after another: ``python -m assay.bench.worker``.

It reads JSON lines from standard input (first what to open, then one line a job) and writes JSON lines to what was its standard output
(``ready``, ``progress``, ``finished``). It ends when its parent does, whatever it is doing.
"""

from __future__ import annotations

import ctypes
import json
import os
import queue
import signal
import sys
import threading
from pathlib import Path
from typing import Any, TextIO

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Serve jobs until standard input closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to handle
    die_with_parent(int(sys.argv[1]))
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints must not be taken for an answer
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read, args=(lines,), daemon=True).start()
    opening = json.loads(lines.get())

    from assay import tasks
    from assay.bench.running import perform

    task = tasks.open(opening["data"], **opening["opening"])
    _say(answers, ready=True)
    while True:
        job = json.loads(lines.get())
        result = perform(job, task, Path(opening["folder"]), lambda history: _say(answers, progress=history.curve[-1]))
        _say(answers, finished=result)


def die_with_parent(parent: int) -> None:
    """Ask the system to kill this process when its parent dies (Linux; elsewhere the end of standard input does it)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before the request
            os._exit(1)


def _read(lines: queue.Queue[str]) -> None:
    for line in sys.stdin:
        lines.put(line)
    os._exit(0)  # the driver closed the pipe or is gone: stop in the middle of a run, whose folder has no name yet


def _say(answers: TextIO, **message: Any) -> None:
    answers.write(json.dumps(message, default=float) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
