"""Features of nodes: columns, bags of words or one array, else what the graph itself says of a node; learned once, JSON in between."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
import torch
from torch import Tensor

from assay.errors import require
from assay.ops.propagation import normalised_operator
from assay.ops.sparse_features import compressed_rows
from assay.tasks.encoders import encode, learn, moments
from assay.tasks.graph_files import RawGraph
from assay.tasks.roles import Column, parse_as
from assay.tasks.rules import note, refuse, some

VOCABULARY = 1_000
_MANY_COLUMNS = 50  # more columns of numbers than this are read as one array: a bag of words, or an embedding
_SPARSE_BELOW = 0.2
_SPECTRAL = 8
_WORD = re.compile(r"[^\W\d_]{2,}")
Spec = dict[str, Any]


def learn_features(
    raw: RawGraph, columns: dict[str, Column], names: Sequence[str], training: np.ndarray, edges: Tensor
) -> tuple[Spec, Tensor, list[str]]:
    """Decide how nodes are described; means and categories come from training nodes, a vocabulary from all nodes of the graph.

    Args:
        raw: the graph as read.
        columns: roles of the table's columns.
        names: the columns that may be used.
        training: positions of the training nodes.
        edges: (2, edges), both directions.

    Returns:
        What `encode_features` needs (JSON), the features (nodes, features), dense or sparse CSR, and sentences.
    """
    useful = [name for name in names if columns[name].role not in ("id", "constant", "empty")]
    dropped = [f"{name!r} ({columns[name].role})" for name in names if name not in useful]
    notes = [note("unread-columns", columns=", ".join(dropped))] if dropped else []
    texts = [name for name in useful if columns[name].role == "text"]
    numbers = [name for name in useful if columns[name].role in ("numeric", "boolean")]
    numbers = numbers if len(numbers) > _MANY_COLUMNS and not any(columns[name].missing().any() for name in numbers) else []
    spec: Spec = {"columns": [], "texts": {}, "numbers": numbers, "array": None, "structure": not useful and raw.matrix is None}
    for name in useful:
        if name not in texts and name not in numbers:
            learned, said = learn(columns[name], training, raw.path)
            spec["columns"].append(learned)
            notes.extend(said)
    for name in texts:
        spec["texts"][name] = vocabulary(columns[name].values.fillna("").tolist())
        notes.append(f"Column {name!r} holds text: nodes are described by its {len(spec['texts'][name]):,} most frequent words.")
    array = _array(raw, numbers)
    if array is not None:
        spec["array"], said = _learn_array(array, training)
        notes.append(said)
    if spec["structure"]:
        notes.append(note("no-node-features", count=_SPECTRAL))
        structure = structural_features(edges, len(raw.names))
        spec["moments"] = [moments(column[training]) for column in structure.T]
    return spec, encode_features(spec, raw, columns, edges), notes


def encode_features(spec: Spec, raw: RawGraph, columns: dict[str, Column], edges: Tensor) -> Tensor:
    """The features (nodes, features) as a spec of `learn_features` says; sparse CSR where most are 0.

    Raises:
        UserError: a column, or a feature of the array, is missing.
    """
    blocks: list[Any] = []
    for learned in spec["columns"]:
        out = np.empty((len(raw.names), learned["width"]), dtype=np.float32)
        _have(learned["name"], columns, raw)
        encode(learned, parse_as(learned["name"], raw.table[learned["name"]], learned["role"], learned["detail"]), raw.path, out)
        blocks.append(out)
    for name, words in spec["texts"].items():
        _have(name, columns, raw)
        texts = parse_as(name, raw.table[name], "text", {}).values.fillna("").tolist()
        blocks.append(bag_of_words(texts, words))
    for name in spec["numbers"]:
        _have(name, columns, raw)
    if spec["array"] is not None:
        blocks.append(_encode_array(spec["array"], _array(raw, spec["numbers"]), raw))
    if spec["structure"]:
        structure = structural_features(edges, len(raw.names))
        mean, deviation = np.array(spec["moments"]).T
        blocks.append(((structure - mean) / deviation).astype(np.float32))
    return as_tensor(scipy.sparse.hstack([scipy.sparse.csr_array(block) for block in blocks], format="csr"))


def as_tensor(matrix: Any) -> Tensor:
    """A scipy matrix as a tensor: CSR where fewer than a fifth of the numbers are stored, dense otherwise."""
    matrix = matrix.astype(np.float32)
    if matrix.nnz >= _SPARSE_BELOW * matrix.shape[0] * matrix.shape[1]:
        return torch.from_numpy(matrix.toarray())
    matrix.sort_indices()
    start, column = torch.from_numpy(matrix.indptr.astype(np.int32)), torch.from_numpy(matrix.indices.astype(np.int32))
    return compressed_rows(start, column, torch.from_numpy(matrix.data), matrix.shape)


def _have(name: str, columns: dict[str, Column], raw: RawGraph) -> None:
    if name not in columns:
        raise refuse("lost-column", path=raw.path, column=name, names=some(list(columns), 12))


# ------------------------------------------------------------------------------------------------ words


def vocabulary(texts: Sequence[str], size: int = VOCABULARY) -> list[str]:
    """The words that are in most texts, most frequent first (ties by alphabet); words in one text only are left out."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(set(_WORD.findall(text.lower())))
    ordered = sorted(((-count, word) for word, count in counts.items() if count > 1))
    return [word for _, word in ordered[:size]]


