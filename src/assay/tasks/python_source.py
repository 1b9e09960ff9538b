"""Real text that every machine has: the source code of Python's own standard library, for language models."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import numpy as np

from assay.contracts import Task
from assay.tasks.options import Options
from assay.tasks.text import next_token_task

_SKIPPED = {"site-packages", "dist-packages", "test", "tests", "idlelib", "__pycache__", "encodings", "pydoc_data", "lib2to3"}


def python_source(size: int = 1_000_000, window: int = 128, seed: int = 0) -> Task:
    """The next byte of the Python standard library's source: modules in random order, whole ones until there are ``size`` bytes.

    Generated tables and tests are left out. The text differs a little from one Python release to the next.

    Args:
        size: bytes wanted; fewer if the library has no more.
        window: positions of an example.
        seed: of the order.

    Raises:
        ValueError: a size or window below 1.
    """
    if size < 1 or window < 1:
        raise ValueError(f"size and window must be at least 1, got {size} and {window}")
    library = Path(sysconfig.get_paths()["stdlib"])
    modules = sorted(path for path in library.rglob("*.py") if not _SKIPPED & set(path.relative_to(library).parts))
    texts, read = [], 0
    for index in np.random.default_rng(seed).permutation(len(modules)):
        if read >= size:
            break
        text = modules[index].read_text("utf-8", errors="ignore")
        texts.append(text)
        read += len(text.encode())
    return next_token_task(
        ["\n".join(texts).encode()[:size].decode("utf-8", errors="ignore")], Options(Path("python-source"), seed=seed), window
    )
