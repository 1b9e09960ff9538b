"""Routing by agreement against its equations written as loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from assay.nn.capsules import CapsuleRouting, squash


def by_loops(u: np.ndarray, weight: np.ndarray, iterations: int) -> np.ndarray:
    """One example: u (in, in_width), weight (in, out, out_width, in_width)."""
    inputs, outputs = weight.shape[:2]
    votes = np.array([[weight[i, j] @ u[i] for j in range(outputs)] for i in range(inputs)])
    logits, v = np.zeros((inputs, outputs)), np.zeros((outputs, weight.shape[2]))
    for _ in range(iterations):
        shares = np.array([np.exp(row) / np.exp(row).sum() for row in logits])
        for j in range(outputs):
            s = np.sum([shares[i, j] * votes[i, j] for i in range(inputs)], axis=0)
            length = np.sqrt((s**2).sum())
            v[j] = length**2 / (1 + length**2) * s / length
        for i in range(inputs):
            for j in range(outputs):
                logits[i, j] += votes[i, j] @ v[j]
    return v


@pytest.mark.parametrize("iterations", [1, 2, 3, 5])
def test_routing_is_the_equations(iterations: int) -> None:
    torch.manual_seed(iterations)
    layer = CapsuleRouting(6, 4, 3, 5, iterations).double()
    u = torch.randn(3, 6, 3, dtype=torch.float64)
    expected = np.stack([by_loops(row, layer.weight.detach().numpy(), iterations) for row in u.numpy()])
    np.testing.assert_allclose(layer(u).detach().numpy(), expected, atol=1e-12)


def test_lengths_are_below_one_and_directions_kept() -> None:
    s = torch.randn(100, 7, dtype=torch.float64) * torch.logspace(-3, 3, 100, dtype=torch.float64)[:, None]
    v = squash(s)
    length = torch.linalg.vector_norm(s, dim=1)
    assert float(torch.linalg.vector_norm(v, dim=1).max()) < 1
    torch.testing.assert_close(v, s * (length / (1 + length**2))[:, None], rtol=1e-12, atol=0)


def test_nothing_squashes_to_nothing_with_a_finite_gradient() -> None:
    s = torch.zeros(2, 3, requires_grad=True)
    squash(s).sum().backward()
    assert s.grad is not None
    assert bool(torch.isfinite(s.grad).all())


def test_a_vote_that_agrees_with_the_others_gains_weight() -> None:
    """Three capsules vote alike for the first output, and against one another for the second: routing lengthens the first."""
    layer = CapsuleRouting(4, 2, 2, 2, 1).double()
    with torch.no_grad():
        layer.weight[:, 0] = torch.eye(2, dtype=torch.float64)
        for index, sign in enumerate((1, -1, 1, -1)):
            layer.weight[index, 1] = sign * torch.eye(2, dtype=torch.float64)
    u = torch.ones(1, 4, 2, dtype=torch.float64)
    once = torch.linalg.vector_norm(layer(u), dim=-1)[0]
    layer.iterations = 3
    thrice = torch.linalg.vector_norm(layer(u), dim=-1)[0]
    assert float(thrice[0]) > float(once[0]) + 0.05
    assert float(thrice[1]) == pytest.approx(0, abs=1e-12)


def test_gradients() -> None:
    torch.manual_seed(0)
    layer = CapsuleRouting(3, 2, 2, 2).double()
    assert torch.autograd.gradcheck(layer, torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="iterations=0"):
        CapsuleRouting(2, 2, iterations=0)
    with pytest.raises(ValueError, match=r"u must be \(batch, 2, 8\), got \(1, 3, 8\)"):
        CapsuleRouting(2, 2)(torch.zeros(1, 3, 8))
