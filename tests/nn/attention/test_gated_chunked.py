"""Gated attention in chunks: the block's equations written out, its limits, its borders, and its stream."""

from __future__ import annotations

import math
import warnings
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from assay.contracts import NextTokens, Signature, Tokens
from assay.models.build import build
from assay.nn import GatedChunkedAttention, Mega, ResidualBlock, SimplifiedTCNCA
from assay.nn.attention.gated_chunked import TCNCA, laplace
from assay.nn.convolution.dilated import DilatedTCN
from assay.nn.mixer import StreamingMixer
from assay.testing import check_mixer

SMALL = {"kernel": 3, "factor": 3, "blocks": 2}
VARIANTS = {
    "mega in small chunks": partial(Mega, chunk=7, order=3),
    "mega, laplace, rotary": partial(Mega, chunk=7, order=3, attention="laplace", bias="rotary"),
    "mega, a chunk a position": partial(Mega, chunk=1, order=2, attention="relu2"),
    "mega, both ways": partial(Mega, chunk=7, order=3, causal=False),
    "mega, both ways, laplace": partial(Mega, chunk=7, order=3, causal=False, attention="laplace", bias="rotary"),
    "mega with overlap": partial(Mega, chunk=4, order=2, overlap=True, reach=30),
    "mega with overlap, both ways": partial(Mega, chunk=7, order=2, overlap=True, causal=False, bias="rotary"),
    "tcnca in small chunks": partial(TCNCA, chunk=5, **SMALL),
    "tcnca, both ways": partial(TCNCA, chunk=5, causal=False, **SMALL),
    "simplified": partial(SimplifiedTCNCA, chunk=5, **SMALL),
    "simplified, both ways": partial(SimplifiedTCNCA, chunk=5, causal=False, **SMALL),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_option_keeps_the_contract(name: str) -> None:
    check_mixer(VARIANTS[name])


class Same(StreamingMixer):
    """A long-range part that mixes nothing."""

    def initial_state(self, batch_size: int) -> tuple[()]:
        return ()

    def scan(self, x: torch.Tensor, state: Any, mask: torch.Tensor | None = None) -> tuple[torch.Tensor, Any]:
        return x, state


def lively(layer: Any) -> Any:
    """Parameters of size 1, so that no term is too small to be missed."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
    return layer.double().eval()


def by_the_book(layer: GatedChunkedAttention, x: torch.Tensor) -> torch.Tensor:
    """R + u ∘ (H − R) of one example (length, width), a query at a time, with R = x."""
    normal = layer.norm(x)
    values, mixed = F.silu(layer.value_projection(normal)), layer.long_range(normal[None])[0]
    d, z, v = layer.width, layer.query_width, layer.value_width
    update, shared, reset, direct = layer.gate_projection(mixed).split([d, z, v, d], -1)
    queries, keys = (F.silu(shared) * layer.scale[row] + layer.shift[row] for row in (0, 1))
    outputs = []
    for i in range(len(x)):
        first = i // layer.chunk * layer.chunk
        start = max(0, first - layer.overlap * layer.chunk)
        stop = i + 1 if layer.causal else min(first + (1 + layer.overlap) * layer.chunk, len(x))
        place, others = torch.tensor([[i - start]]), torch.arange(stop - start)[None]
        bias = layer.bias(place, others)[0, 0, 0]
        scores = keys[start:stop] @ queries[i]
        if layer.attention == "softmax":
            weights = torch.softmax(scores / math.sqrt(z) + bias, 0)
        else:
            scores = scores / (stop - start) + bias
            weights = scores.relu() ** 2 if layer.attention == "relu2" else laplace(scores)
        outputs.append(weights @ values[start:stop])
    candidate = F.silu(direct + layer.output_projection(torch.stack(outputs) * F.silu(reset)))
    return x + update.sigmoid() * (candidate - x)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("attention", ["softmax", "laplace", "relu2"])
@pytest.mark.parametrize("bias", ["simple", "rotary"])
def test_a_block_is_the_published_gated_residual(causal: bool, attention: Any, bias: Any) -> None:
    layer = lively(Mega(6, order=3, query_width=4, value_width=5, chunk=4, attention=attention, bias=bias, causal=causal))
    block = ResidualBlock(layer, 6, 0).double()
    x = torch.randn(2, 3 * 4 + 2, 6, dtype=torch.float64)
    expected = torch.stack([by_the_book(layer, row) for row in x])
    torch.testing.assert_close(block(x), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("attention", "bias"), [("softmax", "simple"), ("laplace", "rotary")])
def test_an_overlap_shows_the_neighbouring_chunk(causal: bool, attention: Any, bias: Any) -> None:
    options: dict[str, Any] = {"attention": attention, "bias": bias, "causal": causal}
    layer = lively(Mega(6, order=3, query_width=4, value_width=5, chunk=4, overlap=True, **options))
    x = torch.randn(2, 3 * 4 + 2, 6, dtype=torch.float64)
    expected = torch.stack([by_the_book(layer, row) for row in x])
    torch.testing.assert_close(x + layer(x), expected, atol=1e-12, rtol=0)


def test_a_block_that_normalises_after_its_sum_leaves_the_norm_to_the_block() -> None:
    layer = lively(TCNCA(6, chunk=4, input_norm="none", **SMALL))
    block, x = ResidualBlock(layer, 6, 0, post_norm=True).double(), torch.randn(1, 9, 6, dtype=torch.float64)
    torch.testing.assert_close(block(x)[0], block.mixer_norm(by_the_book(layer, x[0])), atol=1e-12, rtol=0)


def test_a_closed_gate_leaves_the_input_as_it_is() -> None:
    layer = lively(TCNCA(6, chunk=4, **SMALL))
    with torch.no_grad():
        layer.gate_projection.bias[:6] = -1000.0
        layer.gate_projection.weight[:6] = 0.0
    assert layer(torch.randn(2, 9, 6, dtype=torch.float64)).abs().max() == 0


def test_a_chunk_as_long_as_the_sequence_is_no_chunk() -> None:
    layer, other = (lively(Mega(6, order=3, chunk=chunk, bias="rotary")) for chunk in (12, 50))
    other.load_state_dict(layer.state_dict())
    x = torch.randn(2, 12, 6, dtype=torch.float64)
    torch.testing.assert_close(layer(x), other(x), atol=1e-12, rtol=0)


@pytest.mark.parametrize("causal", [True, False])
def test_nothing_crosses_a_border_but_through_the_long_range_part(causal: bool) -> None:
    same = Same() if causal else nn.Identity()
    same.causal = causal  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
    same.forward = lambda x, mask=None: x
    layer = lively(GatedChunkedAttention(6, chunk=4, long_range=same, causal=causal))
    x = torch.randn(1, 14, 6, dtype=torch.float64)
    changed = x.clone()
    changed[:, 4:8] += 1
    difference = (layer(changed) - layer(x))[0].abs().amax(-1)
    assert difference[:4].max() == 0
    assert difference[8:].max() == 0
    assert difference[4:8].min() > 1e-6


def test_a_stream_over_borders_is_the_whole() -> None:
    layer = lively(TCNCA(6, chunk=5, attention="laplace", **SMALL))
    x = torch.randn(2, 3 * 5 + 5, 6, dtype=torch.float64)
    state, parts = layer.initial_state(2), []
    for x_t in x.unbind(1):
        y, state = layer.step(x_t, state)
        parts.append(y)
    torch.testing.assert_close(torch.stack(parts, 1), layer(x), atol=1e-12, rtol=0)
    assert state.filled.tolist() == [0, 0]  # four chunks were read: the last is full and forgotten
    assert state.keys.shape == (2, 4, layer.query_width)


@pytest.mark.parametrize("overlap", [False, True])
def test_rows_may_stand_at_different_places_of_their_chunks(overlap: bool) -> None:
    layer = lively(Mega(6, order=3, chunk=4, overlap=overlap))
    x = torch.randn(3, 23, 6, dtype=torch.float64)
    mask = torch.rand(3, 23, generator=torch.Generator().manual_seed(0)) < torch.tensor([[0.3], [0.8], [1.0]])
    state, parts = layer.initial_state(3), []
    for chunk, real in zip(x.split([3, 9, 1, 10], 1), mask.split([3, 9, 1, 10], 1), strict=True):
        y, state = layer.scan(chunk, state, real)
        parts.append(y)
    y = torch.cat(parts, 1)
    assert y[~mask].abs().max() == 0
    for row in range(3):
        torch.testing.assert_close(y[row, mask[row]], layer(x[row : row + 1, mask[row]])[0], atol=1e-12, rtol=0)
    before = 4 * overlap  # every row has read a chunk
    assert state.filled.tolist() == [before + int(count) % 4 for count in mask.sum(1)]


def test_chunks_without_a_real_position_are_finite_and_zero() -> None:
    layer = lively(Mega(6, order=3, chunk=4, causal=False))
    x = torch.randn(2, 12, 6, dtype=torch.float64, requires_grad=True)
    mask = torch.arange(12)[None] < torch.tensor([[0], [5]])
    y = layer(x, mask)
    assert y[~mask].abs().max() == 0
    (gradient,) = torch.autograd.grad(y.square().sum(), x)
    assert gradient.isfinite().all()


def test_laplace_is_near_the_squared_relu() -> None:
    # at √½ both have the value ½ and the slope √2, which is what its two constants are for
    s = torch.tensor([0.0, math.sqrt(0.5)], dtype=torch.float64, requires_grad=True)
    value = laplace(s)
    torch.testing.assert_close(value, torch.tensor([0.0060945, 0.5], dtype=torch.float64), atol=1e-6, rtol=0)
    (slope,) = torch.autograd.grad(value.sum(), s)
    torch.testing.assert_close(float(slope[1]), math.sqrt(2), atol=1e-12, rtol=0)


def test_the_simple_bias_is_a_number_an_offset() -> None:
    layer = Mega(4, order=1, chunk=5)
    places = torch.arange(5)[None]
    bias = layer.bias(places, places)[0, 0]
    torch.testing.assert_close(bias[1:, 1:], bias[:-1, :-1], atol=0, rtol=0)
    assert len(bias.unique()) == 2 * 5 - 1


def test_published_initial_values() -> None:
    torch.manual_seed(0)
    layer = Mega(64, order=16)
    for linear in (layer.value_projection, layer.gate_projection, layer.output_projection):
        assert abs(linear.weight.std().item() - 0.02) < 0.001
        assert linear.bias.abs().max() == 0
    assert layer.shift.abs().max() == 0
    assert layer.query_width == 16
    assert layer.value_width == 128
    torch.testing.assert_close(layer.long_range.beta.mean(0), torch.tensor([1.0, -1.0] * 8), atol=0.02, rtol=0)


def test_dropout_falls_on_four_places_in_training_alone() -> None:
    for name in ("dropout", "attention_dropout", "hidden_dropout"):
        layer, x = Mega(6, order=2, chunk=4, **{name: 0.5}), torch.randn(1, 8, 6)
        assert not torch.equal(layer(x), layer(x)), name
        layer.eval()
        assert torch.equal(layer(x), layer(x)), name


def test_gradcheck() -> None:
    layer = lively(TCNCA(2, query_width=2, value_width=2, chunk=3, kernel=3, factor=4, blocks=1, attention="laplace"))
    assert torch.autograd.gradcheck(layer, torch.randn(1, 5, 2, dtype=torch.float64, requires_grad=True))


def test_bfloat16_stays_near_float32() -> None:
    torch.manual_seed(0)
    layer, x = TCNCA(16, chunk=8, **SMALL).to(torch.bfloat16), torch.randn(2, 30, 16).to(torch.bfloat16)
    y = layer(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), layer.float()(x.float()), atol=0.05, rtol=0.05)


def test_a_language_model_streams_in_a_state_that_does_not_grow_with_the_text() -> None:
    network: Any = build("tcnca", Signature(Tokens(11, 64), NextTokens(11)), 20_000, chunk=8, **SMALL).eval()
    tokens = torch.randint(11, (1, 40))
    state, parts = network.initial_state(1), []
    with torch.no_grad():
        for token in tokens.unbind(1):
            prediction, state = network.step(token, state)
            parts.append(prediction)
        torch.testing.assert_close(torch.stack(parts, 1), network.predict(tokens), atol=1e-4, rtol=0)
    assert isinstance(network.blocks[0].mixer_norm, nn.Identity)  # its mixers normalise
    assert isinstance(network.blocks[0].feed_forward_norm, nn.LayerNorm)


def test_convolutions_that_see_no_farther_than_a_chunk_are_warned_of() -> None:
    with pytest.warns(UserWarning, match="see 13 positions, no more than a chunk of 16"):
        TCNCA(8, chunk=16, kernel=3, factor=2, blocks=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TCNCA(8, chunk=16, **SMALL)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"chunk": 0}, "at least 1, got 8, 2, 16, 0"),
        ({"query_width": 0}, "at least 1, got 8, 0, 16, 128"),
        ({"query_width": 3, "bias": "rotary"}, "even width of at least 2, got 3"),
        ({"attention": "relu"}, "attention must be one of softmax, laplace, relu2, got 'relu'"),
        ({"bias": "alibi"}, "bias must be one of simple, rotary, got 'alibi'"),
        ({"input_norm": "batch"}, "norm must be one of layer, rms, got 'batch'"),
        ({"long_range": "fft"}, "long_range must be a module or one of ema, tcn, got 'fft'"),
        ({"long_range": DilatedTCN(8, 3, causal=False)}, "long_range must have causal=True"),
        ({"dropout": 1.5}, "dropout probability"),
        ({"attention_dropout": 1.0}, "attention_dropout must be at least 0 and below 1, got 1.0"),
    ],
)
def test_bad_options_are_refused(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        GatedChunkedAttention(8, **options)


def test_bad_calls_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(batch, length, 8\), got \(2, 5, 7\)"):
        Mega(8)(torch.zeros(2, 5, 7))
    with pytest.raises(ValueError, match="sees the future"):
        Mega(8, causal=False).initial_state(1)
    with pytest.raises(ValueError, match="chunk must be at least 1, got 0"):
        SimplifiedTCNCA(8, 0)
    with pytest.raises(ValueError, match="kernel must be at least 2, got 1"):
        TCNCA(8, kernel=1)
