"""Local Lipschitz constants against dense Jacobians, and the bounds against both."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from assay.nn.attention.softmax import SoftmaxAttention
from assay.theory.attention_regularity import lipschitz_bound, local_lipschitz, sharpest_input


def _head(weights: Tensor, weighting: str, bias: float, causal: bool):
    """One attention head written out."""
    query, key, value = weights.unbind(0)

    def function(x: Tensor) -> Tensor:
        scores = x @ query.T @ (x @ key.T).T / math.sqrt(len(query)) + bias
        hidden = torch.ones(len(x), len(x), dtype=torch.bool).triu(1) & causal
        masked = scores.masked_fill(hidden, -torch.inf)
        return (torch.sigmoid(masked) if weighting == "sigmoid" else masked.softmax(-1)) @ x @ value.T

    return function


def _dense_norm(function, x: Tensor) -> float:
    jacobian = torch.autograd.functional.jacobian(function, x)
    return float(torch.linalg.matrix_norm(jacobian.reshape(x.numel(), -1).T.contiguous(), 2))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    length=st.integers(1, 7),
    width=st.integers(1, 5),
    size=st.floats(0.01, 8.0),
    bias=st.floats(-6.0, 6.0),
    causal=st.booleans(),
    weighting=st.sampled_from(["sigmoid", "softmax"]),
)
def test_the_bound_holds_for_the_dense_jacobian(seed, length, width, size, bias, causal, weighting) -> None:
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(3, width, width, generator=generator, dtype=torch.float64)
    x = size * torch.randn(length, width, generator=generator, dtype=torch.float64)
    constant = _dense_norm(_head(weights, weighting, bias, causal), x)
    assert constant <= lipschitz_bound(*weights, x, weighting) * (1 + 1e-9)


@pytest.mark.parametrize("weighting", ["sigmoid", "softmax"])
def test_the_bound_holds_where_ascent_looks_for_its_failure(weighting: str) -> None:
    generator = torch.Generator().manual_seed(0)
    weights, x = torch.randn(3, 4, 4, generator=generator).double(), 2 * torch.randn(6, 4, generator=generator).double()
    function = _head(weights, weighting, -1.0, False)
    sharp = sharpest_input(function, x, steps=20)
    torch.testing.assert_close(sharp.norm(), x.norm())
    before, after = _dense_norm(function, x), _dense_norm(function, sharp)
    assert 1.2 * before < after < lipschitz_bound(*weights, sharp, weighting)


def test_constant_weights_leave_the_first_term_alone() -> None:
    # all scores zero and b = 0: P is one half everywhere, so the constant is n/2 times that of the values, and the bound is met exactly
    x, zero, value = torch.randn(5, 3).double(), torch.zeros(3, 3).double(), torch.randn(3, 3).double()
    function = _head(torch.stack([zero, zero, value]), "sigmoid", 0.0, False)
    expected = 2.5 * float(torch.linalg.matrix_norm(value, 2))
    assert math.isclose(local_lipschitz(function, x), expected, rel_tol=1e-6)
    assert math.isclose(lipschitz_bound(zero, zero, value, x, largest_weight=0.5), expected, rel_tol=1e-12)


def test_power_iteration_finds_the_dense_norm_of_a_layer() -> None:
    # SoftmaxAttention is a fused operator without forward derivative: it must be replaced, not refused
    torch.manual_seed(0)
    layer, x = SoftmaxAttention(6, 2).double().requires_grad_(False), torch.randn(7, 6, dtype=torch.float64)

    def function(x: Tensor) -> Tensor:
        return layer(x[None])[0]

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        expected = _dense_norm(function, x)
    assert math.isclose(local_lipschitz(function, x, iterations=300), expected, rel_tol=1e-4)


def test_a_linear_map_and_a_constant() -> None:
    matrix = torch.diag(torch.tensor([3.0, 1.0, 0.5]).double())
    x = torch.ones(3, dtype=torch.float64)
    assert math.isclose(local_lipschitz(lambda x: matrix @ x, x), 3.0, rel_tol=1e-9)
    assert local_lipschitz(lambda x: 0 * x, x) == 0


def test_bad_arguments_are_refused() -> None:
    x = torch.ones(2, 2)
    with pytest.raises(ValueError, match="weighting must be sigmoid or softmax, got 'relu'"):
        lipschitz_bound(x, x, x, x, "relu")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"largest_weight must be above 0 and at most 1, got 1.5"):
        lipschitz_bound(x, x, x, x, largest_weight=1.5)
    with pytest.raises(ValueError, match="iterations must be at least 1, got 0"):
        local_lipschitz(lambda x: x, x, iterations=0)
