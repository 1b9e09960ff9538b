"""Propagation over a graph apart from any transformation: to a fixed number of hops, or as far as each node wants."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from assay.nn.linear import Linear
from assay.ops.propagation import Normalization, Operator, ScoreFunction, adaptive_sum, normalised_operator, propagate


class _Propagation(nn.Module):
    """What both kinds share: the hop count and how the graph is normalised."""

    def __init__(self, num_hops: int, normalization: Normalization, add_self_loops: bool) -> None:
        super().__init__()
        if num_hops < 0:
            raise ValueError(f"num_hops must be >= 0, not {num_hops}")
        if normalization not in ("sym", "rw"):
            raise ValueError(f"normalization must be 'sym' or 'rw', not {normalization!r}")
        self.num_hops = num_hops
        self.normalization: Normalization = normalization
        self.add_self_loops = add_self_loops

    def operator(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor | None = None) -> Operator:
        """The normalised adjacency for ``x`` (nodes, width), remembered from call to call.

        Raises:
            ValueError: ``x`` is not (nodes, width), the edges are no graph, or the graph is directed.
        """
        if x.ndim != 2:
            raise ValueError(f"x must have shape (nodes, width), not {tuple(x.shape)}")
        operator = normalised_operator(edge_index, x.shape[0], edge_weight, self.normalization, self.add_self_loops, x.dtype)
        if not operator.undirected:
            raise ValueError("edge_index is directed, but propagation is defined on undirected graphs: give every edge in both directions")
        return operator

    def extra_repr(self) -> str:
        """What ``print`` shows between the brackets."""
        return f"num_hops={self.num_hops}, normalization={self.normalization!r}, add_self_loops={self.add_self_loops}"


class FixedPropagation(_Propagation):
    """The same number of hops for every node: ``Â^K x``, without parameters.

    Args:
        num_hops: K >= 0; 0 is the identity.
        normalization: ``sym`` (``D̃^-1/2 Ã D̃^-1/2``) or ``rw`` (``D̃^-1 Ã``).
        add_self_loops: give a loop to every node that has none.

    Raises:
        ValueError: an argument out of range.

    Source: Wu et al. 2019, Simplifying graph convolutional networks.
    """

    def __init__(self, num_hops: int, normalization: Normalization = "sym", add_self_loops: bool = True) -> None:
        super().__init__(num_hops, normalization, add_self_loops)

    def forward(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor | None = None) -> Tensor:
        """``x`` (nodes, width), ``edge_index`` (2, edges) with both directions of every edge, ``edge_weight`` (edges,) >= 0."""
        return propagate(x, self.operator(x, edge_index, edge_weight), self.num_hops)


class AdaptivePropagation(_Propagation):
    """Each node weighs its own hops: ``Σ_l σ(H_l s + b) ⊙ H_l`` with ``H_l = Â^l x``, l = 0 … K.

    The retainment scores ``σ(…)`` (nodes, K + 1) are not normalised over hops: a node may keep all, some or none. ``s`` and ``b``
    are shared by all nodes and hops and start as `nn.Linear` does. Works on any vector a node, not only on class logits.

    Args:
        dim: width of ``x``.
        num_hops: K >= 0.
        normalization: ``sym`` (``D̃^-1/2 Ã D̃^-1/2``) or ``rw`` (``D̃^-1 Ã``).
        add_self_loops: give a loop to every node that has none.
        score_bias: whether b is there; the paper's equation has none, its code has one.
        score: ``sigmoid``, or ``tanh``, which may subtract a hop: for graphs whose neighbours tend to differ.

    Raises:
        ValueError: an argument out of range.

    Source: Liu, Gao and Ji 2020, Towards deeper graph neural networks.
    """

    def __init__(
        self,
        dim: int,
        num_hops: int,
        normalization: Normalization = "sym",
        add_self_loops: bool = True,
        score_bias: bool = True,
        score: ScoreFunction = "sigmoid",
    ) -> None:
        super().__init__(num_hops, normalization, add_self_loops)
        if dim < 1:
            raise ValueError(f"dim must be >= 1, not {dim}")
        if score not in ("sigmoid", "tanh"):
            raise ValueError(f"score must be 'sigmoid' or 'tanh', not {score!r}")
        self.dim = dim
        self.score_function: ScoreFunction = score
        self.score = Linear(dim, 1, bias=score_bias)

    def forward(
        self, x: Tensor, edge_index: Tensor, edge_weight: Tensor | None = None, return_scores: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Propagate; with ``return_scores`` also give the scores (nodes, K + 1), which carry no gradient.

        Args:
            x: (nodes, dim).
            edge_index: (2, edges), both directions of every edge.
            edge_weight: (edges,), >= 0.
            return_scores: which hop did each node use.
        """
        if x.ndim == 2 and x.shape[1] != self.dim:
            raise ValueError(f"x must have shape (nodes, {self.dim}), not {tuple(x.shape)}")
        operator = self.operator(x, edge_index, edge_weight)
        bias = x.new_zeros(()) if self.score.bias is None else self.score.bias
        weight = self.score.weight.reshape(self.dim)
        total, scores = adaptive_sum(x, operator, self.num_hops, weight.to(x.dtype), bias.to(x.dtype), self.score_function)
        return (total, scores) if return_scores else total

    def extra_repr(self) -> str:
        """What ``print`` shows between the brackets."""
        return f"dim={self.dim}, {super().extra_repr()}, score={self.score_function!r}"


def mean_hop(scores: Tensor) -> Tensor:
    """The mean hop (nodes,) that retainment scores (nodes, K + 1) put their weight on, in hops.

    Raises:
        ValueError: ``scores`` is not (nodes, K + 1), or holds a negative value (``tanh`` scores have no mean hop).
    """
    if scores.ndim != 2:
        raise ValueError(f"scores must have shape (nodes, hops + 1), not {tuple(scores.shape)}")
    if scores.numel() and float(scores.min()) < 0:
        raise ValueError(f"scores holds {float(scores.min())}: a mean hop needs scores >= 0")
    hop = torch.arange(scores.shape[1], dtype=scores.dtype, device=scores.device)
    return scores @ hop / scores.sum(1).clamp(min=torch.finfo(scores.dtype).tiny)
