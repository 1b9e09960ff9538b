"""The GRU of 2014 against PyTorch's: they are one where the reset gate is open, and this one's equations where it is not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from assay.nn.recurrent.original_gru import OriginalGRU


def test_with_an_open_reset_gate_it_is_the_gru_of_torch() -> None:
    torch.manual_seed(0)
    peer: Any
    cell, peer, x = OriginalGRU(5).double(), nn.GRU(5, 5, batch_first=True).double(), torch.randn(3, 11, 5, dtype=torch.float64)
    with torch.no_grad():
        cell.bias[:5] = 1e3
    peer.load_state_dict(
        {"weight_ih_l0": cell.weight_ih, "weight_hh_l0": cell.weight_hh, "bias_ih_l0": cell.bias, "bias_hh_l0": 0 * cell.bias}
    )
    torch.testing.assert_close(cell(x), peer(x)[0])
    with torch.no_grad():
        for bias in (cell.bias, peer.bias_ih_l0):
            bias[:5] = 0.5
    assert not torch.allclose(cell(x), peer(x)[0], atol=1e-3)


def test_a_closed_reset_gate_forgets_before_the_product() -> None:
    """r = 0: the candidate sees the input alone."""
    torch.manual_seed(0)
    cell, x, h = OriginalGRU(4).double(), torch.randn(2, 1, 4, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    with torch.no_grad():
        cell.bias[:4] = -1e3
    sums = x[:, 0] @ cell.weight_ih.T + cell.bias
    update = torch.sigmoid(sums[:, 4:8] + h @ cell.weight_hh[4:8].T)
    expected = update * h + (1 - update) * torch.tanh(sums[:, 8:])
    torch.testing.assert_close(cell.scan(x, (h,))[0][:, 0], expected)
    with pytest.raises(ValueError, match="0"):
        OriginalGRU(0)
