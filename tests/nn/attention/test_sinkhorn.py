"""Sinkhorn attention: doubly stochastic mixtures of blocks, its limit to plain attention, a loop over blocks as oracle."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from assay.nn.attention.sinkhorn import SinkhornAttention, sinkhorn
from assay.nn.attention.softmax import SoftmaxAttention
from assay.testing import check_mixer


@pytest.mark.parametrize("make", [SinkhornAttention, partial(SinkhornAttention, block=4, iterations=5, temperature=0.7, bias=False)])
def test_every_option_keeps_the_contract(make) -> None:
    check_mixer(make)


def test_with_one_block_it_is_plain_attention() -> None:
    # the sorted block is the own one again, and doubled keys change no softmax average
    torch.manual_seed(0)
    layer, plain = SinkhornAttention(8, 2, length=20, block=20).double(), SoftmaxAttention(8, 2, causal=False).double()
    plain.load_state_dict({name: value for name, value in layer.state_dict().items() if "block" not in name})
    x, mask = torch.randn(2, 20, 8, dtype=torch.float64), torch.arange(20)[None] < torch.tensor([[20], [7]])
    torch.testing.assert_close(layer(x), plain(x), atol=1e-12, rtol=0)
    torch.testing.assert_close(layer(x, mask)[mask], plain(x, mask)[mask], atol=1e-12, rtol=0)


@pytest.mark.parametrize("iterations", [0, 3])
def test_against_a_loop_over_blocks(iterations: int) -> None:
    torch.manual_seed(0)
    layer, x = SinkhornAttention(6, 1, length=40, block=4, iterations=iterations).double(), torch.randn(1, 12, 6, dtype=torch.float64)
    q, k, v = layer.input_projection(x[0]).chunk(3, -1)
    q, k, v = (part.view(3, 4, 6) for part in (q, k, v))
    logits = (k.sum(1) @ layer.block_projection.weight.T + layer.block_projection.bias)[:, :3]
    order = logits.exp()
    for _ in range(iterations):
        order = order / order.sum(1, keepdim=True)
        order = order / order.sum(0, keepdim=True)
    order = order if iterations else order / order.sum(1, keepdim=True)
    expected = []
    for block in range(3):
        keys = torch.cat([k[block], sum(order[block, other] * k[other] for other in range(3))])
        values = torch.cat([v[block], sum(order[block, other] * v[other] for other in range(3))])
        expected.append((q[block] @ keys.T / math.sqrt(6)).softmax(-1) @ values)
    torch.testing.assert_close(layer(x)[0], layer.output_projection(torch.cat(expected)), atol=1e-12, rtol=0)


def test_many_rounds_make_rows_and_columns_sum_to_one() -> None:
    torch.manual_seed(0)
    there = torch.ones(5, 5, dtype=torch.bool)
    there[3], there[:, 3] = False, False  # a block that is not there
    logits = torch.randn(2, 5, 5, dtype=torch.float64, requires_grad=True)
    order = sinkhorn(logits, there, 200)
    expected = torch.tensor([1.0, 1, 1, 0, 1], dtype=torch.float64).expand(2, 5)
    torch.testing.assert_close(order.sum(-1), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(order.sum(-2), expected, atol=1e-6, rtol=0)
    (gradient,) = torch.autograd.grad(order.square().sum(), logits)
    assert bool(gradient.isfinite().all())


def test_masked_positions_may_stand_anywhere() -> None:
    torch.manual_seed(0)
    layer, x = SinkhornAttention(8, block=4, iterations=2).double(), torch.randn(3, 30, 8, dtype=torch.float64)
    mask = torch.rand(3, 30) < 0.5
    mask[1, :22], mask[2] = False, False
    found = layer(x, mask)
    for row in range(3):
        torch.testing.assert_close(found[row, mask[row]], layer(x[row : row + 1, mask[row]])[0], atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"block": 0}, "at least 1"),
        ({"iterations": -1}, "at least 0"),
        ({"temperature": 0.0}, "positive, got 0.0"),
        ({"dropout": 1}, "dropout"),
    ],
)
def test_bad_options_are_refused(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SinkhornAttention(8, **options)
    with pytest.raises(ValueError, match="up to 16 positions, got 17"):
        SinkhornAttention(8, length=16)(torch.zeros(1, 17, 8))
