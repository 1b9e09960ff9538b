"""Node predictors: DAGNN and its decoupled baseline, with GCN, GAT, APPNP and SGC from torch_geometric as company.

Each core maps features (nodes, in_dim), dense or sparse CSR, and edges (2, edges) to (nodes, out); `NodePredictor` makes one of
them a model that takes batches.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from assay.contracts import Batch, Class, Graph, Output, Signature, Values
from assay.errors import require
from assay.nn.graph.propagation import AdaptivePropagation, FixedPropagation
from assay.nn.linear import Linear
from assay.ops.propagation import Normalization, ScoreFunction, normalised_operator
from assay.ops.sparse_features import dropout_features, is_sparse_rows, sparse_linear

_PURPOSE = "A graph network of torch_geometric"


class FeatureLinear(Linear):
    """`Linear` that also takes sparse CSR features, which get no gradient."""

    def forward(self, input: Tensor) -> Tensor:
        """``x Wᵀ + b`` for ``x`` (nodes, in)."""
        if not is_sparse_rows(input):
            return super().forward(input)
        y = sparse_linear(input, self.weight)
        return y if self.bias is None else y + self.bias


class FeatureMLP(nn.Module):
    """The transformation apart from propagation: dropout → linear → [batch norm] → ReLU → dropout → linear.

    Args:
        in_dim: features a node.
        hidden_dim: units of the hidden layer.
        out_dim: numbers a node that come out.
        dropout: before both linear maps.
        input_dropout: before the first, if other than ``dropout``.
        norm: ``batch`` for batch normalisation after the first linear map.

    Raises:
        ValueError: a dropout outside [0, 1), or an unknown ``norm``.
    """

    def __init__(
        self, in_dim: int, hidden_dim: int, out_dim: int, dropout: float, input_dropout: float | None = None, norm: str | None = None
    ) -> None:
        super().__init__()
        input_dropout = dropout if input_dropout is None else input_dropout
        for probability in (dropout, input_dropout):
            if not 0 <= probability < 1:
                raise ValueError(f"dropout must lie in [0, 1), not {probability}")
        if norm not in (None, "batch"):
            raise ValueError(f"norm must be None or 'batch', not {norm!r}")
        self.dropout = dropout
        self.input_dropout = input_dropout
        self.first = FeatureLinear(in_dim, hidden_dim)
        self.norm = nn.BatchNorm1d(hidden_dim) if norm == "batch" else nn.Identity()
        self.second = Linear(hidden_dim, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        """``x`` (nodes, in_dim), dense or sparse CSR → (nodes, out_dim)."""
        if x.ndim != 2 or x.shape[1] != self.first.in_features:
            raise ValueError(f"x must have shape (nodes, {self.first.in_features}), not {tuple(x.shape)}")
        x = self.first(dropout_features(x, self.input_dropout, self.training))
        return self.second(F.dropout(F.relu(self.norm(x)), self.dropout, self.training))


class DAGNN(nn.Module):
    """Deep adaptive graph network: ``Z = MLP(X)``, then each node's own weighted sum over ``Z, Â Z, …, Â^K Z``.

    Transformation and propagation are apart, so K hops cost K sparse products of class-wide vectors and no parameters: in_dim · h +
    h + h · c + c + c + 1 in all.

    Args:
        in_dim: features a node.
        num_classes: c.
        hidden_dim: h.
        num_hops: K.
        dropout: on the features and on the hidden layer.
        normalization: ``sym`` or ``rw``.
        add_self_loops: give a loop to every node that has none.
        score_bias: bias of the retainment scores; the paper's equation has none, its code has one.
        norm: ``batch`` for the variant published on ogbn-arxiv.
        input_dropout: on the features, if other than ``dropout``.
        score: ``sigmoid``, or ``tanh`` where neighbours tend to differ.

    Source: Liu, Gao and Ji 2020, Towards deeper graph neural networks.
    """

    def __init__(
        self,
        in_dim: int,
        num_classes: int,
        hidden_dim: int = 64,
        num_hops: int = 10,
        dropout: float = 0.8,
        normalization: Normalization = "sym",
        add_self_loops: bool = True,
        score_bias: bool = True,
        norm: Literal["batch"] | None = None,
        input_dropout: float | None = None,
        score: ScoreFunction = "sigmoid",
    ) -> None:
        super().__init__()
        self.transform = FeatureMLP(in_dim, hidden_dim, num_classes, dropout, input_dropout, norm)
        self.propagation = AdaptivePropagation(num_classes, num_hops, normalization, add_self_loops, score_bias, score)

    def forward(
        self, x: Tensor, edge_index: Tensor, edge_weight: Tensor | None = None, return_scores: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Logits (nodes, classes); with ``return_scores`` also the scores (nodes, K + 1).

        Args:
            x: (nodes, in_dim), dense or sparse CSR.
            edge_index: (2, edges), both directions of every edge.
            edge_weight: (edges,), >= 0.
            return_scores: which hops did each node use.
        """
        return self.propagation(self.transform(x), edge_index, edge_weight, return_scores)


