"""Recurrent classifiers of token sequences: a stack of masked cells, and networks wired by a graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from assay.contracts import Batch, Class, Output, Signature, Tokens
from assay.measure import register_flops
from assay.nn.linear import Linear
from assay.nn.mixer import padded_right
from assay.nn.recurrent.layered import GENERATORS, LayeredDAG, layered_dag
from assay.nn.recurrent.masked import GATES, MaskedRecurrentCell
from assay.nn.recurrent.parallel import ParallelRecurrent


class RecurrentClassifier(nn.Module):
    """Embedding → stack of recurrent layers → the last layer's output at the last real token, or at every one → linear read-out.

    Args:
        vocabulary: number of symbols (128: ASCII codes).
        hidden: width of every layer; the embedding has the first one's.
        mode: ``rnn_tanh``, ``rnn_relu``, ``gru`` or ``lstm``.
        classes: number of classes.
        pad_readout: read at the end of the padded sequence, as the thesis does: the network must then carry its decision through the
            padding.
        per_position: read at every position.

    Shapes: ``batch["tokens"]`` (batch, length), long, ``batch["mask"]`` (batch, length) → prediction (batch, classes), logits, or
    (batch, length, classes) by position.

    Raises:
        ValueError: no layer, an unknown mode, or both ways to read.

    Source: Darji 2024, Investigating Sparsity in Recurrent Neural Networks, base model.
    """

    def __init__(
        self,
        vocabulary: int = 128,
        hidden: Sequence[int] = (50, 50, 50),
        mode: str = "gru",
        classes: int = 2,
        pad_readout: bool = False,
        per_position: bool = False,
    ) -> None:
        super().__init__()
        if not hidden:
            raise ValueError("hidden must name at least one layer's width, got none")
        if pad_readout and per_position:
            raise ValueError("pad_readout=True reads at the end, per_position=True everywhere: choose one of them")
        self.pad_readout, self.per_position = pad_readout, per_position
        sizes = [hidden[0], *hidden]
        self.embedding = nn.Embedding(vocabulary, hidden[0])
        self.layers = nn.ModuleList(MaskedRecurrentCell(sizes[i], sizes[i + 1], mode) for i in range(len(hidden)))
        self.readout = Linear(hidden[-1], classes)

    def forward(self, batch: Batch) -> Output:
        """Predict a batch; ``hidden`` is what the read-out sees, (batch, hidden[-1]) or (batch, length, hidden[-1])."""
        if self.per_position:
            y = self._through(self.embedding(batch["tokens"]), batch.get("mask"))
            return Output(self.readout(y), hidden=y)
        tokens, mask, last = _real_part(batch, self.pad_readout)
        y = self._through(self.embedding(tokens), mask)
        hidden = y[torch.arange(y.shape[0], device=y.device), last]
        return Output(self.readout(hidden), hidden=hidden)

    def _through(self, y: Tensor, mask: Tensor | None) -> Tensor:
        for layer in self.layers:
            y = layer(y, mask)
        return y

    def keep_units(self, layer: int, units: Sequence[int]) -> None:
        """Keep only the named units of one layer, and what reads them: a smaller dense network; the embedding stays as wide as it was.

        Raises:
            ValueError: the layer or a unit does not exist, or no unit would be left.
        """
        if not 0 <= layer < len(self.layers):
            raise ValueError(f"layer {layer} does not exist: the network has {len(self.layers)}")
        cell = self._cell(layer)
        if not units or min(units) < 0 or max(units) >= cell.hidden_size:
            raise ValueError(f"units must be some of 0 … {cell.hidden_size - 1}, got {list(units)}")
        index = torch.tensor(list(units), device=cell.weight_hh.device)
        self.layers[layer] = _narrowed(cell, rows=index, inputs=None)
        if layer + 1 < len(self.layers):
            self.layers[layer + 1] = _narrowed(self._cell(layer + 1), rows=None, inputs=index)
        else:
            self.readout = _narrowed_linear(self.readout, index)

    def outgoing_weights(self, layer: int) -> Tensor:
        """Every weight that reads a layer's units, masked ones as zeros: (readers, units); own layer first, then what comes after."""
        cell = self._cell(layer)
        after = self._cell(layer + 1).effective_weights()[0] if layer + 1 < len(self.layers) else self.readout.weight
        return torch.cat([cell.effective_weights()[1], after]).detach()

    def _cell(self, layer: int) -> MaskedRecurrentCell:
        cell = self.layers[layer]
        assert isinstance(cell, MaskedRecurrentCell)  # the only kind put in
        return cell


