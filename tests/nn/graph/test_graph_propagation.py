"""The propagation parts against closed forms, torch_geometric, and the symmetries a graph network must have."""

from __future__ import annotations

import pytest
import torch

from assay.nn.graph.propagation import AdaptivePropagation, FixedPropagation, mean_hop
from assay.ops.propagation import hops, normalised_operator


def graph(nodes: int = 20, edges: int = 40, seed: int = 0) -> torch.Tensor:
    half = torch.randint(0, nodes, (2, edges), generator=torch.Generator().manual_seed(seed))
    half = half[:, half[0] != half[1]].unique(dim=1)
    return torch.cat([half, half.flip(0)], dim=1).unique(dim=1)


def adaptive(dim: int = 3, num_hops: int = 4, **options) -> AdaptivePropagation:
    torch.manual_seed(0)
    return AdaptivePropagation(dim, num_hops, **options).double()


def test_no_hop_gates_each_node_by_its_own_score():
    part, z = adaptive(num_hops=0), torch.randn(20, 3, dtype=torch.float64)
    expected = torch.sigmoid(z @ part.score.weight[0] + part.score.bias) * z.T
    torch.testing.assert_close(part(z, graph()), expected.T, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("bias", "factor"), [(0.0, 0.5), (60.0, 1.0)])
def test_without_direction_all_hops_weigh_alike(bias, factor):
    part, z, edges = adaptive(), torch.randn(20, 3, dtype=torch.float64), graph()
    with torch.no_grad():
        part.score.weight.zero_()
        part.score.bias.fill_(bias)
    every = sum(hops(z, normalised_operator(edges, 20, dtype=torch.float64), 4))
    torch.testing.assert_close(part(z, edges), factor * every, rtol=0, atol=1e-12)


def test_paper_form_has_no_bias():
    assert sum(p.numel() for p in AdaptivePropagation(7, 10, score_bias=False).parameters()) == 7
    assert sum(p.numel() for p in AdaptivePropagation(7, 10).parameters()) == 8


@pytest.mark.parametrize("weighted", [False, True])
def test_fixed_propagation_equals_torch_geometric(weighted):
    """SGConv without its linear map, and APPNP that never teleports."""
    peers = pytest.importorskip("torch_geometric.nn")
    edges, x = graph(), torch.randn(20, 3, dtype=torch.float64)
    weight = None
    if weighted:
        symmetric = torch.rand(20, 20, dtype=torch.float64)
        weight = (symmetric + symmetric.T)[edges[0], edges[1]]
    ours = FixedPropagation(5)(x, edges, weight)
    sgc = peers.SGConv(3, 3, K=5).double()
    sgc.lin = torch.nn.Identity()
    sgc.bias = None
    torch.testing.assert_close(ours, sgc(x, edges, weight), rtol=0, atol=1e-12)
    torch.testing.assert_close(ours, peers.APPNP(5, 0.0)(x, edges, weight), rtol=0, atol=1e-12)


@pytest.mark.parametrize("normalization", ["sym", "rw"])
def test_renaming_the_nodes_renames_the_result(normalization):
    part, z, edges = adaptive(normalization=normalization), torch.randn(20, 3, dtype=torch.float64), graph()
    order = torch.randperm(20)
    renamed = order.argsort()[edges]  # node order[i] is now called i
    torch.testing.assert_close(part(z[order], renamed), part(z, edges)[order], rtol=0, atol=1e-12)


def test_graphs_side_by_side_do_not_touch():
    part, one, two = adaptive(), graph(seed=1), graph(seed=2)
    z = torch.randn(41, 3, dtype=torch.float64)  # the last node is isolated
    together = part(z, torch.cat([one, two + 20], dim=1))
    torch.testing.assert_close(together[:20], part(z[:20], one), rtol=0, atol=1e-12)
    torch.testing.assert_close(together[20:40], part(z[20:40], two), rtol=0, atol=1e-12)
    scores = torch.sigmoid(z[40:] @ part.score.weight.T + part.score.bias)
    torch.testing.assert_close(together[40:], 5 * scores * z[40:], rtol=0, atol=1e-12)  # stays at its own vector at every hop


def test_gradcheck():
    part, edges = adaptive(dim=2, num_hops=3), graph(6, 8)
    z = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda z, w, b: torch.func.functional_call(part, {"score.weight": w, "score.bias": b}, (z, edges)),
        (z, part.score.weight, part.score.bias),
    )


def test_mean_hop_of_scores_on_one_hop_is_that_hop():
    scores = torch.zeros(2, 6)
    scores[0, 4] = 0.3
    scores[1, :] = 1.0
    assert mean_hop(scores).tolist() == pytest.approx([4.0, 2.5])


def test_wrong_inputs_are_refused():
    with pytest.raises(ValueError, match="-1"):
        FixedPropagation(-1)
    with pytest.raises(ValueError, match="both"):
        FixedPropagation(1, "both")
    with pytest.raises(ValueError, match="0"):
        AdaptivePropagation(0, 1)
    with pytest.raises(ValueError, match="softmax"):
        AdaptivePropagation(2, 1, score="softmax")
    with pytest.raises(ValueError, match=r"\(5,\)"):
        FixedPropagation(1)(torch.zeros(5), graph())
    with pytest.raises(ValueError, match=r"\(nodes, 3\)"):
        adaptive()(torch.zeros(20, 4, dtype=torch.float64), graph())
    with pytest.raises(ValueError, match="directed"):
        FixedPropagation(1)(torch.zeros(2, 1), torch.tensor([[0], [1]]))
    with pytest.raises(ValueError, match="float32"):
        FixedPropagation(1)(torch.zeros(2, 1), torch.zeros(2, 1))
    with pytest.raises(ValueError, match="mean hop"):
        mean_hop(torch.tensor([[-1.0, 1.0]]))
