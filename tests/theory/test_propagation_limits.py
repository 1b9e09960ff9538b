"""Limits against 2000 hops computed densely, and the mixing rate against a full eigendecomposition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from assay.ops.propagation import dense_operator, normalised_operator, propagate
from assay.theory.propagation import components, largest_component, mixing_hops, propagated_limit, propagation_limit, second_eigenvalue


def graph(nodes: int, probability: float, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    upper = (torch.rand(nodes, nodes, generator=generator) < probability).triu(1)
    half = upper.nonzero().T
    return torch.cat([half, half.flip(0)], dim=1)


@pytest.mark.parametrize("normalization", ["sym", "rw"])
@pytest.mark.parametrize(("nodes", "probability"), [(6, 0.5), (20, 0.2), (50, 0.1)])
def test_limit_is_what_2000_hops_reach(normalization, nodes, probability):
    edges = graph(nodes, probability, seed=nodes)
    power = torch.linalg.matrix_power(dense_operator(edges, nodes, normalization=normalization, dtype=torch.float64), 2000)
    assert (propagation_limit(edges, nodes, normalization) - power).abs().max() < 1e-10


def test_two_components_and_an_isolated_node_have_their_own_limits():
    one = graph(10, 0.5, seed=1)
    edges = torch.cat([one, one + 10], dim=1)
    limit = propagation_limit(edges, 21, "rw")
    assert limit[:10, 10:].abs().max() == 0
    assert limit[20, 20] == 1
    torch.testing.assert_close(limit[:10, :10], propagation_limit(one, 10, "rw"), rtol=0, atol=1e-15)
    assert len(set(components(edges, 21).tolist())) == 3


def test_largest_component_is_the_graph_without_the_rest():
    small, large = torch.tensor([[0, 1], [1, 0]]), graph(8, 0.9, seed=5)
    kept, edges = largest_component(torch.cat([small, large + 2], dim=1), 11)
    assert kept.tolist() == list(range(2, 10))
    assert torch.equal(edges, large)


def test_propagated_limit_is_limit_times_features():
    edges, x = graph(30, 0.15, seed=2), torch.randn(30, 4, dtype=torch.float64)
    torch.testing.assert_close(propagated_limit(x, edges), propagation_limit(edges, 30) @ x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("normalization", ["sym", "rw"])
def test_distance_to_the_limit_shrinks_at_the_rate(normalization):
    edges = graph(60, 0.06, seed=3)
    rate = second_eigenvalue(edges, 60)
    operator = normalised_operator(edges, 60, normalization=normalization, dtype=torch.float64)
    x = torch.randn(60, 2, dtype=torch.float64)
    limit = propagated_limit(x, edges, normalization)
    distances = [float((propagate(x, operator, k) - limit).norm()) for k in (200, 201)]
    assert distances[1] / distances[0] == pytest.approx(rate, rel=1e-3)


def test_lanczos_agrees_with_the_full_spectrum():
    edges = graph(450, 0.01, seed=4)  # above the size where the full decomposition is used; has isolated nodes
    values = np.linalg.eigvalsh(dense_operator(edges, 450, dtype=torch.float64).numpy())
    below_one = np.sort(np.abs(values))[::-1][len(set(components(edges, 450).tolist())) :]
    assert second_eigenvalue(edges, 450) == pytest.approx(below_one[0], rel=1e-5)


def test_complete_graph_mixes_in_one_hop():
    edges = graph(5, 1.1, seed=0)
    assert second_eigenvalue(edges, 5) < 1e-12
    assert mixing_hops(1e-3, 0) == 1


def test_mixing_hops_is_enough_and_one_less_is_not():
    hops = mixing_hops(1e-3, 0.9)
    assert 0.9**hops <= 1e-3 < 0.9 ** (hops - 1)
    assert mixing_hops(0.1, 1.0) == math.inf


def test_wrong_inputs_are_refused():
    with pytest.raises(ValueError, match="directed"):
        propagation_limit(torch.tensor([[0], [1]]), 2)
    with pytest.raises(ValueError, match="both"):
        propagation_limit(torch.tensor([[0, 1], [1, 0]]), 2, "both")
    with pytest.raises(ValueError, match="node 5"):
        second_eigenvalue(torch.tensor([[0, 5], [5, 0]]), 2)
    with pytest.raises(ValueError, match=r"1\.5"):
        mixing_hops(1.5, 0.5)
    with pytest.raises(ValueError, match=r"-0\.5"):
        mixing_hops(0.5, -0.5)