class GraphRecurrentNetwork(nn.Module):
    """A recurrent network with one layer per layer of a graph, wired by its edges.

    The graph is oriented and cut into layers (`layered_dag`). Layer t has one unit a node; an edge u → v opens the weight from u to v
    in every gate, all state-to-state weights are dense. Layer 0 reads the embedding. With ``skips="after"`` (the thesis),
    ``y_t = Σ_s R_{s→t}(y_s)`` over every earlier layer s with an edge into t, each a recurrent layer with a state of its own. With
    ``skips="before"`` the inputs are summed before the nonlinearity of a single layer: a sparse recurrent network proper.

    Args:
        graph: a networkx graph, or a sequence of edges; connected, no self-loop.
        mode: ``rnn_tanh``, ``rnn_relu``, ``gru`` or ``lstm``.
        vocabulary: number of symbols.
        classes: number of classes.
        units: units a node (1 in the thesis).
        embedding_dim: width of the embedding; None takes that of layer 0, as the thesis does, which ties input width to the graph.
        readout: ``last`` reads the last layer; ``sinks`` reads every node without successor, in whatever layer.
        skips: ``after`` or ``before`` the nonlinearity, as above.
        pad_readout: read at the end of the padded sequence.

    Shapes: as `RecurrentClassifier`.

    Raises:
        ValueError: an unusable graph (see `layered_dag`), unknown mode, readout or skips, or sizes below 1.

    Source: Darji 2024, Investigating Sparsity in Recurrent Neural Networks, random structures.
    """

    def __init__(
        self,
        graph: Any,
        mode: str = "gru",
        vocabulary: int = 128,
        classes: int = 2,
        *,
        units: int = 1,
        embedding_dim: int | None = None,
        readout: Literal["last", "sinks"] = "last",
        skips: Literal["after", "before"] = "after",
        pad_readout: bool = False,
    ) -> None:
        super().__init__()
        if readout not in ("last", "sinks"):
            raise ValueError(f"readout must be 'last' or 'sinks', got {readout!r}")
        if skips not in ("after", "before"):
            raise ValueError(f"skips must be 'after' or 'before', got {skips!r}")
        if units < 1:
            raise ValueError(f"units must be at least 1, got {units}")
        self.dag: LayeredDAG = layered_dag(graph)
        self.mode, self.units, self.skips, self.pad_readout = mode, units, skips, pad_readout
        sizes = [units * len(layer) for layer in self.dag.layers]
        width = sizes[0] if embedding_dim is None else embedding_dim
        self.embedding = nn.Embedding(vocabulary, width)
        self.layers = nn.ModuleList([ParallelRecurrent([width], sizes[0], mode)])
        for target in range(1, len(sizes)):
            self.layers.append(self._layer(target, sizes))
        self.sources = [self.dag.sources(target) for target in range(len(sizes))]
        last = len(sizes) - 1
        nodes = self.dag.sinks() if readout == "sinks" else [(last, place) for place in range(len(self.dag.layers[last]))]
        self.read = [(layer, units * place + unit) for layer, place in nodes for unit in range(units)]
        self.readout = Linear(len(self.read), classes)

    def forward(self, batch: Batch) -> Output:
        """Predict a batch; ``hidden`` is what the read-out sees."""
        tokens, mask, last = _real_part(batch, self.pad_readout)
        outputs: list[Tensor] = []
        for layer, sources in zip(self.layers, self.sources, strict=True):
            inputs = [outputs[source] for source in sources] or [self.embedding(tokens)]
            outputs.append(layer([torch.cat(inputs, -1)] if self.skips == "before" else inputs, mask))
        rows = torch.arange(len(tokens), device=tokens.device)
        hidden = torch.stack([outputs[layer][rows, last, unit] for layer, unit in self.read], -1)
        return Output(self.readout(hidden), hidden=hidden)

    def step_flops(self) -> int:
        """Operations a position, all cells together; the zeros that fusing multiplies are not counted."""
        return sum(cell.step_flops() for cell in self.modules() if isinstance(cell, MaskedRecurrentCell))

    def _layer(self, target: int, sizes: list[int]) -> ParallelRecurrent:
        sources = self.dag.sources(target)
        opened = [self._opened(source, target) for source in sources]
        if self.skips == "before":
            opened = [torch.cat(opened, 1)]
        layer = ParallelRecurrent([mask.shape[1] for mask in opened], sizes[target], self.mode)
        for cell, mask in zip(layer, opened, strict=True):
            cell.mask_ih.copy_(mask.repeat(len(GATES[self.mode]), 1))
        return layer

    def _opened(self, source: int, target: int) -> Tensor:
        """The input mask of one gate: a block of ``units × units`` for every edge."""
        wide = self.dag.connection(source, target).repeat_interleave(self.units, 0)
        return wide.repeat_interleave(self.units, 1)


def _flops(model: nn.Module, args: tuple[Any, ...], _output: Any) -> int:
    assert isinstance(model, GraphRecurrentNetwork)  # what it is registered for
    return args[0]["tokens"].numel() * model.step_flops() + len(args[0]["tokens"]) * 2 * model.readout.weight.numel()


register_flops(GraphRecurrentNetwork, _flops)


