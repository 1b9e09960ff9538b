"""Assay tells you which neural network to use on your data, and hands you that network: trained, shrunk, explained, exported.

One function beside every verb of the command line; each resolves on use, so that ``import assay`` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from assay.bench.advising import advise
    from assay.bench.study import Study, compare
    from assay.bench.verbs import evaluate, export, generate, inspect, open_run, predict, shrink, train
    from assay.catalogue.search import catalog
    from assay.papers.runner import reproduce
    from assay.tasks import open
    from assay.testing import check

__version__ = "0.1.0"
_FACE = {
    "advise": "assay.bench.advising",
    "compare": "assay.bench.study",
    "Study": "assay.bench.study",
    "train": "assay.bench.verbs",
    "evaluate": "assay.bench.verbs",
    "predict": "assay.bench.verbs",
    "generate": "assay.bench.verbs",
    "shrink": "assay.bench.verbs",
    "inspect": "assay.bench.verbs",
    "export": "assay.bench.verbs",
    "open_run": "assay.bench.verbs",
    "open": "assay.tasks",
    "catalog": "assay.catalogue.search",
    "check": "assay.testing",
    "reproduce": "assay.papers.runner",
}
__all__ = [
    "Study",
    "advise",
    "catalog",
    "check",
    "compare",
    "evaluate",
    "export",
    "generate",
    "inspect",
    "open",
    "open_run",
    "predict",
    "reproduce",
    "shrink",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _FACE:
        raise AttributeError(f"module 'assay' has no attribute {name!r}")
    return getattr(importlib.import_module(_FACE[name]), name)


def __dir__() -> list[str]:
    return __all__
