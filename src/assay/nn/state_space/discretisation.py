"""From ``x' = A x + B u`` to ``x_t = Ā x_{t−1} + B̄ u_t``: the generalised bilinear transform, and the exact map of a held input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

Rule: TypeAlias = float | Literal["zoh"]
"""α of the bilinear transform, or ``zoh``: zero-order hold."""


def discretise(
    matrix: Tensor, inputs: Tensor, step: Tensor, alpha: Rule = 0.5, solve: Callable[[Tensor, Tensor], Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """``Ā = (I − αΔA)⁻¹ (I + (1−α)ΔA)``, ``B̄ = (I − αΔA)⁻¹ ΔB``; or ``Ā = e^{ΔA}``, ``B̄ = A⁻¹(Ā − I)B`` without inverting A.

    α = 0 is Euler's forward rule, 1 the backward one, 1/2 the bilinear or Tustin rule. The forward rule is unstable where a step is longer
    than 2 over the largest eigenvalue: for LegS, whose eigenvalues are −1 … −N, above 2/N.

    Source: Zhang, Chen, Zhou (2007), Performance recovery in digital implementation of analogue systems.

    Args:
        matrix: A, (..., N, N).
        inputs: B, (..., N).
        step: Δ > 0, (systems,); leading dimensions broadcast.
        alpha: in [0, 1], or ``zoh``.
        solve: ``(δ, right (..., N, K)) -> x`` with ``(I − δA) x = right``, where A's structure gives a faster one than dense elimination.

    Returns:
        Ā (systems, N, N) and B̄ (systems, N).

    Raises:
        ValueError: α outside [0, 1].
    """
    check_rule(alpha)
    scaled, driven = step[..., None, None] * matrix, step[..., None] * inputs
    if alpha == "zoh":
        scaled, driven = torch.broadcast_tensors(F.pad(scaled, (0, 1)), F.pad(driven[..., None], (scaled.shape[-1], 0)))
        exponential = torch.matrix_exp(F.pad(scaled + driven, (0, 0, 0, 1)))
        return exponential[..., :-1, :-1], exponential[..., :-1, -1]
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    explicit = identity + (1 - alpha) * scaled
    if alpha == 0:
        return explicit, driven.expand(explicit.shape[:-1])
    right = torch.cat([explicit, driven.expand(explicit.shape[:-1])[..., None]], -1)
    both = torch.linalg.solve(identity - alpha * scaled, right) if solve is None else solve(alpha * step, right)
    return both[..., :-1], both[..., -1]


def check_rule(alpha: Rule) -> None:
    """Raise ValueError unless ``alpha`` is ``zoh`` or in [0, 1]."""
    if isinstance(alpha, str):
        if alpha != "zoh":
            raise ValueError(f"alpha must lie in [0, 1] or be 'zoh', got {alpha!r}")
    elif not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie in [0, 1] or be 'zoh', got {alpha}")
