"""The recurrence with one matrix against a loop, its gradient against autograd's and finite differences."""

from __future__ import annotations

import pytest
import torch

from assay.ops.matrix_recurrence import matrix_recurrence


def draw(length: int, batch: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(length)
    shapes = ((2, 4, 4), (2, length, batch, 4), (2, batch, 4))
    matrix, inputs, state = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return matrix / 3, inputs, state


@pytest.mark.parametrize("length", [0, 1, 2, 30])
def test_states_and_gradients_are_those_of_a_loop(length: int) -> None:
    leaves = [part.requires_grad_() for part in draw(length)]
    matrix, inputs, state = leaves
    h, states = state, []
    for b in inputs.unbind(1):
        h = torch.einsum("snm,sbm->sbn", matrix, h) + b
        states.append(h)
    expected = torch.stack(states, 1) if states else inputs
    found = matrix_recurrence(*leaves)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)
    if length:
        mine, theirs = (torch.autograd.grad(y.cos().sum(), leaves) for y in (found, expected))
        for one, other in zip(mine, theirs, strict=True):
            torch.testing.assert_close(one, other, atol=1e-11, rtol=1e-11)


def test_gradients_of_first_and_second_order() -> None:
    leaves = tuple(part.requires_grad_() for part in draw(3, 1))
    assert torch.autograd.gradcheck(matrix_recurrence, leaves)
    assert torch.autograd.gradgradcheck(matrix_recurrence, leaves)


def test_shapes_that_do_not_fit_are_refused() -> None:
    matrix, inputs, state = draw(3)
    with pytest.raises(ValueError, match=r"matrix must be \(systems, N, N\).* got \(2, 4, 4\) and \(2, 3, 3, 3\)"):
        matrix_recurrence(matrix, inputs[..., :3], state)
    with pytest.raises(ValueError, match=r"state must have shape \(2, 3, 4\), got \(2, 2, 4\)"):
        matrix_recurrence(matrix, inputs, state[:, :2])
