"""K-hop products with a graph's normalised adjacency: dense reference, cached CSR operator, adaptive sum without its stack.

With ``A`` (nodes, nodes), ``A[i, j]`` the weight of the edge from j to i, ``Ã = A + I`` and ``D̃ = diag(Ã 1)``:

- ``sym``: ``Â = D̃^-1/2 Ã D̃^-1/2`` (Kipf and Welling 2017, Semi-supervised classification with graph convolutional networks);
- ``rw``: ``Â = D̃^-1 Ã``, the average over a node and its neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from assay.ops.sparse_features import compressed_rows

Normalization = Literal["sym", "rw"]
ScoreFunction = Literal["sigmoid", "tanh"]
_CACHED_OPERATORS = 4  # train, validation and test of an inductive study, and one spare


@dataclass(frozen=True)
class Operator:
    """A normalised adjacency ready for products.

    Args:
        matrix: ``Â`` (nodes, nodes), sparse CSR with 32-bit indices.
        transpose: ``Âᵀ``, the same object where ``Â`` is symmetric; backward passes multiply by it.
        undirected: every edge is there in both directions with the same weight.
    """

    matrix: Tensor
    transpose: Tensor
    undirected: bool

    @property
    def nodes(self) -> int:
        """Number of nodes."""
        return self.matrix.shape[0]


# ------------------------------------------------------------------------------------------------ the operator


def check_graph(edges: Tensor, nodes: int, edge_weight: Tensor | None = None) -> None:
    """Refuse what is not a graph over ``nodes`` nodes.

    Raises:
        ValueError: ``edges`` is not (2, edges) of integers, names a node out of range, or a weight is negative, not finite or of
            another count; the offending value is in the message.
    """
    if edges.ndim != 2 or edges.shape[0] != 2:
        raise ValueError(f"edges must have shape (2, edges), not {tuple(edges.shape)}")
    if edges.is_floating_point() or edges.is_complex() or edges.dtype == torch.bool:
        raise ValueError(f"edges must hold integers, not {edges.dtype}")
    if nodes < 0:
        raise ValueError(f"nodes must be >= 0, not {nodes}")
    if edges.numel() and (int(edges.min()) < 0 or int(edges.max()) >= nodes):
        worst = int(edges.min()) if int(edges.min()) < 0 else int(edges.max())
        raise ValueError(f"edges names node {worst}, but there are nodes 0 … {nodes - 1}")
    if edge_weight is None:
        return
    if edge_weight.shape != edges.shape[1:]:
        raise ValueError(f"edge_weight must have shape {(edges.shape[1],)}, not {tuple(edge_weight.shape)}")
    if edge_weight.requires_grad:
        raise ValueError("edge_weight requires a gradient, but the normalised operator holds constants: detach it")
    if edge_weight.numel() and not bool(torch.isfinite(edge_weight).all()):
        raise ValueError("edge_weight holds a value that is not finite")
    if edge_weight.numel() and float(edge_weight.min()) < 0:
        raise ValueError(f"edge_weight holds {float(edge_weight.min())}: normalisation needs weights >= 0")


def normalised_operator(
    edges: Tensor,
    nodes: int,
    edge_weight: Tensor | None = None,
    normalization: Normalization = "sym",
    add_self_loops: bool = True,
    dtype: torch.dtype | None = None,
) -> Operator:
    """``Â`` of a graph, built once and remembered: the same graph asked for again costs a comparison.

    Args:
        edges: (2, edges), a message goes from ``edges[0]`` to ``edges[1]``; duplicates add up.
        nodes: number of nodes; those without an edge count too.
        edge_weight: (edges,), >= 0; 1 if absent.
        normalization: ``sym`` or ``rw``. A directed graph is normalised by its in-degrees.
        add_self_loops: give a loop of weight 1 to every node that has none; existing loops keep their weight.
        dtype: of the values; that of ``edge_weight``, else torch's default.

    Raises:
        ValueError: see `check_graph`; or an unknown ``normalization``.
    """
    if normalization not in ("sym", "rw"):
        raise ValueError(f"normalization must be 'sym' or 'rw', not {normalization!r}")
    if dtype is None:
        dtype = torch.get_default_dtype() if edge_weight is None else edge_weight.dtype
    settings = (nodes, normalization, add_self_loops, dtype, edges.device)
    remembered = _cache.find(edges, edge_weight, settings)
    if remembered is None:
        check_graph(edges, nodes, edge_weight)
        remembered = _build(edges.detach(), nodes, edge_weight, normalization, add_self_loops, dtype)
        _cache.add(edges, edge_weight, settings, remembered)
    return remembered


def _build(edges: Tensor, nodes: int, edge_weight: Tensor | None, normalization: str, add_self_loops: bool, dtype: torch.dtype) -> Operator:
    row, column, weight = adjacency_entries(edges, nodes, edge_weight, add_self_loops, dtype)
    degree = torch.zeros(nodes, dtype=dtype, device=edges.device).index_add_(0, row, weight)
    if normalization == "sym":
        scale = degree.rsqrt().nan_to_num_(posinf=0.0)  # a node without any edge sends and receives nothing
        value = scale[row] * weight * scale[column]
    else:
        value = weight * degree.reciprocal().nan_to_num_(posinf=0.0)[row]
    order = torch.argsort(column * nodes + row)
    pattern_is_symmetric = bool(torch.equal(column[order], row) and torch.equal(row[order], column))
    undirected = pattern_is_symmetric and bool(torch.equal(weight[order], weight))
    matrix = _compressed(row, column, value, nodes)
    same = undirected and normalization == "sym"
    transpose = matrix if same else _compressed(column[order], row[order], value[order], nodes)
    return Operator(matrix, transpose, undirected)


def adjacency_entries(
    edges: Tensor, nodes: int, edge_weight: Tensor | None, add_self_loops: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, columns and weights of ``A`` (or ``Ã``), each place once, sorted by row and column."""
    weight = torch.ones(edges.shape[1], dtype=dtype, device=edges.device) if edge_weight is None else edge_weight.to(dtype)
    row, column = edges[1].long(), edges[0].long()
    if add_self_loops:
        has_loop = torch.zeros(nodes, dtype=torch.bool, device=edges.device)
        has_loop[row[row == column]] = True
        missing = (~has_loop).nonzero().squeeze(1)
        row, column = torch.cat([row, missing]), torch.cat([column, missing])
        weight = torch.cat([weight, weight.new_ones(len(missing))])
    place, where = torch.unique(row * nodes + column, return_inverse=True)
    total = torch.zeros(len(place), dtype=dtype, device=edges.device).index_add_(0, where, weight)
    return place // max(nodes, 1), place % max(nodes, 1), total


