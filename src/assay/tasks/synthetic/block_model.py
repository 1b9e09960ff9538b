"""A degree-corrected block model with words: communities that are the classes, hubs among their nodes, and noisy bags of words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse
import torch

from assay.contracts import Class
from assay.tasks.graph_features import as_tensor
from assay.tasks.graph_files import RawGraph
from assay.tasks.graphs import GraphTask, both_directions, edge_homophily, few_labels


def block_model(
    nodes: int = 3_000,
    classes: int = 7,
    degree: float = 3.0,
    homophily: float = 0.9,
    words: int = 500,
    words_per_node: int = 8,
    topical: float = 0.2,
    labels_per_class: int = 20,
    validation_per_class: int = 30,
    seed: int = 0,
) -> GraphTask:
    """Nodes of ``classes`` communities: few informative words each, edges mostly inside communities.

    Every edge picks a node with probability proportional to its propensity (log-normal, σ = 1: hubs and leaves), then a partner
    likewise, from the same class with probability ``homophily`` and from any other class else. Every node draws ``words_per_node``
    words, each from its class's own tenth of the vocabulary with probability ``topical`` and from all words else.

    Args:
        nodes: number of nodes.
        classes: number of communities.
        degree: mean number of edges a node, before repeated ones are dropped.
        homophily: share of edges inside a community, in [0, 1].
        words: size of the vocabulary.
        words_per_node: words drawn a node.
        topical: share of words that tell the class, in [0, 1].
        labels_per_class: training nodes of every class.
        validation_per_class: validation nodes of every class; all others are test nodes.
        seed: of the graph, the words and the division.

    Raises:
        ValueError: an argument out of range, or too few nodes for the labels asked for.

    Source: Karrer and Newman 2011, Stochastic blockmodels and community structure in networks.
    """
    if classes < 2:
        raise ValueError(f"classes must be >= 2, not {classes}")
    for name, share in (("homophily", homophily), ("topical", topical)):
        if not 0 <= share <= 1:
            raise ValueError(f"{name} must lie in [0, 1], not {share}")
    generator = np.random.default_rng(seed)
    label = generator.permutation(np.arange(nodes) % classes)
    ends = _edges(label, int(nodes * degree / 2), homophily, generator)
    table = pd.DataFrame(index=range(nodes))
    edges, _, _ = both_directions(RawGraph(Path("block-model"), [f"node {index}" for index in range(nodes)], table, ends))
    bags = _bags(label, classes, words, words_per_node, topical, generator)
    selected = few_labels(label, labels_per_class, validation_per_class, seed)
    target = torch.from_numpy(label.astype(np.int64))
    share = edge_homophily(edges, target)
    return GraphTask(
        "block-model",
        Class(classes),
        {"nodes": as_tensor(bags), "edges": edges},
        selected,
        target,
        description=f"{nodes:,} nodes, {edges.shape[1] // 2:,} edges, {words:,} words, {classes} classes, homophily {share or 0:.2f}",
        encoding={"opener": "block-model", "labels": [f"community {index + 1}" for index in range(classes)]},
        source={"kind": "graph", "names": [f"node {index}" for index in selected["test"].tolist()]},
    )


def _edges(label: np.ndarray, count: int, homophily: float, generator: np.random.Generator) -> np.ndarray:
    """(2, edges) without self-loops; partners are drawn by propensity within the class that the edge goes to."""
    propensity = generator.lognormal(0.0, 1.0, len(label))
    classes = int(label.max()) + 1
    source = generator.choice(len(label), count, p=propensity / propensity.sum())
    away = generator.random(count) >= homophily
    goal = np.where(away, (label[source] + generator.integers(1, classes, count)) % classes, label[source])
    partner = np.empty(count, dtype=np.int64)
    for index in range(classes):
        members = np.flatnonzero(label == index)
        here = goal == index
        partner[here] = generator.choice(members, int(here.sum()), p=propensity[members] / propensity[members].sum())
    ends = np.stack([source, partner])
    return ends[:, source != partner]


def _bags(
    label: np.ndarray, classes: int, words: int, words_per_node: int, topical: float, generator: np.random.Generator
) -> scipy.sparse.csr_array:
    """(nodes, words), which words a node drew, each row divided by its sum."""
    nodes = len(label)
    topics = [generator.choice(words, max(1, words // 10), replace=False) for _ in range(classes)]
    drawn = generator.integers(0, words, (nodes, words_per_node))
    own = generator.random(drawn.shape) < topical
    for index, topic in enumerate(topics):
        here = own & (label == index)[:, None]
        drawn[here] = generator.choice(topic, int(here.sum()))
    rows = np.repeat(np.arange(nodes), words_per_node)
    bags = scipy.sparse.coo_array((np.ones(rows.shape), (rows, drawn.reshape(-1))), shape=(nodes, words)).tocsr()
    bags.data[:] = 1.0
    return scipy.sparse.csr_array(scipy.sparse.diags_array(1 / bags.sum(1)) @ bags)
