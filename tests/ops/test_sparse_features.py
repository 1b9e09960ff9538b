"""Sparse features must give what dense ones give: products, gradients, and dropout's distribution."""

from __future__ import annotations

import pytest
import torch

from assay.ops.sparse_features import dropout_features, sparse_linear


def features(rows: int = 30, columns: int = 12) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    dense = torch.rand(rows, columns, generator=generator, dtype=torch.float64)
    dense[dense < 0.7] = 0
    dense[3] = 0  # a row without any word
    dense[:, 5] = 0  # a word in no row
    return dense


def test_product_and_gradient_equal_dense():
    dense, weight = features(), torch.randn(4, 12, dtype=torch.float64, requires_grad=True)
    sparse = dense.to_sparse_csr()
    probe = torch.randn(30, 4, dtype=torch.float64)
    ours, theirs = sparse_linear(sparse, weight), dense @ weight.T
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    for _ in range(2):  # the second time the transposition is remembered
        (gradient,) = torch.autograd.grad((sparse_linear(sparse, weight) * probe).sum(), weight)
        torch.testing.assert_close(gradient, probe.T @ dense, rtol=0, atol=1e-12)


def test_gradient_through_dropped_features_uses_the_dropped_values():
    sparse, weight = features().to_sparse_csr(), torch.randn(4, 12, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(1)
    dropped = dropout_features(sparse, 0.5, training=True)
    probe = torch.randn(30, 4, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((sparse_linear(dropped, weight) * probe).sum(), weight)
    torch.testing.assert_close(gradient, probe.T @ dropped.to_dense(), rtol=0, atol=1e-12)


def test_dropout_keeps_the_mean_and_touches_stored_values_only():
    sparse = torch.ones(100, 100).tril().to_sparse_csr()
    torch.manual_seed(2)
    dropped = dropout_features(sparse, 0.8, training=True)
    values = dropped.values()
    assert values.unique().tolist() == pytest.approx([0.0, 5.0])
    assert abs(float(values.mean()) - 1) < 4 * 2 / len(values) ** 0.5  # standard deviation of one value is 2
    assert dropout_features(sparse, 0.8, training=False) is sparse


def test_wrong_inputs_are_refused():
    with pytest.raises(ValueError, match="CSR"):
        sparse_linear(torch.zeros(3, 2), torch.zeros(1, 2))
    with pytest.raises(ValueError, match="2 features, not 12"):
        sparse_linear(features().to_sparse_csr(), torch.zeros(1, 2, dtype=torch.float64))
