"""The minimal gated recurrences against loops over their equations."""

from __future__ import annotations

import pytest
import torch

from assay.measure import count_flops
from assay.nn.recurrent.min_gru import MinGRU, MinLSTM
from assay.testing import check_mixer


@pytest.mark.parametrize("make", [MinGRU, MinLSTM])
def test_it_keeps_the_contract(make: type) -> None:
    check_mixer(make)
    check_mixer(lambda width: make(width, bias=False))


def test_gru_is_a_loop() -> None:
    torch.manual_seed(0)
    layer, x, h, states = MinGRU(5).double(), torch.randn(2, 100, 5, dtype=torch.float64), torch.zeros(2, 5).double(), []
    for x_t in x.unbind(1):
        gate, candidate = layer.input_projection(x_t).chunk(2, -1)
        h = (1 - gate.sigmoid()) * h + gate.sigmoid() * candidate
        states.append(h)
    torch.testing.assert_close(layer(x), torch.stack(states, 1), atol=1e-13, rtol=0)


def test_lstm_is_a_loop() -> None:
    torch.manual_seed(0)
    layer, x, h, states = MinLSTM(5).double(), torch.randn(2, 100, 5, dtype=torch.float64), torch.zeros(2, 5).double(), []
    for x_t in x.unbind(1):
        forget, write, candidate = layer.input_projection(x_t).chunk(3, -1)
        forget, write = forget.sigmoid(), write.sigmoid()
        h = (forget * h + write * candidate) / (forget + write)
        states.append(h)
    torch.testing.assert_close(layer(x), torch.stack(states, 1), atol=1e-13, rtol=0)


def test_both_gates_shut_still_share_out_the_whole() -> None:
    # f and i are both e^−1000: their quotient is not 0/0
    layer = MinLSTM(3)
    with torch.no_grad():
        layer.input_projection.weight.zero_()
        layer.input_projection.bias.copy_(torch.tensor([-1000.0] * 6 + [1.0] * 3))
    torch.testing.assert_close(layer(torch.zeros(1, 3, 3))[0, :, 0], torch.tensor([0.5, 0.75, 0.875]))


def test_a_shut_gate_keeps_the_state() -> None:
    layer = MinGRU(3)
    with torch.no_grad():
        layer.input_projection.bias[:3] = -200.0
    y, state = layer.scan(torch.randn(1, 500, 3), torch.ones(1, 3))
    torch.testing.assert_close(y, torch.ones(1, 500, 3))
    torch.testing.assert_close(state, torch.ones(1, 3))


def test_operations_count_the_recurrence() -> None:
    assert count_flops(MinGRU(8), torch.zeros(2, 5, 8)) == 2 * 5 * (2 * 2 * 64 + 3 * 8)
    assert count_flops(MinLSTM(8), torch.zeros(2, 5, 8)) == 2 * 5 * (3 * 2 * 64 + 3 * 8)


@pytest.mark.parametrize("make", [MinGRU, MinLSTM])
def test_bad_arguments_are_refused(make: type) -> None:
    with pytest.raises(ValueError, match="width must be at least 1, got 0"):
        make(0)
    with pytest.raises(ValueError, match=r"\(batch, length, 8\), got \(2, 5, 7\)"):
        make(8)(torch.zeros(2, 5, 7))