class RecurrentClassifierFamily:
    """Stacks of recurrent layers: the coarse dial is the width, the fine dial widens the last layer.

    Options: ``mode`` (gru), ``layers`` (3), ``pad_readout`` (False).
    """

    coarse = range(1, 2049)
    fine = range(0, 1025)

    def accepts(self, signature: Signature) -> str | None:
        """Token sequences to one class, or to one at every position."""
        return _token_classes(dataclasses.replace(signature, per_position=False))

    def network(
        self, signature: Signature, coarse: int, fine: int, *, mode: str = "gru", layers: int = 3, pad_readout: bool = False
    ) -> nn.Module:
        """A `RecurrentClassifier` with layers of width ``coarse``, the last one ``coarse + fine``."""
        if layers < 1:
            raise ValueError(f"layers must be at least 1, got {layers}")
        vocabulary, classes = _sizes(signature)
        hidden = [*[coarse] * (layers - 1), coarse + fine]
        return RecurrentClassifier(vocabulary, hidden, mode, classes, pad_readout, signature.per_position)


class GraphRecurrentFamily:
    """Networks wired by a random graph: the coarse dial is the units a node, the fine dial widens the embedding.

    Options: ``graph`` (watts-strogatz; barabasi-albert; or a list of edges), ``nodes`` (20), ``graph_seed`` (0), and those of
    `GraphRecurrentNetwork`.
    """

    coarse = range(1, 257)
    fine = range(0, 513)

    def accepts(self, signature: Signature) -> str | None:
        """Token sequences to one class."""
        return _token_classes(signature)

    def network(
        self,
        signature: Signature,
        coarse: int,
        fine: int,
        *,
        graph: str | Sequence[Sequence[int]] = "watts-strogatz",
        nodes: int = 20,
        graph_seed: int = 0,
        embedding_dim: int | None = None,
        **options: Any,
    ) -> nn.Module:
        """A `GraphRecurrentNetwork` with ``coarse`` units a node; its embedding is ``fine`` wider than layer 0 (or than asked for)."""
        if isinstance(graph, str):
            if graph not in GENERATORS:
                raise ValueError(f"graph must be one of {', '.join(GENERATORS)} or a list of edges, got {graph!r}")
            wiring: Any = GENERATORS[graph](nodes, graph_seed)
        else:
            wiring = [(edge[0], edge[1]) for edge in graph]
        vocabulary, classes = _sizes(signature)
        width = coarse * len(layered_dag(wiring).layers[0]) if embedding_dim is None else embedding_dim
        return GraphRecurrentNetwork(wiring, vocabulary=vocabulary, classes=classes, units=coarse, embedding_dim=width + fine, **options)


def _real_part(batch: Batch, pad_readout: bool) -> tuple[Tensor, Tensor | None, Tensor]:
    """Tokens, the mask the layers need, and the position (batch,) to read at.

    Padding on the right needs no mask at all: a causal layer's output at the last real token does not depend on what follows it.
    """
    tokens, mask = batch["tokens"], batch.get("mask")
    end = torch.full((len(tokens),), tokens.shape[1] - 1, device=tokens.device)
    if mask is None or pad_readout:
        return tokens, None, end
    lengths = mask.sum(1)
    if torch.compiler.is_exporting():  # a graph for export cannot look at its mask and takes it to be padding on the right
        return tokens, None, (lengths - 1).clamp(min=0)
    if padded_right(mask) and int(lengths.min()) > 0:
        return tokens[:, : int(lengths.max())], None, lengths - 1
    return tokens, mask, end  # a masked cell repeats its output, so the end holds that of the last real token


def _narrowed(cell: MaskedRecurrentCell, rows: Tensor | None, inputs: Tensor | None) -> MaskedRecurrentCell:
    """The cell with only some of its units (``rows``) or of its inputs, weights, masks and biases taken over."""
    units = torch.arange(cell.hidden_size, device=cell.weight_hh.device) if rows is None else rows
    columns = torch.arange(cell.input_size, device=cell.weight_hh.device) if inputs is None else inputs
    small = MaskedRecurrentCell(len(columns), len(units), cell.mode).to(cell.weight_hh)
    every_gate = torch.cat([units + gate * cell.hidden_size for gate in range(len(GATES[cell.mode]))])
    with torch.no_grad():
        for kind, side in (("ih", columns), ("hh", units)):
            for tensor in ("weight", "mask"):
                getattr(small, f"{tensor}_{kind}").copy_(getattr(cell, f"{tensor}_{kind}")[every_gate][:, side])
            getattr(small, f"bias_{kind}").copy_(getattr(cell, f"bias_{kind}")[every_gate])
    return small


def _narrowed_linear(linear: nn.Linear, inputs: Tensor) -> nn.Linear:
    small = Linear(len(inputs), linear.out_features).to(linear.weight)
    with torch.no_grad():
        small.weight.copy_(linear.weight[:, inputs])
        small.bias.copy_(linear.bias)
    return small


def _token_classes(signature: Signature) -> str | None:
    if not isinstance(signature.input, Tokens):
        return f"it reads token sequences, not {type(signature.input).__name__}"
    if not isinstance(signature.output, Class) or signature.per_position:
        return "it predicts one class a sequence"
    return None


def _sizes(signature: Signature) -> tuple[int, int]:
    assert isinstance(signature.input, Tokens)  # what `accepts` lets through
    return signature.input.vocabulary, signature.output.size
