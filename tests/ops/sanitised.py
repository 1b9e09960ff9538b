"""A plugin for pytest, used by test_sanitisers: kernels come from the folder KERNEL_SOURCES, built with KERNEL_FLAGS beside their own."""

import os
from pathlib import Path

from assay.ops import dilated_convolution_compiled, extension, hierarchical_kernel, recurrent_scan_compiled, sigmoid_attention_compiled

KERNELS = (dilated_convolution_compiled, hierarchical_kernel, recurrent_scan_compiled, sigmoid_attention_compiled)


def pytest_configure() -> None:
    os.environ.pop("LD_PRELOAD")  # the sanitiser is for this process, not for the compiler that it starts
    extension.FLAGS += tuple(os.environ["KERNEL_FLAGS"].split())
    for kernel in KERNELS:
        kernel.SOURCE = Path(os.environ["KERNEL_SOURCES"]) / kernel.SOURCE.name
