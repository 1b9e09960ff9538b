"""The diagonal state space: a discretised system, its impulse response, a Fourier convolution, and the layer S4D made of it."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from assay.measure import state_bytes
from assay.nn.state_space.diagonal import DiagonalStateSpace
from assay.nn.state_space.s4d import S4D
from assay.testing import check_mixer

VARIANTS = {"system": DiagonalStateSpace, "system of two": partial(DiagonalStateSpace, state=2), "S4D": partial(S4D, state=16)}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_option_keeps_the_contract(name: str) -> None:
    check_mixer(VARIANTS[name])


def system_of(channels: int, state: int = 8) -> DiagonalStateSpace:
    torch.manual_seed(0)
    return DiagonalStateSpace(channels, state).double()


def test_kernel_is_the_impulse_response() -> None:
    system = system_of(3)
    impulse = torch.zeros(1, 100, 3, dtype=torch.float64)
    impulse[:, 0] = 1
    expected = system.kernel(100).clone()
    expected[:, 0] += system.skip
    torch.testing.assert_close(system(impulse)[0].T, expected, atol=1e-13, rtol=0)
    state, answers = system.initial_state(1), []
    for u in impulse.unbind(1):
        y, state = system.step(u, state)
        answers.append(y)
    torch.testing.assert_close(torch.stack(answers, 1)[0].T, expected, atol=1e-13, rtol=0)


def test_kernel_is_that_of_the_held_system() -> None:
    # h' = A h + u over a step with u held: solved by many small steps of Runge and Kutta's midpoint rule
    system = system_of(2, 4)
    step, rate = system.log_step.exp().detach().numpy(), -np.exp(system.log_rate.detach().numpy()) + 1j * system.frequency.detach().numpy()
    output = np.ascontiguousarray(system.output.detach().numpy()).view(np.complex128)[..., 0]
    h, kernel = np.zeros_like(rate), []
    for t in range(12):
        fine = step[:, None] / 2000
        for _ in range(2000):
            middle = h + fine / 2 * (rate * h + (t == 0))
            h = h + fine * (rate * middle + (t == 0))
        kernel.append(2 * (output * h).sum(1).real)
    np.testing.assert_allclose(system.kernel(12).detach().numpy().T, kernel, atol=1e-7)


@pytest.mark.parametrize("length", [1, 31, 32, 33, 64, 300])
def test_chunks_are_a_fourier_convolution(length: int) -> None:
    system, x = system_of(5), torch.randn(2, length, 5, dtype=torch.float64)
    transformed = torch.fft.rfft(x, 2 * length, dim=1) * torch.fft.rfft(system.kernel(length), 2 * length).T
    expected = torch.fft.irfft(transformed, 2 * length, dim=1)[:, :length] + system.skip * x
    torch.testing.assert_close(system(x), expected, atol=1e-12, rtol=0)


def test_starting_values() -> None:
    system = DiagonalStateSpace(500, 64)
    torch.testing.assert_close(system.log_rate.exp(), torch.full((500, 32), 0.5))
    torch.testing.assert_close(system.frequency[3], math.pi * torch.arange(32))
    assert 1e-3 <= system.log_step.exp().min() < 1.2e-3
    assert 0.08 < system.log_step.exp().max() <= 0.1 * 1.0001
    assert state_bytes(system.initial_state(2)) == 2 * 500 * 32 * 8


def test_a_long_stream_keeps_its_digits_in_float32() -> None:
    system = system_of(4, 16)
    x = torch.randn(1, 3000, 4, dtype=torch.float64)
    with torch.no_grad():
        expected = system(x)
        assert (system.float()(x.float()) - expected).abs().max() < 1e-4 * expected.abs().max()


def test_s4d_is_the_system_then_a_gate() -> None:
    torch.manual_seed(0)
    layer, x = S4D(6, state=4), torch.randn(2, 20, 6)
    first, second = layer.output_projection(F.gelu(layer.system(x))).chunk(2, -1)
    torch.testing.assert_close(layer(x), first * second.sigmoid())


@pytest.mark.parametrize(
    ("arguments", "words"), [((0,), "channels must be at least 1, got 0"), ((4, 3), "even and at least 2, got 3"), ((4, 0), "got 0")]
)
def test_bad_arguments_are_refused(arguments: tuple, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DiagonalStateSpace(*arguments)
    with pytest.raises(ValueError, match=r"\(batch, length, 8\), got \(2, 5, 7\)"):
        S4D(8)(torch.zeros(2, 5, 7))


def test_the_form_for_export_is_the_same() -> None:
    """In real numbers, a position at a time: from a state, and over padding."""
    torch.manual_seed(0)
    layer = DiagonalStateSpace(6, 8).double()
    x, mask = torch.randn(3, 40, 6, dtype=torch.float64), torch.rand(3, 40) < 0.8
    state = torch.randn_like(layer.initial_state(3))
    for ours, theirs in zip(layer._in_pairs(x, state, mask), layer.scan(x, state, mask), strict=True):
        torch.testing.assert_close(ours, theirs)
