"""Mixture densities against torch.distributions, and what a squared error cannot learn."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from assay.nn.mixture_density import MixtureDensity, MixtureDensityHead


@pytest.mark.parametrize("count", [1, 2, 3])
def test_density_mean_and_samples_are_those_of_torch(count: int) -> None:
    torch.manual_seed(count)
    head = MixtureDensityHead(6, count, 4).double()
    numbers, y = head(torch.randn(3, 5, 6, dtype=torch.float64)), torch.randn(3, 5, count, dtype=torch.float64)
    weights, means, scales = head.density._read(numbers)
    peer = MixtureSameFamily(Categorical(logits=weights), MultivariateNormal(means, precision_matrix=scales @ scales.mT))
    torch.testing.assert_close(head.density.log_density(numbers, y), peer.log_prob(y))
    torch.testing.assert_close(head.density.mean(numbers), peer.mean)
    one = numbers[:1, :1].detach().expand(40_000, 1, -1)
    drawn = head.density.sample(one, generator=torch.Generator().manual_seed(0))[:, 0]
    spread = peer.variance[0, 0].detach().sqrt()
    torch.testing.assert_close((drawn.mean(0) - peer.mean[0, 0]) / spread, torch.zeros(count, dtype=torch.float64), rtol=0, atol=0.03)
    torch.testing.assert_close(drawn.std(0) / spread, torch.ones(count, dtype=torch.float64), rtol=0, atol=0.05)
    sure = head.density.sample(one[:50], bias=500.0)[:, 0]
    torch.testing.assert_close(sure, means[0, 0, weights[0, 0].argmax()].expand_as(sure), rtol=0, atol=1e-6)


def test_it_learns_two_ways_where_a_mean_is_neither() -> None:
    """±1 by a coin, with noise of 0.1: the entropy is log 2 more than the noise's; one Gaussian would need 1.4 nats."""
    torch.manual_seed(0)
    head = MixtureDensityHead(1, 1, 3)
    optimizer, h = torch.optim.Adam(head.parameters(), 0.05), torch.ones(256, 1)
    for _ in range(200):
        y = torch.randint(2, (256, 1)) * 2.0 - 1 + 0.1 * torch.randn(256, 1)
        loss = -head.density.log_density(head(h), y).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    entropy = math.log(2) + 0.5 * math.log(2 * math.pi * math.e * 0.01)
    assert float(loss.detach()) < entropy + 0.15
    drawn = head.density.sample(head(h).detach())
    assert 0.3 < float((drawn > 0).float().mean()) < 0.7
    assert float((drawn.abs() - 1).abs().mean()) < 0.3


def test_refusals() -> None:
    with pytest.raises(ValueError, match="0"):
        MixtureDensityHead(4, 0)
    with pytest.raises(ValueError, match="-1"):
        MixtureDensity(2).sample(nn.functional.pad(torch.zeros(1, 1), (0, 29)), bias=-1)
