"""Long convolutions, BaseConv and Hyena against their equations, written out."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import nn

from assay.nn.convolution.base import BaseConv, ShortBaseConv
from assay.nn.convolution.filters import ExplicitFilter, ImplicitFilter, SineFilter, position_features
from assay.nn.convolution.hyena import Hyena
from assay.nn.convolution.long import LongConvolution, LongConvolutionMixer
from assay.ops.long_convolution import long_convolution
from assay.testing import check_mixer

VARIANTS = {
    "long, implicit": partial(LongConvolution, length=260),
    "long, explicit": partial(LongConvolution, length=260, filter="explicit"),
    "long, sine": partial(LongConvolution, length=260, filter="sine"),
    "long-conv": LongConvolutionMixer,
    "base-conv": BaseConv,
    "base-conv, explicit": partial(BaseConv, filter="explicit", residual=False, activation=True),
    "base-conv, short": ShortBaseConv,
    "hyena": partial(Hyena, length=260),
    "hyena of order 3": partial(Hyena, length=260, order=3),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_the_contract(name: str) -> None:
    check_mixer(VARIANTS[name])


def sequence(length: int = 12, width: int = 4) -> torch.Tensor:
    return torch.randn(2, length, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_positions_are_encoded_as_published() -> None:
    z = position_features(11, 2, torch.zeros(0, dtype=torch.float64))
    t = torch.arange(11, dtype=torch.float64)
    angles = [f * 2 * math.pi * t / 11 for f in (1e-4, 1.0)]
    expected = torch.stack([t / 10, *(torch.cos(a) for a in angles), *(-torch.sin(a) for a in angles)], 1)
    torch.testing.assert_close(z, expected, atol=1e-14, rtol=0)


def test_the_implicit_filter_is_a_small_network_of_the_position() -> None:
    torch.manual_seed(0)
    made = ImplicitFilter(4, 9).double()
    network = nn.Sequential(made.expand, nn.ReLU(), made.contract)
    torch.testing.assert_close(made(), network(position_features(9, 1, made.expand.weight)).T, atol=1e-14, rtol=0)
    assert sum(p.numel() for p in made.parameters()) == 3 * 16 + 16 + 16 * 4 + 4  # whatever the length


def test_the_sine_filter_decays_at_its_channels_rates() -> None:
    torch.manual_seed(0)
    made = SineFilter(3, 21).double()
    with torch.no_grad():
        for layer in made.layers:
            layer.weight.zero_()  # the network is then constant, and what is left is the window
        taps = made()
    decay = (taps / taps[:, :1]).log()
    expected = torch.tensor([math.log(0.01) / 1.5, math.log(0.01) * (1 / 1.5 + 1 / 0.3) / 2, math.log(0.01) / 0.3], dtype=torch.float64)
    torch.testing.assert_close(decay, expected[:, None] * torch.linspace(0, 1, 21, dtype=torch.float64), atol=1e-10, rtol=0)


def test_explicit_taps_give_outputs_of_unit_size() -> None:
    torch.manual_seed(0)
    y = long_convolution(torch.randn(4, 512, 64), ExplicitFilter(64, 512)())
    assert 0.9 < y[:, -64:].std() < 1.1


def test_base_conv_is_its_equation() -> None:
    torch.manual_seed(0)
    x = sequence()
    mixer = BaseConv(4, 16, "explicit").double()
    convolved = long_convolution(x, mixer.convolution.filter.weight, "direct") + x
    torch.testing.assert_close(mixer(x), convolved * mixer.gate_projection(x) + x, atol=1e-12, rtol=0)
    bare = BaseConv(4, 16, "explicit", residual=False, activation=True).double()
    bare.load_state_dict(mixer.state_dict())
    silu = nn.functional.silu
    torch.testing.assert_close(bare(x), silu(convolved) * silu(mixer.gate_projection(x)), atol=1e-12, rtol=0)


def test_a_closed_gate_passes_the_input_and_an_open_one_the_convolution() -> None:
    x, mixer = sequence(), ShortBaseConv(4, 1).double()
    with torch.no_grad():
        mixer.convolution.weight.fill_(1.0)
        mixer.convolution.bias.zero_()
        mixer.gate_projection.weight.zero_()
        mixer.gate_projection.bias.zero_()
        torch.testing.assert_close(mixer(x), x, atol=0, rtol=0)
        mixer.gate_projection.bias.fill_(1.0)
        torch.testing.assert_close(mixer(x), 2 * x, atol=0, rtol=0)


@pytest.mark.parametrize("order", [2, 3])
def test_hyena_is_its_equation(order: int) -> None:
    torch.manual_seed(0)
    x, mixer = sequence(), Hyena(4, 16, order).double()
    short = nn.Conv1d(4 * (order + 1), 4 * (order + 1), 3, padding=2, groups=4 * (order + 1)).double()
    short.weight.data, short.bias.data = mixer.short.weight.data.T[:, None], mixer.short.bias.data
    parts = short(mixer.input_projection(x).transpose(1, 2))[..., :12].transpose(1, 2).chunk(order + 1, -1)
    v = parts[0] * parts[-1]
    for gate, long, skip in zip(parts[1:-1], mixer.long, mixer.skip, strict=True):
        v = gate * (long_convolution(v, long.filter(), "direct") + skip * v)
    torch.testing.assert_close(mixer(x), mixer.output_projection(v), atol=1e-12, rtol=0)


def test_long_conv_is_its_equation() -> None:
    torch.manual_seed(0)
    x, mixer = sequence(), LongConvolutionMixer(4, 16).double()
    with torch.no_grad():
        mixer.skip.normal_()
    convolved = long_convolution(x, mixer.convolution.filter.weight, "direct") + mixer.skip * x
    torch.testing.assert_close(mixer(x), mixer.output_projection(nn.functional.gelu(convolved)), atol=1e-12, rtol=0)


def test_a_stream_follows_a_filter_that_was_trained_meanwhile() -> None:
    # the taps are kept between steps, and must not be kept too long
    torch.manual_seed(0)
    mixer, x = LongConvolution(4, 16).double(), sequence()
    with torch.no_grad():
        mixer.scan(x, mixer.initial_state(2))
        mixer.filter.contract.bias.add_(1.0)
        torch.testing.assert_close(mixer.scan(x, mixer.initial_state(2))[0], mixer(x), atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", [BaseConv, Hyena, LongConvolutionMixer])
def test_bfloat16_stays_near_float32_whole_and_streamed(kind) -> None:
    torch.manual_seed(0)
    mixer, x = kind(16, 512), torch.randn(2, 400, 16)
    half = kind(16, 512)
    half.load_state_dict(mixer.state_dict())
    half, narrow = half.bfloat16(), x.bfloat16()
    with torch.no_grad():
        expected = mixer(x)
        for y in (half(narrow), half.scan(narrow, half.initial_state(2))[0]):
            assert y.dtype == torch.bfloat16
            assert (y.float() - expected).abs().max() < 0.03 * expected.abs().max()


def test_positions_beyond_the_length_are_refused_with_both_numbers() -> None:
    for mixer in (LongConvolution(4, 8), BaseConv(4, 8), Hyena(4, 8), LongConvolutionMixer(4, 8)):
        with pytest.raises(ValueError, match=r"12.* 8"):
            mixer(sequence().float())
        with pytest.raises(ValueError, match=r"12.* 8"):
            mixer.scan(sequence().float(), mixer.initial_state(2))


def test_bad_options_are_refused() -> None:
    with pytest.raises(ValueError, match="explicit, implicit, sine, got 'free'"):
        LongConvolution(4, filter="free")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="got 4 and 0"):
        BaseConv(4, 0)
    with pytest.raises(ValueError, match="order must be at least 2, got 1"):
        Hyena(4, order=1)
