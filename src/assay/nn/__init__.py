"""Parts by what they do; every one is a plain ``torch.nn.Module`` (or function) usable alone.

Names resolve on use, so importing one part does not import them all.
"""

from __future__ import annotations

import importlib
from typing import Any

_PARTS = {
    "StreamingMixer": "assay.nn.mixer",
    "ResidualBlock": "assay.nn.block",
    "FeedForward": "assay.nn.block",
    "SoftmaxAttention": "assay.nn.attention.softmax",
    "Aaren": "assay.nn.attention.aaren",
    "LSTM": "assay.nn.recurrent.reference",
    "GRU": "assay.nn.recurrent.reference",
    "MaskedRecurrentCell": "assay.nn.recurrent.masked",
    "MaskedTanh": "assay.nn.recurrent.masked",
    "MaskedReLU": "assay.nn.recurrent.masked",
    "MaskedGRU": "assay.nn.recurrent.masked",
    "MaskedLSTM": "assay.nn.recurrent.masked",
    "layered_dag": "assay.nn.recurrent.layered",
    "SAFPool2d": "assay.nn.pooling",
    "ScaledResidual": "assay.nn.residual",
    "AdaptivePropagation": "assay.nn.graph.propagation",
    "FixedPropagation": "assay.nn.graph.propagation",
    "EndToEndMemory": "assay.nn.memory.end_to_end",
}
__all__ = sorted(_PARTS)


def __getattr__(name: str) -> Any:
    if name not in _PARTS:
        raise AttributeError(f"module 'assay.nn' has no attribute {name!r}")
    return getattr(importlib.import_module(_PARTS[name]), name)


def __dir__() -> list[str]:
    return __all__
