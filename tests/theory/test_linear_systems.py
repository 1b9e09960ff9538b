"""A gate is a step size, a filter is a shift, and Picard's iterates converge as fast as the theory says."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from assay.nn.state_space.discretisation import discretise
from assay.ops.krylov import krylov
from assay.theory.linear_systems import conv_as_lssl, gated_recurrence_as_lssl, picard


def test_a_gate_is_backward_euler_with_the_step_of_its_logit() -> None:
    z = torch.linspace(-6, 6, 13, dtype=torch.float64)
    system = gated_recurrence_as_lssl(z)
    matrix, inputs = discretise(system.matrix, system.inputs, system.step, system.alpha)
    torch.testing.assert_close(matrix[:, 0, 0], 1 - z.sigmoid(), atol=1e-14, rtol=0)
    torch.testing.assert_close(inputs[:, 0], z.sigmoid(), atol=1e-14, rtol=0)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_filter_is_the_impulse_response_of_its_shift(count: int) -> None:
    taps = torch.randn(count, dtype=torch.float64)
    system = conv_as_lssl(taps)
    found = krylov(system.matrix, system.inputs, count + 3, system.outputs[None])[0]
    torch.testing.assert_close(found, F.pad(taps, (0, 3)), atol=0, rtol=0)


def test_iterates_come_nearer_by_the_factorial() -> None:
    """x' = −x, x(0) = 1 over a time of 2: the k-th iterate is the k-th Taylor polynomial up to the step, so its error ≤ 2^k / k! + O(Δ)."""
    step, length = 1e-4, 20_000
    start = torch.tensor(1.0, dtype=torch.float64)
    iterates = picard(lambda t, x: -x, start, step, length, 15)
    limit = (1 + step) ** -torch.arange(1, length + 1, dtype=torch.float64)  # implicit Euler
    errors = [float((x - limit).abs().max()) for x in iterates]
    for k, error in enumerate(errors):
        assert error <= 1.01 * 2 ** (k + 1) / math.factorial(k + 1) + 1e-9
    assert errors[-1] < 1e-8
    assert (limit - (-step * torch.arange(1, length + 1, dtype=torch.float64)).exp()).abs().max() < 1e-4


def test_a_nonlinear_equation_is_solved() -> None:
    """x' = x (1 − x), the logistic curve, to the order of the step."""
    step, length = 1e-3, 3_000
    found = picard(lambda t, x: x * (1 - x), torch.tensor(0.1, dtype=torch.float64), step, length, 60)[-1]
    t = step * torch.arange(1, length + 1, dtype=torch.float64)
    assert (found - 1 / (1 + 9 * (-t).exp())).abs().max() < 1e-3


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: conv_as_lssl(torch.ones(0)), r"at least one, got \(0,\)"),
        (lambda: picard(lambda t, x: x, torch.ones(()), 0.0, 3, 3), "step must be above 0, got 0.0"),
        (lambda: picard(lambda t, x: x, torch.ones(()), 0.1, -3, 3), "must not be negative, got -3 and 3"),
    ],
)
def test_bad_arguments_are_refused(call, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()
