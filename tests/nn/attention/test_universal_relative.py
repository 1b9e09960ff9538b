"""URPE: the contract, its limits to attention with a bias, a double loop as oracle, and rows that differ in their sums."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from assay.nn.attention.softmax import SoftmaxAttention
from assay.nn.attention.universal_relative import GraphRelativeAttention, UniversalRelativeAttention
from assay.ops.relative_attention import Toeplitz, relative_attention
from assay.testing import check_mixer

VARIANTS = {
    "plain": UniversalRelativeAttention,
    "not causal": partial(UniversalRelativeAttention, causal=False),
    "bucketed": partial(UniversalRelativeAttention, positions="relative", multiplier="relative"),
    "rotary, grouped": partial(UniversalRelativeAttention, positions="rotary", heads=4, key_value_heads=2),
    "no bias of scores": partial(UniversalRelativeAttention, positions=None, causal=False),
    "window": partial(UniversalRelativeAttention, positions="alibi", window=6),
}


def _shaken(layer: torch.nn.Module) -> torch.nn.Module:
    """A layer whose tables are no longer constant."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in layer.named_parameters():
        if "multiplier" in name or "bias.weight" in name or "relation" in name:
            parameter.data += torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return layer


@pytest.mark.parametrize("name", VARIANTS)
def test_every_option_keeps_the_contract(name: str) -> None:
    check_mixer(lambda width: _shaken(VARIANTS[name](width)))


@pytest.mark.parametrize("causal", [True, False])
def test_outputs_are_those_of_a_double_loop(causal: bool) -> None:
    torch.manual_seed(0)
    n, layer = 7, _shaken(UniversalRelativeAttention(8, 2, length=9, causal=causal).double())
    x = torch.randn(1, n, 8, dtype=torch.float64)
    q, k, v = layer.projected(x, torch.arange(n)[None])
    b, c = layer.score_bias.weight, layer.multiplier.weight
    mixed = torch.zeros_like(q)
    for head in range(2):
        for i in range(n):
            seen = range(i + 1 if causal else n)
            scores = [float(q[0, head, i] @ k[0, head, j]) / math.sqrt(4) + float(b[j - i + 8, head]) for j in seen]
            total = sum(math.exp(score) for score in scores)
            for j, score in zip(seen, scores, strict=True):
                mixed[0, head, i] += math.exp(score) / total * c[j - i + 8, head] * v[0, head, j]
    torch.testing.assert_close(layer(x), layer.joined(mixed), atol=1e-12, rtol=0)


def test_a_multiplier_of_one_is_attention_with_a_bias() -> None:
    torch.manual_seed(0)
    layer, plain = (kind(8, 2, length=20, positions="offset") for kind in (UniversalRelativeAttention, SoftmaxAttention))
    plain.load_state_dict({name: value for name, value in layer.state_dict().items() if "multiplier" not in name})
    x = torch.randn(2, 20, 8)
    torch.testing.assert_close(layer(x), plain(x), atol=1e-6, rtol=0)


@pytest.mark.parametrize("causal", [True, False])
def test_blocks_of_queries_give_the_dense_values_and_gradients(causal: bool) -> None:
    torch.manual_seed(0)
    n = 300  # not a multiple of the block
    q, k, v = (torch.randn(1, 2, n, 4, dtype=torch.float64, requires_grad=True) for _ in "qkv")
    tables = [torch.randn(2, 2 * n + 5, dtype=torch.float64, requires_grad=True) for _ in "bc"]
    found = []
    for implementation in ("dense", "blocked"):
        b, c = (Toeplitz(table, n + 2) for table in tables)
        out = relative_attention(q, k, v, b, c, causal=causal, implementation=implementation)
        found.append((out, *torch.autograd.grad(out.square().sum(), (q, k, v, *tables))))
    for blocked, dense in zip(*found, strict=True):
        torch.testing.assert_close(blocked, dense, atol=1e-10, rtol=1e-10)


