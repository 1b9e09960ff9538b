"""Tridiagonal systems, many at once, and the matrices ``−P (T⁻¹ + diag c) Q`` that are made of one: O(N) in every product and solve.

Thomas' elimination walks the N rows in order, all systems and all right sides together. It does not pivot: that is safe for the matrices
here as long as no `pivots` is near zero. The gradient is another solve, with the transposed matrix: for ``T x = r`` and ``g = T⁻ᵀ ∂L/∂x``,
``∂L/∂r = g`` and ``∂L/∂T_ij = −g_i x_j``.

Source of the matrix family: Gu, Johnson, Goel, Saab, Dao, Rudra, Ré (2021), Combining Recurrent, Convolutional, and Continuous-time Models
with Linear State-Space Layers, section 4.2 (HiPPO matrices are quasiseparable).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


def tridiagonal_solve(lower: Tensor, diagonal: Tensor, upper: Tensor, right: Tensor) -> Tensor:
    """``x`` with ``lower_i x_{i−1} + diagonal_i x_i + upper_i x_{i+1} = right_i``.

    Args:
        lower: (..., N); its first number is not used.
        diagonal: (..., N).
        upper: (..., N); its last number is not used.
        right: (..., N, K), K right sides; leading dimensions broadcast.

    Returns:
        (..., N, K), differentiable in everything, any number of times. Not finite where a pivot is zero.

    Raises:
        ValueError: sizes that do not fit.
    """
    size = diagonal.shape[-1]
    if right.ndim < 2 or not lower.shape[-1] == upper.shape[-1] == right.shape[-2] == size:
        raise ValueError(
            "lower, diagonal and upper must be (..., N) and right (..., N, K), "
            f"got {tuple(lower.shape)}, {tuple(diagonal.shape)}, {tuple(upper.shape)} and {tuple(right.shape)}"
        )
    leading = torch.broadcast_shapes(lower.shape[:-1], diagonal.shape[:-1], upper.shape[:-1], right.shape[:-2])
    lower, diagonal, upper = (part.expand(*leading, size) for part in (lower, diagonal, upper))
    return _solved(lower, diagonal, upper, right.expand(*leading, *right.shape[-2:]))


def tridiagonal_multiply(lower: Tensor, diagonal: Tensor, upper: Tensor, x: Tensor) -> Tensor:
    """``T x`` for x (..., N, K); arguments as `tridiagonal_solve`."""
    before, after = F.pad(x, (0, 0, 1, 0))[..., :-1, :], F.pad(x, (0, 0, 0, 1))[..., 1:, :]
    return lower[..., None] * before + diagonal[..., None] * x + upper[..., None] * after


def pivots(lower: Tensor, diagonal: Tensor, upper: Tensor) -> Tensor:
    """What the elimination divides by, (..., N)."""
    found = [diagonal[..., 0]]
    for i in range(1, diagonal.shape[-1]):
        found.append(diagonal[..., i] - lower[..., i] * upper[..., i - 1] / found[-1])
    return torch.stack(found, -1)


class Quasiseparable(NamedTuple):
    """``A = −P (T⁻¹ + diag c) Q`` by its diagonals, each (..., N), and the vector ``B = P b``.

    T has ``lower``, ``diagonal`` and ``upper``; P = diag ``left``, Q = diag ``right`` (no zero in it), c = ``shift``, b = ``vector``.
    """

    lower: Tensor
    diagonal: Tensor
    upper: Tensor
    left: Tensor
    right: Tensor
    shift: Tensor
    vector: Tensor

    def matrix(self) -> Tensor:
        """A, (..., N, N)."""
        size = self.diagonal.shape[-1]
        identity = torch.eye(size, dtype=self.diagonal.dtype, device=self.diagonal.device)
        inverse = tridiagonal_solve(self.lower, self.diagonal, self.upper, identity)
        return -self.left[..., None] * (inverse + torch.diag_embed(self.shift)) * self.right[..., None, :]

    def inputs(self) -> Tensor:
        """B, (..., N)."""
        return self.left * self.vector

    def solve(self, scale: Tensor, right: Tensor) -> Tensor:
        """``x`` with ``(I − δ A) x = right``, in O(N) a right side.

        With ``x = Q⁻¹ T w`` the system is tridiagonal in w: ``((I + δ P c Q) T + δ P Q) w = Q right``. Nothing is divided by
        ``I + δ P c Q``, which has zeros for HiPPO matrices at some δ.

        Args:
            scale: δ, (...).
            right: (..., N, K).
        """
        scale = scale[..., None]
        weight = 1 + scale * self.left * self.shift * self.right
        centre = weight * self.diagonal + scale * self.left * self.right
        w = tridiagonal_solve(weight * self.lower, centre, weight * self.upper, self.right[..., None] * right)
        return tridiagonal_multiply(self.lower, self.diagonal, self.upper, w) / self.right[..., None]


class _Thomas(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, lower: Tensor, diagonal: Tensor, upper: Tensor, right: Tensor) -> Tensor:
        x = _eliminated(lower, diagonal, upper, right)
        ctx.save_for_backward(lower, diagonal, upper, x)
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        lower, diagonal, upper, x = ctx.saved_tensors
        # the transposed matrix has T_{i−1,i} below and T_{i+1,i} above its diagonal
        below, above = F.pad(upper, (1, 0))[..., :-1], F.pad(lower, (0, 1))[..., 1:]
        g = _solved(below, diagonal, above, gradients[0])
        before, after = F.pad(x, (0, 0, 1, 0))[..., :-1, :], F.pad(x, (0, 0, 0, 1))[..., 1:, :]
        return -(g * before).sum(-1), -(g * x).sum(-1), -(g * after).sum(-1), g


def _solved(lower: Tensor, diagonal: Tensor, upper: Tensor, right: Tensor) -> Tensor:
    x = _Thomas.apply(lower, diagonal, upper, right)
    assert isinstance(x, Tensor)  # what its forward gives
    return x


def _eliminated(lower: Tensor, diagonal: Tensor, upper: Tensor, right: Tensor) -> Tensor:
    x = right.clone(memory_format=torch.contiguous_format)
    rows, size = x.unbind(-2), diagonal.shape[-1]
    divisors = pivots(lower, diagonal, upper)[..., None]
    below, above = lower[..., None], upper[..., None]
    for i in range(1, size):
        rows[i].addcmul_(below[..., i, :] / divisors[..., i - 1, :], rows[i - 1], value=-1)
    rows[-1].div_(divisors[..., -1, :])
    for i in range(size - 2, -1, -1):
        rows[i].addcmul_(above[..., i, :], rows[i + 1], value=-1).div_(divisors[..., i, :])
    return x
