"""Successors of n-gram matches: published values, the dense form, a loop with dictionaries, gradients."""

from __future__ import annotations

from collections import defaultdict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.ops import suffix_matches
from assay.ops.suffix_matches import grouped_sums, successor_average, successor_weights, suffix_groups

TOKENS = torch.tensor([[0, 1, 2, 0, 1, 3, 0, 1, 2, 2, 2, 0, 1]])
GOLDEN = {  # the published layer on values 1, 2, 3 …
    1: [0, 0, 0, 2, 3, 0, 3.5, 4.5, 4, 4, 7, 5, 6],
    2: [0, 0, 0, 0, 3, 0, 0, 4.5, 4, 0, 0, 5, 6],
    3: [0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 6],
}


def by_dictionary(values, tokens, order, mask):
    """A stream of real tokens; successors are entered after the position that they belong to has been answered."""
    answers = torch.zeros_like(values)
    for row in range(len(tokens)):
        followers, read = defaultdict(list), []
        for t in range(tokens.shape[1]):
            if mask is not None and not mask[row, t]:
                continue
            read.append(int(tokens[row, t]))
            known = followers[tuple(read[-order:])] if len(read) >= order else []
            if known:
                answers[row, t] = torch.stack(known).mean(0)
            if len(read) > order:
                followers[tuple(read[-order - 1 : -1])].append(values[row, t])
    return answers


@pytest.mark.parametrize("implementation", ["dense", "grouped"])
@pytest.mark.parametrize("order", GOLDEN)
def test_published_values(order, implementation):
    values = torch.arange(1.0, 14.0)[None, :, None]
    found = successor_average(values, TOKENS, order, implementation=implementation)
    assert found.flatten().tolist() == GOLDEN[order]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_both_forms_equal_a_loop_with_dictionaries(data):
    order = data.draw(st.integers(1, 4))
    vocabulary = data.draw(st.sampled_from([1, 2, 3, 10**6]))
    length = data.draw(st.integers(0, 25))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 10**6)))
    tokens = torch.randint(vocabulary, (2, length), generator=generator)
    values = torch.randn(2, length, 3, generator=generator, dtype=torch.float64) + 100  # differences of sums must not lose digits
    mask = torch.rand(2, length, generator=generator) < 0.6 if data.draw(st.booleans()) else None
    expected = by_dictionary(values, tokens, order, mask)
    for implementation in ("dense", "grouped"):
        found = successor_average(values, tokens, order, mask, implementation)
        torch.testing.assert_close(found, expected, atol=1e-11, rtol=0)


def test_gradients_of_both_forms():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(2, (2, 12), generator=generator)
    values = torch.randn(2, 12, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    mask = torch.rand(2, 12, generator=generator) < 0.8
    assert torch.autograd.gradcheck(lambda v: successor_average(v, tokens, 2, mask, "grouped"), values)
    weight = torch.randn(2, 12, 2, generator=generator, dtype=torch.float64)
    first, second = (
        torch.autograd.grad((successor_average(values, tokens, 1, None, name) * weight).sum(), values)[0] for name in ("dense", "grouped")
    )
    torch.testing.assert_close(first, second, atol=1e-12, rtol=0)


def test_a_sequence_without_matches_is_zero_in_value_and_gradient():
    values = torch.randn(1, 9, 2, requires_grad=True)
    found = successor_average(values, torch.arange(9)[None], 1, implementation="grouped")
    assert not found.any()
    (gradient,) = torch.autograd.grad(found.sum(), values)
    assert not gradient.any()


def test_a_longer_match_is_a_shorter_one_too():
    tokens = torch.randint(3, (4, 40), generator=torch.Generator().manual_seed(1))
    for order in (1, 2, 3):
        longer, shorter = successor_weights(tokens, order + 1) > 0, successor_weights(tokens, order) > 0
        assert not (longer & ~shorter).any()
        assert (shorter & ~longer).any()


def test_the_token_right_before_is_no_evidence():
    # "a a": what followed the first a is the position itself
    assert not successor_average(torch.ones(1, 2, 1), torch.zeros(1, 2, dtype=torch.long), 1).any()


def test_half_precision_sums_do_not_lose_small_terms():
    values = torch.ones(1, 3001, 1, dtype=torch.bfloat16)
    found = successor_average(values, torch.zeros(1, 3001, dtype=torch.long), 1)
    assert found[0, -1, 0] == 1  # a bfloat16 sum would stop at 256


def test_numbers_of_ngrams_stay_exact_when_they_would_overflow(monkeypatch):
    tokens = torch.randint(50, (3, 200), generator=torch.Generator().manual_seed(0))
    plain = suffix_groups(tokens, 3)
    monkeypatch.setattr(suffix_matches, "LARGEST", 700)
    ranked = suffix_groups(tokens, 3)
    assert int(ranked.max()) < 700
    for groups in (plain, ranked):
        assert (groups[:, :2] == -1).all()
    same = plain.flatten()[:, None] == plain.flatten()[None]
    assert torch.equal(same, ranked.flatten()[:, None] == ranked.flatten()[None])


def test_grouped_sums_against_a_double_loop():
    generator = torch.Generator().manual_seed(0)
    keys, queries = (torch.randint(-1, 3, (2, 15), generator=generator) for _ in range(2))
    values = torch.randn(2, 15, 2, generator=generator)
    for inclusive in (False, True):
        sums, counts = grouped_sums(values, keys, queries, inclusive)
        for row in range(2):
            for i in range(15):
                among = [j for j in range(i + int(inclusive)) if keys[row, j] == queries[row, i] >= 0]
                assert counts[row, i] == len(among)
                torch.testing.assert_close(sums[row, i], values[row, among].double().sum(0))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"order": 0}, "order must be at least 1, got 0"),
        ({"tokens": torch.zeros(2, 5)}, "integers"),
        ({"tokens": torch.zeros(2, 4, dtype=torch.long)}, "as the tokens have"),
        ({"tokens": torch.full((2, 5), -1)}, "at least 0, got -1"),
        ({"mask": torch.ones(2, 4, dtype=torch.bool)}, "mask must have shape"),
        ({"implementation": "fast"}, "got 'fast'"),
    ],
)
def test_wrong_arguments_are_refused(change, words):
    arguments = {"values": torch.zeros(2, 5, 3), "tokens": torch.zeros(2, 5, dtype=torch.long)} | change
    with pytest.raises(ValueError, match=words):
        successor_average(**arguments)
