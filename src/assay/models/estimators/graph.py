"""The baseline of node classification: labels that spread along edges."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from assay.contracts import Batch, Graph, Signature, Task
from assay.models.estimators.base import FittedEstimator, array, gather, is_single_class
from assay.models.estimators.choice import accuracy, best

SPREADS = (0.5, 0.8, 0.9, 0.95, 0.99)
ROUNDS = 50


class LabelPropagation(FittedEstimator):
    """F ← α·D^{−1/2} A D^{−1/2} F + (1 − α)·Y, fifty rounds; α is chosen on validation.

    Y holds the training nodes' labels, each class scaled to the same mass. A node that no label reaches gets the class frequencies.
    It knows only the nodes of the graph it was fitted on.

    Source: Zhou et al., Learning with Local and Global Consistency, 2003.
    """

    name = "label-propagation"

    def accepts(self, signature: Signature) -> str | None:
        """The nodes of one graph to one class."""
        if not isinstance(signature.input, Graph):
            return f"it spreads labels along edges, and {type(signature.input).__name__} has none"
        return None if is_single_class(signature) else "it predicts one class for each node"

    def learn(self, task: Task, seed: int) -> dict[str, Any]:
        """Spread the training labels over the whole graph."""
        train, validation = gather(task, "train"), gather(task, "validation")
        chosen, y = array(train["selected"]), array(train["target"])
        nodes, classes = train["nodes"].shape[0], task.signature.output.size
        weight = array(train["edge_weight"]) if "edge_weight" in train else None
        adjacency = normalised_adjacency(array(train["edges"]), nodes, weight)
        frequencies = (np.bincount(y, minlength=classes) + 0.5) / (len(y) + 0.5 * classes)
        labels = np.zeros((nodes, classes))
        labels[chosen, y] = 1.0 / frequencies[y]
        held_out, truth = array(validation["selected"]), array(validation["target"])
        spread, scores = best(
            SPREADS, lambda alpha: _logits(propagate(adjacency, labels, alpha), frequencies), lambda f: accuracy(f[held_out], truth)
        )
        return {"scores": scores.astype(np.float32), "spread": spread}

    def predict(self, batch: Batch) -> NDArray[Any]:
        """Logits (batch, classes)."""
        scores = self.fitted["scores"]
        if batch["nodes"].shape[0] != len(scores):
            raise ValueError(f"label propagation was fitted on a graph of {len(scores)} nodes, got one of {batch['nodes'].shape[0]}")
        return scores[array(batch["selected"])]


def normalised_adjacency(edges: NDArray[Any], nodes: int, weight: NDArray[Any] | None = None) -> Any:
    """D^{−1/2} A D^{−1/2} as a CSR matrix; nodes without edges have an empty row."""
    values = np.ones(edges.shape[1]) if weight is None else weight.astype(np.float64)
    adjacency = scipy.sparse.csr_matrix((values, (edges[1], edges[0])), shape=(nodes, nodes))
    degree = np.asarray(adjacency.sum(1)).ravel()
    root = np.divide(1.0, np.sqrt(degree), out=np.zeros(nodes), where=degree > 0)
    return scipy.sparse.diags(root) @ adjacency @ scipy.sparse.diags(root)


def propagate(adjacency: Any, labels: NDArray[Any], alpha: float, rounds: int = ROUNDS) -> NDArray[Any]:
    """F after ``rounds`` rounds, from F = Y."""
    spread = labels
    for _ in range(rounds):
        spread = alpha * (adjacency @ spread) + (1 - alpha) * labels
    return spread


def _logits(spread: NDArray[Any], frequencies: NDArray[Any]) -> NDArray[Any]:
    total = spread.sum(1, keepdims=True)
    share = np.divide(spread, total, out=np.tile(frequencies, (len(spread), 1)), where=total > 0)
    return np.log(0.999 * share + 0.001 * frequencies)
