"""`krylov`: ``b, A b, A² b, …``, or ``C b, C A b, C A² b, …`` without ever holding the former.

The sequence of powers is the impulse response of a linear system. One product after another needs O(N² L) operations of the slowest kind,
matrix times vector. Doubling, ``[K, A^n K]`` from ``K = b … A^{n−1} b``, makes them matrix products, with log L squarings of A. Where only
the numbers ``C A^l b`` are wanted, l is split as ``i s + j``: with the rows ``C (A^s)^i`` and the columns ``A^j b`` they are one product,
O(N L) beside O(N² √L + N³ log L) for the two factors, in O(N √L) memory.

Source: Gu, Johnson, Goel, Saab, Dao, Rudra, Ré (2021), Combining Recurrent, Convolutional, and Continuous-time Models with Linear
State-Space Layers, for the doubling; the split is the baby-step giant-step of Shanks (1971), Class number, a theory of factorization.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Implementation = Literal["auto", "sequential", "doubling"]
IMPLEMENTATIONS: tuple[Implementation, ...] = ("auto", "sequential", "doubling")


def krylov(matrix: Tensor, vector: Tensor, length: int, rows: Tensor | None = None, implementation: Implementation = "auto") -> Tensor:
    """``A^l b`` for l = 0 … length − 1, or ``C A^l b``.

    Args:
        matrix: A, (..., N, N).
        vector: b, (..., N); leading dimensions broadcast.
        length: L.
        rows: C, (..., M, N).
        implementation: ``sequential``, a product a power; ``doubling``, matrix products; ``auto`` is ``doubling``.

    Returns:
        (..., N, L), or with rows (..., M, L). Rounding grows with L: for long sequences give float64.

    Raises:
        ValueError: sizes that do not fit, a negative length, or an unknown implementation.
    """
    _check(matrix, vector, length, rows, implementation)
    leading = torch.broadcast_shapes(matrix.shape[:-2], vector.shape[:-1], () if rows is None else rows.shape[:-2])
    matrix, vector = matrix.expand(*leading, *matrix.shape[-2:]), vector.expand(*leading, vector.shape[-1])[..., None]
    if rows is not None:
        rows = rows.expand(*leading, *rows.shape[-2:])
    if length == 0:
        return vector[..., :0] if rows is None else rows[..., :0]
    if implementation == "sequential":
        return _sequential(matrix, vector, length, rows)
    return doubled(matrix, vector, length) if rows is None else _split(matrix, vector, length, rows)


def doubled(matrix: Tensor, start: Tensor, count: int) -> Tensor:
    """``[S, A S, …, A^{count−1} S]`` side by side, (..., N, count · K), for S (..., N, K)."""
    width, found = start.shape[-1], start
    while found.shape[-1] < count * width:
        found = torch.cat([found, matrix @ found[..., : count * width - found.shape[-1]]], -1)
        if found.shape[-1] < count * width:
            matrix = matrix @ matrix
    return found


def squarings(matrix: Tensor, count: int) -> list[Tensor]:
    """``A, A², A⁴, …``, ``count + 1`` of them."""
    found = [matrix]
    for _ in range(count):
        found.append(found[-1] @ found[-1])
    return found


def _sequential(matrix: Tensor, vector: Tensor, length: int, rows: Tensor | None) -> Tensor:
    found = []
    for _ in range(length):
        found.append(vector if rows is None else rows @ vector)
        vector = matrix @ vector
    return torch.cat(found, -1)


def _split(matrix: Tensor, vector: Tensor, length: int, rows: Tensor) -> Tensor:
    count = rows.shape[-2]
    # as many columns as rows, to a power of two, so that A^s is one of the squarings
    exponent = round(math.log2(max(1.0, math.sqrt(length * count))))
    size = 1 << exponent
    columns = doubled(matrix, vector, min(size, length))
    if size >= length:
        return rows @ columns
    stride, blocks = squarings(matrix, exponent)[-1], -(-length // size)
    left = doubled(stride.mT, rows.mT, blocks).unflatten(-1, (blocks, count))
    return (left.movedim(-3, -1).transpose(-3, -2) @ columns[..., None, :, :]).flatten(-2)[..., :length]


def _check(matrix: Tensor, vector: Tensor, length: int, rows: Tensor | None, implementation: str) -> None:
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"implementation must be one of {', '.join(IMPLEMENTATIONS)}, got {implementation!r}")
    if length < 0:
        raise ValueError(f"length must be at least 0, got {length}")
    size = matrix.shape[-1]
    if matrix.ndim < 2 or matrix.shape[-2] != size or vector.shape[-1:] != (size,) or (rows is not None and rows.shape[-1] != size):
        more = "" if rows is None else f" and rows {tuple(rows.shape)}"
        raise ValueError(
            f"matrix must be (..., N, N), vector (..., N) and rows (..., M, N), got {tuple(matrix.shape)}, {tuple(vector.shape)}{more}"
        )
