"""Softmax attention against PyTorch's own layer; its cache under growth, forks and masks; rotary positions."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from assay.measure import state_bytes
from assay.nn.attention.softmax import SoftmaxAttention
from assay.nn.position.rotary import rotate
from assay.testing import check_mixer

VARIANTS = {
    "plain": SoftmaxAttention,
    "rotary": partial(SoftmaxAttention, positions="rotary"),
    "one head, no bias": partial(SoftmaxAttention, heads=1, bias=False),
    "not causal": partial(SoftmaxAttention, causal=False),
    "not causal, rotary": partial(SoftmaxAttention, causal=False, positions="rotary"),
    "penalty on distance": partial(SoftmaxAttention, positions="alibi"),
    "learned bias of distance": partial(SoftmaxAttention, positions="relative"),
    "not causal, learned bias": partial(SoftmaxAttention, causal=False, positions="relative"),
    "grouped queries": partial(SoftmaxAttention, heads=4, key_value_heads=2),
    "normalised queries and keys": partial(SoftmaxAttention, query_key_norm=True),
    "inner width of its own": partial(SoftmaxAttention, heads=3, head_width=6),
    "window": partial(SoftmaxAttention, window=5),
    "window of one": partial(SoftmaxAttention, window=1),
    "window, rotary, grouped": partial(SoftmaxAttention, window=7, positions="rotary", heads=4, key_value_heads=1),
    "window, not causal": partial(SoftmaxAttention, window=7, causal=False),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_option_keeps_the_contract(name: str) -> None:
    check_mixer(VARIANTS[name])


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("padded", [True, False])
def test_outputs_are_those_of_multi_head_attention(causal: bool, padded: bool) -> None:
    torch.manual_seed(0)
    layer, peer = SoftmaxAttention(16, 4, causal=causal).double(), nn.MultiheadAttention(16, 4, batch_first=True).double()
    peer.load_state_dict(
        {
            "in_proj_weight": layer.input_projection.weight,
            "in_proj_bias": layer.input_projection.bias,
            "out_proj.weight": layer.output_projection.weight,
            "out_proj.bias": layer.output_projection.bias,
        }
    )
    x = torch.randn(2, 12, 16, dtype=torch.float64)
    mask = torch.arange(12)[None] < torch.tensor([[12], [5]])
    hidden = ~torch.ones(12, 12, dtype=torch.bool).tril() if causal else None
    expected = peer(x, x, x, key_padding_mask=~mask if padded else None, attn_mask=hidden, need_weights=False)[0]
    found = layer(x, mask if padded else None)
    real = mask if padded and causal else torch.ones_like(mask)  # behind the end a causal layer's outputs mean nothing
    torch.testing.assert_close(found[real], expected[real], atol=1e-12, rtol=0)


@pytest.mark.parametrize("options", [{}, {"positions": "rotary"}, {"positions": "alibi"}, {"window": 4}, {"key_value_heads": 1}])
def test_padding_behind_costs_no_mask_and_changes_neither_value_nor_gradient(options: dict) -> None:
    """Right padding is left to the triangle; the cache, which writes out who sees whom, must say the same of what is real."""
    torch.manual_seed(0)
    layer = SoftmaxAttention(16, 4, **options).double()
    x = torch.randn(3, 12, 16, dtype=torch.float64, requires_grad=True)
    mask = torch.arange(12)[None] < torch.tensor([[12], [5], [1]])
    written = layer.scan(x, layer.initial_state(3), mask)[0][mask]
    found = layer(x, mask)[mask]
    torch.testing.assert_close(found, written, atol=1e-12, rtol=0)
    pull = torch.randn_like(found)
    ours, theirs = (torch.autograd.grad(y, [x, *layer.parameters()], pull, retain_graph=True) for y in (found, written))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-11, rtol=0)


def test_the_cache_grows_linearly_and_copies_rarely() -> None:
    layer = SoftmaxAttention(8, 2)
    state, sizes, copies, buffer = layer.initial_state(1), {}, 0, 0
    with torch.no_grad():
        for position in range(1, 1025):
            _, state = layer.step(torch.randn(1, 8), state)
            copies += state.keys.data_ptr() != buffer
            buffer = state.keys.data_ptr()
            sizes[position] = state_bytes(state)
    assert copies == 7  # 16, 32, …, 1024: buffers double, so the copying per step is constant
    assert all(2 * 8 * 4 * n <= sizes[n] <= 2 * (2 * 8 * 4 * n) + 16 for n in (16, 100, 1000))


def test_a_state_can_be_continued_in_two_ways() -> None:
    # both continuations would write into the same buffers: the second one must notice and copy
    torch.manual_seed(0)
    layer, x = SoftmaxAttention(8).eval(), torch.randn(1, 30, 8)
    with torch.no_grad():
        _, state = layer.scan(x[:, :10], layer.initial_state(1))
        _, first = layer.scan(x[:, 10:20], state)
        _, second = layer.scan(x[:, 20:], state)
        y_first, _ = layer.step(x[:, 0], first)
        y_second, _ = layer.step(x[:, 0], second)
        torch.testing.assert_close(y_first, layer(torch.cat([x[:, :20], x[:, :1]], 1))[:, -1])
        torch.testing.assert_close(y_second, layer(torch.cat([x[:, :10], x[:, 20:], x[:, :1]], 1))[:, -1])


def test_gradients_through_chunks_are_those_of_the_whole() -> None:
    torch.manual_seed(0)
    layer, x = SoftmaxAttention(8).double(), torch.randn(2, 20, 8, dtype=torch.float64)
    layer(x).square().sum().backward()
    expected = {name: p.grad.clone() for name, p in layer.named_parameters()}
    layer.zero_grad()
    state, parts = layer.initial_state(2), []
    for chunk in x.split(7, 1):
        y, state = layer.scan(chunk, state)
        parts.append(y)
    torch.cat(parts, 1).square().sum().backward()
    for name, parameter in layer.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-10, rtol=1e-10)


def test_not_causal_has_no_state_and_sees_the_future() -> None:
    layer, x = SoftmaxAttention(8, causal=False), torch.randn(1, 9, 8)
    with pytest.raises(ValueError, match="cannot read a stream"):
        layer.initial_state(1)
    changed = x.clone()
    changed[:, -1] += 1
    assert not torch.equal(layer(x)[:, 0], layer(changed)[:, 0])


def test_rotary_scores_depend_on_the_distance_alone() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64)
    at = [(rotate(q, torch.tensor([m])) * rotate(k, torch.tensor([n]))).sum() for m, n in ((3, 1), (1003, 1001), (3, 2))]
    torch.testing.assert_close(at[0], at[1])
    assert (at[0] - at[2]).abs() > 1e-3
    torch.testing.assert_close(rotate(q, torch.tensor([7])).norm(), q.norm())
    assert torch.equal(rotate(q, torch.tensor([0])), q)


def test_a_window_is_a_band_of_weights() -> None:
    torch.manual_seed(0)
    layer, x = SoftmaxAttention(8, 2, window=5).double(), torch.randn(2, 200, 8, dtype=torch.float64)
    weights = layer.weights(x)
    reached = torch.arange(200)[:, None] - torch.arange(200)[None]
    assert torch.equal(weights[0, 0] > 0, (reached >= 0) & (reached < 5))
    values = layer.projected(x, torch.arange(200)[None])[2]
    torch.testing.assert_close(layer(x), layer.joined(weights @ values), atol=1e-12, rtol=0)


def test_a_window_bounds_the_state() -> None:
    layer = SoftmaxAttention(8, 2, window=32)
    state, sizes = layer.initial_state(1), []
    with torch.no_grad():
        for _ in range(600):
            _, state = layer.step(torch.randn(1, 8), state)
            sizes.append(state_bytes(state))
    assert max(sizes[300:]) == max(sizes[:300])  # however long the stream
    assert max(sizes) <= 4 * 2 * 32 * 8 * 4  # keys and values, 32 entries of 8 numbers, and room to grow


def test_grouped_queries_share_keys_and_values() -> None:
    torch.manual_seed(0)
    grouped, x = SoftmaxAttention(8, 4, key_value_heads=2).double(), torch.randn(2, 9, 8, dtype=torch.float64)
    whole = SoftmaxAttention(8, 4).double()
    whole.output_projection.load_state_dict(grouped.output_projection.state_dict())
    rows = torch.cat([torch.arange(8), 8 + torch.tensor([0, 1, 0, 1, 2, 3, 2, 3]), 12 + torch.tensor([0, 1, 0, 1, 2, 3, 2, 3])])
    whole.input_projection.weight.data, whole.input_projection.bias.data = (p.data[rows] for p in grouped.input_projection.parameters())
    torch.testing.assert_close(grouped(x), whole(x), atol=1e-12, rtol=0)


def test_alibi_lowers_scores_by_slope_times_distance() -> None:
    torch.manual_seed(0)
    layer, x = SoftmaxAttention(8, 2, positions="alibi").double(), torch.zeros(1, 6, 8, dtype=torch.float64)
    expected = torch.tensor([-(2.0**-4) * (5 - j) for j in range(6)], dtype=torch.float64).softmax(0)  # equal inputs: the bias alone
    torch.testing.assert_close(layer.weights(x)[0, 0, 5], expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"heads": 3}, "heads must divide"),
        ({"dropout": 1.0}, "dropout"),
        ({"heads": 8, "positions": "rotary"}, "even head width"),
        ({"key_value_heads": 3}, "key_value_heads must divide"),
        ({"window": 0}, "window"),
        ({"positions": "absolute"}, "positions"),
    ],
)
def test_bad_options_are_refused(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SoftmaxAttention(8, **options)
