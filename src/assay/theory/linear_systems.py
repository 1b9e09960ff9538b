"""What linear state-space systems contain: gates of recurrent networks, every filter, and differential equations that are not linear.

Source: Gu, Johnson, Goel, Saab, Dao, Rudra, Ré (2021), Combining Recurrent, Convolutional, and Continuous-time Models with Linear
State-Space Layers, section 3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class ContinuousSystem(NamedTuple):
    """``x' = A x + B u``, ``y = C x + D u``, to be discretised with ``step`` and ``alpha`` (1: backward Euler)."""

    matrix: Tensor
    inputs: Tensor
    outputs: Tensor
    skip: Tensor
    step: Tensor
    alpha: float


class DiscreteSystem(NamedTuple):
    """``x_t = Ā x_{t−1} + B̄ u_t``, ``y_t = C x_t``."""

    matrix: Tensor
    inputs: Tensor
    outputs: Tensor


def gated_recurrence_as_lssl(gate_logits: Tensor) -> ContinuousSystem:
    """The gate ``h_t = (1 − σ(z)) h_{t−1} + σ(z) u_t`` is ``x' = −x + u`` under backward Euler with the step ``Δ = e^z``.

    For ``1 / (1 + e^z) = 1 − σ(z)``: a gate that depends on the input is a step size that does.

    Args:
        gate_logits: z, (...), one system each.
    """
    one = torch.ones_like(gate_logits)
    return ContinuousSystem(-one[..., None, None], one[..., None], one[..., None], torch.zeros_like(one), gate_logits.exp(), 1.0)


def conv_as_lssl(taps: Tensor) -> DiscreteSystem:
    """Any causal filter of L taps: the state holds the last L inputs, ``Ā`` shifts them, ``B̄ = e_0``, C are the taps.

    Args:
        taps: (L,), the present input's first.

    Raises:
        ValueError: taps that are not a vector of at least one number.
    """
    if taps.ndim != 1 or len(taps) < 1:
        raise ValueError(f"taps must have shape (count,) with at least one, got {tuple(taps.shape)}")
    ones = torch.ones_like(taps)
    return DiscreteSystem(torch.diag(ones[1:], -1), torch.eye(len(taps), dtype=taps.dtype, device=taps.device)[0], taps)


def picard(f: Callable[[Tensor, Tensor], Tensor], start: Tensor, step: float, length: int, iterations: int) -> list[Tensor]:
    """Picard's iterates of ``x' = f(t, x)``: ``x ← x(0) + ∫ f(s, x(s)) ds``, each a pointwise map, then the linear system ``A = 0``.

    So a stack of state-space layers with nonlinearities between them comes as near to a nonlinear equation as it is deep: with a Lipschitz
    constant K over a time T, the k-th iterate is within ``(KT)^k / k!`` of the limit, which is the implicit Euler solution of step Δ
    (a layer's present input enters its state at once).

    Args:
        f: ``(times (length,), x (length, ...)) -> (length, ...)``, on every position alone.
        start: x(0), (...).
        step: Δ, above 0.
        length: positions, at the times Δ, 2Δ, ….
        iterations: how many iterates after the constant x(0).

    Returns:
        The iterates, ``iterations + 1`` of shape (length, ...).

    Raises:
        ValueError: a step that is not above 0, a negative count.
    """
    if not step > 0:
        raise ValueError(f"step must be above 0, got {step}")
    if min(length, iterations) < 0:
        raise ValueError(f"length and iterations must not be negative, got {length} and {iterations}")
    times = step * torch.arange(1, length + 1, dtype=start.dtype, device=start.device)
    iterates = [start.expand(length, *start.shape)]
    for _ in range(iterations):
        iterates.append(start + step * f(times, iterates[-1]).cumsum(0))
    return iterates
