"""`layered_dag`: the layers that a graph's edges imply; the random graphs that wire recurrent networks, and their properties."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev, variance
from typing import Any

import torch
from torch import Tensor

from assay.errors import require

Node = Any
"""Whatever a graph names its nodes by: anything hashable."""


@dataclass(frozen=True)
class LayeredDAG:
    """A graph, oriented and cut into layers.

    Args:
        layers: the nodes of each layer, in node order.
        edges: every edge (u, v), u before v; it goes from a lower to a higher layer.
    """

    layers: tuple[tuple[Node, ...], ...]
    edges: frozenset[tuple[Node, Node]]

    def connection(self, source: int, target: int) -> Tensor:
        """Which node of layer ``target`` (rows) hears which node of layer ``source`` (columns): bool (|target|, |source|)."""
        rows = [[(u, v) in self.edges for u in self.layers[source]] for v in self.layers[target]]
        return torch.tensor(rows, dtype=torch.bool, device="cpu")  # its values are needed even while a meta device is the default

    def sources(self, target: int) -> list[int]:
        """The layers with an edge into layer ``target``, in order; ``target − 1`` is always among them."""
        heard = {u for u, v in self.edges if v in self.layers[target]}
        return [layer for layer in range(target) if not heard.isdisjoint(self.layers[layer])]

    def sinks(self) -> list[tuple[int, int]]:
        """(layer, position in the layer) of every node without a successor."""
        with_successor = {u for u, _ in self.edges}
        return [(index, place) for index, layer in enumerate(self.layers) for place, node in enumerate(layer) if node not in with_successor]


def layered_dag(graph: Any) -> LayeredDAG:
    """Orient a connected graph by node number and put every node one layer above its highest predecessor.

    ``layer(v) = 0`` without predecessors, else ``1 + max over u → v of layer(u)``. An undirected edge goes from the lower to the
    higher node (nodes that cannot be sorted count in order of insertion), so that no cycle can arise.

    Args:
        graph: a networkx graph, or a sequence of edges (u, v).

    Raises:
        ValueError: the graph is empty, has a self-loop, is not connected, or has fewer than two layers.

    Source: Stier and Granitzer 2019, Structural Analysis of Sparse Neural Networks; Darji 2024, Investigating Sparsity in Recurrent
    Neural Networks.
    """
    nodes, pairs = _nodes_and_edges(graph)
    order = {node: index for index, node in enumerate(nodes)}
    edges = frozenset((u, v) if order[u] < order[v] else (v, u) for u, v in pairs)
    _check_connected(nodes, edges)
    predecessors: dict[Node, list[Node]] = {node: [] for node in nodes}
    for u, v in edges:
        predecessors[v].append(u)
    layer: dict[Node, int] = {}
    for node in nodes:  # every predecessor comes earlier in this order
        layer[node] = 1 + max((layer[u] for u in predecessors[node]), default=-1)
    depth = 1 + max(layer.values())
    if depth < 2:
        raise ValueError(f"a layered graph needs at least 2 layers, got {depth}: a single node has no edge")
    return LayeredDAG(tuple(tuple(node for node in nodes if layer[node] == index) for index in range(depth)), edges)


def _nodes_and_edges(graph: Any) -> tuple[list[Node], list[tuple[Node, Node]]]:
    if hasattr(graph, "nodes"):
        nodes, pairs = list(graph.nodes), [(edge[0], edge[1]) for edge in graph.edges]
    else:
        pairs = [(u, v) for u, v in graph]
        nodes = list(dict.fromkeys(node for edge in pairs for node in edge))
    if not nodes:
        raise ValueError("the graph is empty: it needs at least two nodes and an edge")
    loops = [u for u, v in pairs if u == v]
    if loops:
        raise ValueError(f"the graph has a self-loop at node {loops[0]!r}: a recurrent layer already feeds itself")
    try:
        return sorted(nodes), pairs
    except TypeError:  # names that cannot be compared with each other keep their order
        return nodes, pairs


def _check_connected(nodes: Sequence[Node], edges: Iterable[tuple[Node, Node]]) -> None:
    neighbours: dict[Node, set[Node]] = {node: set() for node in nodes}
    for u, v in edges:
        neighbours[u].add(v)
        neighbours[v].add(u)
    reached, frontier = {nodes[0]}, [nodes[0]]
    while frontier:
        fresh = neighbours[frontier.pop()] - reached
        reached |= fresh
        frontier.extend(fresh)
    if len(reached) < len(nodes):
        raise ValueError(f"the graph is not connected: {len(reached)} of its {len(nodes)} nodes are reached from node {nodes[0]!r}")


def barabasi_albert(nodes: int, seed: int) -> Any:
    """A Barabási–Albert graph with ``m = nodes // 10`` edges a new node: ``m (nodes − m)`` edges, m of the nodes without predecessor.

    It starts from m isolated nodes that the first new node joins to. (networkx since 2.6 starts from a star around node 0, which
    leaves a single node without predecessor, and a network whose input has width 1.)

    Raises:
        ValueError: fewer than 10 nodes.

    Source: Barabási and Albert 1999, Emergence of Scaling in Random Networks.
    """
    networkx = require("networkx", extra="graph", purpose="A random graph")
    if nodes < 10:
        raise ValueError(f"a Barabási–Albert graph with nodes // 10 edges a node needs at least 10 nodes, got {nodes}")
    joined = nodes // 10
    start = networkx.Graph()
    start.add_nodes_from(range(joined + 1))
    start.add_edges_from((node, joined) for node in range(joined))
    return networkx.barabasi_albert_graph(nodes, joined, seed=seed, initial_graph=start)


def watts_strogatz(nodes: int, seed: int) -> Any:
    """A connected Watts–Strogatz graph with ``k = nodes // 5`` neighbours, every edge rewired, in at most ten tries.

    Raises:
        ValueError: fewer than 10 nodes (k would be below 2).
        networkx.NetworkXError: ten tries gave no connected graph.

    Source: Watts and Strogatz 1998, Collective Dynamics of 'Small-World' Networks.
    """
    networkx = require("networkx", extra="graph", purpose="A random graph")
    if nodes < 10:
        raise ValueError(f"a Watts–Strogatz graph with nodes // 5 neighbours needs at least 10 nodes, got {nodes}")
    return networkx.connected_watts_strogatz_graph(nodes, nodes // 5, 1.0, tries=10, seed=seed)


GENERATORS = {"barabasi-albert": barabasi_albert, "watts-strogatz": watts_strogatz}
"""The random graphs by name: ``(nodes, seed) -> networkx graph``."""


def graph_properties(graph: Any) -> dict[str, float]:
    """What may tell how well a network wired by the graph learns.

    Layers, nodes, edges, source and sink nodes (first and last layer), diameter, density ``E / (n (n − 1))``, average shortest path;
    mean, sample variance and sample standard deviation of eccentricity, degree centrality, closeness, node and edge betweenness.
    All of the undirected graph; half of networkx's density, as the thesis reports it.

    Args:
        graph: a connected networkx graph without self-loops.

    Source: Darji 2024, Investigating Sparsity in Recurrent Neural Networks, table of graph properties.
    """
    networkx = require("networkx", extra="graph", purpose="Measuring a graph")
    dag = layered_dag(graph)
    nodes, edges = graph.number_of_nodes(), graph.number_of_edges()
    properties: dict[str, float] = {
        "layers": len(dag.layers),
        "nodes": nodes,
        "edges": edges,
        "source_nodes": len(dag.layers[0]),
        "sink_nodes": len(dag.layers[-1]),
        "diameter": networkx.diameter(graph),
        "density": edges / (nodes * (nodes - 1)),
        "average_shortest_path": networkx.average_shortest_path_length(graph),
    }
    centralities: Mapping[str, Mapping[Any, float]] = {
        "eccentricity": networkx.eccentricity(graph),
        "degree": networkx.degree_centrality(graph),
        "closeness": networkx.closeness_centrality(graph),
        "node_betweenness": networkx.betweenness_centrality(graph),
        "edge_betweenness": networkx.edge_betweenness_centrality(graph),
    }
    for name, values in centralities.items():
        numbers = [float(value) for value in values.values()]
        properties[f"{name}_mean"] = fmean(numbers)
        properties[f"{name}_variance"] = variance(numbers) if len(numbers) > 1 else 0.0
        properties[f"{name}_deviation"] = stdev(numbers) if len(numbers) > 1 else 0.0
    return {name: float(value) for name, value in properties.items()}
