"""Block-sparse attention by gathering against a double loop in numpy, its dense form, and PyTorch's attention; its cost."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from assay.nn.position.alibi import Alibi
from assay.ops.masked_attention import Groups, band_groups, block_groups, masked_attention, visible_pairs


def near(queries: Tensor, keys: Tensor) -> Tensor:
    ahead = keys[..., None, :] - queries[..., :, None]
    return (ahead <= 1) & (ahead > -5)


def tensors(length: int, heads: int = 4, key_heads: int = 4, batch: int = 2) -> tuple[Tensor, ...]:
    torch.manual_seed(length)
    shapes = ((batch, heads, length, 6), (batch, key_heads, length, 6), (batch, key_heads, length, 5))
    return tuple(torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes)


def by_loops(queries: Tensor, keys: Tensor, values: Tensor, pairs: np.ndarray, lengths: list[int]) -> np.ndarray:
    q, k, v = (part.detach().numpy() for part in (queries, keys, values))
    result = np.zeros((*q.shape[:3], v.shape[3]))
    for row, head, i in np.ndindex(*q.shape[:3]):
        group = head // (q.shape[1] // k.shape[1])
        seen = [j for j in range(lengths[row]) if pairs[i, j]]
        if not seen:
            continue
        scores = np.array([q[row, head, i] @ k[row, group, j] / math.sqrt(q.shape[3]) for j in seen])
        weights = np.exp(scores - scores.max())
        result[row, head, i] = sum(w * v[row, group, j] for w, j in zip(weights / weights.sum(), seen, strict=True))
    return result


@pytest.mark.parametrize("implementation", ["gathered", "dense"])
@pytest.mark.parametrize("key_heads", [4, 2])
@pytest.mark.parametrize(("length", "unit"), [(1, 4), (13, 1), (13, 4), (32, 8)])
def test_a_block_mask_and_a_rule_against_a_double_loop(length: int, unit: int, key_heads: int, implementation: str) -> None:
    queries, keys, values = tensors(length, key_heads=key_heads)
    blocks = -(-length // unit)
    layout = torch.rand(blocks, blocks, generator=torch.Generator().manual_seed(0)) < 0.5
    at = torch.arange(length)
    pairs = (layout[at // unit][:, at // unit] & near(at, at)).numpy()  # some rows see nothing
    lengths = torch.tensor([length, length // 2])
    found = masked_attention(queries, keys, values, block_groups(layout, unit, near), lengths=lengths, implementation=implementation)
    np.testing.assert_allclose(found.detach().numpy(), by_loops(queries, keys, values, pairs, lengths.tolist()), atol=1e-12)


def two_parts(length: int) -> list[Groups]:
    """A band, and every third key for all: a query is in two groups, and their sums must be put together."""
    everything = torch.arange(length)
    grid = Groups(everything[None], everything[::3][None], 1, lambda at, to: ~near(at, to))
    return [band_groups(length, 4, 4, 1, lambda at, to: near(at, to)), grid]


@pytest.mark.parametrize("lengths", [None, [21, 8], [0, 21]])
@pytest.mark.parametrize("biased", [False, True])
def test_gathered_is_dense_in_value_and_gradient(biased: bool, lengths: list[int] | None) -> None:
    inputs = tensors(21)
    bias = Alibi(4).double() if biased else None
    weight = torch.randn(2, 4, 21, 5, dtype=torch.float64)
    for groups in (two_parts(21), block_groups(torch.ones(6, 6).tril().bool(), 4)):
        results = []
        for implementation in ("dense", "gathered"):
            given = None if lengths is None else torch.tensor(lengths)
            found = masked_attention(*inputs, groups, lengths=given, bias=bias, implementation=implementation)
            results.append((found, *torch.autograd.grad((found * weight).sum(), inputs)))
        for dense, gathered in zip(*results, strict=True):
            torch.testing.assert_close(gathered, dense, atol=1e-12, rtol=0)


@pytest.mark.parametrize("make", [two_parts, lambda n: [band_groups(n, 4, 4, 1, near)]])
def test_gradients_by_finite_differences(make) -> None:
    inputs = tensors(9, heads=1, key_heads=1, batch=1)
    assert torch.autograd.gradcheck(lambda *x: masked_attention(*x, make(9), implementation="gathered"), inputs)


def test_all_blocks_is_plain_attention_and_none_is_zero() -> None:
    queries, keys, values = tensors(30)
    full = masked_attention(queries, keys, values, block_groups(torch.ones(4, 4, dtype=torch.bool), 8), implementation="gathered")
    torch.testing.assert_close(full, F.scaled_dot_product_attention(queries, keys, values), atol=1e-12, rtol=0)
    nothing = masked_attention(queries, keys, values, block_groups(torch.zeros(4, 4, dtype=torch.bool), 8))
    assert torch.equal(nothing, torch.zeros_like(nothing))


def test_rows_of_unequal_counts_are_computed_apart() -> None:
    # one full row must not make the others pay for all blocks
    layout = torch.eye(64, dtype=torch.bool)
    layout[5] = True
    groups = block_groups(layout, 4)
    assert sum(group.pairs() for group in groups) == (63 + 64) * 16
    assert torch.equal(visible_pairs(groups, 256, 256), layout.long().repeat_interleave(4, 0).repeat_interleave(4, 1))


def test_a_band_costs_in_proportion_to_its_length() -> None:
    pairs = [band_groups(length, 64, 64, 63).pairs() for length in (4096, 8192)]
    assert pairs[1] == 2 * pairs[0] == 8192 * 192


def test_dropout_drops_weights_without_changing_the_mean() -> None:
    queries, keys, values = (torch.zeros(1, 1, 4000, 2), torch.zeros(1, 1, 4000, 2), torch.ones(1, 1, 4000, 1))
    for groups in (two_parts(4000), [band_groups(4000, 4, 4, 1, near)]):
        torch.manual_seed(0)
        found = masked_attention(queries, keys, values, groups, dropout=0.5, implementation="gathered")
        assert found.std() > 0.01
        assert abs(float(found.mean()) - 1) < 0.02


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"implementation": "sparse"}, "implementation must be one of"),
        ({"lengths": torch.ones(3)}, r"lengths must have shape \(2,\), got \(3,\)"),
        ({"keys": torch.zeros(2, 3, 8, 6)}, "must have shape|must divide"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict, words: str) -> None:
    queries, keys, values = tensors(8)
    given = {"queries": queries, "keys": keys, "values": values, "groups": [band_groups(8, 4, 1, 1)]} | change
    with pytest.raises(ValueError, match=words):
        masked_attention(**given)
    with pytest.raises(ValueError, match="layout must be a matrix of booleans"):
        block_groups(torch.ones(2, 2), 4)
