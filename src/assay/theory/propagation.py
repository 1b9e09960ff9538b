"""Where propagation over a graph ends, and how fast it gets there.

For an undirected graph with self-loops, per connected component with degrees ``d̃``:

- ``rw``: ``lim Â^k = 1 πᵀ``, ``π_i = d̃_i / Σ d̃``: every node ends with the same vector;
- ``sym``: ``lim Â^k = v vᵀ``, ``v_i = sqrt(d̃_i) / ||sqrt(d̃)||``: every node ends with the same direction, its length set by its degree.

The distance to the limit shrinks as ``|λ_2|^k``, with ``λ_2`` the eigenvalue of largest absolute value after those equal to 1, one
a component (Liu, Gao and Ji 2020, Towards deeper graph neural networks, section 3.3).
"""

from __future__ import annotations

import math

import numpy as np
import scipy.sparse
import scipy.sparse.csgraph
import scipy.sparse.linalg
import torch
from torch import Tensor

from assay.ops.propagation import Normalization, adjacency_entries, check_graph

_DENSE_UP_TO = 400  # below this a full decomposition is quicker than Lanczos and cannot miss a cluster of eigenvalues


def components(edges: Tensor, nodes: int) -> np.ndarray:
    """The connected component, 0 … c-1, of every node (nodes,)."""
    check_graph(edges, nodes)
    ends = edges.cpu().numpy()
    matrix = scipy.sparse.coo_matrix((np.ones(ends.shape[1]), (ends[0], ends[1])), shape=(nodes, nodes))
    return scipy.sparse.csgraph.connected_components(matrix, directed=False)[1]


def largest_component(edges: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
    """The nodes of the largest connected component (positions, sorted) and its edges (2, edges) numbered among those nodes."""
    component = components(edges, nodes)
    kept = np.flatnonzero(component == np.bincount(component).argmax())
    number = torch.full((nodes,), -1)
    number[torch.from_numpy(kept)] = torch.arange(len(kept))
    inside = edges[:, number[edges[0]] >= 0]
    return torch.from_numpy(kept), number[inside]


def propagation_limit(edges: Tensor, nodes: int, normalization: Normalization = "sym", edge_weight: Tensor | None = None) -> Tensor:
    """``lim_{k→∞} Â^k`` (nodes, nodes), float64, of an undirected graph with self-loops; 0 between components.

    Raises:
        ValueError: the graph is directed, not a graph, or ``normalization`` is unknown.
    """
    return propagated_limit(torch.eye(nodes, dtype=torch.float64), edges, normalization, edge_weight)


def propagated_limit(x: Tensor, edges: Tensor, normalization: Normalization = "sym", edge_weight: Tensor | None = None) -> Tensor:
    """``lim_{k→∞} Â^k x`` (nodes, width), float64, without the (nodes, nodes) matrix; arguments as `propagation_limit`."""
    if normalization not in ("sym", "rw"):
        raise ValueError(f"normalization must be 'sym' or 'rw', not {normalization!r}")
    nodes = x.shape[0]
    degree = torch.from_numpy(_degrees(_adjacency(edges, nodes, edge_weight)))
    component = torch.from_numpy(components(edges, nodes)).long()
    count = int(component.max()) + 1 if nodes else 0
    total = torch.zeros(count, dtype=torch.float64).index_add_(0, component, degree)
    left = degree.sqrt() if normalization == "sym" else torch.ones_like(degree)
    right = degree.sqrt() if normalization == "sym" else degree
    weighted = right[:, None] * x.double().cpu()
    gathered = torch.zeros(count, x.shape[1], dtype=torch.float64).index_add_(0, component, weighted)
    return left[:, None] * (gathered / total[:, None])[component]


def second_eigenvalue(edges: Tensor, nodes: int, edge_weight: Tensor | None = None) -> float:
    """``|λ_2|``: the largest absolute eigenvalue of ``Â`` once the eigenvalue 1 of each component is taken out.

    ``sym`` and ``rw`` are similar matrices, so it is the same for both. 0 where every component is complete or a single node.

    Raises:
        ValueError: the graph is directed or not a graph.
    """
    adjacency = _adjacency(edges, nodes, edge_weight)
    degree = _degrees(adjacency)
    scale = scipy.sparse.diags_array(1 / np.sqrt(degree))
    matrix = (scale @ adjacency @ scale).tocsr()
    component = components(edges, nodes)
    total = np.bincount(component, weights=degree)
    first = np.sqrt(degree / total[component])  # the unit eigenvectors of eigenvalue 1, their supports side by side

    kernel = scipy.sparse.csr_array((first, (np.arange(nodes), component)), shape=(nodes, int(component.max(initial=-1)) + 1))
    if nodes <= _DENSE_UP_TO:
        return float(np.abs(np.linalg.eigvalsh((matrix - kernel @ kernel.T).toarray())).max(initial=0.0))
    wrap = scipy.sparse.linalg.aslinearoperator
    operator = wrap(matrix) - wrap(kernel) @ wrap(kernel.T.tocsr())
    start = np.random.default_rng(0).standard_normal(nodes)  # ARPACK's own start is random: the same graph must give the same figure
    values = scipy.sparse.linalg.eigsh(operator, k=1, which="LM", v0=start, return_eigenvectors=False, ncv=min(nodes - 1, 60))
    return float(np.abs(values).max())


def mixing_hops(eps: float, second: float) -> float:
    """Hops after which the distance to the limit has shrunk to ``eps`` of its start: ``ceil(log eps / log |λ_2|)``.

    Args:
        eps: in (0, 1).
        second: ``|λ_2|`` in [0, 1], from `second_eigenvalue`; 1 never mixes (infinite).

    Raises:
        ValueError: an argument out of range.
    """
    if not 0 < eps < 1:
        raise ValueError(f"eps must lie in (0, 1), not {eps}")
    if not 0 <= second <= 1:
        raise ValueError(f"second must lie in [0, 1], not {second}")
    if second == 0:
        return 1
    return math.inf if second == 1 else math.ceil(math.log(eps) / math.log(second))


def _adjacency(edges: Tensor, nodes: int, edge_weight: Tensor | None) -> scipy.sparse.csr_array:
    check_graph(edges, nodes, edge_weight)
    row, column, weight = (part.cpu().numpy() for part in adjacency_entries(edges, nodes, edge_weight, True, torch.float64))
    adjacency = scipy.sparse.coo_array((weight, (row, column)), shape=(nodes, nodes)).tocsr()
    if abs(adjacency - adjacency.T).max() > 0:
        raise ValueError("edges is directed, but the limits are those of undirected graphs: give every edge in both directions")
    return adjacency


def _degrees(adjacency: scipy.sparse.csr_array) -> np.ndarray:
    degree = np.asarray(adjacency.sum(1)).reshape(-1)
    if len(degree) and degree.min() <= 0:
        raise ValueError(f"node {int(degree.argmin())} has degree 0 although self-loops are added: its own loop has weight 0")
    return degree
