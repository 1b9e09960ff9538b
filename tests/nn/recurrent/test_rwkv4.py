"""RWKV-4's time mixing against double sums in numpy, and its exponents at their extremes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from assay.measure import count_flops, state_bytes
from assay.nn.recurrent.rwkv4 import RWKV4TimeMix
from assay.testing import check_mixer


def test_it_keeps_the_contract() -> None:
    check_mixer(RWKV4TimeMix)


def layer_of(width: int) -> RWKV4TimeMix:
    torch.manual_seed(0)
    layer = RWKV4TimeMix(width, bias=True).double()
    with torch.no_grad():
        layer.bonus.normal_()
        layer.shift.uniform_()
    return layer


def double_sums(layer: RWKV4TimeMix, x: torch.Tensor) -> torch.Tensor:
    before = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)
    shifted = [share * x + (1 - share) * before for share in layer.shift]
    receptance = layer.receptance_projection(shifted[0]).sigmoid()
    keys, values = layer.key_projection(shifted[1]).detach().numpy(), layer.value_projection(shifted[2]).detach().numpy()
    rate, bonus, average = np.exp(layer.log_decay_rate.detach().numpy()), layer.bonus.detach().numpy(), np.zeros_like(values)
    for t in range(x.shape[1]):
        exponents = np.stack([keys[:, i] - (t - 1 - i) * rate for i in range(t)] + [bonus + keys[:, t]], 1)
        weights = np.exp(exponents - exponents.max(1, keepdims=True))
        average[:, t] = (weights * values[:, : t + 1]).sum(1) / weights.sum(1)
    return layer.output_projection(receptance * torch.from_numpy(average))


@pytest.mark.parametrize("scale", [1.0, 30.0, 1000.0])  # of keys: exponentials overflow from 700 on
def test_outputs_are_those_of_double_sums(scale: float) -> None:
    layer, x = layer_of(6), torch.randn(2, 80, 6, dtype=torch.float64)
    with torch.no_grad():
        layer.key_projection.weight *= scale
        torch.testing.assert_close(layer(x), double_sums(layer, x), atol=1e-10, rtol=0)


def test_float32_over_a_long_stream_of_fast_decay() -> None:
    # the running maximum is found from numbers that grow with the position; their lost digits must not matter
    layer = layer_of(4)
    x = torch.randn(1, 6000, 4, dtype=torch.float64)
    with torch.no_grad():
        layer.log_decay_rate.fill_(3.0)
        expected = layer(x[:, -200:])[:, -50:]
        found = layer.float()(x.float())[:, -50:]
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=0)


def test_gradients_at_extreme_keys_are_finite() -> None:
    layer = layer_of(4).float()
    with torch.no_grad():
        layer.key_projection.weight *= 1e4
    mask = torch.rand(2, 50, generator=torch.Generator().manual_seed(0)) < 0.5
    loss = layer(torch.randn(2, 50, 4), mask).square().sum()
    assert all(torch.isfinite(gradient).all() for gradient in torch.autograd.grad(loss, list(layer.parameters())))


def test_the_shift_reaches_over_masked_positions_and_chunks() -> None:
    # keys, values and receptance from the input before alone: the output at 3 is made of the inputs 0 … 2, where 1 is masked
    layer = layer_of(4)
    with torch.no_grad():
        layer.shift.zero_()
    x, mask = torch.randn(1, 4, 4, dtype=torch.float64), torch.tensor([[True, False, True, True]])
    torch.testing.assert_close(layer(x, mask)[:, [0, 2, 3]], layer(x[:, [0, 2, 3]]), atol=1e-13, rtol=0)
    _, state = layer.scan(x[:, :2], layer.initial_state(1), mask[:, :2])
    assert torch.equal(state.last, x[:, 0])


def test_state_and_operations() -> None:
    assert state_bytes(RWKV4TimeMix(32).initial_state(1)) == 4 * 4 * 32
    assert count_flops(RWKV4TimeMix(8), torch.zeros(2, 5, 8)) == 2 * 5 * (4 * 2 * 64 + 24 * 8)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="width must be at least 1, got 0"):
        RWKV4TimeMix(0)
    with pytest.raises(ValueError, match=r"\(batch, length, 8\), got \(2, 5, 7\)"):
        RWKV4TimeMix(8)(torch.zeros(2, 5, 7))
