"""HiPPO systems: structured and dense forms agree, eigenvalues, and what the state reconstructs of inputs that it can hold exactly."""

from __future__ import annotations

import pytest
import torch

from assay.nn.state_space.discretisation import discretise
from assay.ops.tridiagonal import pivots
from assay.theory.hippo import MEASURES, STRUCTURED, hippo, hippo_reconstruct, structured_hippo

DENSE = ("legs", "legt", "lmu", "lagt")


@pytest.mark.parametrize("measure", DENSE)
@pytest.mark.parametrize("state", [1, 2, 7, 64])
def test_structured_form_is_the_dense_one(measure: str, state: int) -> None:
    matrix, vector = hippo(measure, state)
    form = structured_hippo(measure, state)
    # a matrix of one number: LegT's two corners fall together
    assert (form.matrix() - matrix).abs().max() <= 1e-14 * matrix.abs().max()
    assert torch.equal(form.inputs(), vector)
    assert form.lower[0] == form.upper[-1] == 0


def test_matrices_are_the_published_ones() -> None:
    s3, s5, s15 = 3**0.5, 5**0.5, 15**0.5
    legs = -torch.tensor([[1, 0, 0], [s3, 2, 0], [s5, s15, 3]], dtype=torch.float64)
    legt = -torch.tensor([[1, -s3, s5], [s3, 3, -s15], [s5, s15, 5]], dtype=torch.float64)
    lmu = -torch.tensor([[1, 1, 1], [-3, 3, 3], [5, -5, 5]], dtype=torch.float64)
    for measure, expected in (("legs", legs), ("legt", legt), ("lmu", lmu)):
        torch.testing.assert_close(hippo(measure, 3)[0], expected, atol=1e-14, rtol=0)
    torch.testing.assert_close(hippo("legt", 3)[1], torch.tensor([1, s3, s5], dtype=torch.float64))
    torch.testing.assert_close(hippo("lmu", 3)[1], torch.tensor([1.0, -3, 5], dtype=torch.float64))
    torch.testing.assert_close(hippo("lagt", 2)[0], torch.tensor([[-0.5, 0], [-1, -0.5]], dtype=torch.float64))


def test_eigenvalues_of_legs() -> None:
    found = torch.linalg.eigvals(hippo("legs", 10)[0])
    torch.testing.assert_close(found.real.sort(descending=True)[0], -torch.arange(1.0, 11, dtype=torch.float64))
    assert found.imag.abs().max() < 1e-9


@pytest.mark.parametrize("measure", ["legs", "legt", "lagt"])
def test_energy_never_grows(measure: str) -> None:
    """``A + Aᵀ`` is negative semi-definite: the state at rest forgets, so no rule with α ≥ ½ can blow up."""
    matrix, _ = hippo(measure, 32)
    assert torch.linalg.eigvalsh(matrix + matrix.T).max() < 1e-9


def test_timescale_is_a_longer_window() -> None:
    whole, halved = hippo("legt", 6), hippo("legt", 6, timescale=0.5)
    for one, other in zip(whole, halved, strict=True):
        assert torch.equal(0.5 * one, other)


@pytest.mark.parametrize("measure", sorted(set(STRUCTURED) - set(DENSE)))
def test_other_forms_are_regular_and_stable(measure: str) -> None:
    torch.manual_seed(0)
    form = structured_hippo(measure, 16)
    assert pivots(*form[:3]).abs().min() > 1e-6
    assert torch.linalg.eigvals(structured_hippo("jacobi", 16).matrix()).real.max() < 0


def run(measure: str, state: int, u: torch.Tensor, step: float) -> torch.Tensor:
    matrix, inputs = (part[0] for part in discretise(*hippo(measure, state), torch.tensor([step], dtype=torch.float64), 0.5))
    x = torch.zeros(state, dtype=torch.float64)
    for value in u:
        x = matrix @ x + inputs * value
    return x


GROWING = {"legs": lambda t: (2 * t).exp() - 0.5 * (3 * t).exp(), "lagt": lambda t: (t / 2).exp()}
"""What these measures hold exactly: in e^{−s} a polynomial of degree 3, and the first Laguerre function."""


@pytest.mark.parametrize("measure", ["legs", "lagt"])
def test_growing_inputs_are_reconstructed(measure: str) -> None:
    step, f = 1e-3, GROWING[measure]
    t = torch.arange(-16_000, 1, dtype=torch.float64) * step
    x = run(measure, 5, f(t), step)
    age = torch.linspace(0, 1.5, 7, dtype=torch.float64)
    assert (hippo_reconstruct(x, age, measure) - f(-age)).abs().max() < 5e-3  # of values up to 1; the rule's own error is of order Δ


@pytest.mark.parametrize("measure", ["legt", "lmu"])
def test_polynomials_over_the_window_are_reconstructed(measure: str) -> None:
    def f(t: torch.Tensor) -> torch.Tensor:
        return 1 - 2 * t + 0.5 * t**3

    worst = []
    for step in (1e-3, 5e-4):
        t = torch.arange(-4.0, step / 2, step, dtype=torch.float64)
        age = torch.linspace(0, 1, 9, dtype=torch.float64)
        worst.append(float((hippo_reconstruct(run(measure, 6, f(t), step), age, measure) - f(-age)).abs().max()))
    assert worst[0] < 0.02
    assert 1.8 < worst[0] / worst[1] < 2.2  # of first order in the step, for the transform reads the present input alone


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: hippo("fourier", 4), f"measure must be one of {', '.join(MEASURES)}, got 'fourier'"),
        (lambda: hippo("legs", 0), "state must be at least 1, got 0"),
        (lambda: hippo("legs", 4, timescale=0.0), "timescale must be above 0, got 0.0"),
        (lambda: structured_hippo("random", 4), "has no structured form"),
        (lambda: hippo_reconstruct(torch.ones(3), torch.tensor([-0.5]), "legs"), "age must not be negative, got -0.5"),
        (lambda: hippo_reconstruct(torch.ones(3), torch.tensor([0.5]), "jacobi"), "got 'jacobi'"),
    ],
)
def test_bad_arguments_are_refused(call, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()
