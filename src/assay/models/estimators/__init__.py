"""Classical baselines: what a network must beat to be worth its training."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from assay import registry
from assay.contracts import Class, Events, Graph, Image, NextStroke, NextTokens, Pair, Series, Signature, Table, Tokens, Values

_WHERE = {
    "ConstantStrokes": "strokes",
    "FittedEstimator": "base",
    "GradientBoosting": "tabular",
    "Hyperdimensional": "hyperdimensional",
    "InContextNGram": "backoff",
    "InfiniteDepth": "kernel",
    "InfiniteWidth": "kernel",
    "LabelPropagation": "graph",
    "Logistic": "tabular",
    "Majority": "simple",
    "MiniRocket": "series",
    "NGram": "text",
    "PoissonEvents": "events",
    "PositionMajority": "simple",
    "RidgeValues": "tabular",
    "SeasonalNaive": "series",
    "SupportVectors": "tabular",
    "TfIdf": "text",
}
__all__ = ["baselines_for", *_WHERE]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'assay.models.estimators' has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)


def baselines_for(signature: Signature) -> list[str]:
    """Names of the one or two estimators that stand beside the networks on this kind of data, cheapest first.

    MiniRocket needs aeon: without it a support-vector machine takes its place. Where nothing fits, the majority answers.
    """
    wished = _wished(signature)
    fitting = [name for name in wished if registry.resolve("estimator", name)().accepts(signature) is None]
    if fitting:
        return fitting
    return ["majority"] if registry.resolve("estimator", "majority")().accepts(signature) is None else []


def _wished(signature: Signature) -> list[str]:
    values = isinstance(signature.output, Values)
    if isinstance(signature.output, Class) and signature.per_position:
        return ["behaviour-majority"]
    if isinstance(signature.output, NextStroke):
        return ["constant-strokes"]
    if isinstance(signature.input, Image):
        return ["ridge"] if values else ["logistic-regression", "svm"]
    if isinstance(signature.input, Table):
        return ["ridge" if values else "logistic-regression", "gradient-boosting"]
    if isinstance(signature.input, Series):
        if values:
            return ["seasonal-naive", "ridge"]
        return ["logistic-regression", "minirocket" if importlib.util.find_spec("aeon") else "svm"]
    if isinstance(signature.input, Tokens):
        return ["ngram"] if isinstance(signature.output, NextTokens) else ["tfidf"]
    if isinstance(signature.input, Pair):
        return ["tfidf"]
    if isinstance(signature.input, Graph):
        return ["ridge"] if values else ["label-propagation", "logistic-regression"]
    return ["poisson"] if isinstance(signature.input, Events) else []
