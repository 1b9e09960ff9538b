"""Layering: the sheet's example, a property test over random graphs, the counts the generators promise."""

import networkx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.nn.recurrent.layered import barabasi_albert, graph_properties, layered_dag, watts_strogatz


def test_layer_index_of_a_small_graph_worked_by_hand():
    dag = layered_dag([(0, 2), (1, 2), (1, 3), (2, 3), (2, 4), (3, 4)])
    assert dag.layers == ((0, 1), (2,), (3,), (4,))
    assert dag.connection(0, 2).tolist() == [[False, True]]
    assert dag.sources(3) == [1, 2]
    assert dag.sinks() == [(3, 0)]


@st.composite
def connected_graphs(draw):
    """A random tree plus random further edges, under a random numbering."""
    count = draw(st.integers(2, 14))
    numbers = draw(st.permutations(range(count)))
    edges = {(numbers[i], numbers[draw(st.integers(0, i - 1))]) for i in range(1, count)}
    edges |= set(draw(st.lists(st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)), max_size=20)))
    return [(u, v) for u, v in edges if u != v]


@given(connected_graphs())
@settings(max_examples=150, deadline=None, derandomize=True)
def test_edges_go_up_and_layers_are_as_low_as_they_can_be(edges):
    dag = layered_dag(networkx.Graph(edges))
    layer = {node: index for index, nodes in enumerate(dag.layers) for node in nodes}
    assert sorted(layer) == sorted({node for edge in edges for node in edge})
    assert all(layer[u] < layer[v] for u, v in dag.edges)
    assert {frozenset(edge) for edge in dag.edges} == {frozenset(edge) for edge in edges}
    for node, index in layer.items():
        below = [layer[u] for u, v in dag.edges if v == node]
        assert max(below, default=-1) == index - 1
    oriented = networkx.DiGraph(dag.edges)
    assert [set(nodes) for nodes in networkx.topological_generations(oriented)] == [set(nodes) for nodes in dag.layers]


@given(connected_graphs())
@settings(max_examples=50, deadline=None, derandomize=True)
def test_connections_hold_every_edge_once(edges):
    dag = layered_dag(edges)
    total = sum(int(dag.connection(s, t).sum()) for t in range(len(dag.layers)) for s in range(t))
    assert total == len({frozenset(edge) for edge in edges})


@pytest.mark.parametrize("nodes", [10, 25, 50])
def test_barabasi_albert_starts_from_isolated_nodes(nodes):
    """The older start: m sources and m(n − m) edges; networkx's own start gives one source."""
    joined = nodes // 10
    graph = barabasi_albert(nodes, seed=3)
    assert graph.number_of_edges() == joined * (nodes - joined)
    assert len(layered_dag(graph).layers[0]) == joined
    assert len(layered_dag(networkx.barabasi_albert_graph(nodes, joined, seed=3)).layers[0]) == 1


def test_watts_strogatz_keeps_the_ring_s_edge_count_and_is_connected():
    graph = watts_strogatz(30, seed=1)
    assert graph.number_of_edges() == 30 * 6 // 2
    assert networkx.is_connected(graph)
    assert {frozenset(e) for e in graph.edges} == {frozenset(e) for e in watts_strogatz(30, seed=1).edges}


def test_properties_of_a_star_in_closed_form():
    """Star with hub 0 and n leaves: betweenness 1 at the hub, 2/n on an edge share, eccentricity 1 and 2."""
    leaves = 4
    found = graph_properties(networkx.star_graph(leaves))
    n = leaves + 1
    assert (found["layers"], found["nodes"], found["edges"], found["source_nodes"], found["sink_nodes"]) == (2, n, leaves, 1, leaves)
    assert found["diameter"] == 2
    assert found["density"] == pytest.approx(leaves / (n * (n - 1)))
    assert found["node_betweenness_mean"] == pytest.approx(1 / n)
    assert found["node_betweenness_variance"] == pytest.approx(np.var([1, 0, 0, 0, 0], ddof=1))
    assert found["eccentricity_deviation"] == pytest.approx(np.std([1, 2, 2, 2, 2], ddof=1))
    assert found["degree_mean"] == pytest.approx((1 + leaves * (1 / leaves)) / n)
    assert found["edge_betweenness_mean"] == pytest.approx(leaves / (n * (n - 1) / 2))
    assert found["closeness_mean"] == pytest.approx((1 + leaves * (leaves / (2 * leaves - 1))) / n)
    assert found["average_shortest_path"] == pytest.approx((leaves + 2 * leaves * (leaves - 1) / 2) / (n * (n - 1) / 2))


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        (networkx.Graph(), "empty"),
        ([(0, 0), (0, 1)], "self-loop at node 0"),
        ([(0, 1), (2, 3)], "2 of its 4 nodes"),
        (networkx.empty_graph(1), "at least 2 layers"),
    ],
)
def test_unusable_graphs_say_why(graph, reason):
    with pytest.raises(ValueError, match=reason):
        layered_dag(graph)


def test_generators_refuse_graphs_too_small():
    with pytest.raises(ValueError, match="got 9"):
        barabasi_albert(9, seed=0)
    with pytest.raises(ValueError, match="got 9"):
        watts_strogatz(9, seed=0)
