"""Recurrences with heads as mixers: the layer is its parts, heads do not mix, resets and norms do what they say."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from assay.measure import count_flops
from assay.nn.recurrent.multi_head import SLSTM, MultiHeadElman, MultiHeadGRU, MultiHeadLSTM, MultiHeadRNN
from assay.ops.recurrent_cells import CELLS


def test_one_head_is_torch_s_lstm_between_two_maps() -> None:
    torch.manual_seed(0)
    layer, peer, x = (
        MultiHeadLSTM(6, heads=1).double(),
        nn.LSTM(6, 6, batch_first=True).double(),
        torch.randn(3, 11, 6, dtype=torch.float64),
    )
    with torch.no_grad():
        peer.weight_ih_l0.copy_(layer.input_projection.weight)
        peer.weight_hh_l0.copy_(layer.weights.flatten(0, 2))
        peer.bias_ih_l0.copy_(layer.bias.flatten())
        peer.bias_hh_l0.zero_()
        torch.testing.assert_close(layer(x), layer.output_projection(peer(x)[0]), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("function", CELLS)
def test_a_head_reads_nothing_of_the_others_states(function: str) -> None:
    torch.manual_seed(0)
    layer, x = MultiHeadRNN(8, 4, function), torch.randn(2, 5, 8)
    nn.init.constant_(layer.weights, 0.5)  # or a rectified head may stay at zero
    nn.init.constant_(layer.bias, 1.0)  # pyright: ignore[reportArgumentType]
    state = layer.initial_state(2)
    _, plain = layer.scan(x, state)
    changed = tuple(part.clone() for part in state)
    changed[0][:, 1] += 1
    _, other = layer.scan(x, changed)
    for mine, theirs in zip(plain, other, strict=True):
        assert torch.equal(mine[:, [0, 2, 3]], theirs[:, [0, 2, 3]])
    assert not torch.equal(plain[0][:, 1], other[0][:, 1])


def test_heads_make_the_recurrence_smaller_by_their_number() -> None:
    full, heads = MultiHeadLSTM(32, heads=1), MultiHeadLSTM(32, heads=8)
    assert full.weights.numel() == 8 * heads.weights.numel() == 4 * 32 * 32
    x = torch.zeros(2, 7, 32)
    maps = 2 * 14 * (4 * 32 * 32 + 32 * 32)
    assert count_flops(full, x) == maps + 2 * 14 * 4 * 32 * 32
    assert count_flops(heads, x) == maps + 2 * 14 * 4 * 32 * 4


@pytest.mark.parametrize("make", [MultiHeadLSTM, MultiHeadGRU, MultiHeadElman])
def test_a_decay_shrinks_the_hidden_state_before_a_position_is_read(make: type[MultiHeadRNN]) -> None:
    """In a whole sequence, in a step, and in the gates; the cell state stays, and 1 changes nothing."""
    torch.manual_seed(0)
    layer, x = make(8, 2).double(), torch.randn(2, 12, 8, dtype=torch.float64)
    decay = torch.ones(2, 12, 2, 4, dtype=torch.float64)
    torch.testing.assert_close(layer(x, decay=decay), layer(x), rtol=0, atol=1e-12)
    decay[:, 5] = torch.rand(2, 2, 4, dtype=torch.float64)
    y = layer(x, decay=decay)
    before, (hidden, *cell) = layer.scan(x[:, :5], layer.initial_state(2))
    shrunk = (decay[:, 5] * hidden, *cell)
    torch.testing.assert_close(y, torch.cat([before, layer.scan(x[:, 5:], shrunk)[0]], 1), rtol=0, atol=1e-12)
    torch.testing.assert_close(layer.step(x[:, 5], (hidden, *cell), decay=decay[:, 5])[0], y[:, 5], rtol=0, atol=1e-12)
    with_it = layer.gate_values(x[:, 5:], (hidden, *cell), decay=decay[:, 5:])
    for mine, other in zip(with_it, layer.gate_values(x[:, 5:], shrunk), strict=True):
        torch.testing.assert_close(mine.values, other.values, rtol=0, atol=1e-12)


def test_a_reset_makes_one_row_of_several_sequences() -> None:
    torch.manual_seed(0)
    layer, x = MultiHeadGRU(8).double(), torch.randn(2, 12, 8, dtype=torch.float64)
    reset = (torch.arange(12) == 5).expand(2, -1)
    y = layer(x, reset=reset)
    torch.testing.assert_close(y[:, 5:], layer(x[:, 5:]), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(y[:, :5], layer(x[:, :5]), rtol=1e-10, atol=1e-10)


def test_forget_gates_begin_open_and_bias_can_be_left_out() -> None:
    assert torch.equal(MultiHeadLSTM(8).bias[1], torch.ones(4, 2))
    assert torch.equal(MultiHeadLSTM(8).bias[0], torch.zeros(4, 2))
    assert (SLSTM(8, forget_bias=3.0).bias[1] == 3).all()
    assert (MultiHeadElman(8).bias == 0).all()
    without = MultiHeadGRU(8, bias=False)
    assert [name for name, _ in without.named_parameters()] == ["weights", "input_projection.weight", "output_projection.weight"]
    assert torch.isfinite(without(torch.randn(2, 5, 8))).all()


def test_slstm_divides_each_head_by_its_size() -> None:
    torch.manual_seed(0)
    layer = SLSTM(8, heads=2)
    layer.output_projection = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
    y = layer(torch.randn(2, 9, 8)).unflatten(-1, (2, 4))
    torch.testing.assert_close(y.square().mean(-1), torch.ones(2, 9, 2), rtol=1e-2, atol=1e-2)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"function must be one of .*got 'rnn'"):
        MultiHeadRNN(8, function="rnn")
    with pytest.raises(ValueError, match="heads must divide width 8, got 3"):
        MultiHeadLSTM(8, heads=3)
    with pytest.raises(ValueError, match=r"\(batch, length, 8\), got \(2, 5, 7\)"):
        MultiHeadLSTM(8)(torch.zeros(2, 5, 7))
    with pytest.raises(ValueError, match="must hold the 2 examples of x, got 3"):
        MultiHeadLSTM(8).scan(torch.zeros(2, 5, 8), MultiHeadLSTM(8).initial_state(3))