def bag_of_words(texts: Sequence[str], words: Sequence[str]) -> scipy.sparse.csr_array:
    """Which words a text has, (texts, words), each row divided by its sum; a text without any is a row of zeros."""
    place = {word: index for index, word in enumerate(words)}
    found = [sorted({place[word] for word in _WORD.findall(text.lower()) if word in place}) for text in texts]
    start = np.concatenate([[0], np.cumsum([len(row) for row in found])])
    column = np.array([index for row in found for index in row], dtype=np.int32)
    value = np.concatenate([np.full(len(row), 1 / max(len(row), 1), dtype=np.float32) for row in found] or [np.zeros(0, np.float32)])
    return scipy.sparse.csr_array((value, column, start), shape=(len(texts), len(words)))


# ------------------------------------------------------------------------------------------------ one array


def _array(raw: RawGraph, numbers: Sequence[str]) -> Any:
    """The features that come as one array (scipy CSR): ``raw.matrix``, or many columns of numbers; None without."""
    if raw.matrix is None:
        return scipy.sparse.csr_array(raw.table[list(numbers)].to_numpy(dtype=np.float64)) if numbers else None
    matrix = raw.matrix
    if matrix.layout != torch.strided:
        matrix = matrix.to_sparse_csr()
        parts = (matrix.values().double().numpy(), matrix.col_indices().numpy(), matrix.crow_indices().numpy())
        found = scipy.sparse.csr_array(parts, shape=tuple(matrix.shape))
    else:
        found = scipy.sparse.csr_array(matrix.double().reshape(len(matrix), -1).numpy())
    if not np.isfinite(found.data).all():
        row = int(np.searchsorted(found.indptr, int(np.flatnonzero(~np.isfinite(found.data))[0]), side="right"))
        raise refuse("infinite-value", path=raw.path, row=row, column="x", count=int((~np.isfinite(found.data)).sum()))
    return found


def _learn_array(array: Any, training: np.ndarray) -> tuple[Spec, str]:
    width = array.shape[1]
    density = array.nnz / max(array.shape[0] * width, 1)
    if density < _SPARSE_BELOW and (array.nnz == 0 or array.data.min() >= 0):
        return {"kind": "bag", "width": width}, f"The {width:,} features are sparse and >= 0: each row is divided by its sum."
    trained = array[training].toarray()
    pairs = [moments(column) for column in trained.T]
    spec = {"kind": "numbers", "width": width, "mean": [mean for mean, _ in pairs], "deviation": [deviation for _, deviation in pairs]}
    return spec, f"The {width:,} features are standardised with the training nodes' mean and deviation."


def _encode_array(spec: Spec, array: Any, raw: RawGraph) -> Any:
    if array is None or array.shape[1] != spec["width"]:
        raise refuse("lost-features", path=raw.path, found=0 if array is None else array.shape[1], wanted=spec["width"])
    if spec["kind"] == "bag":
        total = np.asarray(array.sum(1)).reshape(-1)
        return scipy.sparse.diags_array(1 / np.where(total > 0, total, 1.0)) @ array
    return (array.toarray() - np.array(spec["mean"])) / np.array(spec["deviation"])


# ------------------------------------------------------------------------------------------------ the graph alone


def structural_features(edges: Tensor, nodes: int) -> np.ndarray:
    """What a graph says of its nodes (nodes, features): one-hot degree bins (powers of 2), log degree, core number, clustering, the
    mean log degree of neighbours, and the coordinates of the leading eigenvectors of ``Â`` after the first.
    """
    networkx = require("networkx", extra="graph", purpose="Describing nodes by their graph")
    plain = edges[:, edges[0] != edges[1]]
    degree = torch.bincount(plain[0], minlength=nodes).double().numpy()
    log_degree = np.log1p(degree)
    graph = networkx.Graph()
    graph.add_nodes_from(range(nodes))
    graph.add_edges_from(plain.T.tolist())
    core, clustering = networkx.core_number(graph), networkx.clustering(graph)
    neighbours = np.bincount(plain[1].numpy(), weights=log_degree[plain[0].numpy()], minlength=nodes) / np.maximum(degree, 1)
    bins = np.eye(8)[np.minimum(np.ceil(np.log2(degree + 1)).astype(int), 7)]
    columns = [log_degree, np.log1p([core[node] for node in range(nodes)]), [clustering[node] for node in range(nodes)], neighbours]
    return np.hstack([bins, np.array(columns).T, _spectral_coordinates(edges, nodes)])


def _spectral_coordinates(edges: Tensor, nodes: int) -> np.ndarray:
    """Eigenvectors 2 to 9 of ``Â`` (nodes, 8), times sqrt(nodes); signs so that the largest entry is positive; zeros if too few nodes."""
    coordinates = np.zeros((nodes, _SPECTRAL))
    matrix = normalised_operator(edges, nodes, dtype=torch.float64).matrix
    wanted = min(_SPECTRAL + 1, nodes - 1)
    if wanted < 2:
        return coordinates
    if nodes <= 400:
        vectors = np.linalg.eigh(matrix.to_dense().numpy())[1][:, ::-1]
    else:
        parts = (matrix.values().numpy(), matrix.col_indices().numpy(), matrix.crow_indices().numpy())
        sparse = scipy.sparse.csr_array(parts, shape=(nodes, nodes))
        start = np.random.default_rng(0).standard_normal(nodes)
        values, vectors = scipy.sparse.linalg.eigsh(sparse, k=wanted, which="LA", v0=start)
        vectors = vectors[:, np.argsort(-values)]
    vectors = vectors[:, 1:wanted]
    largest = vectors[np.abs(vectors).argmax(0), np.arange(vectors.shape[1])]
    coordinates[:, : vectors.shape[1]] = vectors * np.where(largest < 0, -1.0, 1.0) * np.sqrt(nodes)
    return coordinates
