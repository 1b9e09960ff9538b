"""How fast attention's output can change with its input: bounds, and what a power iteration finds.

With inputs x_j as rows of X (n, width), one head, ``B = W_qᵀ W_k / √head_width`` and ``O_i = Σ_j P_ij W_v x_j``:

    sigmoid   ‖∂O/∂X‖₂ ≤ ‖W_v‖₂ (n σ + ½ ‖B‖₂ ‖X‖_F²)              σ the largest weight, at most 1; sigmoid' ≤ ¼
    softmax   ‖∂O/∂X‖₂ ≤ ‖W_v‖₂ (√n + ‖B‖₂ (R² + R ‖X‖_F))         R = max_j ‖x_j‖

The first is of the form of Ramapuram et al. (2024), Theory, Analysis, and Best Practices for Sigmoid Self-Attention; both are derived
here by the product rule. With ∂s_ij = ∂x_iᵀ B x_j + x_iᵀ B ∂x_j, the first term of each bounds P ∂X, for which a sigmoid's matrix has a
norm of at most n σ and a matrix whose rows sum to one at most √n. The rest bounds ∂P X. Sigmoid: ∂P_ij = P'_ij ∂s_ij gives two sums, each
at most ¼ ‖B‖ Σ_j ‖x_j‖². Softmax: ∂P_ij = P_ij (∂s_ij − Σ_l P_il ∂s_il) gives the covariance of a row's inputs times B, at most R² ‖B‖,
and a matrix with blocks P_ij (x_j − x̄_i) x_iᵀ B, whose Frobenius norm is at most ‖B‖ R ‖X‖_F.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.func import grad, jvp, vjp
from torch.nn.attention import SDPBackend, sdpa_kernel

Weighting = Literal["sigmoid", "softmax"]
Map = Callable[[Tensor], Tensor]


def lipschitz_bound(
    query_weight: Tensor,
    key_weight: Tensor,
    value_weight: Tensor,
    x: Tensor,
    weighting: Weighting = "sigmoid",
    largest_weight: float = 1.0,
) -> float:
    """An upper bound of the spectral norm of one attention head's Jacobian at ``x``, over all biases, causal or not.

    Several heads, joined and projected by W_o, are bounded by ``‖W_o‖₂ √(Σ_h bound_h²)``.

    Args:
        query_weight: W_q (head width, width).
        key_weight: W_k (head width, width).
        value_weight: W_v (head width, width).
        x: (n, width).
        weighting: how scores become weights.
        largest_weight: σ, at least the largest of the sigmoid's weights at x.

    Raises:
        ValueError: an unknown weighting, or a largest weight outside (0, 1].
    """
    if weighting not in ("sigmoid", "softmax"):
        raise ValueError(f"weighting must be sigmoid or softmax, got {weighting!r}")
    if not 0 < largest_weight <= 1:
        raise ValueError(f"largest_weight must be above 0 and at most 1, got {largest_weight}")
    product = _norm(query_weight.mT @ key_weight) / math.sqrt(query_weight.shape[0])
    total, largest = float(torch.linalg.matrix_norm(x)), float(torch.linalg.vector_norm(x, dim=-1).max())
    if weighting == "sigmoid":
        return _norm(value_weight) * (len(x) * largest_weight + product * total**2 / 2)
    return _norm(value_weight) * (math.sqrt(len(x)) + product * (largest**2 + largest * total))


def local_lipschitz(function: Map, x: Tensor, iterations: int = 50, seed: int = 0) -> float:
    """The spectral norm of a function's Jacobian at ``x``, from below, by power iteration on JᵀJ.

    Args:
        function: maps a tensor of x's shape to a tensor; twice differentiable code, no dropout.
        x: where.
        iterations: products with J and Jᵀ; the value found rises with them.
        seed: of the direction it starts from.

    Raises:
        ValueError: fewer than one iteration.
    """
    return float(_steepest(function, x, iterations, seed)[0])


def sharpest_input(function: Map, x: Tensor, steps: int = 50, rate: float = 0.1, iterations: int = 20, seed: int = 0) -> Tensor:
    """An input of x's Frobenius norm where the function changes faster than at x: gradient ascent on the norm of the Jacobian.

    Each step moves by ``rate`` of the norm along the gradient of uᵀJ(x)v, u and v the leading singular vectors, and back to x's norm; the
    best input on the way is returned.

    Args:
        function: as in `local_lipschitz`.
        x: where to begin.
        steps: of ascent.
        rate: length of a step relative to ‖x‖.
        iterations: of power iteration a step.
        seed: of the power iteration.
    """
    norm, best, found = x.norm(), x, -math.inf
    for _ in range(steps + 1):
        value, left, right = _steepest(function, x, iterations, seed)
        if value > found:
            best, found = x, value

        def stretch(at: Tensor, left: Tensor = left, right: Tensor = right) -> Tensor:
            return (left * jvp(function, (at,), (right,))[1]).sum()

        with sdpa_kernel(SDPBackend.MATH):
            direction = grad(stretch)(x).detach()
        x = x + rate * norm * direction / direction.norm().clamp(min=torch.finfo(x.dtype).tiny)
        x = x * (norm / x.norm())
    return best


def _steepest(function: Map, x: Tensor, iterations: int, seed: int) -> tuple[float, Tensor, Tensor]:
    """The leading singular value and vectors (left, right) of the Jacobian."""
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations}")
    right = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=x.dtype).to(x.device)
    right, left, value = right / right.norm(), torch.zeros_like(x), 0.0
    with sdpa_kernel(SDPBackend.MATH):  # the fused forms of attention have no forward derivative
        pull: Any = vjp(function, x)[1]
        for _ in range(iterations):
            pushed: Tensor = jvp(function, (x,), (right,))[1]
            value = float(pushed.norm())
            if value == 0:
                break
            left = (pushed / value).detach()
            right = pull(left)[0].detach()
            right = right / right.norm()
    return value, left, right


def _norm(matrix: Tensor) -> float:
    return float(torch.linalg.matrix_norm(matrix, 2))
