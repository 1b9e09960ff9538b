"""Aaren against PyTorch's multi-head attention, its folding, its streams and its ONNX form."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import nn

from assay.measure import state_bytes
from assay.nn.attention.aaren import Aaren
from assay.nn.block import ResidualBlock
from assay.testing import check_mixer

VARIANTS = {
    "plain": Aaren,
    "three queries": partial(Aaren, queries=3),
    "decay": partial(Aaren, decay=0.7),
    "decay, queries": partial(Aaren, decay=5.0, queries=2),
    "float64 state": partial(Aaren, state_dtype=torch.float64),
    "no bias": partial(Aaren, bias=False, heads=1),
    "folded": lambda width: Aaren(width, queries=2).fold(),
    "folded with decay": lambda width: Aaren(width, decay=0.3).fold(),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_option_keeps_the_contract(name: str) -> None:
    check_mixer(VARIANTS[name])


def test_last_output_is_multi_head_attention_with_the_same_weights() -> None:
    torch.manual_seed(0)
    layer, peer = Aaren(16, 4).double(), nn.MultiheadAttention(16, 4, batch_first=True).double()
    parts = (layer.query_projection, layer.key_projection, layer.value_projection)
    with torch.no_grad():
        peer.in_proj_bias.normal_()
        for part, weight, bias in zip(parts, peer.in_proj_weight.chunk(3), peer.in_proj_bias.chunk(3), strict=True):
            part.weight.copy_(weight)
            part.bias.copy_(bias)
        layer.output_projection.load_state_dict(peer.out_proj.state_dict())
    x = torch.randn(2, 50, 16, dtype=torch.float64)
    for length in (1, 16, 50):
        query = layer.query.expand(2, 1, 16)
        expected = peer(query, x[:, :length], x[:, :length], need_weights=False)[0][:, 0]
        torch.testing.assert_close(layer(x)[:, length - 1], expected, atol=1e-12, rtol=0)


def test_the_key_bias_gets_no_gradient_and_the_query_does() -> None:
    # a constant added to all scores changes nothing, so the bias's gradient must vanish
    torch.manual_seed(0)
    layer = Aaren(16, 4).double()
    layer(torch.randn(2, 40, 16, dtype=torch.float64)).square().sum().backward()
    assert layer.key_projection.bias.grad.abs().max() < 1e-12
    assert layer.query.grad.abs().max() > 1e-6


@pytest.mark.parametrize("options", [{}, {"queries": 3}, {"decay": 0.4}, {"bias": False}])
def test_folding_keeps_the_outputs_and_halves_the_layer(options: dict) -> None:
    torch.manual_seed(0)
    layer = Aaren(32, 4, **options).double()
    with torch.no_grad():
        layer.query.normal_()  # scores of some size
    folded, x = layer.fold(), torch.randn(2, 90, 32, dtype=torch.float64)
    torch.testing.assert_close(folded(x), layer(x), atol=1e-12, rtol=0)
    assert folded.fold() is folded
    if not options:
        count = [sum(p.numel() for p in part.parameters()) for part in (layer, folded)]
        assert count == [32 + 4 * (32 * 32 + 32), 4 * 32 + 2 * (32 * 32 + 32)]


def test_a_folded_layer_loads_into_a_fold_of_a_fresh_one() -> None:
    # what loading a folded checkpoint does: rebuild, fold, then read the weights
    trained, fresh, x = Aaren(8).fold(), Aaren(8).fold(), torch.randn(1, 9, 8)
    fresh.load_state_dict(trained.state_dict())
    assert torch.equal(fresh(x), trained(x))


def test_parameter_count_of_an_encoder_layer() -> None:
    def count(module: nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    assert count(nn.TransformerEncoderLayer(512, 8, 2048)) == 3_152_384
    assert count(ResidualBlock(Aaren(512, 8), 512, 2048, post_norm=True)) == 3_152_896


def test_state_is_width_plus_twice_the_heads_and_constant() -> None:
    layer = Aaren(32, 4)
    state = layer.initial_state(1)
    for _ in range(3):
        _, state = layer.scan(torch.randn(1, 100, 32), state)
        assert state_bytes(state) == 4 * (32 + 2 * 4)


def test_decay_against_a_softmax_with_linear_biases() -> None:
    torch.manual_seed(0)
    layer = Aaren(8, 2, decay=0.9).double()
    x = torch.randn(1, 30, 8, dtype=torch.float64)
    scores = layer.scores(x)
    slopes = 0.9 * 2.0 ** (-8 * torch.arange(2, dtype=torch.float64) / 2)
    age = (torch.arange(30)[:, None] - torch.arange(30)[None]).double()
    biased = (scores[:, :, None] - slopes[:, None, None] * age).masked_fill(age < 0, -math.inf)
    values = layer.value_projection(x).unflatten(-1, (2, 4)).transpose(1, 2)
    expected = layer.output_projection((biased.softmax(-1) @ values).transpose(1, 2).flatten(2))
    torch.testing.assert_close(layer(x), expected, atol=1e-12, rtol=0)


def test_decay_over_a_long_stream_stays_exact() -> None:
    # the growing bias is taken out of the maximum again: 10,000 positions in float32 must not lose the last ones
    torch.manual_seed(0)
    layer = Aaren(4, 1, decay=2.0)
    x = torch.randn(1, 10_000, 4)
    with torch.no_grad():
        torch.testing.assert_close(layer(x)[:, -50:], layer(x[:, -200:])[:, -50:], atol=1e-5, rtol=0)


def test_dropout_drops_whole_positions_and_only_in_training() -> None:
    torch.manual_seed(0)
    layer = Aaren(8, 2, dropout=0.5)
    with torch.no_grad():
        layer.value_projection.weight.zero_()
        layer.value_projection.bias.fill_(1.0)  # every value is one, so a right normalisation gives one whatever is dropped
    x = torch.randn(4, 200, 8)
    constant = layer.output_projection(torch.ones(8)).expand(4, 180, 8)
    torch.testing.assert_close(layer.train()(x)[:, 20:], constant)
    layer.value_projection.reset_parameters()
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"heads": 3}, "heads must divide width 8, got 3"),
        ({"heads": 0}, "got 0"),
        ({"queries": 0}, "queries must be at least 1, got 0"),
        ({"dropout": 1.0}, "dropout must be"),
        ({"decay": -1.0}, "decay must be"),
        ({"decay": math.inf}, "decay must be"),
        ({"state_dtype": torch.float16}, "state_dtype must be"),
    ],
)
def test_bad_options_are_refused(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Aaren(8, **options)


def test_wrong_width_and_the_default_heads() -> None:
    with pytest.raises(ValueError, match=r"\(batch, length, 8\), got \(2, 5, 7\)"):
        Aaren(8)(torch.zeros(2, 5, 7))
    assert [Aaren(width).heads for width in (8, 6, 7)] == [4, 2, 1]


def test_bfloat16_layer_stays_near_float32() -> None:
    torch.manual_seed(0)
    layer, x = Aaren(16), torch.randn(2, 300, 16)
    half = Aaren(16)
    half.load_state_dict(layer.state_dict())
    y = half.bfloat16()(x.bfloat16())
    assert half.initial_state(1).total.dtype == torch.float32
    assert (y.float() - layer(x)).abs().max() < 0.02 * layer(x).abs().max()


def test_one_layer_cannot_look_up() -> None:
    # scores of the past do not depend on the present token, so attention cannot turn to what it asks for
    torch.manual_seed(0)
    layer, x = Aaren(8, 1).double(), torch.randn(2, 10, 8, dtype=torch.float64)
    x[1, :9] = x[0, :9]
    scores = layer.scores(x)
    assert torch.equal(scores[0, :, :9], scores[1, :, :9])
    assert not torch.equal(scores[0, :, 9], scores[1, :, 9])
