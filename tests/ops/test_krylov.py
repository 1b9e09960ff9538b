"""Doubling against one product after another, with and without rows; gradients; refusals."""

from __future__ import annotations

import pytest
import torch

from assay.ops.krylov import doubled, krylov, squarings


def draw(state: int, rows: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(state)
    matrix = torch.randn(3, state, state, generator=generator, dtype=torch.float64) / (2 * state**0.5)
    vector, outputs = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((3, state), (3, rows, state)))
    return matrix, vector, outputs


@pytest.mark.parametrize("length", range(18))
def test_doubling_is_the_sequence_of_powers(length: int) -> None:
    matrix, vector, rows = draw(4)
    for outputs in (None, rows):
        expected = [torch.linalg.matrix_power(matrix, power) @ vector[..., None] for power in range(length)]
        wanted = torch.cat([torch.zeros(3, 4, 0, dtype=torch.float64), *expected], -1)
        wanted = wanted if outputs is None else outputs @ wanted
        for implementation in ("sequential", "doubling"):
            found = krylov(matrix, vector, length, outputs, implementation)
            torch.testing.assert_close(found, wanted, atol=1e-13, rtol=1e-12)


@pytest.mark.parametrize("count", [1, 3, 40])
@pytest.mark.parametrize("length", [1, 15, 63, 64, 65, 1000])
def test_split_lengths_with_any_number_of_rows(length: int, count: int) -> None:
    matrix, vector, rows = draw(5, count)
    matrix = 1.9 * matrix
    torch.testing.assert_close(krylov(matrix, vector, length, rows), rows @ krylov(matrix, vector, length), atol=1e-10, rtol=1e-8)


def test_leading_dimensions_broadcast() -> None:
    matrix, vector, rows = draw(4)
    found = krylov(matrix[0], vector, 9, rows[:, :1])
    assert found.shape == (3, 1, 9)
    torch.testing.assert_close(found[2], krylov(matrix[0], vector[2], 9, rows[2, :1], "sequential"))


def test_gradients_are_those_of_the_sequence() -> None:
    leaves = [part.requires_grad_() for part in draw(4)]
    matrix, vector, rows = leaves
    for outputs in (None, rows):
        gradients = [
            torch.autograd.grad(krylov(matrix, vector, 50, outputs, name).square().sum(), leaves, allow_unused=True)
            for name in ("sequential", "doubling")
        ]
        for mine, theirs in zip(*gradients, strict=True):
            if mine is not None:
                torch.testing.assert_close(mine, theirs, atol=1e-10, rtol=1e-10)


def test_doubled_takes_several_columns_and_squarings_square() -> None:
    matrix, _, rows = draw(4)
    start = rows.mT
    found = doubled(matrix, start, 5).unflatten(-1, (5, 2))
    torch.testing.assert_close(found[..., 3, :], torch.linalg.matrix_power(matrix, 3) @ start)
    torch.testing.assert_close(squarings(matrix, 3)[-1], torch.linalg.matrix_power(matrix, 8))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((torch.ones(2, 3), torch.ones(3), 4), r"matrix must be \(..., N, N\)"),
        ((torch.ones(3, 3), torch.ones(2), 4), r"vector \(..., N\)"),
        ((torch.ones(3, 3), torch.ones(3), 4, torch.ones(1, 2)), r"rows \(1, 2\)"),
        ((torch.ones(3, 3), torch.ones(3), -1), "length must be at least 0, got -1"),
        ((torch.ones(3, 3), torch.ones(3), 4, None, "fast"), "implementation must be one of auto, sequential, doubling, got 'fast'"),
    ],
)
def test_bad_arguments_are_refused(arguments: tuple, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        krylov(*arguments)
