"""The n-gram layer: the mixer contract, its formula, and inside a sequence model."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from assay.contracts import NextTokens, Signature, Tokens
from assay.measure import count_flops, parameter_count, state_bytes
from assay.models import build
from assay.nn.attention.ngram import NGramAttention
from assay.ops.suffix_matches import successor_weights
from assay.testing import check_mixer


@pytest.mark.parametrize("options", [{}, {"order": 2}, {"order": 3, "bias": False}])
def test_the_contract(options):
    check_mixer(partial(NGramAttention, **options))


def test_output_is_the_formula_with_the_dense_weights():
    torch.manual_seed(0)
    layer, x, tokens = NGramAttention(6, 2).double(), torch.randn(2, 30, 6, dtype=torch.float64), torch.randint(3, (2, 30))
    average = successor_weights(tokens, 2, dtype=torch.float64) @ x
    w0, w1 = layer.output_projection, layer.input_projection
    expected = average @ w0.weight.T + w0.bias + x @ w1.weight.T + w1.bias
    torch.testing.assert_close(layer(x, tokens=tokens), expected, atol=1e-12, rtol=0)


def test_distinct_tokens_leave_the_linear_map_and_both_biases():
    torch.manual_seed(0)
    layer, x = NGramAttention(4).double(), torch.randn(1, 12, 4, dtype=torch.float64)
    expected = layer.input_projection(x) + layer.output_projection.bias
    torch.testing.assert_close(layer(x, tokens=torch.randperm(12)[None]), expected, atol=1e-12, rtol=0)


def test_cost_is_linear_in_the_length_and_parameters_are_two_maps():
    layer = NGramAttention(32, 3)
    assert parameter_count(layer) == 2 * 32**2 + 2 * 32
    with torch.no_grad():
        short, long = (count_flops(lambda x, t: layer(x, tokens=t), torch.zeros(1, n, 32), torch.zeros(1, n).long()) for n in (100, 1000))
    assert long == 10 * short == 1000 * 32 * (4 * 32 + 3)


def test_state_holds_a_record_a_token():
    layer, state = NGramAttention(8), NGramAttention(8).initial_state(2)
    with torch.no_grad():
        _, state = layer.scan(torch.zeros(2, 64, 8), state, tokens=torch.zeros(2, 64).long())
        before = state_bytes(state)
        _, state = layer.scan(torch.zeros(2, 64, 8), state, tokens=torch.zeros(2, 64).long())
    assert 1.9 < state_bytes(state) / before < 2.1


def test_half_precision_keeps_sums_wider():
    assert NGramAttention(4).bfloat16().initial_state(1).sums.dtype == torch.float32


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: NGramAttention(0), "width must be at least 1, got 0"),
        (lambda: NGramAttention(4, 0), "order must be at least 1, got 0"),
        (lambda: NGramAttention(4)(torch.zeros(1, 5, 4)), "must be called with tokens="),
        (lambda: NGramAttention(4)(torch.zeros(1, 5, 3), tokens=torch.zeros(1, 5).long()), r"\(batch, length, 4\), got \(1, 5, 3\)"),
        (lambda: NGramAttention(4)(torch.zeros(1, 5, 4), tokens=torch.zeros(1, 6).long()), r"\(1, 5\), as x has, got \(1, 6\)"),
    ],
)
def test_wrong_arguments_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_a_model_with_ngram_layers_streams_to_its_own_prediction():
    torch.manual_seed(0)
    model = build("lstm", Signature(Tokens(11, 40), NextTokens(11)), 6_000, ngrams=3).eval()
    assert [layer.order for layer in model.modules() if isinstance(layer, NGramAttention)] == [1, 2, 3]
    tokens = torch.randint(11, (2, 40))
    with torch.no_grad():
        state, parts = model.initial_state(2), []
        for token in tokens.unbind(1):
            prediction, state = model.step(token, state)
            parts.append(prediction)
        torch.testing.assert_close(torch.stack(parts, 1), model({"tokens": tokens}).prediction, atol=1e-4, rtol=0)
