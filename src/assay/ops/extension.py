"""`compiled`: a C++ source of Assay as a loaded library, built for this machine on first use and kept in a cache folder."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=fast", "-fopenmp", "-shared", "-fPIC", "-w")
_log = logging.getLogger(__name__)


@cache
def compiled(source: Path) -> ctypes.CDLL | None:
    """The functions that a C++ file exports with C linkage; None, with one warning, where it cannot be built here.

    Sources include no header of PyTorch: they take addresses and sizes. So a build takes seconds, and a library outlives PyTorch's
    releases. It is built for the instructions of this processor, with OpenMP, under a name that is a hash of the source, the headers
    beside it, the flags, the compiler and the processor; processes that want the same library at once build it once.

    The cache is ``$ASSAY_CACHE/kernels``, by default ``$XDG_CACHE_HOME/assay/kernels`` or ``~/.cache/assay/kernels``.

    Args:
        source: the C++ file.
    """
    try:
        return ctypes.CDLL(str(_library(source)))
    except subprocess.CalledProcessError as error:
        reason = f"the compiler failed:\n{error.stderr[-2000:]}"
    except (OSError, ImportError) as error:
        reason = str(error)
    _log.warning("%s cannot be compiled here, a slower form is used instead: %s", source.name, reason)
    return None


def cache_folder() -> Path:
    """Where compiled libraries are kept."""
    if "ASSAY_CACHE" in os.environ:
        return Path(os.environ["ASSAY_CACHE"]) / "kernels"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "assay" / "kernels"


def _library(source: Path) -> Path:
    compiler = _compiler()
    texts = [file.read_text(encoding="utf-8") for file in (source, *sorted(source.parent.glob("*.hpp")))]
    words = (*texts, *FLAGS, _answer(compiler, "--version"), _processor())
    library = cache_folder() / f"{source.stem}-{hashlib.sha256(chr(0).join(words).encode()).hexdigest()[:20]}.so"
    if not library.exists():
        library.parent.mkdir(parents=True, exist_ok=True)
        with _alone(library.with_suffix(".lock")):
            if not library.exists():  # another process may have built it meanwhile
                _build(compiler, source, library)
    return library


def _build(compiler: str, source: Path, library: Path) -> None:
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        made = Path(folder) / library.name
        _answer(compiler, *FLAGS, "-o", str(made), str(source))
        made.replace(library)


def _compiler() -> str:
    names = [os.environ.get("CXX", ""), "g++", "clang++", "c++"]
    found = next((path for path in map(shutil.which, filter(None, names)) if path), None)
    if found is None:
        raise OSError("there is no C++ compiler (install g++ or clang++, or name one in CXX)")
    return found


def _answer(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _processor() -> str:
    """What decides the instructions that ``-march=native`` chooses."""
    cpus = Path("/proc/cpuinfo")
    if not cpus.exists():
        return f"{platform.machine()} {platform.processor()}"
    lines = cpus.read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    return "\n".join(line for line in lines if line.startswith(("model", "cpu family", "flags", "Features", "CPU part")))


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait until no other process is inside; the lock ends with the process that holds it."""
    import fcntl  # not on Windows, where nothing is compiled

    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