def test_the_gradient_of_an_offset_sums_over_its_diagonal() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 1, 6, 3, dtype=torch.float64) for _ in "qkv")
    table = torch.ones(1, 11, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, 3, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((relative_attention(q, k, v, None, Toeplitz(table, 5))[0, 0] * weight).sum(), table)
    softmax = (q[0, 0] @ k[0, 0].T / math.sqrt(3)).softmax(-1)
    along = softmax * (weight @ v[0, 0].T)
    torch.testing.assert_close(gradient[0], torch.stack([along.diagonal(offset).sum() for offset in range(-5, 6)]))


def test_a_lower_triangle_gives_the_softmax_mass_of_the_past() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 1, 5, 4, dtype=torch.float64)
    past = Toeplitz((torch.arange(-4, 5) <= 0).double()[None], 4)
    found = relative_attention(q, k, torch.ones(1, 1, 5, 1, dtype=torch.float64), None, past)
    expected = (q @ k.transpose(-1, -2) / 2).softmax(-1).tril().sum(-1, keepdim=True)
    torch.testing.assert_close(found, expected)


def test_without_bias_and_multiplier_it_is_pytorch_s_attention() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 2, 300, 8)
    torch.testing.assert_close(
        relative_attention(q, k, v, causal=True), F.scaled_dot_product_attention(q, k, v, is_causal=True), atol=1e-5, rtol=1e-5
    )


def test_identical_tokens_get_different_outputs_only_with_the_multiplier() -> None:
    torch.manual_seed(0)
    layer, x = UniversalRelativeAttention(8, 2, length=16, causal=False).double(), torch.ones(1, 16, 8, dtype=torch.float64)
    assert float((layer(x) - layer(x)[:, :1]).abs().max().detach()) < 1e-12
    assert float((_shaken(layer)(x) - layer(x)[:, :1]).abs().max().detach()) > 1e-2


def test_shared_tables_are_one_parameter() -> None:
    first = UniversalRelativeAttention(8, 2, length=16)
    second = UniversalRelativeAttention(8, 2, length=16).share(first)
    both = torch.nn.ModuleList([first, second])
    alone = sum(p.numel() for p in first.parameters())
    assert sum(p.numel() for p in both.parameters()) == 2 * alone - 2 * 31 * 2


def test_a_graph_of_a_path_is_a_sequence() -> None:
    # on a path the shortest distance is |i − j|: a symmetric multiplier of offsets says the same
    torch.manual_seed(0)
    graph = _shaken(GraphRelativeAttention(8, 2, relations=10).double())
    sequence = UniversalRelativeAttention(8, 2, length=10, causal=False).double()
    fitting = {name: value for name, value in graph.state_dict().items() if "relation" not in name and "multiplier" not in name}
    distances = torch.arange(-9, 10).abs()
    fitting |= {"score_bias.weight": graph.relation_bias[distances], "multiplier.weight": graph.multiplier[distances]}
    sequence.load_state_dict(fitting)
    x, place = torch.randn(2, 10, 8, dtype=torch.float64), torch.arange(10)
    relation = (place[:, None] - place).abs().expand(2, 10, 10)
    torch.testing.assert_close(graph(x, relation=relation), sequence(x), atol=1e-12, rtol=0)


def test_what_is_too_long_is_said_or_clamped() -> None:
    layer = UniversalRelativeAttention(8, 2, length=4)
    with pytest.raises(ValueError, match=r"table .* holds|table of length 4"):
        layer(torch.zeros(1, 9, 8))
    assert UniversalRelativeAttention(8, 2, length=4, beyond="clamp")(torch.zeros(1, 9, 8)).shape == (1, 9, 8)
    with pytest.raises(ValueError, match="relations reach from 0 to 7, and there are 3"):
        GraphRelativeAttention(8, 2, relations=3)(torch.zeros(1, 2, 8), relation=torch.tensor([[[0, 7], [7, 0]]]))
    with pytest.raises(ValueError, match="multiplier"):
        UniversalRelativeAttention(8, multiplier="alibi")
