"""What the bench gives to processes that train."""

from __future__ import annotations

import platform
import resource

import pytest
import torch

from assay.bench.processes import kept_memory

SIZE = 64 << 20  # bytes: above what glibc ever keeps by itself


def _faults() -> int:
    """Pages that the system hands out while a tensor of `SIZE` bytes is filled and freed, as it was several times before."""
    for _ in range(8):  # aligned blocks: the first ones do not yet fit into what the earlier ones left
        torch.ones(SIZE // 4)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(SIZE // 4)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator is told to keep memory")
def test_freed_memory_is_used_again_within_and_given_back_afterwards() -> None:
    pages = SIZE // resource.getpagesize()
    with kept_memory():
        assert _faults() < pages / 10
    assert _faults() > 0, "outside memory is the system's again: large pages may make it few faults, but not none"
