"""Random projection: inner products against exact ones and their bound, what stays as it is, and when it is worth its pass."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from assay.ops import random_projection
from assay.ops.random_projection import project, saves_work


def rows(numbers: int = 3100, examples: int = 20) -> Tensor:
    """Rows with what networks have: means, and channels that repeat side by side."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(examples, numbers // 31, generator=generator).repeat(1, 31).relu() + 0.5


def matrix_of(numbers: int, width: int) -> Tensor:
    return project(torch.eye(numbers), width)


def test_it_is_linear_with_one_sign_a_feature_and_full_blocks_spread_evenly() -> None:
    matrix = matrix_of(2500, 1000)  # the last block is half full
    assert torch.equal(matrix.abs().sum(1), torch.ones(2500))
    assert set(matrix.unique().tolist()) == {-1.0, 0.0, 1.0}
    assert matrix.abs().sum(0).min() == 2
    assert matrix.abs().sum(0).max() == 3
    x = rows(2500 - 2500 % 31)
    torch.testing.assert_close(project(x, 1000), x @ matrix_of(x.shape[1], 1000), rtol=1e-5, atol=1e-5)


def test_inner_products_are_off_by_what_the_bound_says_over_projections(monkeypatch) -> None:
    """Their mean over 60 seeds is the exact product, their mean square error within the bound, and not far below it."""
    x, width = rows(), 200
    exact = x @ x.T
    squares, mean = torch.zeros_like(exact), torch.zeros_like(exact)
    for seed in range(60):
        monkeypatch.setattr(random_projection, "SEED", seed)
        random_projection._drawn.cache_clear()
        projected = project(x, width)
        error = projected @ projected.T - exact
        squares += error.square() / 60
        mean += error / 60
    random_projection._drawn.cache_clear()
    bound = (exact.diag()[:, None] * exact.diag() + exact.square()) / width
    assert float(mean.norm() / exact.norm()) < 0.05
    assert 0.5 < float(squares.sum() / bound.sum()) < 1.5


def test_rows_projected_apart_can_be_compared_and_short_ones_stay() -> None:
    x = rows()
    torch.testing.assert_close(project(x[:7], 500), project(x, 500)[:7])
    torch.testing.assert_close(project(x.view(4, 5, -1), 500), project(x, 500).view(4, 5, -1))
    assert project(x, 3100) is x
    with pytest.raises(ValueError, match="width must be at least 1, got 0"):
        project(x, 0)


@pytest.mark.parametrize(
    ("examples", "numbers", "width", "worth"),
    [(128, 65_536, 4096, True), (128, 4096, 4096, False), (8, 65_536, 4096, False), (128, 4200, 4096, False), (128, 65_536, 0, False)],
)
def test_it_is_worth_a_pass_where_products_get_much_shorter(examples, numbers, width, worth) -> None:
    assert saves_work(examples, numbers, width) is worth
