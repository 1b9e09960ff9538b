"""HiPPO: the linear systems ``x' = A x + B u`` whose state is the best polynomial description of what was read so far.

x holds the coefficients of u's past in orthogonal polynomials of the age s (time since): with the kernels ``e^{sA} B`` of the state,
``x(t) = ∫ e^{sA} B u(t − s) ds``, and the past is got back as ``u(t − s) ≈ Σ_n x_n p_n(s)``:

- ``legs``: every age, an exponential measure; ``p_n(s) = √(2n+1) P_n(2 e^{−s} − 1)``, Legendre;
- ``legt``: a window of length 1; ``p_n(s) = √(2n+1) P_n(1 − 2s)``;
- ``lmu``: the same window, Legendre memory units' scale; ``p_n(s) = P_n(2s − 1)``;
- ``lagt``: every age; ``p_n(s) = e^{−s/2} L_n(s)``, Laguerre.

All, and ``jacobi``, ``chebyshev-1`` and ``chebyshev-2``, have the form ``A = −P (T⁻¹ + diag c) Q`` with a tridiagonal T, in which they stay
while being trained.

Sources: Gu, Dao, Ermon, Rudra, Ré (2020), HiPPO: Recurrent Memory with Optimal Polynomial Projections; Voelker, Kajić, Eliasmith (2019),
Legendre Memory Units; Gu, Johnson, Goel, Saab, Dao, Rudra, Ré (2021), Combining Recurrent, Convolutional, and Continuous-time Models with
Linear State-Space Layers, for the form.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from assay.ops.tridiagonal import Quasiseparable

DTYPE = torch.float64


def hippo(measure: str, state: int, timescale: float = 1.0) -> tuple[Tensor, Tensor]:
    """A (N, N) and B (N,) of a measure, float64.

    Args:
        measure: one of `MEASURES`.
        state: N.
        timescale: both are multiplied by it; 0.5 gives ``legt`` a window of length 2, as later code of the authors has it.

    Raises:
        ValueError: an unknown measure, a state below 1, or a timescale that is not above 0.
    """
    _check(measure, state)
    if not timescale > 0:
        raise ValueError(f"timescale must be above 0, got {timescale}")
    if measure == "random":
        matrix, vector = torch.randn(state, state, dtype=DTYPE) / state, torch.ones(state, dtype=DTYPE)
    elif measure in _DENSE:
        matrix, vector = _DENSE[measure](state)
    else:
        structured = structured_hippo(measure, state)
        matrix, vector = structured.matrix(), structured.inputs()
    return timescale * matrix, timescale * vector


def structured_hippo(measure: str, state: int) -> Quasiseparable:
    """The same system by its diagonals, float64; the Chebyshev forms have a small random diagonal, without which T may be singular.

    Raises:
        ValueError: a state below 1, a measure that is unknown, or ``random``, which has no such form.
    """
    _check(measure, state)
    if measure not in STRUCTURED:
        raise ValueError(f"measure {measure!r} has no structured form; it is one of {', '.join(STRUCTURED)}")
    return STRUCTURED[measure](state)


def hippo_reconstruct(x: Tensor, age: Tensor, measure: str) -> Tensor:
    """``u(t − s) ≈ Σ_n x_n p_n(s)``: the past as the state remembers it.

    Args:
        x: states, (..., N).
        age: s ≥ 0, (points,), in the system's own time: Δ · steps ago; for ``legt`` and ``lmu`` up to 1.
        measure: ``legs``, ``legt``, ``lmu`` or ``lagt``.

    Returns:
        (..., points).

    Raises:
        ValueError: a measure whose polynomials are not here, or a negative age.
    """
    if measure not in _BASES:
        raise ValueError(f"measure must be one of {', '.join(_BASES)}, got {measure!r}")
    if bool((age < 0).any()):
        raise ValueError(f"age must not be negative, got {float(age.min()):g}")
    return x @ _BASES[measure](x.shape[-1], age).to(x.dtype)


# ------------------------------------------------------------------------------------------------ dense


def _legs(state: int) -> tuple[Tensor, Tensor]:
    n, root = _numbers(state)
    return -(root[:, None] * root).tril(-1) - torch.diag(n + 1), root


def _legt(state: int) -> tuple[Tensor, Tensor]:
    n, root = _numbers(state)
    return -root[:, None] * root * torch.where(n[:, None] >= n, 1.0, _signs(n)), root


def _lmu(state: int) -> tuple[Tensor, Tensor]:
    n, root = _numbers(state)
    return -root[:, None].square() * torch.where(n[:, None] >= n, _signs(n), 1.0), root.square() * (-1.0) ** n


def _lagt(state: int) -> tuple[Tensor, Tensor]:
    ones = torch.ones(state, dtype=DTYPE)
    return 0.5 * torch.diag(ones) - (ones[:, None] * ones).tril(), ones


def _signs(n: Tensor) -> Tensor:
    """``(−1)^{n−k}``."""
    return (-1.0) ** (n[:, None] - n)


_DENSE: dict[str, Callable[[int], tuple[Tensor, Tensor]]] = {"legs": _legs, "legt": _legt, "lmu": _lmu, "lagt": _lagt}

# ------------------------------------------------------------------------------------------------ structured


def _structured_legs(state: int) -> Quasiseparable:
    n, root = _numbers(state)
    return _bidiagonal(root, -n / (2 * n + 1), 1.0)


def _structured_lagt(state: int) -> Quasiseparable:
    ones = torch.ones(state, dtype=DTYPE)
    return _bidiagonal(ones, -ones / 2, 1.0)


def _structured_jacobi(state: int) -> Quasiseparable:
    n, _ = _numbers(state)
    return _bidiagonal((2 * n + 2).sqrt(), torch.zeros_like(n), 2.0)


def _structured_legt(state: int) -> Quasiseparable:
    n, root = _numbers(state)
    corners = 0.5 * ((n == 0).to(DTYPE) + (n == state - 1))
    return Quasiseparable(*_skew(corners), root, root, torch.zeros_like(n), torch.ones_like(n))


def _structured_lmu(state: int) -> Quasiseparable:
    n, root = _numbers(state)
    signs = (-1.0) ** n  # diag(± root) takes legt to lmu
    return _structured_legt(state)._replace(left=signs * root.square(), right=signs)


def _structured_chebyshev(state: int, first: float) -> Quasiseparable:
    n, _ = _numbers(state)
    lower, diagonal, upper = _skew(1e-3 * torch.randn(state, dtype=DTYPE))
    scale = torch.where(n == 1, first, 1.0)
    ones = torch.ones_like(n)
    return Quasiseparable(lower * scale, diagonal, upper * scale.roll(-1), ones, ones, torch.zeros_like(n), ones)


def _bidiagonal(root: Tensor, shift: Tensor, vector: float) -> Quasiseparable:
    """T⁻¹ a lower triangle of ones."""
    ones = torch.ones_like(root)
    lower = -torch.cat([torch.zeros_like(ones[:1]), ones[1:]])
    return Quasiseparable(lower, ones, torch.zeros_like(ones), root, root, shift, vector * ones)


def _skew(diagonal: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """−½ below the diagonal and ½ above it."""
    half = torch.full_like(diagonal[1:], 0.5)
    zero = torch.zeros_like(diagonal[:1])
    return torch.cat([zero, -half]), diagonal, torch.cat([half, zero])


STRUCTURED: dict[str, Callable[[int], Quasiseparable]] = {
    "legs": _structured_legs,
    "legt": _structured_legt,
    "lagt": _structured_lagt,
    "lmu": _structured_lmu,
    "jacobi": _structured_jacobi,
    "chebyshev-1": lambda state: _structured_chebyshev(state, 2**0.5),
    "chebyshev-2": lambda state: _structured_chebyshev(state, 1.0),
}
MEASURES = (*STRUCTURED, "random")

# ------------------------------------------------------------------------------------------------ polynomials


def _legendre(state: int, place: Tensor) -> Tensor:
    """P_n at places of [−1, 1], (N, points)."""
    from scipy.special import eval_legendre

    n = torch.arange(state)
    return torch.from_numpy(eval_legendre(n[:, None].numpy(), place.to(DTYPE).numpy()))


def _laguerre(state: int, age: Tensor) -> Tensor:
    from scipy.special import eval_laguerre

    n = torch.arange(state)
    return torch.from_numpy(eval_laguerre(n[:, None].numpy(), age.to(DTYPE).numpy())) * (-age / 2).exp()


_BASES: dict[str, Callable[[int, Tensor], Tensor]] = {
    "legs": lambda state, age: _numbers(state)[1][:, None] * _legendre(state, 2 * (-age).exp() - 1),
    "legt": lambda state, age: _numbers(state)[1][:, None] * _legendre(state, 1 - 2 * age),
    "lmu": lambda state, age: _legendre(state, 2 * age - 1),
    "lagt": _laguerre,
}


def _numbers(state: int) -> tuple[Tensor, Tensor]:
    """n = 0 … N − 1 and √(2n + 1)."""
    n = torch.arange(state, dtype=DTYPE)
    return n, (2 * n + 1).sqrt()


def _check(measure: str, state: int) -> None:
    if measure not in MEASURES:
        raise ValueError(f"measure must be one of {', '.join(MEASURES)}, got {measure!r}")
    if state < 1:
        raise ValueError(f"state must be at least 1, got {state}")
