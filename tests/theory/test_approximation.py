"""The constructed networks against the functions they are to be, and their sizes against the counts."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from assay.theory import approximation as theory

X = torch.linspace(-1, 1, 401, dtype=torch.float64)
PAIRS = torch.cartesian_prod(X[::10], X[::10])


@pytest.mark.parametrize(
    ("network", "inputs", "expected", "units"),
    [
        (theory.square(), X[:, None], X**2, 1),
        (theory.square(3.0), 3 * X[:, None], 9 * X**2, 1),
        (theory.square(None), 50 * X[:, None], 2500 * X**2, 2),
        (theory.product(), PAIRS, PAIRS.prod(-1), 2),
        (theory.product(None), 50 * PAIRS, 2500 * PAIRS.prod(-1), 4),
        (theory.cubic_product(), PAIRS, PAIRS[:, 0] ** 3 * PAIRS[:, 1], 5),
        (theory.cubic_product(2.0), 2 * PAIRS, 16 * PAIRS[:, 0] ** 3 * PAIRS[:, 1], 5),
    ],
)
def test_squares_and_products_have_no_error(network: Any, inputs: Any, expected: Any, units: int) -> None:
    assert float((network(inputs) - expected).abs().max()) <= 1e-14 * max(1.0, float(expected.abs().max()))
    assert network.units == units


@pytest.mark.parametrize("degree", [2, 3, 4, 5, 8])
def test_any_polynomial_in_logarithmically_many_layers(degree: int) -> None:
    coefficients = [(-1) ** k / (k + 1) for k in range(degree + 1)]
    network = theory.polynomial(coefficients)
    expected = sum(c * X**k for k, c in enumerate(coefficients))
    torch.testing.assert_close(network(X[:, None]), expected, atol=1e-11, rtol=0)
    assert network.depth == math.ceil(math.log2(degree))


def test_outside_its_domain_a_bounded_square_is_none() -> None:
    # the price of one unit: left of −radius the activation is flat
    network = theory.square(1.0)
    assert float(network(torch.tensor([[-3.0]], dtype=torch.float64))) == pytest.approx(1.0)


@pytest.mark.parametrize("depth", [1, 2, 3, 6])
def test_relu_squares_lose_three_quarters_of_their_error_a_layer(depth: int) -> None:
    network = theory.relu_square(depth)
    fine = torch.linspace(-1, 1, 2**12 + 1, dtype=torch.float64)
    error = float((network(fine[:, None]) - fine**2).abs().max())
    assert error == pytest.approx(theory.relu_square_error(depth), rel=1e-12)
    assert network.depth == depth
    assert network.units == 2 + 4 * (depth - 1)


def test_rates() -> None:
    assert theory.sobolev_size(1e-3, 2, 1) == pytest.approx(1e6)
    assert theory.sobolev_size(1e-3, 2, 2, "relu") == pytest.approx(1e3 * math.log(1e3))
    assert theory.relu_size_of_poly_relu(2, 8, math.exp(-3)) == pytest.approx(2 * 8 * 9)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: theory.square(0.0), "radius must be positive, got 0"),
        (lambda: theory.polynomial([1.0, 2.0]), "three coefficients"),
        (lambda: theory.relu_square(0), "depth must be at least 1, got 0"),
        (lambda: theory.sobolev_size(2.0, 1, 1), "error must be between 0 and 1, got 2"),
        (lambda: theory.sobolev_size(0.1, 0, 1), "got 0 and 1"),
        (lambda: theory.sobolev_size(0.1, 1, 1, "gelu"), "got 'gelu'"),
    ],
)
def test_bad_arguments_are_refused(call: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()
