"""Dilated convolutions and their network: how far they see, against PyTorch's weight-normed convolutions, and as streams."""

from __future__ import annotations

import itertools
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from assay.measure import count_flops, state_bytes
from assay.nn.convolution import dilated as module
from assay.nn.convolution.dilated import DilatedConvolution, DilatedTCN, choose_tcn, receptive_field
from assay.testing import check_mixer

VARIANTS = {
    "one layer": partial(DilatedConvolution, kernel=3, dilation=4),
    "one layer across channels": partial(DilatedConvolution, kernel=2, dilation=3, depthwise=False),
    "one layer that looks ahead": partial(DilatedConvolution, kernel=3, dilation=4, causal=False),
    "across channels": partial(DilatedTCN, kernel=3, factor=3, blocks=2, depthwise=False),
    "one block": partial(DilatedTCN, kernel=2, factor=1, blocks=1),
    "looks ahead": partial(DilatedTCN, kernel=3, factor=3, blocks=2, causal=False),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_option_keeps_the_contract(name: str) -> None:
    check_mixer(VARIANTS[name])


@pytest.mark.parametrize(("kernel", "factor", "blocks"), itertools.product((2, 3, 5), (1, 2, 4), (1, 2, 3)))
def test_it_sees_exactly_its_receptive_field(kernel: int, factor: int, blocks: int) -> None:
    # with positive weights and increasing activations every path adds: the farthest gradient cannot cancel
    reach = receptive_field(kernel, factor, blocks)
    layer = DilatedTCN(1, kernel, factor, blocks).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.fill_(1.0)
    x = torch.ones(1, reach + 5, 1, dtype=torch.float64, requires_grad=True)
    place = reach + 1
    (gradient,) = torch.autograd.grad(layer(x)[0, place, 0], x)
    seen = gradient[0, :, 0].nonzero()[:, 0]
    assert int(seen[0]) == place - reach + 1
    assert int(seen[-1]) == place


@pytest.mark.parametrize(("arguments", "expected"), [((17, 8, 3), 2337), ((9, 8, 4), 9361), ((3, 1, 5), 21)])
def test_published_receptive_fields(arguments: tuple[int, int, int], expected: int) -> None:
    assert receptive_field(*arguments) == expected
    assert DilatedTCN(4, *arguments).receptive_field == expected


@pytest.mark.parametrize(("length", "parameters"), [(10, 34), (64, 34), (256, 34), (4096, 102), (131_072, 102), (1, 4)])
def test_choose_tcn_takes_the_fewest_blocks_that_reach(length: int, parameters: int) -> None:
    kernel, factor, blocks = choose_tcn(length, parameters)
    assert 2 * kernel * blocks <= parameters
    assert receptive_field(kernel, factor, blocks) >= length
    assert factor <= 2 * kernel - 1  # no gaps between what one block sees and the next one skips
    for fewer in range(1, blocks):
        widest = parameters // (2 * fewer)
        assert receptive_field(widest, 2 * widest - 1, fewer) < length


def peer(layer: DilatedConvolution) -> nn.Conv1d:
    convolution = nn.Conv1d(layer.width, layer.width, layer.kernel, dilation=layer.dilation, groups=layer.width if layer.depthwise else 1)
    direction = layer.direction.detach()
    normed = weight_norm(convolution.to(direction.dtype), dim=0)
    normed.parametrizations.weight.original1.data = direction.T[:, None] if layer.depthwise else direction.permute(1, 2, 0)  # pyright: ignore
    normed.parametrizations.weight.original0.data = layer.gain.data[:, None, None]  # pyright: ignore
    normed.bias = layer.bias
    return normed


@pytest.mark.parametrize("depthwise", [True, False])
def test_a_network_of_weight_normed_convolutions(depthwise: bool) -> None:
    torch.manual_seed(0)
    layer = DilatedTCN(6, 3, 4, 2, depthwise=depthwise).double()
    for part in layer.convolutions:
        part.gain.data = torch.rand(6, dtype=torch.float64) + 0.5
    x = torch.randn(2, 40, 6, dtype=torch.float64)
    h = x.transpose(1, 2)
    peers = [(peer(part), part.reach) for part in layer.convolutions]  # pyright: ignore[reportArgumentType]
    for (first, near), (second, far) in zip(peers[::2], peers[1::2], strict=True):
        h = h + F.silu(second(F.pad(F.silu(first(F.pad(h, (near, 0)))), (far, 0))))
    expected = F.silu(h.transpose(1, 2) + layer.omega * x)
    torch.testing.assert_close(layer(x), expected, atol=1e-12, rtol=0)


def test_a_long_sequence_in_pieces_is_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer, x = DilatedTCN(5, 3, 4, 3), torch.randn(2, 300, 5)
    whole = layer(x)
    monkeypatch.setattr(module, "PIECE", 64)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), whole, atol=1e-6, rtol=0)