class DecoupledGNN(nn.Module):
    """``Â^K MLP(X)``: every node uses hop K alone; K = 0 is the MLP. Arguments as `DAGNN`.

    Source: Liu, Gao and Ji 2020, Towards deeper graph neural networks, section 3.2.
    """

    def __init__(
        self,
        in_dim: int,
        num_classes: int,
        hidden_dim: int = 64,
        num_hops: int = 10,
        dropout: float = 0.8,
        normalization: Normalization = "sym",
        add_self_loops: bool = True,
        norm: Literal["batch"] | None = None,
        input_dropout: float | None = None,
    ) -> None:
        super().__init__()
        self.transform = FeatureMLP(in_dim, hidden_dim, num_classes, dropout, input_dropout, norm)
        self.propagation = FixedPropagation(num_hops, normalization, add_self_loops)

    def forward(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor | None = None) -> Tensor:
        """Logits (nodes, classes)."""
        return self.propagation(self.transform(x), edge_index, edge_weight)


class EntangledGCN(nn.Module):
    """``X ← relu(Â X W + b)``, ``depth`` times, the last without ReLU; layers are torch_geometric's `GCNConv`.

    The adjacency is normalised once and remembered, where the layer alone would do it at every call.

    Args:
        in_dim: features a node.
        out_dim: numbers a node that come out.
        hidden_dim: width of the layers between.
        depth: number of layers, >= 1.
        dropout: before every layer.
        residual: add a layer's input to its output where widths agree.
        norm: ``layer`` for layer normalisation before each ReLU.

    Raises:
        ValueError: depth < 1, a dropout outside [0, 1), or an unknown ``norm``.

    Source: Kipf and Welling 2017, Semi-supervised classification with graph convolutional networks.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        hidden_dim: int = 64,
        depth: int = 2,
        dropout: float = 0.5,
        residual: bool = False,
        norm: str | None = None,
    ) -> None:
        super().__init__()
        if depth < 1:
            raise ValueError(f"depth must be >= 1, not {depth}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), not {dropout}")
        if norm not in (None, "layer"):
            raise ValueError(f"norm must be None or 'layer', not {norm!r}")
        convolution = require("torch_geometric.nn", "graph", _PURPOSE).GCNConv
        widths = [in_dim, *[hidden_dim] * (depth - 1), out_dim]
        self.layers = nn.ModuleList(convolution(widths[i], widths[i + 1], normalize=False) for i in range(depth))
        self.layers[0].lin = _glorot_linear(in_dim, widths[1])
        self.norms = nn.ModuleList(nn.LayerNorm(hidden_dim) if norm else nn.Identity() for _ in range(depth - 1))
        self.dropout = dropout
        self.residual = residual

    def forward(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor | None = None) -> Tensor:
        """Logits (nodes, out_dim) for ``x`` (nodes, in_dim), dense or sparse CSR."""
        adjacency = normalised_operator(edge_index, x.shape[0], edge_weight, dtype=x.dtype).matrix
        for index, layer in enumerate(self.layers):
            y = layer(dropout_features(x, self.dropout, self.training), adjacency)
            if index < len(self.norms):
                y = F.relu(self.norms[index](y))
            x = x + y if self.residual and not is_sparse_rows(x) and x.shape == y.shape else y
        return x


class GATNetwork(nn.Module):
    """Two layers of torch_geometric's `GATConv` with an ELU between; edge weights are not looked at, attention replaces them.

    Args:
        in_dim: features a node.
        out_dim: numbers a node that come out.
        hidden_dim: width of one head.
        heads: heads of the first layer; the second has one.
        dropout: before both layers and on the attention.

    Source: Veličković et al. 2018, Graph attention networks.
    """

    def __init__(self, in_dim: int, out_dim: int, hidden_dim: int = 8, heads: int = 8, dropout: float = 0.6) -> None:
        super().__init__()
        convolution = require("torch_geometric.nn", "graph", _PURPOSE).GATConv
        self.first = convolution(in_dim, hidden_dim, heads, dropout=dropout)
        self.first.lin = _glorot_linear(in_dim, hidden_dim * heads)
        self.second = convolution(hidden_dim * heads, out_dim, 1, concat=False, dropout=dropout)
        self.dropout = dropout

    def forward(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor | None = None) -> Tensor:
        """Logits (nodes, out_dim); ``edge_weight`` is not used."""
        x = F.elu(self.first(dropout_features(x, self.dropout, self.training), edge_index))
        return self.second(F.dropout(x, self.dropout, self.training), edge_index)


class APPNPNetwork(nn.Module):
    """An MLP, then torch_geometric's `APPNP`: ``H ← (1 - α) Â H + α Z``, K times from ``H = Z = MLP(X)``.

    Args:
        in_dim: features a node.
        out_dim: numbers a node that come out.
        hidden_dim: units of the hidden layer.
        num_hops: K.
        alpha: how much of ``Z`` comes back at each hop, in [0, 1].
        dropout: on the features and the hidden layer.

    Source: Gasteiger, Bojchevski and Günnemann 2019, Predict then propagate.
    """

    def __init__(
        self, in_dim: int, out_dim: int, hidden_dim: int = 64, num_hops: int = 10, alpha: float = 0.1, dropout: float = 0.5
    ) -> None:
        super().__init__()
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must lie in [0, 1], not {alpha}")
        self.transform = FeatureMLP(in_dim, hidden_dim, out_dim, dropout)
        self.propagation = require("torch_geometric.nn", "graph", _PURPOSE).APPNP(num_hops, alpha, normalize=False)

    def forward(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor | None = None) -> Tensor:
        """Logits (nodes, out_dim)."""
        adjacency = normalised_operator(edge_index, x.shape[0], edge_weight, dtype=x.dtype).matrix
        return self.propagation(self.transform(x), adjacency)


class SGCNetwork(nn.Module):
    """``Â^K X W + b`` by torch_geometric's `SGConv`, computed as ``Â^K (X W)``: the same, but K hops of the narrow side.

    Args:
        in_dim: features a node.
        out_dim: numbers a node that come out.
        num_hops: K.
        dropout: on the features.

    Source: Wu et al. 2019, Simplifying graph convolutional networks.
    """

    def __init__(self, in_dim: int, out_dim: int, num_hops: int = 2, dropout: float = 0.0) -> None:
        super().__init__()
        self.transform = _glorot_linear(in_dim, out_dim)
        self.propagation = require("torch_geometric.nn", "graph", _PURPOSE).SGConv(out_dim, out_dim, K=num_hops)
        self.propagation.lin = nn.Identity()
        self.bias = nn.Parameter(torch.zeros(out_dim))
        self.dropout = dropout

    def forward(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor | None = None) -> Tensor:
        """Logits (nodes, out_dim)."""
        return self.propagation(self.transform(dropout_features(x, self.dropout, self.training)), edge_index, edge_weight) + self.bias


def _glorot_linear(in_dim: int, out_dim: int) -> FeatureLinear:
    """The linear map inside a torch_geometric layer (no bias, Glorot weights), able to take sparse features."""
    linear = FeatureLinear(in_dim, out_dim, bias=False)
    nn.init.xavier_uniform_(linear.weight)
    return linear


# ------------------------------------------------------------------------------------------------ models and families


class NodePredictor(nn.Module):
    """A core ``(nodes, edges, edge_weight) -> (nodes, out)`` as a model: predicts the nodes named in ``selected``."""

    def __init__(self, core: nn.Module) -> None:
        super().__init__()
        self.core = core

    def forward(self, batch: Batch) -> Output:
        """Run the core on the whole graph and keep the rows of ``selected`` (all, where there is none)."""
        predicted = self.core(batch["nodes"], batch["edges"], batch.get("edge_weight"))
        return Output(predicted if "selected" not in batch else predicted[batch["selected"]])


class GraphFamily:
    """What all node predictors share: one dial, the hidden width, as ``coarse + fine``."""

    coarse = range(1, 8193)
    fine = range(0, 2)  # lets the width go one beyond the budget where that is nearer

    def accepts(self, signature: Signature) -> str | None:
        """One graph to one class, or some values, a selected node."""
        if not isinstance(signature.input, Graph):
            return f"it predicts the nodes of a graph, not {type(signature.input).__name__}"
        if not isinstance(signature.output, Class | Values) or signature.per_position or signature.horizon is not None:
            return "it predicts one class, or some values, a node"
        return None

    def network(self, signature: Signature, coarse: int, fine: int, **options: Any) -> nn.Module:
        """A predictor of hidden width ``coarse + fine``."""
        assert isinstance(signature.input, Graph)  # what `accepts` lets through
        return NodePredictor(self.core(signature.input.features, signature.output.size, coarse + fine, **options))

    def core(self, features: int, size: int, width: int, **options: Any) -> nn.Module:
        """The map from features (nodes, features) to predictions (nodes, size)."""
        raise NotImplementedError(f"{type(self).__name__} must define core(features, size, width)")


class DAGNNFamily(GraphFamily):
    """`DAGNN`; options as there. Dropout is 0.5 unless given: the published 0.8 suits bags of words, not narrow features."""

    def core(self, features: int, size: int, width: int, **options: Any) -> nn.Module:
        """A `DAGNN`."""
        return DAGNN(features, size, width, **{"dropout": 0.5, **options})


class DecoupledFamily(GraphFamily):
    """`DecoupledGNN`; options as there, dropout 0.5 unless given."""

    def core(self, features: int, size: int, width: int, **options: Any) -> nn.Module:
        """A `DecoupledGNN`."""
        return DecoupledGNN(features, size, width, **{"dropout": 0.5, **options})


class GCNFamily(GraphFamily):
    """`EntangledGCN`; options as there."""

    def core(self, features: int, size: int, width: int, **options: Any) -> nn.Module:
        """An `EntangledGCN`."""
        return EntangledGCN(features, size, width, **options)


class GATFamily(GraphFamily):
    """`GATNetwork`; options as there."""

    def core(self, features: int, size: int, width: int, **options: Any) -> nn.Module:
        """A `GATNetwork`; the dial is the width of one head."""
        return GATNetwork(features, size, width, **options)


class APPNPFamily(GraphFamily):
    """`APPNPNetwork`; options as there."""

    def core(self, features: int, size: int, width: int, **options: Any) -> nn.Module:
        """An `APPNPNetwork`."""
        return APPNPNetwork(features, size, width, **options)


class SGCFamily(GraphFamily):
    """`SGCNetwork`; it has no width, so its parameter count is what features and classes make it."""

    coarse = range(1, 2)
    fine = range(0, 1)

    def core(self, features: int, size: int, width: int, **options: Any) -> nn.Module:
        """An `SGCNetwork`."""
        return SGCNetwork(features, size, **options)
