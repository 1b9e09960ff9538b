"""Long convolutions against the double sum that defines them, whole and as streams."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.measure import count_flops
from assay.ops.compaction import Compaction
from assay.ops.long_convolution import IMPLEMENTATIONS, initial_convolution_state, long_convolution, long_convolution_scan


def inputs(length: int, count: int, batch: int = 2, width: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(length)
    x = torch.randn(batch, length, width, generator=generator, dtype=torch.float64)
    return x, torch.randn(width, count, generator=generator, dtype=torch.float64)


def double_sum(x: torch.Tensor, taps: torch.Tensor) -> torch.Tensor:
    y = np.zeros(tuple(x.shape))
    for t in range(x.shape[1]):
        for s in range(min(t + 1, taps.shape[1])):
            y[:, t] += taps[:, s].numpy() * x[:, t - s].numpy()
    return torch.from_numpy(y)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(("length", "count"), [(1, 1), (7, 7), (33, 33), (33, 5), (5, 33), (64, 64), (0, 4)])
def test_every_implementation_is_the_double_sum(implementation, length: int, count: int) -> None:
    x, taps = inputs(length, count)
    torch.testing.assert_close(long_convolution(x, taps, implementation), double_sum(x, taps), atol=1e-12, rtol=0)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_gradients_in_both_arguments(implementation) -> None:
    x, taps = inputs(9, 12)
    arguments = (x.requires_grad_(), taps.requires_grad_())
    assert torch.autograd.gradcheck(lambda x, taps: long_convolution(x, taps, implementation), arguments)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_are_computed_in_float32(dtype: torch.dtype) -> None:
    # a transform in half precision would lose small outputs next to large ones
    x, taps = (tensor.to(dtype) for tensor in inputs(300, 300))
    y = long_convolution(x, taps)
    assert y.dtype == dtype
    torch.testing.assert_close(y, long_convolution(x.float(), taps.float()).to(dtype), atol=0, rtol=0)


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(0, 23), min_size=1, max_size=8), recorded=st.lists(st.booleans(), min_size=8, max_size=8))
def test_any_chunking_is_the_whole(sizes: list[int], recorded: list[bool]) -> None:
    # chunks with and without a recorded gradient take different ways and must be interchangeable
    length = sum(sizes)
    x, taps = inputs(length, max(length, 1))
    state, parts = initial_convolution_state(2, 3, torch.float64), []
    for chunk, grad in zip(x.split(sizes, 1), recorded, strict=False):
        y, state = long_convolution_scan(chunk, state, taps.clone().requires_grad_(grad))
        parts.append(y.detach())
    torch.testing.assert_close(torch.cat(parts, 1), double_sum(x, taps), atol=1e-11, rtol=0)


def test_rows_that_have_read_unequally_many_positions() -> None:
    x, taps = inputs(60, 60, batch=5)
    mask = torch.rand(5, 60, generator=torch.Generator().manual_seed(0)) < torch.tensor([0.2, 0.5, 0.5, 0.9, 1.0])[:, None]
    mask[3] = mask[4]  # two that stay even
    state, parts = initial_convolution_state(5, 3, torch.float64), []
    for chunk, real in zip(x.split([20, 1, 1, 1, 37], 1), mask.split([20, 1, 1, 1, 37], 1), strict=True):
        y, state = long_convolution_scan(chunk, state, taps, real)
        parts.append(y)
    y = torch.cat(parts, 1)
    assert y[~mask].abs().max() == 0
    for row in range(5):
        torch.testing.assert_close(y[row, mask[row]], double_sum(x[row : row + 1, mask[row]], taps)[0], atol=1e-12, rtol=0)


def test_a_state_may_be_continued_twice() -> None:
    x, taps = inputs(50, 50)
    _, state = long_convolution_scan(x[:, :13], initial_convolution_state(2, 3, torch.float64), taps)
    first, _ = long_convolution_scan(x[:, 13:], state, taps)
    long_convolution_scan(-x[:, 13:], state, taps)
    again, _ = long_convolution_scan(x[:, 13:], state, taps)
    torch.testing.assert_close(again, first, atol=0, rtol=0)
    torch.testing.assert_close(first, double_sum(x, taps)[:, 13:], atol=1e-12, rtol=0)


def test_gradients_through_a_stream_are_those_of_the_whole() -> None:
    x, taps = inputs(20, 20)
    x.requires_grad_()
    expected = torch.autograd.grad(long_convolution(x, taps).square().sum(), x)[0]
    state, total = initial_convolution_state(2, 3, torch.float64), 0
    for chunk in x.split(6, 1):
        y, state = long_convolution_scan(chunk, state, taps)
        total = total + y.square().sum()
    torch.testing.assert_close(torch.autograd.grad(total, x)[0], expected, atol=1e-12, rtol=0)


def test_a_streamed_position_costs_little_next_to_a_whole_convolution() -> None:
    # counted operations, not seconds: 512 steps cost fewer than 20 whole convolutions, recomputing would cost 512
    x, taps = inputs(512, 512, batch=1)

    def stream() -> None:
        state = initial_convolution_state(1, 3, torch.float64)
        for x_t in x.split(1, 1):
            _, state = long_convolution_scan(x_t, state, taps)

    assert count_flops(stream) < 20 * count_flops(long_convolution, x, taps)


def test_what_does_not_fit_is_refused() -> None:
    x, taps = inputs(8, 5)
    with pytest.raises(ValueError, match=r"got \(2, 8, 3\) and \(4, 5\)"):
        long_convolution(x, torch.zeros(4, 5))
    with pytest.raises(ValueError, match="got 'fast'"):
        long_convolution(x, taps, "fast")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="reached position 8, but the filter has only 5 taps"):
        long_convolution_scan(x, initial_convolution_state(2, 3, torch.float64), taps)


def test_compaction_packs_to_the_front_and_puts_back() -> None:
    x = torch.tensor([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]])[..., None]
    compaction = Compaction(torch.tensor([[False, True, False, True], [True, True, True, False]]))
    assert compaction.counts.tolist() == [2, 3]
    packed = compaction.pack(x)
    assert packed[..., 0].tolist() == [[2.0, 4.0, 0.0, 0.0], [5.0, 6.0, 7.0, 0.0]]
    assert compaction.unpack(packed + 1)[..., 0].tolist() == [[0.0, 3.0, 0.0, 5.0], [6.0, 7.0, 8.0, 0.0]]
