"""The kernels' own tests once more, on four threads, with kernels built for GCC's sanitisers of addresses, undefined behaviour and races.

Python and PyTorch run as they are, with the sanitiser loaded before them: it sees every access of a kernel, and the ends of every tensor,
for tensors come from its allocator. Races need LLVM's OpenMP (Debian: libomp-14-dev), which also runs what GCC compiled: its tool Archer
tells the sanitiser how threads wait for one another. Of GCC's own OpenMP it knows nothing, and would report every barrier as a race.

That the runs can fail is shown by kernels with a mistake: each writes behind its tensor, or from two threads to one place.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pytest

from assay.ops import extension

pytestmark = pytest.mark.slow

KERNELS = Path(extension.__file__).parent / "kernels"
TESTS = {
    "dilated_convolution": "tests/ops/test_dilated_convolution.py",
    "hierarchical_kernel": "tests/theory/test_hierarchical_kernels.py",
    "recurrent_scan": "tests/ops/test_recurrent_scan.py",
    "sigmoid_attention": "tests/ops/test_sigmoid_attention.py",
}
WITH_KERNELS = "compiled or tiling or threads"  # in the tests' names
FLAGS = {
    "address": "-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all",
    # Tasks are dealt out in turn instead of to whoever is free, else one thread may take all of a small problem.
    "thread": "-O1 -g -fsanitize=thread -Ddynamic=static,1",
}
LOUD = {
    "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter frees little when it ends
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=1",
}
# OpenMP's own memory is hidden by name: what Archer advises, ignore_noninstrumented_modules, would hide copies by the kernels too.
SUPPRESSED = "called_from_lib:libomp.so\n"
RACES = {
    "dilated_convolution": ("&sums[part * size], 0, start", "&sums[0], 0, start"),  # all parts into one sum
    "hierarchical_kernel": ("if (p.symmetric && c < r) continue;", ""),  # tiles are computed and copied into
    "recurrent_scan": ("p.bias_gradient + first / p.task_rows * Cell::BIASES", "p.bias_gradient + 0 * Cell::BIASES"),
    "sigmoid_attention": ("float* bias = part ? &bias_sums[(part - 1) * rows] : p.bias_gradient;", "float* bias = p.bias_gradient;"),
}
OVERRUNS = {
    "dilated_convolution": ("for (; c + N <= width; c += N)", "for (; c < width; c += N)"),
    "hierarchical_kernel": ("walk.feature + (end - column), p.feature_kernel", "walk.feature + width, p.feature_kernel"),
}


@cache
def _loaded_first(kind: str) -> tuple[str, ...]:
    """The libraries that a process of this kind needs before all others; skips where there are none, or they do not work here."""
    if shutil.which("g++") is None:
        pytest.skip("there is no g++")
    libraries = (
        [_of_compiler("libasan.so"), _of_compiler("libstdc++.so")]
        if kind == "address"
        else [_of_compiler("libtsan.so"), _archer("libomp.so")]
    )
    environment = os.environ | LOUD | {"LD_PRELOAD": " ".join(libraries)}
    done = subprocess.run([sys.executable, "-c", "import torch"], env=environment, capture_output=True, text=True)
    if done.returncode or done.stderr:
        pytest.skip(f"Python does not run under the {kind} sanitiser here: {done.stderr[:500]}")
    return tuple(libraries)


def _of_compiler(library: str) -> str:
    path = Path(subprocess.run(["g++", f"-print-file-name={library}"], check=True, capture_output=True, text=True).stdout.strip())
    if not path.is_absolute():  # what GCC says of a library that it does not have
        pytest.skip(f"g++ has no {library}")
    return str(path.resolve())


def _archer(name: str) -> str:
    """A file of the newest LLVM that has both its OpenMP and the tool that explains it to the sanitiser."""
    folders = sorted(path.parent for pattern in ("llvm*/lib*", "*/", ".") for path in Path("/usr/lib").glob(f"{pattern}/libarcher.so"))
    if not folders or not (folders[-1] / "libomp.so").exists():
        pytest.skip("there is no libarcher.so beside a libomp.so (Debian: apt-get install libomp-14-dev)")
    return str(folders[-1] / name)


def _run(kind: str, kernels: Iterable[str], sources: Path, folder: Path, instructions: str = "native") -> str:
    """What the tests of some kernels say under a sanitiser, "" if they pass; built in ``folder``."""
    environment = os.environ | LOUD
    environment |= {
        "LD_PRELOAD": " ".join(_loaded_first(kind)),
        "OMP_NUM_THREADS": "4",
        "PYTHONPATH": str(Path(__file__).parent),
        "CXX": "g++",
        "ASSAY_CACHE": str(folder),
        "KERNEL_SOURCES": str(sources),
        "KERNEL_FLAGS": f"{FLAGS[kind]} -march={instructions}",
    }
    if kind == "thread":
        (folder / "suppressed").write_text(SUPPRESSED, encoding="utf-8")
        environment["TSAN_OPTIONS"] += f":suppressions={folder / 'suppressed'}"
        environment["OMP_TOOL_LIBRARIES"] = _archer("libarcher.so")
    plugins = ("-p", "sanitised", "-p", "no:cacheprovider", "-p", "no:xdist")
    command = [sys.executable, "-m", "pytest", *plugins, "-s", "-m", "not slow", "-k", WITH_KERNELS, *(TESTS[kernel] for kernel in kernels)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], env=environment, capture_output=True, text=True)
    for kernel in kernels:
        assert list(folder.rglob(f"{kernel}-*.so")), f"{kernel} was not built:\n{done.stdout}{done.stderr}"
    return done.stdout[-4000:] + done.stderr[:8000] if done.returncode else ""


def _with_mistake(kernel: str, mistake: tuple[str, str], folder: Path) -> Path:
    sources = folder / "sources"
    shutil.copytree(KERNELS, sources)
    right, wrong = mistake
    text = (sources / f"{kernel}.cpp").read_text(encoding="utf-8")
    assert text.count(right) == 1
    (sources / f"{kernel}.cpp").write_text(text.replace(right, wrong), encoding="utf-8")
    return sources


def test_every_kernel_is_here() -> None:
    assert {path.stem for path in KERNELS.glob("*.cpp")} == set(TESTS)


@pytest.mark.parametrize("instructions", ["native", "x86-64"])  # the widest vectors and the narrowest: other loads at a tensor's end
def test_no_address_outside_of_a_tensor_and_nothing_undefined(instructions: str, tmp_path: Path) -> None:
    if instructions != "native" and platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("another family of processors")
    assert _run("address", TESTS, KERNELS, tmp_path, instructions) == ""


def test_no_race_between_four_threads(tmp_path: Path) -> None:
    assert _run("thread", TESTS, KERNELS, tmp_path) == ""


@pytest.mark.parametrize("kernel", OVERRUNS)
def test_a_kernel_that_writes_behind_its_tensor_is_found(kernel: str, tmp_path: Path) -> None:
    said = _run("address", [kernel], _with_mistake(kernel, OVERRUNS[kernel], tmp_path), tmp_path)
    assert "heap-buffer-overflow" in said
    assert f"{kernel}.cpp" in said


@pytest.mark.parametrize("kernel", RACES)
def test_a_kernel_with_a_race_is_found(kernel: str, tmp_path: Path) -> None:
    said = _run("thread", [kernel], _with_mistake(kernel, RACES[kernel], tmp_path), tmp_path)
    assert "data race" in said
    assert f"{kernel}.cpp" in said
