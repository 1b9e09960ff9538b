"""The cached CSR operator and the stack-free adaptive sum, against definitions written densely and torch_geometric."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from assay.ops.propagation import (
    adaptive_sum,
    adaptive_sum_reference,
    check_graph,
    dense_operator,
    hops,
    normalised_operator,
    propagate,
)


def random_graph(nodes: int, edges: int, seed: int, weighted: bool = False) -> tuple[Tensor, Tensor | None]:
    """An undirected multigraph: duplicated edges, self-loops and isolated nodes happen."""
    generator = torch.Generator().manual_seed(seed)
    half = torch.randint(0, nodes - 3, (2, edges), generator=generator)  # the last three nodes stay isolated
    loops = torch.tensor([[0, 2], [0, 2]])
    weight = torch.rand(edges + 2, generator=generator, dtype=torch.float64) if weighted else None
    both = torch.cat([half, loops, half.flip(0)], dim=1)
    return both, None if weight is None else torch.cat([weight, weight[:edges]])


@pytest.mark.parametrize("normalization", ["sym", "rw"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loops", [False, True])
def test_sparse_hops_equal_dense_powers(normalization, weighted, loops):
    edges, weight = random_graph(40, 70, seed=1, weighted=weighted)
    dense = dense_operator(edges, 40, weight, normalization, loops, dtype=torch.float64)
    operator = normalised_operator(edges, 40, weight, normalization, loops, dtype=torch.float64)
    x = torch.randn(40, 3, dtype=torch.float64)
    for power, hop in enumerate(hops(x, operator, 6)):
        torch.testing.assert_close(hop, torch.linalg.matrix_power(dense, power) @ x, rtol=0, atol=1e-12)
    assert operator.undirected


@pytest.mark.parametrize("weighted", [False, True])
def test_operator_equals_torch_geometric_normalisation(weighted):
    gcn_norm = pytest.importorskip("torch_geometric.nn.conv.gcn_conv").gcn_norm
    edges, weight = random_graph(30, 50, seed=2, weighted=weighted)
    edges, weight = edges[:, :50], None if weight is None else weight[:50]  # directed, so in-degrees matter; no doubled loops
    keep = edges[0] != edges[1]
    edges, weight = edges[:, keep], None if weight is None else weight[keep]
    their_edges, their_weight = gcn_norm(edges, weight, 30, add_self_loops=True, dtype=torch.float64)
    theirs = torch.zeros(30, 30, dtype=torch.float64).index_put_((their_edges[1], their_edges[0]), their_weight.double(), accumulate=True)
    operator = normalised_operator(edges, 30, weight, dtype=torch.float64)
    torch.testing.assert_close(operator.matrix.to_dense(), theirs, rtol=0, atol=1e-12)
    torch.testing.assert_close(operator.transpose.to_dense(), theirs.T, rtol=0, atol=1e-12)
    assert not operator.undirected


def test_row_averaging_keeps_constants_and_an_isolated_node_keeps_itself():
    edges, _ = random_graph(20, 30, seed=3)
    operator = normalised_operator(edges, 20, normalization="rw", dtype=torch.float64)
    ones = torch.ones(20, 1, dtype=torch.float64)
    torch.testing.assert_close(propagate(ones, operator, 7), ones, rtol=0, atol=1e-12)
    x = torch.randn(20, 2, dtype=torch.float64)
    torch.testing.assert_close(propagate(x, operator, 7)[-3:], x[-3:], rtol=0, atol=1e-12)


@pytest.mark.parametrize("normalization", ["sym", "rw"])
@pytest.mark.parametrize("score", ["sigmoid", "tanh"])
@pytest.mark.parametrize("num_hops", [0, 1, 5])
def test_adaptive_sum_and_its_gradients_equal_the_stacked_reference(normalization, score, num_hops):
    edges, weight = random_graph(25, 40, seed=4, weighted=True)
    operator = normalised_operator(edges, 25, weight, normalization, dtype=torch.float64)
    x = torch.randn(25, 3, dtype=torch.float64, requires_grad=True)
    s = torch.randn(3, dtype=torch.float64, requires_grad=True)
    b = torch.randn(1, dtype=torch.float64, requires_grad=True)
    ours = adaptive_sum(x, operator, num_hops, s, b, score)[0]
    reference = adaptive_sum_reference(x, operator, num_hops, s, b, score)
    torch.testing.assert_close(ours, reference, rtol=0, atol=1e-12)
    probe = torch.randn_like(ours)
    for one, other in zip(
        torch.autograd.grad((ours * probe).sum(), (x, s, b)), torch.autograd.grad((reference * probe).sum(), (x, s, b)), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


def test_gradcheck_through_both_products_on_a_directed_graph():
    edges = torch.tensor([[0, 1, 2, 3, 0], [1, 2, 0, 1, 3]])  # directed: a wrong transpose would show
    operator = normalised_operator(edges, 5, dtype=torch.float64)
    x = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    s, b = torch.randn(2, dtype=torch.float64, requires_grad=True), torch.zeros(1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *a: adaptive_sum(a[0], operator, 4, a[1], a[2])[0], (x, s, b))
    assert torch.autograd.gradcheck(lambda a: propagate(a, operator, 3), (x,))
    assert torch.autograd.gradgradcheck(lambda a: propagate(a, operator, 3), (x,))


def test_adaptive_sum_keeps_no_stack():
    """What backward keeps must not grow with width × hops: nodes × (width + hops) numbers at most."""
    nodes, width, num_hops = 50, 32, 40
    edges, _ = random_graph(nodes, 100, seed=5)
    operator = normalised_operator(edges, nodes)
    x, s = torch.randn(nodes, width, requires_grad=True), torch.randn(width, requires_grad=True)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        adaptive_sum(x, operator, num_hops, s, torch.zeros(1, requires_grad=True))
    assert sum(kept) <= nodes * (width + num_hops + 1) + width + 1


def test_operator_is_built_once_and_follows_changes():
    edges, weight = random_graph(20, 30, seed=6, weighted=True)
    first = normalised_operator(edges, 20, weight)
    assert normalised_operator(edges, 20, weight) is first
    assert normalised_operator(edges.clone(), 20, weight.clone()) is first  # a copy, as a batch moved to a device is
    assert normalised_operator(edges, 20, weight, "rw") is not first
    weight.mul_(torch.rand_like(weight))  # in place: identity says the same graph, content does not
    changed = normalised_operator(edges, 20, weight)
    assert changed is not first
    torch.testing.assert_close(changed.matrix.to_dense(), dense_operator(edges, 20, weight), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("edges", "weight", "message"),
    [
        (torch.tensor([[0, 1], [1, 9]]), None, "node 9"),
        (torch.tensor([[0, -2], [1, 0]]), None, "node -2"),
        (torch.tensor([[0.0, 1.0], [1.0, 0.0]]), None, "float32"),
        (torch.tensor([0, 1]), None, r"\(2,\)"),
        (torch.tensor([[0, 1], [1, 0]]), torch.tensor([1.0, -3.0]), "-3"),
        (torch.tensor([[0, 1], [1, 0]]), torch.tensor([1.0, float("nan")]), "finite"),
        (torch.tensor([[0, 1], [1, 0]]), torch.tensor([1.0]), r"\(2,\)"),
    ],
)
def test_what_is_not_a_graph_is_refused(edges, weight, message):
    with pytest.raises(ValueError, match=message):
        check_graph(edges, 3, weight)


def test_wrong_arguments_are_refused():
    operator = normalised_operator(torch.tensor([[0, 1], [1, 0]]), 2)
    with pytest.raises(ValueError, match="-1"):
        propagate(torch.zeros(2, 1), operator, -1)
    with pytest.raises(ValueError, match=r"\(3, 1\)"):
        propagate(torch.zeros(3, 1), operator, 1)
    with pytest.raises(ValueError, match="softmax"):
        adaptive_sum(torch.zeros(2, 1), operator, 1, torch.zeros(1), torch.zeros(1), "softmax")
    with pytest.raises(ValueError, match="both"):
        normalised_operator(torch.tensor([[0, 1], [1, 0]]), 2, normalization="both")


def test_one_node_one_column_no_edge():
    """The shapes a bare squeeze would break."""
    operator = normalised_operator(torch.zeros(2, 0, dtype=torch.long), 1)
    total, scores = adaptive_sum(torch.ones(1, 1), operator, 0, torch.zeros(1), torch.zeros(1))
    assert total.shape == (1, 1)
    assert scores.shape == (1, 1)
    torch.testing.assert_close(total, torch.full((1, 1), 0.5))
