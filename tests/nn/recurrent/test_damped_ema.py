"""Damped moving averages: transform, recurrence and explicit kernel are one; and their limits."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from assay.measure import state_bytes
from assay.nn.recurrent.damped_ema import DampedEMA
from assay.testing import check_mixer


@pytest.mark.parametrize("options", [{"order": 1}, {"order": 3, "causal": False}, {"order": 2, "reach": 5}])
def test_every_option_keeps_the_contract(options: dict) -> None:
    check_mixer(partial(DampedEMA, **options))


def averaged(layer: DampedEMA, x: torch.Tensor, rows: slice) -> torch.Tensor:
    """The sum over n as the recurrence says it, a position at a time."""
    p, a = layer.delta[rows].sigmoid(), layer.alpha[rows].sigmoid()
    state, outputs = torch.zeros(x.shape[0], *p.shape, dtype=x.dtype), []
    for x_t in x.unbind(1):
        state = (1 - p * a) * state + p * layer.beta[rows] * x_t[..., None]
        outputs.append((layer.gamma[rows] * state).sum(-1) / layer.order**0.5)
    return torch.stack(outputs, 1)


@pytest.mark.parametrize("causal", [True, False])
def test_transform_recurrence_and_kernel_agree(causal: bool) -> None:
    torch.manual_seed(0)
    layer, x = DampedEMA(5, 4, causal=causal).double(), torch.randn(2, 70, 5, dtype=torch.float64)
    expected = averaged(layer, x, slice(0, 5))
    kernel = layer.kernel(70)
    by_kernel = torch.stack([(x[:, : t + 1].flip(1) * kernel[:5, : t + 1].T).sum(1) for t in range(70)], 1)
    torch.testing.assert_close(by_kernel, expected, atol=1e-12, rtol=0)
    if causal:
        torch.testing.assert_close(layer.scan(x, layer.initial_state(2))[0], layer(x), atol=1e-12, rtol=0)
    else:
        expected = expected + averaged(layer, x.flip(1), slice(5, 10)).flip(1)
    torch.testing.assert_close(layer(x), F.silu(expected + layer.omega * x), atol=1e-12, rtol=0)


@pytest.mark.parametrize("causal", [True, False])
def test_a_reach_ends_the_kernel_in_the_stream_too(causal: bool) -> None:
    """Of averages so slow that the cut shows, in a stream of uneven rows."""
    torch.manual_seed(0)
    layer, x = DampedEMA(5, 4, causal=causal, reach=7).double(), torch.randn(2, 40, 5, dtype=torch.float64)
    with torch.no_grad():
        layer.delta.sub_(2)
    kernel, expected = layer.kernel(7), layer.omega * x
    for t in range(40):
        for lag in range(7):
            if t >= lag:
                expected[:, t] = expected[:, t] + kernel[:5, lag] * x[:, t - lag]
            if not causal and t + lag < 40:
                expected[:, t] = expected[:, t] + kernel[5:, lag] * x[:, t + lag]
    torch.testing.assert_close(layer(x), F.silu(expected), atol=1e-12, rtol=0)
    if causal:
        mask = torch.ones(2, 40, dtype=torch.bool)
        mask[1, 5:20] = False
        state, parts = layer.initial_state(2), []
        for piece, real in zip(x.split([3, 1, 9, 27], 1), mask.split([3, 1, 9, 27], 1), strict=True):
            y, state = layer.scan(piece, state, real)
            parts.append(y)
        torch.testing.assert_close(torch.cat(parts, 1), layer(x, mask), atol=1e-12, rtol=0)
        assert state_bytes(state) == 2 * 8 * (5 * 4 + 7 * 5)


def one_average(delta: float, alpha: float) -> DampedEMA:
    layer = DampedEMA(1, 1).double()
    with torch.no_grad():
        for parameter, value in ((layer.delta, delta), (layer.alpha, alpha), (layer.beta, 1), (layer.gamma, 1), (layer.omega, 0)):
            parameter.fill_(value)
    return layer


def test_without_damping_it_is_the_cumulative_sum() -> None:
    # a → 0 gives q = 1: nothing is forgotten
    x = torch.rand(1, 50, 1, dtype=torch.float64)
    torch.testing.assert_close(one_average(40.0, -60.0)(x), F.silu(x.cumsum(1)), atol=1e-12, rtol=0)


def test_with_full_damping_it_is_pointwise() -> None:
    # p = a = 1 gives q = 0: all is forgotten at once; log q is then far below zero, not NaN
    layer, x = one_average(40.0, 40.0), torch.randn(1, 50, 1, dtype=torch.float64)
    torch.testing.assert_close(layer(x), F.silu(x), atol=1e-12, rtol=0)
    gradients = torch.autograd.grad(layer(x).sum(), list(layer.parameters()))
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)


def test_slow_averages_keep_their_rate_in_float32() -> None:
    # 1 − p a rounds to 1 in float32 below 6e-8; log1p keeps what exp(l · log q) needs over long kernels
    layer = one_average(-9.0, -9.0)
    layer.double()
    expected = layer.kernel(100_000)
    torch.testing.assert_close(layer.float().kernel(100_000).double(), expected, atol=0, rtol=1e-4)


def test_bfloat16_is_computed_in_float32() -> None:
    torch.manual_seed(0)
    layer, x = DampedEMA(4, 3).to(torch.bfloat16), torch.randn(1, 300, 4).to(torch.bfloat16)
    y = layer(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), layer.float()(x.float()), atol=0.03, rtol=0.02)


def test_gradcheck() -> None:
    torch.manual_seed(0)
    layer, x = DampedEMA(2, 2).double(), torch.randn(1, 6, 2, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in layer.named_parameters()]

    def call(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(call, (x, *layer.parameters()))


def test_the_state_does_not_grow() -> None:
    layer = DampedEMA(8, 16)
    _, state = layer.scan(torch.randn(1, 300, 8), layer.initial_state(1))
    assert state_bytes(state) == 4 * 8 * 16


def test_bad_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="width and order must be at least 1, got 8 and 0"):
        DampedEMA(8, 0)
    with pytest.raises(ValueError, match="reach must be at least 1, got 0"):
        DampedEMA(8, reach=0)
    with pytest.raises(ValueError, match=r"\(batch, length, 8\), got \(2, 5, 7\)"):
        DampedEMA(8)(torch.zeros(2, 5, 7))
    with pytest.raises(ValueError, match="sees the future"):
        DampedEMA(8, causal=False).initial_state(1)
