"""`poly_norm` and `poly_relu`: every implementation against the formula, its gradient, extreme inputs."""

from __future__ import annotations

import importlib.util
import logging
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from assay.ops import poly_norm as poly_norm_module
from assay.ops.poly_norm import poly_norm
from assay.ops.poly_relu import poly_relu

WEIGHT = torch.tensor([0.5, -0.25, 1.0], dtype=torch.float64)  # not symmetrical, so that a reversed order shows
BIAS = torch.tensor([0.1], dtype=torch.float64)


def plain_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-6) -> Tensor:
    """The published formula, without any care for overflow."""
    y, order = bias, len(weight)
    for place, coefficient in enumerate(weight):
        z = x ** (order - place)
        y = y + coefficient * z / (z.square().mean(-1, keepdim=True) + eps).sqrt()
    return y


def plain_relu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return sum(a * x.clamp(min=0) ** (len(weight) - place) for place, a in enumerate(weight)) + bias


def coefficients(order: int, channels: int | None = None, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((order,), (1,)) if channels is None else ((order, channels), (channels,))
    weight, bias = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return weight, bias


def with_gradients(function: Any, x: Tensor, weight: Tensor, bias: Tensor, *more: Any) -> list[Tensor]:
    leaves = [value.detach().clone().requires_grad_() for value in (x, weight, bias)]
    y = function(*leaves, *more)
    flow = torch.randn(y.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64).to(y.dtype)
    return [y.detach(), *torch.autograd.grad(y, leaves, flow)]


def compare(found: list[Tensor], expected: list[Tensor], tolerance: float = 1e-12) -> None:
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        assert float((a - b).abs().max()) <= tolerance * max(1.0, float(b.abs().max()))


# ------------------------------------------------------------------------------------------------ values and gradients


def test_published_formulas_at_known_numbers() -> None:
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)
    expected = [0.5 * max(v, 0) ** 3 - 0.25 * max(v, 0) ** 2 + max(v, 0) + 0.1 for v in x.tolist()]
    torch.testing.assert_close(poly_relu(x, WEIGHT, BIAS), torch.tensor(expected, dtype=torch.float64), atol=1e-14, rtol=0)
    torch.testing.assert_close(poly_norm(x, WEIGHT, BIAS), plain_norm(x, WEIGHT, BIAS), atol=1e-14, rtol=0)


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("channels", [None, 7])
@pytest.mark.parametrize("implementation", ["reference", "closed"])
def test_norm_is_the_formula_in_value_and_gradient(implementation: str, order: int, channels: int | None) -> None:
    weight, bias = coefficients(order, channels)
    for size, eps in ((1.0, 1e-6), (1e-3, 1e-6), (30.0, 0.1), (1e-3, 0.0)):
        x = size * torch.randn(2, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        expected = with_gradients(plain_norm, x, weight, bias, eps)
        compare(with_gradients(poly_norm, x, weight, bias, eps, implementation), expected)


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("channels", [None, 7])
@pytest.mark.parametrize("implementation", ["reference", "closed"])
def test_relu_is_the_formula_in_value_and_gradient(implementation: str, order: int, channels: int | None) -> None:
    weight, bias = coefficients(order, channels)
    x = torch.randn(2, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    compare(with_gradients(poly_relu, x, weight, bias, implementation), with_gradients(plain_relu, x, weight, bias))


@pytest.mark.parametrize("function", [poly_norm, poly_relu])
def test_gradients_against_finite_differences(function: Any) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 4, dtype=torch.float64)
    x = (x + 0.1 * x.sign()).requires_grad_()  # away from the corner at 0
    assert torch.autograd.gradcheck(function, (x, WEIGHT.clone().requires_grad_(), BIAS.clone().requires_grad_()))


def test_the_reference_can_be_differentiated_twice() -> None:
    torch.manual_seed(0)
    x = torch.rand(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: poly_norm(x, WEIGHT, BIAS, 1e-6, "reference"), (x,))


@pytest.mark.slow
def test_fused_by_the_compiler_in_value_and_gradient() -> None:
    for shape, channels in (((4, 6), None), ((2, 3, 9), None), ((2, 3, 9), 9)):
        weight, bias = coefficients(3, channels)
        x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        expected = with_gradients(plain_norm, x, weight, bias)
        compare(with_gradients(poly_norm, x, weight, bias, 1e-6, "compiled"), expected)
    assert poly_norm_module._compiled() is not None  # it was the compiled form that ran


# ------------------------------------------------------------------------------------------------ special cases


def test_each_branch_is_torchs_rms_norm_of_a_power() -> None:
    x = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    peer = nn.RMSNorm(6, eps=1e-6, elementwise_affine=False)
    for place, power in enumerate((3, 2, 1)):
        one = torch.eye(3, dtype=torch.float64)[place]
        torch.testing.assert_close(poly_norm(x, one, torch.zeros(1).double()), peer(x**power), atol=1e-13, rtol=0)


def test_the_linear_coefficient_alone_is_relu() -> None:
    x = torch.randn(50, generator=torch.Generator().manual_seed(3))
    assert torch.equal(poly_relu(x, torch.tensor([0.0, 0.0, 1.0]), torch.zeros(1)), x.clamp(min=0))


def test_the_quadratic_branch_is_even_and_the_others_are_odd() -> None:
    x = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    for weight, sign in (([0.0, 1.0, 0.0], 1), ([1.0, 0.0, 2.0], -1)):
        weight = torch.tensor(weight, dtype=torch.float64)
        zero = torch.zeros(1, dtype=torch.float64)
        torch.testing.assert_close(poly_norm(-x, weight, zero), sign * poly_norm(x, weight, zero))


@pytest.mark.parametrize("eps", [1e-6, 0.0])
@pytest.mark.parametrize("implementation", ["reference", "closed"])
def test_a_row_of_zeros_gives_the_constant_and_finite_gradients(eps: float, implementation: Any) -> None:
    y, *gradients = with_gradients(poly_norm, torch.zeros(2, 5, dtype=torch.float64), WEIGHT, BIAS, eps, implementation)
    assert torch.equal(y, torch.full((2, 5), 0.1, dtype=torch.float64))
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("size", [6.3, 6.4, 1e3, 6e4])
def test_large_inputs_neither_overflow_nor_vanish(dtype: torch.dtype, size: float) -> None:
    # in float16 the plain formula gives 0 for the cube from 6.4 on, and nothing from 40 on
    x = (size * torch.tensor([[1.0, -0.5, 0.25, 1.0]])).to(dtype)
    cube = torch.tensor([1.0, 0.0, 0.0], dtype=dtype)
    found = with_gradients(poly_norm, x, cube, torch.zeros(1, dtype=dtype))
    expected = plain_norm(x.double(), cube.double(), torch.zeros(1).double())
    assert found[0].dtype == dtype
    torch.testing.assert_close(found[0].double(), expected, atol=2e-2, rtol=2e-2)
    assert all(bool(torch.isfinite(gradient).all()) for gradient in found[1:])


def test_epsilon_switches_the_cube_off_where_inputs_are_small() -> None:
    cube = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    for size, expected in ((0.05, 0.1240), (0.01, 0.001)):
        found = poly_norm(torch.full((1, 4), size, dtype=torch.float64), cube, torch.zeros(1).double())
        torch.testing.assert_close(found, torch.full_like(found, expected), atol=1e-4, rtol=0)


def test_nothing_in_nothing_out() -> None:
    assert poly_norm(torch.zeros(0, 4), WEIGHT.float(), BIAS.float()).shape == (0, 4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"weight": torch.zeros(3, 5)}, r"\(order, 4\) and \(4,\), got \(3, 5\)"),
        ({"bias": torch.zeros(2)}, r"got \(3,\) and \(2,\)"),
        ({"weight": torch.zeros(0)}, "got"),
        ({"eps": -1.0}, "eps must be at least 0, got -1"),
        ({"implementation": "magic"}, "got 'magic'"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        poly_norm(**{"x": torch.zeros(2, 4), "weight": torch.zeros(3), "bias": torch.zeros(1), **arguments})


# ------------------------------------------------------------------------------------------------ fallbacks and kernels


def test_a_fast_form_that_cannot_run_says_so_once_and_gives_way(caplog: pytest.LogCaptureFixture, monkeypatch: Any) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    poly_norm_module._triton_module.cache_clear()
    x = torch.randn(2, 5, dtype=torch.float32)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            y = poly_norm(x, WEIGHT.float(), BIAS.float(), implementation="triton")
    assert [record.message for record in caplog.records] == [
        "poly_norm cannot use Triton here (the tensors are on the CPU): using the closed form"
    ]
    torch.testing.assert_close(y, poly_norm(x, WEIGHT.float(), BIAS.float(), implementation="reference"))


def test_without_a_compiler_the_closed_form_runs(caplog: pytest.LogCaptureFixture, monkeypatch: Any) -> None:
    def broken(function: Any, **_: Any) -> Any:
        def call(*_: Any) -> Any:
            raise RuntimeError("no compiler")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    poly_norm_module._compiled.cache_clear()
    with caplog.at_level(logging.WARNING):
        y = poly_norm(torch.ones(2, 5), WEIGHT.float(), BIAS.float(), implementation="compiled")
    poly_norm_module._compiled.cache_clear()
    assert "no compiler" in caplog.text
    torch.testing.assert_close(y, poly_norm(torch.ones(2, 5), WEIGHT.float(), BIAS.float()))


INTERPRETED = """
import torch
from assay.ops.poly_norm import _backward, _forward
from assay.ops import poly_norm_triton as kernels
torch.manual_seed(0)
for order in (1, 3, 5):
    for size, eps in ((1, 1e-6), (7, 0.0), (100, 1e-6)):
        for dtype, tolerance in ((torch.float32, 3e-6), (torch.float16, 5e-3)):
            x, g = ((3 * torch.randn(4, size)).to(dtype) for _ in range(2))
            x[1], x[2] = 0, 10 * x[2]
            weight, bias = torch.randn(order), torch.randn(1)
            expected, found = _forward(x, weight, bias, eps), kernels.forward(x, weight, bias, eps)
            expected += _backward(g, x, weight, *expected[1:])
            found += kernels.backward(g, x, weight, *found[1:])
            for a, b in zip(found, expected):
                assert a.shape == b.shape and a.dtype == b.dtype
                error = float((a.double() - b.double()).abs().max() / b.double().abs().max().clamp(min=1e-9))
                assert error <= tolerance, (order, size, eps, dtype, error)
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_triton_kernels_in_the_interpreter() -> None:
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", INTERPRETED], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
