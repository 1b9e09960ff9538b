"""Products and dropout for sparse CSR features: bags of words stay sparse all the way through the first linear map."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary


def compressed_rows(start: Tensor, column: Tensor, value: Tensor, size: tuple[int, int]) -> Tensor:
    """A sparse CSR tensor without PyTorch's once-a-process note that the layout is in beta."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
        return torch.sparse_csr_tensor(start, column, value, size, check_invariants=False)


def is_sparse_rows(x: Tensor) -> bool:
    """Whether ``x`` is stored as sparse CSR."""
    return x.layout == torch.sparse_csr


def dropout_features(x: Tensor, probability: float, training: bool) -> Tensor:
    """Dropout of dense or sparse CSR features (nodes, features).

    A zero that is dropped stays zero, so dropping only the stored values has the same distribution as dropping all, at the cost of
    the stored ones.
    """
    if not is_sparse_rows(x):
        return torch.nn.functional.dropout(x, probability, training)
    if not training or probability == 0:
        return x
    values = torch.nn.functional.dropout(x.values(), probability, training)
    dropped = compressed_rows(x.crow_indices(), x.col_indices(), values, (x.shape[0], x.shape[1]))
    # The pattern is that of x: hand on its transposition, which costs a sort to find.
    _transpositions[dropped] = _transposition(x)
    return dropped


def sparse_linear(x: Tensor, weight: Tensor) -> Tensor:
    """``x Wᵀ`` (nodes, out) for sparse CSR ``x`` (nodes, in) and dense ``W`` (out, in); the features get no gradient.

    The backward product ``∂Wᵀ = xᵀ g`` runs in CSR as well: the transposed pattern is found once per feature matrix and remembered.

    Raises:
        ValueError: shapes do not match, or ``x`` is not sparse CSR.
    """
    if not is_sparse_rows(x):
        raise ValueError(f"x must be sparse CSR, not {x.layout}")
    if x.shape[1] != weight.shape[1]:
        raise ValueError(f"x must have {weight.shape[1]} features, not {x.shape[1]}")
    return _SparseLinear.apply(weight, x)


class _SparseLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, x: Tensor) -> Tensor:
        ctx.x = x
        return x @ weight.T

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        x: Tensor = ctx.x
        start, column, order = _transposition(x)
        transposed = compressed_rows(start, column, x.values()[order], (x.shape[1], x.shape[0]))
        return (transposed @ gradients[0]).T, None


_Transposition = tuple[Tensor, Tensor, Tensor]
_transpositions: WeakIdKeyDictionary = WeakIdKeyDictionary()


def _transposition(x: Tensor) -> _Transposition:
    """Row starts and columns of ``xᵀ`` in CSR, and the order in which it takes the values of ``x``."""
    found = _transpositions.get(x)
    if found is None:
        index_dtype = x.col_indices().dtype
        column = x.col_indices().long()
        lengths = x.crow_indices().long().diff()
        row = torch.repeat_interleave(torch.arange(x.shape[0], device=x.device), lengths)
        order = torch.argsort(column, stable=True)
        start = torch.zeros(x.shape[1] + 1, dtype=torch.long, device=x.device)
        start[1:] = torch.bincount(column, minlength=x.shape[1]).cumsum(0)
        found = (start.to(index_dtype), row[order].to(index_dtype), order)
        _transpositions[x] = found
    return found
