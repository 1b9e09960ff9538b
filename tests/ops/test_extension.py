"""C++ sources become libraries: built once, found again, built once by two processes, and refused with one warning."""

from __future__ import annotations

import ctypes
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from assay.ops import extension

SOURCE = 'extern "C" int answer() { return {number}; }\n'
needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++", "c++"))) and "CXX" not in os.environ, reason="there is no C++ compiler"
)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ASSAY_CACHE", str(tmp_path / "cache"))
    extension.compiled.cache_clear()
    path = tmp_path / "answer.cpp"
    path.write_text(SOURCE.replace("{number}", "42"))
    return path


def _built() -> list[Path]:
    return sorted(extension.cache_folder().glob("*.so"))


@needs_compiler
def test_a_source_is_built_once_and_again_only_when_it_changes(source: Path) -> None:
    library = extension.compiled(source)
    assert isinstance(library, ctypes.CDLL)
    assert library.answer() == 42
    (first,) = _built()
    moment = first.stat().st_mtime_ns
    extension.compiled.cache_clear()
    assert extension.compiled(source).answer() == 42
    assert _built() == [first]
    assert first.stat().st_mtime_ns == moment
    source.write_text(SOURCE.replace("{number}", "43"))
    extension.compiled.cache_clear()
    assert extension.compiled(source).answer() == 43
    assert len(_built()) == 2


@needs_compiler
def test_a_changed_header_beside_the_source_builds_it_again(source: Path) -> None:
    header = source.parent / "number.hpp"
    source.write_text('#include "number.hpp"\nextern "C" int answer() { return NUMBER; }\n')
    for number in (1, 2):
        header.write_text(f"#define NUMBER {number}\n")
        extension.compiled.cache_clear()
        library = extension.compiled(source)
        assert library is not None
        assert library.answer() == number


@needs_compiler
def test_processes_that_build_at_once_leave_one_library_and_nothing_else(source: Path) -> None:
    # a compiler that counts its builds, and takes long enough for the processes to meet
    counting, real = source.parent / "counting", shutil.which("g++") or shutil.which("clang++") or shutil.which("c++")
    counting.write_text(f'#!/bin/sh\n[ "$1" = --version ] || {{ echo build >> {source.parent}/builds; sleep 0.2; }}\nexec {real} "$@"\n')
    counting.chmod(0o755)
    code = f"from pathlib import Path; from assay.ops.extension import compiled; print(compiled(Path({str(source)!r})).answer())"
    environment = os.environ | {"CXX": str(counting)}
    processes = [subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE) for _ in range(3)]
    assert [process.communicate()[0].strip() for process in processes] == [b"42"] * 3
    assert (source.parent / "builds").read_text().split() == ["build"]
    assert sorted(path.suffix for path in extension.cache_folder().iterdir()) == [".lock", ".so"]


def test_without_a_compiler_there_is_one_warning_and_none(
    source: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with caplog.at_level(logging.WARNING):
        assert extension.compiled(source) is None
        assert extension.compiled(source) is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "there is no C++ compiler" in caplog.text


@needs_compiler
def test_a_source_that_does_not_compile_says_what_the_compiler_said(source: Path, caplog: pytest.LogCaptureFixture) -> None:
    source.write_text("this is no C++")
    assert extension.compiled(source) is None
    assert "error" in caplog.text
    assert not _built()


@needs_compiler
def test_a_cache_that_cannot_be_written_is_no_error(
    source: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = source.parent / "file"
    blocked.write_text("")
    monkeypatch.setenv("ASSAY_CACHE", str(blocked))
    assert extension.compiled(source) is None
    assert len(caplog.records) == 1


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSAY_CACHE", "/somewhere")
    assert extension.cache_folder() == Path("/somewhere/kernels")
    monkeypatch.delenv("ASSAY_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert extension.cache_folder() == Path("/caches/assay/kernels")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert extension.cache_folder() == Path.home() / ".cache" / "assay" / "kernels"
