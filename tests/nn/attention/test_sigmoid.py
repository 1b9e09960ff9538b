"""The sigmoid attention layer: its contract under every option, closed forms, its streams, masks and initial size."""

from __future__ import annotations

import logging
import math
from functools import partial

import pytest
import torch

from assay.measure import count_flops
from assay.nn.attention import sigmoid
from assay.nn.attention.sigmoid import SigmoidAttention
from assay.testing import check_mixer

VARIANTS = {
    "plain": SigmoidAttention,
    "learned bias": partial(SigmoidAttention, sigmoid_bias="learned"),
    "bias by position": partial(SigmoidAttention, sigmoid_bias="-log_position"),
    "bias by position, window": partial(SigmoidAttention, sigmoid_bias="-log_position", window=5),
    "own bias, alibi, temperature": partial(SigmoidAttention, sigmoid_bias=-2.0, positions="alibi", temperature=0.3),
    "rotary": partial(SigmoidAttention, positions="rotary"),
    "learned bias of distance": partial(SigmoidAttention, positions="relative", temperature=-0.5),
    "grouped queries": partial(SigmoidAttention, heads=4, key_value_heads=2),
    "window, over the count": partial(SigmoidAttention, window=5, normalise="count"),
    "norms": partial(SigmoidAttention, normalise="sqrt_count", hybrid_norm="values", query_key_norm=True),
    "blocked": partial(SigmoidAttention, implementation="blocked", bias=False),
    "not causal": partial(SigmoidAttention, causal=False, sigmoid_bias="-log_position", normalise="count"),
    "not causal, window, alibi": partial(SigmoidAttention, causal=False, window=4, positions="alibi", normalise="count"),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_option_keeps_the_contract(name: str) -> None:
    check_mixer(VARIANTS[name])


def _values(layer: SigmoidAttention, x: torch.Tensor) -> torch.Tensor:
    """Values (batch, heads, length, head width)."""
    return layer.projected(x, torch.arange(x.shape[1])[None])[2]


def test_without_queries_every_weight_is_one_in_n_plus_one() -> None:
    torch.manual_seed(0)
    layer = SigmoidAttention(8, 2, causal=False, length=30).double()
    with torch.no_grad():
        layer.input_projection.weight[:8] = 0
        layer.input_projection.bias[:8] = 0
    x = torch.randn(2, 30, 8, dtype=torch.float64)
    expected = layer.joined(_values(layer, x).sum(2, keepdim=True).expand(-1, -1, 30, -1) / 31)
    torch.testing.assert_close(layer(x), expected, atol=1e-14, rtol=0)


@pytest.mark.parametrize(("normalise", "power"), [("count", 1.0), ("sqrt_count", 0.5)])
def test_a_row_is_divided_by_the_number_of_keys_it_sees(normalise: str, power: float) -> None:
    torch.manual_seed(0)
    plain = SigmoidAttention(8, 2, window=4, length=12).double()
    normal = SigmoidAttention(8, 2, window=4, length=12, normalise=normalise).double()
    normal.load_state_dict(plain.state_dict())
    x = torch.randn(1, 12, 8, dtype=torch.float64)
    counts = torch.tensor([1, 2, 3] + 9 * [4], dtype=torch.float64)
    torch.testing.assert_close(normal.weights(x), plain.weights(x) / counts[:, None] ** power, atol=1e-14, rtol=0)


def test_padding_counts_real_positions_alone() -> None:
    torch.manual_seed(0)
    layer = SigmoidAttention(8, 2, causal=False, sigmoid_bias="-log_position", normalise="sqrt_count").double()
    x, mask = torch.randn(1, 12, 8, dtype=torch.float64), torch.tensor([[False, True, True, True, False, True] + 6 * [False]])
    torch.testing.assert_close(layer(x, mask)[mask], layer(x[mask][None])[0], atol=1e-13, rtol=0)


def test_the_temperature_multiplies_products_and_positions_and_not_the_bias() -> None:
    torch.manual_seed(0)
    layer = SigmoidAttention(8, 2, positions="alibi", temperature=0.7, sigmoid_bias=-1.5).double()
    x = torch.randn(1, 9, 8, dtype=torch.float64)
    queries, keys, _ = layer.projected(x, torch.arange(9)[None])
    distance = (torch.arange(9)[:, None] - torch.arange(9)[None]).abs()
    scores = queries @ keys.mT / 2 - torch.tensor([2.0**-4, 2.0**-8])[:, None, None] * distance
    expected = torch.sigmoid(math.exp(0.7) * scores - 1.5).tril()
    torch.testing.assert_close(layer.weights(x), expected, atol=1e-13, rtol=0)


def test_a_position_that_sees_nothing_gives_the_output_bias_and_finite_gradients() -> None:
    torch.manual_seed(0)
    layer, x = SigmoidAttention(8, 2, positions="alibi"), torch.randn(1, 5, 8, requires_grad=True)
    y = layer(x, torch.tensor([[False, False, True, True, True]]))
    assert torch.equal(y[0, :2], layer.output_projection.bias.expand(2, 8))
    y.sum().backward()
    assert bool(torch.isfinite(x.grad).all())


def test_the_learned_bias_learns_and_begins_at_minus_log_n() -> None:
    torch.manual_seed(0)
    layer, fixed = SigmoidAttention(8, 2, sigmoid_bias="learned", length=50), SigmoidAttention(8, 2, length=50)
    fixed.load_state_dict(layer.state_dict(), strict=False)
    x = torch.randn(2, 50, 8)
    torch.testing.assert_close(layer(x), fixed(x))
    layer(x).square().sum().backward()
    assert bool((layer.learned_bias.grad != 0).all())


def test_the_norm_makes_the_size_of_the_values_irrelevant() -> None:
    torch.manual_seed(0)
    layer, x = SigmoidAttention(8, 2, hybrid_norm="values", bias=False).double(), torch.randn(1, 20, 8, dtype=torch.float64)
    with torch.no_grad():
        layer.value_norm.eps = 0.0
        before = layer(x)
        layer.input_projection.weight[16:] *= 100
    torch.testing.assert_close(layer(x), before)


def test_outputs_begin_as_small_as_a_mean() -> None:
    # without a bias they begin about n/2 times as large
    torch.manual_seed(0)
    for length in (64, 256):
        small, large = SigmoidAttention(16, bias=False, length=length), SigmoidAttention(16, bias=False, length=length, sigmoid_bias=0.0)
        large.load_state_dict(small.state_dict())
        x = torch.randn(2, length, 16)
        with torch.no_grad():
            ratio = float(large(x).norm() / small(x).norm())
        assert 0.35 * length < ratio < 0.65 * length


def test_a_bias_of_zero_on_long_sequences_is_warned_of_once_a_length(caplog: pytest.LogCaptureFixture) -> None:
    sigmoid._warn_of_size.cache_clear()
    with caplog.at_level(logging.WARNING):
        SigmoidAttention(8, sigmoid_bias=0.0, length=255)
        SigmoidAttention(8, sigmoid_bias=0.0, length=300, hybrid_norm="values")
        SigmoidAttention(8, sigmoid_bias=0.0, length=300, normalise="count")
        assert not caplog.records
        SigmoidAttention(8, sigmoid_bias=0.0, length=300)
        SigmoidAttention(8, sigmoid_bias=0.0, length=300)
    assert len(caplog.records) == 1
    assert "length 300" in caplog.text


def test_a_long_sequence_through_the_fast_forms_streams_alike() -> None:
    # 300 positions: forward is compiled (where it can be), chunks see a rectangle of the pattern, steps are plain
    torch.manual_seed(0)
    layer, x = SigmoidAttention(16, 4, positions="alibi", key_value_heads=2, length=300), torch.randn(2, 300, 16)
    with torch.no_grad():
        whole, state, parts = layer(x), layer.initial_state(2), []
        for chunk in x.split([200, 99, 1], 1):
            y, state = layer.scan(chunk, state)
            parts.append(y)
        torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-4, atol=1e-5)
        layer.implementation = "plain"
        torch.testing.assert_close(layer(x), whole, rtol=1e-4, atol=1e-5)


