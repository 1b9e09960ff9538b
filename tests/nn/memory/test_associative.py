"""Hopfield's network: its energy falls, and what is stored stays."""

from __future__ import annotations

import itertools

import pytest
import torch

from assay.nn.memory.associative import HopfieldNetwork


def random_patterns(count: int, units: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(2, (count, units), generator=torch.Generator().manual_seed(seed)).float() * 2 - 1


def test_orthogonal_patterns_are_fixed_points() -> None:
    patterns = torch.tensor([[1.0, 1, 1, 1, 1, 1, 1, 1], [1, -1, 1, -1, 1, -1, 1, -1], [1, 1, -1, -1, 1, 1, -1, -1]])
    network = HopfieldNetwork(8)
    network.store(patterns)
    assert torch.equal(network(patterns), patterns)


def test_a_spoilt_pattern_is_recalled() -> None:
    patterns, network = random_patterns(5, 200), HopfieldNetwork(200)
    network.store(patterns)
    spoilt = patterns.clone()
    spoilt[:, :30] *= -1
    assert torch.equal(network(spoilt), patterns)


def test_the_energy_never_rises() -> None:
    network, state = HopfieldNetwork(40), random_patterns(6, 40, seed=2)
    network.store(random_patterns(8, 40))
    energies = [network.energy(state)]
    for _ in range(5):
        state = network(state, sweeps=1)
        energies.append(network.energy(state))
    assert all(bool((after <= before + 1e-5).all()) for before, after in itertools.pairwise(energies))
    assert bool((energies[-1] < energies[0]).all())


def test_units_do_not_pull_on_themselves_and_bad_states_are_named() -> None:
    network = HopfieldNetwork(10)
    network.store(random_patterns(3, 10))
    assert torch.equal(network.weight.diagonal(), torch.zeros(10))
    with pytest.raises(ValueError, match=r"\(…, 10\), got \(1, 9\)"):
        network(torch.ones(1, 9))
    with pytest.raises(ValueError, match="−1 and 1"):
        network.energy(torch.zeros(10))
    with pytest.raises(ValueError, match="at least 2, got 1"):
        HopfieldNetwork(1)
