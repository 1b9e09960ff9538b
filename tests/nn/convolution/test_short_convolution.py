"""The short convolution against PyTorch's grouped one, and its stream."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from assay.measure import count_flops
from assay.nn.convolution.short import ShortConvolution
from assay.testing import check_mixer


@pytest.mark.parametrize("options", [{}, {"kernel_size": 1}, {"kernel_size": 70, "bias": False}])
def test_the_contract(options: dict) -> None:
    check_mixer(partial(ShortConvolution, **options))


@pytest.mark.parametrize("kernel_size", [1, 3, 4, 9])
def test_it_is_a_grouped_convolution_padded_on_the_left(kernel_size: int) -> None:
    torch.manual_seed(0)
    layer = ShortConvolution(6, kernel_size).double()
    peer = nn.Conv1d(6, 6, kernel_size, padding=kernel_size - 1, groups=6).double()
    peer.weight.data, peer.bias.data = layer.weight.data.T[:, None], layer.bias.data
    x = torch.randn(2, 20, 6, dtype=torch.float64)
    torch.testing.assert_close(layer(x), peer(x.transpose(1, 2))[..., :20].transpose(1, 2), atol=1e-14, rtol=0)


def test_the_state_is_the_last_real_inputs() -> None:
    layer, x = ShortConvolution(2, 3), torch.arange(12.0).view(1, 6, 2)
    mask = torch.tensor([[True, True, False, True, False, False]])
    y, state = layer.scan(x, layer.initial_state(1), mask)
    assert state.tolist() == [[[2.0, 3.0], [6.0, 7.0]]]
    assert y[~mask].abs().max() == 0


def test_its_operations_are_counted() -> None:
    assert count_flops(ShortConvolution(8, 4), torch.zeros(2, 10, 8)) == 2 * 4 * 2 * 10 * 8


def test_bad_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="got 8 and 0"):
        ShortConvolution(8, 0)
    with pytest.raises(ValueError, match=r"\(batch, length, 8\), got \(2, 5, 7\)"):
        ShortConvolution(8)(torch.zeros(2, 5, 7))