def test_operations_are_counted_though_the_counter_cannot_see_them() -> None:
    layer, x = SigmoidAttention(16, 4, key_value_heads=2), torch.randn(2, 200, 16)
    projections = 2 * 2 * 200 * (16 * (16 + 2 * 8) + 16 * 16)
    assert count_flops(layer, x) == projections + 2 * 2 * (2 * 200 * 200 * 16)


def test_the_output_projection_is_the_last_part() -> None:
    for options in ({}, {"hybrid_norm": "values", "sigmoid_bias": "learned"}):
        assert list(dict(SigmoidAttention(8, **options).named_children()))[-1] == "output_projection"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sigmoid_bias": "-log"}, "sigmoid_bias must be a number, -log_n, -log_position or learned, got '-log'"),
        ({"normalise": "n"}, "normalise must be one of none, sqrt_count, count, got 'n'"),
        ({"hybrid_norm": "output"}, "hybrid_norm must be values or None, got 'output'"),
        ({"length": 0}, "length must be at least 1, got 0"),
        ({"heads": 3}, "heads must divide width 8, got 3"),
    ],
)
def test_bad_options_are_refused(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SigmoidAttention(8, **options)


@pytest.mark.parametrize("causal", [False, True])
def test_the_weighting_is_that_of_x_transformers(causal: bool) -> None:
    attend = pytest.importorskip("x_transformers.attend").Attend(sigmoid=True, causal=causal)
    queries, keys, values = torch.randn(3, 2, 4, 50, 16, generator=torch.Generator().manual_seed(0))
    expected = attend(queries, keys, values)[0]
    found = sigmoid.sigmoid_attention(queries, keys, values, causal=causal)
    torch.testing.assert_close(found, expected)
