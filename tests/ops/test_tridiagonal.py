"""Tridiagonal solves against dense ones and scipy's banded solver; the structured matrix against its dense form; gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import solve_banded

from assay.ops.tridiagonal import Quasiseparable, pivots, tridiagonal_multiply, tridiagonal_solve


def draw(*shape: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Diagonally dominant, so that elimination without pivoting is safe."""
    generator = torch.Generator().manual_seed(seed)
    lower, diagonal, upper = (torch.randn(*shape, generator=generator, dtype=torch.float64) for _ in range(3))
    return lower, diagonal.sign() * (diagonal.abs() + lower.abs() + upper.abs()), upper


def dense(lower: torch.Tensor, diagonal: torch.Tensor, upper: torch.Tensor) -> torch.Tensor:
    return torch.diag_embed(lower[..., 1:], -1) + torch.diag_embed(diagonal) + torch.diag_embed(upper[..., :-1], 1)


@pytest.mark.parametrize("size", [1, 2, 3, 20])
def test_solves_are_those_of_the_dense_matrix(size: int) -> None:
    parts, right = draw(3, size), torch.randn(3, size, 4, dtype=torch.float64)
    expected = torch.linalg.solve(dense(*parts), right)
    torch.testing.assert_close(tridiagonal_solve(*parts, right), expected, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(tridiagonal_multiply(*parts, expected), right, atol=1e-12, rtol=1e-12)


def test_solve_is_scipys_banded_one() -> None:
    lower, diagonal, upper = draw(9)
    right = torch.randn(9, 2, dtype=torch.float64)
    bands = np.stack([upper.roll(1).numpy(), diagonal.numpy(), lower.roll(-1).numpy()])
    np.testing.assert_allclose(tridiagonal_solve(lower, diagonal, upper, right).numpy(), solve_banded((1, 1), bands, right.numpy()))


def test_leading_dimensions_broadcast_and_the_right_side_is_kept() -> None:
    lower, diagonal, upper = draw(5)
    right = torch.randn(2, 3, 5, 1, dtype=torch.float64)
    before = right.clone()
    one = tridiagonal_solve(lower, diagonal, upper, right[1, 2])
    torch.testing.assert_close(tridiagonal_solve(lower, diagonal, upper, right)[1, 2], one)
    assert torch.equal(right, before)


def test_gradients_of_first_and_second_order() -> None:
    leaves = tuple(part.requires_grad_() for part in (*draw(2, 4), torch.randn(2, 4, 2, dtype=torch.float64)))
    assert torch.autograd.gradcheck(tridiagonal_solve, leaves)
    assert torch.autograd.gradgradcheck(tridiagonal_solve, leaves)


def test_pivots_divide_the_determinant() -> None:
    parts = draw(6)
    torch.testing.assert_close(pivots(*parts).prod(), torch.linalg.det(dense(*parts)))


def random_form(seed: int, *shape: int) -> Quasiseparable:
    generator = torch.Generator().manual_seed(seed)
    left, right, shift, vector = (torch.randn(*shape, generator=generator, dtype=torch.float64) for _ in range(4))
    return Quasiseparable(*draw(*shape, seed=seed), left, right, shift, vector)


@pytest.mark.parametrize("seed", range(5))
def test_structured_solve_is_the_dense_one(seed: int) -> None:
    form, scale = random_form(seed, 4, 7), torch.tensor([0.0, 0.01, 0.3, 2.0], dtype=torch.float64)
    right = torch.randn(4, 7, 3, dtype=torch.float64)
    expected = torch.linalg.solve(torch.eye(7) - scale[:, None, None] * form.matrix(), right)
    found = form.solve(scale, right)
    assert (found - expected).abs().max() < 1e-9 * expected.abs().max()


def test_matrix_is_its_definition() -> None:
    form = random_form(1, 6)
    expected = -form.left[:, None] * (torch.linalg.inv(dense(*form[:3])) + torch.diag(form.shift)) * form.right
    torch.testing.assert_close(form.matrix(), expected)
    torch.testing.assert_close(form.inputs(), form.left * form.vector)


def test_structured_solve_survives_where_the_shift_cancels_the_identity() -> None:
    """``1 + δ p c q = 0`` for LegS at δ n = 1: a solve that divides by it has no answer, yet the matrix is regular."""
    n = torch.arange(8, dtype=torch.float64)
    ones, root = torch.ones_like(n), (2 * n + 1).sqrt()
    form = Quasiseparable(-ones, ones, 0 * ones, root, root, -n / (2 * n + 1), ones)
    scale, right = torch.tensor(0.25, dtype=torch.float64), torch.eye(8, dtype=torch.float64)
    assert (1 + scale * form.left * form.shift * form.right)[4] == 0
    torch.testing.assert_close(form.solve(scale, right), torch.linalg.inv(right - scale * form.matrix()), atol=1e-12, rtol=0)


def test_gradients_reach_every_diagonal() -> None:
    form = [part.requires_grad_() for part in random_form(2, 4)]
    scale = torch.tensor([0.3, 0.7], dtype=torch.float64, requires_grad=True)
    right = torch.randn(4, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda scale, *parts: Quasiseparable(*parts).solve(scale, right), (scale, *form))
    assert torch.autograd.gradcheck(lambda *parts: Quasiseparable(*parts).matrix(), form)


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"right \(..., N, K\), got \(3,\), \(3,\), \(3,\) and \(4, 1\)"):
        tridiagonal_solve(torch.ones(3), torch.ones(3), torch.ones(3), torch.ones(4, 1))