def _compressed(row: Tensor, column: Tensor, value: Tensor, nodes: int) -> Tensor:
    # 32-bit indices halve the index traffic of a product that is bound by memory, and are what MKL and cuSPARSE take as they are.
    index_dtype = torch.int32 if max(nodes, len(row)) < 2**31 else torch.int64
    start = torch.zeros(nodes + 1, dtype=torch.long, device=row.device)
    start[1:] = torch.bincount(row, minlength=nodes).cumsum(0)
    return compressed_rows(start.to(index_dtype), column.to(index_dtype), value, (nodes, nodes))


class _OperatorCache:
    """The last few operators; a graph is recognised by identity, else by equal content (a batch moved to a device is a copy)."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.entries: list[tuple[Tensor, Tensor | None, tuple[int, int], tuple[Any, ...], Operator]] = []

    def find(self, edges: Tensor, edge_weight: Tensor | None, settings: tuple[Any, ...]) -> Operator | None:
        if edges.is_inference():
            return None
        # What was changed in place since is forgotten: its content no longer tells which graph the operator is of.
        self.entries = [entry for entry in self.entries if _versions(entry[0], entry[1]) == entry[2]]
        for entry in self.entries:
            if entry[3] == settings and _same(edges, entry[0]) and _same(edge_weight, entry[1]):
                return entry[4]
        return None

    def add(self, edges: Tensor, edge_weight: Tensor | None, settings: tuple[Any, ...], operator: Operator) -> None:
        if edges.is_inference() or (edge_weight is not None and edge_weight.is_inference()):
            return
        self.entries = [(edges, edge_weight, _versions(edges, edge_weight), settings, operator), *self.entries][: self.capacity]


def _versions(edges: Tensor, edge_weight: Tensor | None) -> tuple[int, int]:
    return edges._version, -1 if edge_weight is None else edge_weight._version


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return one is other or (one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other))


_cache = _OperatorCache(_CACHED_OPERATORS)


def dense_operator(
    edges: Tensor,
    nodes: int,
    edge_weight: Tensor | None = None,
    normalization: Normalization = "sym",
    add_self_loops: bool = True,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """The reference: ``Â`` (nodes, nodes), dense, written down entry by entry from its definition; arguments as `normalised_operator`."""
    check_graph(edges, nodes, edge_weight)
    weight = torch.ones(edges.shape[1]) if edge_weight is None else edge_weight
    adjacency = torch.zeros(nodes, nodes, dtype=dtype or weight.dtype)
    looped = set()
    for (source, target), value in zip(edges.T.tolist(), weight.tolist(), strict=True):
        adjacency[target, source] += value
        if source == target:
            looped.add(source)
    if add_self_loops:
        for node in set(range(nodes)) - looped:
            adjacency[node, node] = 1.0
    degree = adjacency.sum(1)
    if normalization == "rw":
        return torch.where(degree > 0, 1 / degree, 0.0)[:, None] * adjacency
    scale = torch.where(degree > 0, degree.rsqrt(), 0.0)
    return scale[:, None] * adjacency * scale[None, :]


# ------------------------------------------------------------------------------------------------ products


def hops(x: Tensor, operator: Operator, num_hops: int) -> Iterator[Tensor]:
    """``x, Â x, Â² x, …, Â^K x`` (nodes, width), one after another; differentiable."""
    _check_features(x, operator, num_hops)
    yield x
    for _ in range(num_hops):
        x = propagate(x, operator, 1)
        yield x


def propagate(x: Tensor, operator: Operator, num_hops: int) -> Tensor:
    """``Â^K x``; its gradient is ``(Âᵀ)^K`` times the output's, so nothing of the way is kept.

    Args:
        x: (nodes, width).
        operator: from `normalised_operator`.
        num_hops: K >= 0.

    Raises:
        ValueError: ``x`` is not (nodes, width), or K < 0.
    """
    _check_features(x, operator, num_hops)
    return _Propagate.apply(x, operator, num_hops)


def adaptive_sum_reference(
    x: Tensor, operator: Operator, num_hops: int, weight: Tensor, bias: Tensor, score: ScoreFunction = "sigmoid"
) -> Tensor:
    """The reference of `adaptive_sum`: stacks all hops (nodes, hops + 1, width), then weighs and sums them."""
    stack = torch.stack(list(hops(x, operator, num_hops)), dim=1)
    scores = _SCORES[score][0](stack @ weight + bias)
    return (scores.unsqueeze(-1) * stack).sum(1)


def adaptive_sum(
    x: Tensor, operator: Operator, num_hops: int, weight: Tensor, bias: Tensor, score: ScoreFunction = "sigmoid"
) -> tuple[Tensor, Tensor]:
    """Each node's own weighted sum over hops: ``Σ_l f(H_l s + b) ⊙ H_l`` with ``H_l = Â^l x``, l = 0 … K.

    The stack of hops is never held: forward accumulates hop by hop; backward recomputes the hops once, reduces each to one number
    a node (``g · H_l`` for the output's gradient g), and runs the adjoint ``G_l = ∂/∂H_l + Âᵀ G_{l+1}`` down from the last. Memory
    nodes × (width + hops) instead of nodes × width × hops, for K more products.

    Args:
        x: (nodes, width).
        operator: from `normalised_operator`.
        num_hops: K >= 0.
        weight: s (width,).
        bias: b, a scalar.
        score: f; ``sigmoid`` keeps a hop or not, ``tanh`` may also subtract it (for graphs whose neighbours differ).

    Returns:
        The sum (nodes, width) and the scores (nodes, K + 1); the scores carry no gradient.

    Raises:
        ValueError: wrong shapes, K < 0 or an unknown ``score``.

    Source: Liu, Gao and Ji 2020, Towards deeper graph neural networks, equations 8 to 11.
    """
    _check_features(x, operator, num_hops)
    if weight.shape != x.shape[1:] or bias.numel() != 1:
        raise ValueError(
            f"weight must have shape {tuple(x.shape[1:])} and bias one number, not {tuple(weight.shape)} and {tuple(bias.shape)}"
        )
    if score not in _SCORES:
        raise ValueError(f"score must be one of {sorted(_SCORES)}, not {score!r}")
    return _AdaptiveSum.apply(x, weight, bias, operator, num_hops, score)


def _check_features(x: Tensor, operator: Operator, num_hops: int) -> None:
    if x.ndim != 2 or x.shape[0] != operator.nodes:
        raise ValueError(f"x must have shape (nodes = {operator.nodes}, width), not {tuple(x.shape)}")
    if num_hops < 0:
        raise ValueError(f"num_hops must be >= 0, not {num_hops}")


_SCORES = {  # the function, and its derivative from its value
    "sigmoid": (torch.sigmoid, lambda value: value * (1 - value)),
    "tanh": (torch.tanh, lambda value: 1 - value * value),
}


class _Propagate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, operator: Operator, num_hops: int) -> Tensor:
        ctx.operator, ctx.num_hops = operator, num_hops
        for _ in range(num_hops):
            x = operator.matrix @ x
        return x if num_hops else x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        operator: Operator = ctx.operator
        backwards = Operator(operator.transpose, operator.matrix, operator.undirected)
        return _Propagate.apply(gradients[0].contiguous(), backwards, ctx.num_hops), None, None


class _AdaptiveSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, operator: Operator, num_hops: int, score: ScoreFunction
    ) -> tuple[Tensor, Tensor]:
        function = _SCORES[score][0]
        scores = x.new_empty(num_hops + 1, x.shape[0])
        total, hop = torch.zeros_like(x), x
        for index in range(num_hops + 1):
            hop = operator.matrix @ hop if index else hop
            scores[index] = function(hop @ weight + bias.reshape(()))
            total.addcmul_(hop, scores[index][:, None])
        ctx.save_for_backward(x, weight, bias, scores)
        ctx.operator, ctx.score = operator, score
        kept = scores.T
        ctx.mark_non_differentiable(kept)
        return total, kept

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        x, weight, bias, scores = ctx.saved_tensors
        operator: Operator = ctx.operator
        gradient = gradients[0]
        slope = _SCORES[ctx.score][1](scores)
        # How the loss feels the score's argument at each node and hop: (g · H_l) f'. One number, whatever the width.
        felt, hop, of_weight = torch.empty_like(scores), x, torch.zeros_like(weight)
        for index in range(len(scores)):
            hop = operator.matrix @ hop if index else hop
            felt[index] = (gradient * hop).sum(1) * slope[index]
            of_weight += felt[index] @ hop
        adjoint = torch.zeros_like(x)
        for index in reversed(range(len(scores))):
            adjoint = operator.transpose @ adjoint if index < len(scores) - 1 else adjoint
            adjoint.addcmul_(gradient, scores[index][:, None]).addcmul_(felt[index][:, None], weight[None, :])
        return adjoint, of_weight, felt.sum().reshape(bias.shape), None, None, None