def test_a_stream_holds_the_reach_of_each_convolution_and_no_more_than_twice() -> None:
    layer = DilatedTCN(2, 3, 8, 2)
    state = layer.initial_state(1)
    with torch.no_grad():
        for x_t in torch.randn(400, 1, 2):
            _, state = layer.step(x_t, state)
    inputs = sum(part.reach for part in layer.convolutions)  # pyright: ignore[reportCallIssue, reportArgumentType]
    bookkeeping = 4 * 3 * 8
    assert 4 * 2 * inputs <= state_bytes(state) - bookkeeping <= 4 * 2 * (2 * inputs + 4 * 17)


def test_dropout_falls_on_activations_in_training_alone() -> None:
    torch.manual_seed(0)
    layer, x = DilatedTCN(4, 3, 2, 2, dropout=0.5), torch.randn(1, 30, 4)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    torch.testing.assert_close(layer(x), layer(x), atol=0, rtol=0)


def test_compiled_by_torch_it_is_the_same() -> None:
    torch.manual_seed(0)
    layer, x = DilatedTCN(4, 3, 2, 1), torch.randn(1, 600, 4)
    torch.testing.assert_close(torch.compile(layer, backend="eager")(x), layer(x), atol=1e-6, rtol=0)


def test_operations_are_counted() -> None:
    assert count_flops(DilatedTCN(8, 3, 2, 2), torch.zeros(2, 10, 8)) == 2 * 2 * 10 * 8 * 3 * 4
    assert count_flops(DilatedConvolution(8, 3, depthwise=False), torch.zeros(2, 10, 8)) == 2 * 2 * 10 * 8 * 8 * 3


def test_bad_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="kernel must be at least 2, got 1"):
        DilatedTCN(8, 1)
    with pytest.raises(ValueError, match="factor and blocks must be at least 1, got 0 and 3"):
        DilatedTCN(8, 3, 0)
    with pytest.raises(ValueError, match="kernel must be odd where taps stand around a position, got 4"):
        DilatedTCN(8, 4, causal=False)
    with pytest.raises(ValueError, match="width and dilation must be at least 1, got 8 and 0"):
        DilatedConvolution(8, 3, 0)
    with pytest.raises(ValueError, match="length must be at least 1, got 0"):
        choose_tcn(0)
    with pytest.raises(ValueError, match="8 taps a channel cannot see 1000 inputs"):
        choose_tcn(1000, 8)
    with pytest.raises(ValueError, match=r"\(batch, length, 8\), got \(2, 5, 7\)"):
        DilatedTCN(8)(torch.zeros(2, 5, 7))
    with pytest.raises(ValueError, match="sees the future"):
        DilatedTCN(8, causal=False).initial_state(1)


@pytest.mark.parametrize("depthwise", [True, False])
def test_the_buffer_of_a_graph_streams_like_the_cache(depthwise: bool) -> None:
    """It holds what was read and no more, up to the reach."""
    torch.manual_seed(0)
    layer, x = DilatedConvolution(3, 3, 2, depthwise=depthwise).double(), torch.randn(2, 9, 3, dtype=torch.float64)
    state, outputs, held = layer.initial_state(2), [], []
    with torch.no_grad():
        for piece in x.split([1, 2, 5, 1], 1):
            y, state = layer._advance_filled(piece, state)
            outputs.append(y)
            held.append(state.keys.shape[2])
        torch.testing.assert_close(torch.cat(outputs, 1), layer(x), atol=1e-12, rtol=0)
    assert held == [1, 3, 4, 4]
    assert state.lengths.tolist() == [4, 4]
    assert state.dropped.tolist() == [5, 5]
