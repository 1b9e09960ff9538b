"""Attention by features of queries and keys: linear, Taylor and random features, against their weights written out."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from assay.measure import state_bytes
from assay.nn.attention import kernelised, random_feature
from assay.nn.attention.kernelised import KernelisedAttention
from assay.nn.attention.linear import LinearAttention
from assay.nn.attention.random_feature import RandomFeatureAttention
from assay.nn.attention.taylor import TaylorAttention
from assay.ops import kernelised_attention
from assay.testing import check_mixer

VARIANTS = {
    "linear": LinearAttention,
    "linear, not causal": partial(LinearAttention, causal=False),
    "linear, wide heads": partial(LinearAttention, heads=3, head_width=5, bias=False),
    "taylor": TaylorAttention,
    "taylor, convolution": partial(TaylorAttention, kernel_size=3, key_width=4),
    "taylor, convolution, not causal": partial(TaylorAttention, kernel_size=3, causal=False),
    "softmax features": RandomFeatureAttention,
    "softmax features, not causal": partial(RandomFeatureAttention, causal=False, orthogonal=False),
    "relu features": partial(RandomFeatureAttention, kernel="relu", features=16),
    "relu features, not causal": partial(RandomFeatureAttention, kernel="relu", causal=False),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_option_keeps_the_contract(name: str) -> None:
    check_mixer(VARIANTS[name])


def written_out(layer: KernelisedAttention, x: torch.Tensor, weight) -> torch.Tensor:
    """The layer with ``weight(q, k)`` of every pair, normalised, in place of sums of features."""
    parts = layer.input_projection(x).unflatten(-1, (layer.heads, -1)).transpose(1, 2)
    queries, keys, values = parts.split([layer.key_width, layer.key_width, layer.head_width], -1)
    weights = weight(queries[..., :, None, :], keys[..., None, :, :])
    if layer.causal:
        weights = weights.tril()
    mixed = (weights / weights.sum(-1, keepdim=True)) @ values
    return layer.output_projection(mixed.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("causal", [True, False])
def test_linear_attention_is_its_weights_written_out(causal: bool) -> None:
    torch.manual_seed(0)
    layer, x = LinearAttention(12, 3, causal=causal).double(), torch.randn(2, 150, 12, dtype=torch.float64)
    expected = written_out(layer, x, lambda q, k: ((F.elu(q) + 1) * (F.elu(k) + 1)).sum(-1))
    torch.testing.assert_close(layer(x), expected, atol=1e-6, rtol=0)  # the 1e-6 below the quotient


@pytest.mark.parametrize("causal", [True, False])
def test_taylor_attention_weighs_by_the_series_of_the_exponential(causal: bool) -> None:
    torch.manual_seed(0)
    layer, x = TaylorAttention(12, 3, causal=causal, key_width=5).double(), 2 * torch.randn(2, 150, 12, dtype=torch.float64)

    def weight(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        score = (q * k).sum(-1) / math.sqrt(5)
        return 1 + score + score**2 / 2

    torch.testing.assert_close(layer(x), written_out(layer, x, weight), atol=1e-5, rtol=0)


def test_taylor_features_hold_every_product_once() -> None:
    layer = TaylorAttention(16, 2, key_width=16)
    assert layer.feature_width == 1 + 16 + 136  # published: 1 + 16 + 256
    assert layer.features(torch.randn(1, 2, 3, 16)).shape == (1, 2, 3, 153)
    assert state_bytes(layer.initial_state(1)) == 4 * 2 * 153 * (8 + 1)


def softmax_weight(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    return ((q * k).sum(-1) / math.sqrt(q.shape[-1])).exp()


@pytest.mark.parametrize("causal", [True, False])
def test_random_features_approach_softmax_attention_as_one_over_the_root_of_their_number(causal: bool) -> None:
    torch.manual_seed(0)
    weight, x, errors = 0.08 * torch.randn(48, 16).double(), torch.randn(2, 40, 16, dtype=torch.float64), []
    for features in (64, 4096):
        layer = RandomFeatureAttention(16, 2, causal=causal, features=features).double()
        difference = []
        with torch.no_grad():
            layer.input_projection.weight.copy_(weight)
            expected = written_out(layer, x, softmax_weight)
            for _ in range(12):
                layer.redraw()
                difference.append((layer(x) - expected).norm() / expected.norm())
        errors.append(float(torch.stack(difference).mean()))
    assert 5 < errors[0] / errors[1] < 13, errors  # 64 times the features: an eighth of the error
    assert errors[1] < 0.01


def test_a_rising_stabiliser_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    # without the two small constants, stabilisers cancel: the last position sees what a layer that is not causal sees
    monkeypatch.setattr(random_feature, "SOFTMAX_EPSILON", 0.0)
    monkeypatch.setattr(kernelised_attention, "EPSILON", 0.0)
    torch.manual_seed(0)
    layer, whole = (RandomFeatureAttention(16, 2, causal=causal, features=64).double() for causal in (True, False))
    whole.load_state_dict(layer.state_dict())
    # long keys first: their exponents lie far below 0, near which those of short ones are
    x = torch.linspace(12, 0.1, 80)[:, None] * torch.randn(2, 80, 16, dtype=torch.float64)
    torch.testing.assert_close(layer(x)[:, -1], whole(x)[:, -1], atol=1e-10, rtol=0)
    state = layer.initial_state(2)
    _, first = layer.scan(x[:, :40], state)
    _, last = layer.scan(x[:, 40:], first)
    assert (last["maximum"] - first["maximum"]).max() > 1  # it did rise


@pytest.mark.parametrize("causal", [True, False])
def test_large_inputs_do_not_overflow(causal: bool) -> None:
    # without a stabiliser e^(‖x‖²) overflows; and what is masked must not come back as NaN in the gradient
    torch.manual_seed(0)
    layer, x = RandomFeatureAttention(16, 2, causal=causal, features=64), 60 * torch.randn(2, 80, 16)
    mask = torch.rand(2, 80) < 0.7
    x = torch.where(mask[..., None], x, 0.01 * x)  # short keys, whose exponents are far above those of the others
    y = layer(x, mask)
    assert torch.isfinite(y).all()
    assert y.std() > 1  # values of their size come through
    assert all(torch.isfinite(gradient).all() for gradient in torch.autograd.grad(y.square().sum(), list(layer.parameters())))


def test_relu_features_written_out() -> None:
    torch.manual_seed(0)
    layer, x = RandomFeatureAttention(8, 2, kernel="relu", features=32).double(), torch.randn(2, 70, 8, dtype=torch.float64)

    def features(z: torch.Tensor) -> torch.Tensor:
        return (z / 4**0.25 @ layer.projection.T).relu() + 1e-3

    expected = written_out(layer, x, lambda q, k: (features(q) * features(k)).sum(-1))
    torch.testing.assert_close(layer(x), expected, atol=1e-6, rtol=0)


def test_rows_are_orthogonal_in_blocks_as_long_as_gaussian_ones_and_point_everywhere_alike() -> None:
    torch.manual_seed(0)
    projection = RandomFeatureAttention(16, 2, features=4096).projection.double()
    product = projection[:8] @ projection[:8].T
    assert (product - product.diag().diag()).abs().max() < 1e-5
    assert abs(float(projection.norm(dim=1).mean()) - 2.7414) < 0.03  # mean of a chi distribution with 8 degrees of freedom
    # rows straight from a QR decomposition lean to one side of some axes, which biases attention
    means = projection.view(512, 8, 8).mean(0)
    assert means.abs().max() < 5 / 512**0.5


def test_the_random_matrix_is_saved_and_redrawn() -> None:
    layer, other = RandomFeatureAttention(8), RandomFeatureAttention(8)
    assert not torch.equal(layer.projection, other.projection)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(layer.projection, other.projection)
    other.redraw()
    assert not torch.equal(layer.projection, other.projection)


@pytest.mark.parametrize("make", [LinearAttention, TaylorAttention, RandomFeatureAttention])
def test_segments_of_a_long_sequence_change_nothing(make: type, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer, x = make(8).double(), torch.randn(2, 50, 8, dtype=torch.float64)
    mask = torch.rand(2, 50) < 0.8
    expected = layer(x, mask)
    monkeypatch.setattr(kernelised, "SEGMENT", 7)
    torch.testing.assert_close(layer(x, mask), expected, atol=1e-12, rtol=0)


def test_bfloat16_stays_near_float32() -> None:
    torch.manual_seed(0)
    for make in (LinearAttention, RandomFeatureAttention, TaylorAttention):
        layer, x = make(16), torch.randn(2, 200, 16)
        half = make(16)
        half.load_state_dict(layer.state_dict())
        y = half.bfloat16()(x.bfloat16())
        assert half.initial_state(1)["sums"].dtype == torch.float32
        assert (y.float() - layer(x)).abs().max() < 0.05 * layer(x).abs().max()


@pytest.mark.parametrize("make", [LinearAttention, TaylorAttention, RandomFeatureAttention])
def test_what_sees_the_future_has_no_stream(make: type) -> None:
    layer = make(8, causal=False)
    with pytest.raises(ValueError, match="causal=False"):
        layer.initial_state(1)


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (LinearAttention, {"heads": 3}, "heads must divide width 8, got 3"),
        (TaylorAttention, {"key_width": 0}, "key_width must be at least 1, got 0"),
        (RandomFeatureAttention, {"features": 0}, "at least 1, got 0"),
        (RandomFeatureAttention, {"kernel": "cosine"}, "kernel must be softmax or relu, got 'cosine'"),
    ],
)
def test_bad_options_are_refused(make: type, options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make(8, **options)


@pytest.mark.parametrize("make", [LinearAttention, TaylorAttention, RandomFeatureAttention])
def test_a_wrong_width_is_refused(make: type) -> None:
    with pytest.raises(ValueError, match=r"\(batch, length, 8\), got \(2, 5, 7\)"):
        make(8)(torch.zeros(2, 5, 7))
