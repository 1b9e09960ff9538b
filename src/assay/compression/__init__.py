"""Making trained networks smaller: one file a compressor; names resolve on use."""

from __future__ import annotations

import importlib
from typing import Any

_NAMES = {
    "Fold": "assay.compression.fold",
    "Magnitude": "assay.compression.magnitude",
    "RegainCurve": "assay.compression.regain",
    "load_sparse": "assay.compression.sparse_file",
    "prune_recurrent": "assay.compression.pruning",
    "save_sparse": "assay.compression.sparse_file",
}
__all__ = sorted(_NAMES)


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'assay.compression' has no attribute {name!r}")
    return getattr(importlib.import_module(_NAMES[name]), name)
