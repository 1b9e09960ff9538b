"""What the bench gives to processes that train."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource

import torch

from assay.bench.processes import kept_memory

SIZE = 64 << 20  # bytes: above what glibc ever keeps by itself


def faults():
    for _ in range(32):  # aligned blocks: the first few do not yet fit into what the earlier ones left
        torch.ones(SIZE // 4)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(SIZE // 4)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


torch.set_num_threads(1)
usual = faults()
with kept_memory():
    kept = faults()
print(usual, kept / (SIZE // resource.getpagesize()))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator is told to keep memory")
def test_freed_memory_is_used_again() -> None:
    # a process of its own: what an old one has allocated decides where a large block finds room
    answer = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    usual, kept = map(float, answer.stdout.split())
    assert kept < 0.1, "of a tensor's pages hardly one comes from the system"
    assert usual > 0, "without it they all do: large pages may make that few faults, but not none"
