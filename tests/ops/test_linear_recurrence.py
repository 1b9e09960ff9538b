"""The elementwise recurrence against a loop in numpy and closed forms; its own gradient against autograd's; decays of any size."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from assay.ops import linear_recurrence as module
from assay.ops.linear_recurrence import linear_recurrence, paired_linear_recurrence

TYPES = (torch.float64, torch.complex128)


def draw(length: int, trailing: tuple[int, ...] = (3,), dtype: torch.dtype = torch.float64, batch: int = 2):
    generator = torch.Generator().manual_seed(length)
    decay, inputs = (torch.randn(batch, length, *trailing, generator=generator, dtype=dtype) for _ in "ab")
    return 0.7 * decay, inputs, torch.randn(batch, *trailing, generator=generator, dtype=dtype)


def loop(decay: torch.Tensor, inputs: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
    a, b, h, states = decay.numpy(), inputs.numpy(), state.numpy(), []
    for t in range(b.shape[1]):
        h = a[:, t] * h + b[:, t]
        states.append(h)
    return torch.from_numpy(np.stack(states, 1))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("trailing", [(), (3,), (2, 5)])
@pytest.mark.parametrize("implementation", ["recurrent", "blocked", "auto"])
def test_states_are_those_of_a_loop(dtype: torch.dtype, trailing: tuple[int, ...], implementation: str) -> None:
    for length in (1, 2, 7, 8, 9, 64, 65, 130, 1000):  # 1000: the maps between blocks are cut into blocks themselves
        decay, inputs, state = draw(length, trailing, dtype)
        states, last = linear_recurrence(decay, inputs, state, implementation=implementation)
        torch.testing.assert_close(states, loop(decay, inputs, state), atol=1e-12, rtol=1e-12)
        assert torch.equal(last, states[:, -1])


@pytest.mark.parametrize("dtype", TYPES)
def test_own_gradient_is_that_of_autograd_through_the_loop(dtype: torch.dtype) -> None:
    for length in (9, 65, 300):
        leaves = [x.requires_grad_() for x in draw(length, (2,), dtype)]
        mask = torch.rand(2, length, generator=torch.Generator().manual_seed(0)) < 0.7
        gradients = []
        for implementation in ("recurrent", "blocked"):
            states, last = linear_recurrence(*leaves, mask, implementation)
            gradients.append(torch.autograd.grad(states.abs().square().sum() + last.abs().sum(), leaves))
        for mine, theirs in zip(*gradients, strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("dtype", TYPES)
def test_gradients_of_first_and_second_order(dtype: torch.dtype) -> None:
    leaves = tuple(x.requires_grad_() for x in draw(11, (2,), dtype, batch=1))

    def blocked(*arguments: torch.Tensor) -> torch.Tensor:
        return linear_recurrence(*arguments, None, "blocked")[0]

    assert torch.autograd.gradcheck(blocked, leaves)
    assert torch.autograd.gradgradcheck(blocked, leaves)


@pytest.mark.parametrize("implementation", ["recurrent", "blocked"])
def test_constant_decay_is_a_geometric_series(implementation: str) -> None:
    states, _ = linear_recurrence(torch.tensor(0.9, dtype=torch.float64), torch.ones(1, 200, 1).double(), None, None, implementation)
    expected = (1 - 0.9 ** torch.arange(1, 201).double()) / (1 - 0.9)
    torch.testing.assert_close(states[0, :, 0], expected, atol=1e-12, rtol=0)


def test_decays_that_vanish_are_exact() -> None:
    # a form that divides by products of decays gives NaN here
    decay, inputs, state = draw(400)
    decay[:, ::3] = 0.0
    decay[:, 1::7] = 1e-300
    decay.requires_grad_()
    states, _ = linear_recurrence(decay, inputs, state, implementation="blocked")
    torch.testing.assert_close(states, loop(decay.detach(), inputs, state), atol=1e-13, rtol=1e-13)
    assert torch.equal(states[:, ::3], inputs[:, ::3])
    assert torch.isfinite(torch.autograd.grad(states.sum(), decay)[0]).all()


def test_any_chunking_gives_the_same() -> None:
    decay, inputs, state = draw(200)
    expected, last = linear_recurrence(decay, inputs, state)
    for sizes in ((100, 100), (1, 16, 183), (64, 0, 64, 72)):
        carried, parts = state, []
        for a, b in zip(decay.split(sizes, 1), inputs.split(sizes, 1), strict=True):
            states, carried = linear_recurrence(a, b, carried)
            parts.append(states)
        torch.testing.assert_close(torch.cat(parts, 1), expected, atol=1e-12, rtol=1e-12)
        torch.testing.assert_close(carried, last, atol=1e-12, rtol=1e-12)


def test_masked_positions_repeat_the_state_whatever_they_hold() -> None:
    decay, inputs, state = draw(50)
    mask = torch.rand(2, 50, generator=torch.Generator().manual_seed(1)) < 0.6
    inputs = torch.where(mask[..., None], inputs, torch.nan)
    states, last = linear_recurrence(decay, inputs, state, mask)
    for row in range(2):
        real = mask[row]
        expected, end = linear_recurrence(decay[row : row + 1, real], inputs[row : row + 1, real], state[row : row + 1])
        torch.testing.assert_close(states[row, real], expected[0], atol=1e-13, rtol=1e-13)
        torch.testing.assert_close(last[row], end[0], atol=1e-13, rtol=1e-13)


def test_wide_rows_are_walked_without_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ELEMENTS", 1)
    decay, inputs, state = draw(64)
    torch.testing.assert_close(linear_recurrence(decay, inputs, state)[0], loop(decay, inputs, state), atol=1e-12, rtol=1e-12)


def test_real_decay_of_complex_inputs_and_an_empty_sequence() -> None:
    decay, inputs, _ = draw(20, dtype=torch.complex128)
    states, _ = linear_recurrence(decay.real, inputs)
    torch.testing.assert_close(states, loop(decay.real.to(inputs.dtype), inputs, torch.zeros(2, 3, dtype=inputs.dtype)))
    states, last = linear_recurrence(decay[:, :0], inputs[:, :0], inputs[:, 0])
    assert states.shape == (2, 0, 3)
    assert torch.equal(last, inputs[:, 0])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((torch.ones(2, 4), torch.ones(2, 5)), "decay must be broadcastable"),
        ((torch.ones(1), torch.ones(1)), r"\(batch, length, ...\), got \(1,\)"),
        ((torch.ones(2, 5), torch.ones(2, 5), torch.ones(3)), r"state must have shape \(2,\), got \(3,\)"),
        ((torch.ones(2, 5), torch.ones(2, 5), None, torch.ones(2, 4) > 0), "mask must have shape"),
        ((torch.ones(2, 5), torch.ones(2, 5), None, None, "fast"), "implementation must be one of .* got 'fast'"),
    ],
)
def test_bad_arguments_are_refused(arguments: tuple, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        linear_recurrence(*arguments)


def test_pairs_of_real_numbers_are_complex_ones() -> None:
    """Exporters get the recurrence in real numbers: with padding in the middle of a row, too."""
    decay, inputs, state = draw(9, dtype=torch.complex128)
    decay = decay[:1, :1].expand_as(decay)
    mask = torch.ones(inputs.shape[:2], dtype=torch.bool)
    mask[0, 3:5] = False
    expected, _ = linear_recurrence(decay, inputs, state, mask)
    found = paired_linear_recurrence(torch.view_as_real(decay[0, 0]), torch.view_as_real(inputs), torch.view_as_real(state), mask)
    torch.testing.assert_close(torch.view_as_complex(found), expected)
