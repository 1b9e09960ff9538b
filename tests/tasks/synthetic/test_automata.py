"""Automata: what is drawn, minimal forms against residual languages, strings against the tables."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from assay.tasks.synthetic import automata
from assay.tasks.synthetic.automata import AutomatonShape, canonical, random_automata, sample_rows, states_of

SMALL = AutomatonShape((3, 7), (2, 4), (1, 2), 4)


def drawn(count, shape, seed=0):
    return automata._drawn(count, shape, np.random.default_rng(seed))


def run(table, word, state=0):
    for symbol in word:
        state = table[state, symbol]
        if state < 0:
            return -1
    return state


def language(table, longest=6, state=0):
    symbols = range(table.shape[1])
    return {word for length in range(longest + 1) for word in product(symbols, repeat=length) if run(table, word, state) >= 0}


def test_every_state_has_its_number_of_edges_and_none_to_itself():
    shape = AutomatonShape((4, 12), (4, 18), (1, 4), 18)
    tables = drawn(500, shape)
    used = (tables >= 0).any(2)
    sizes, edges = used.sum(1), (tables >= 0).sum(2)[used]
    assert (sizes.min(), sizes.max()) == (4, 12)
    assert (edges.min(), edges.max()) == (1, 4)
    assert not (tables == np.arange(12)[:, None]).any()
    alphabets = (tables >= 0).any(1).sum(1)
    assert alphabets.max() <= 18
    for table in tables[:100]:
        for row in table:
            ends = row[row >= 0]
            assert len(set(ends)) == len(ends)  # different symbols lead to different states


def test_sizes_and_edges_are_uniform_in_their_ranges():
    tables = drawn(4000, AutomatonShape((5, 8), (4, 6), (1, 4), 6), 1)
    sizes = (tables >= 0).any(2).sum(1)
    assert chisquare(np.bincount(sizes)[5:]).pvalue > 1e-3
    assert chisquare(np.bincount((tables >= 0).sum(2)[:, 0])[1:]).pvalue > 1e-3
    assert chisquare((tables[:, 0] >= 0).sum(0)).pvalue > 1e-3  # no symbol is preferred


def test_few_states_limit_the_edges():
    assert (drawn(200, AutomatonShape((2, 2), (4, 4), (1, 1), 4)) >= 0).sum(2).max() == 1
    assert (drawn(300, AutomatonShape((3, 6), (4, 4), (1, 4), 4))[:, 0] >= 0).sum(1).max() == 4


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_the_canonical_form_is_the_minimal_automaton_of_the_same_language(seed):
    (table,) = drawn(1, SMALL, seed)
    (small,) = canonical(table[None])
    assert language(small) == language(table)
    size = int(states_of(small[None])[0])
    residuals = [frozenset(language(small, 6, state)) for state in range(size)]
    assert len(set(residuals)) == size  # no two states could be merged (7 states are told apart by words of 6 symbols)
    reachable = {int(run(small, word)) for word in language(small)}
    assert reachable == set(range(size))
    assert (canonical(small[None])[0] == small).all()


def test_numbering_states_anew_does_not_change_the_canonical_form():
    (table,) = drawn(1, SMALL, 3)
    order = np.array([0, *np.random.default_rng(0).permutation(np.arange(1, len(table)))])  # the start stays the start
    moved = np.full_like(table, -1)
    moved[order] = np.where(table >= 0, order[table], -1)
    assert (canonical(moved[None]) == canonical(table[None])).all()


def test_states_that_do_the_same_are_merged():
    # 0 -a-> 1 -b-> 0 and 0 -c-> 2 -b-> 0: states 1 and 2 are one; state 3 is never reached
    table = np.full((1, 4, 3), -1)
    table[0, 0, 0], table[0, 0, 2], table[0, 1, 1], table[0, 2, 1], table[0, 3, 0] = 1, 2, 0, 0, 1
    expected = np.full((1, 4, 3), -1)
    expected[0, 0, 0], expected[0, 0, 2], expected[0, 1, 1] = 1, 1, 0
    assert (canonical(table) == expected).all()


def test_languages_are_pairwise_different_and_a_seed_is_a_seed():
    first, again, other = (random_automata(300, SMALL, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert len({table.tobytes() for table in first}) == 300
    assert (first == again).all()
    assert not (first == other).all()
    assert (canonical(first) == first).all()


def test_more_languages_than_there_are_cannot_be_had():
    with pytest.raises(ValueError, match="different languages were asked for, and only"):
        random_automata(50, AutomatonShape((2, 2), (1, 1), (1, 1), 1), np.random.default_rng(0))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"states": (5, 4)}, "states must be a range"),
        ({"edges": (0, 2)}, "edges must be a range"),
        ({"edges": (1, 5)}, "5 edges need as many symbols"),
        ({"states": (2, 4), "edges": (2, 4)}, "need as many other states"),
        ({"alphabet": (4, 19)}, "cannot be drawn from 18"),
    ],
)
def test_impossible_shapes_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        AutomatonShape(**options)


def test_sampled_strings_follow_the_edges_with_equal_chances():
    tables = random_automata(3, AutomatonShape((4, 5), (4, 4), (2, 3), 4), np.random.default_rng(0))
    tokens, states = sample_rows(np.repeat(tables, 200, 0), (3, 5), (2, 9), 4, np.random.default_rng(1))
    counts = np.zeros((3, tables.shape[1], 4))
    for row, (words, after) in enumerate(zip(tokens, states, strict=True)):
        state, strings = 0, [0]
        for token, expected in zip(words, after, strict=True):
            if token < 0:
                assert expected == -1
                break
            if token == 4:
                assert expected == -1
                state = 0
                strings.append(0)
                continue
            counts[row // 200, state, token] += 1
            state = tables[row // 200, state, token]
            strings[-1] += 1
            assert state == expected >= 0
        assert 3 <= len(strings) <= 5
        assert all(2 <= length <= 9 for length in strings)
    for table, seen in zip(tables, counts, strict=True):
        for edges, number in zip(table, seen, strict=True):
            if (edges >= 0).sum() > 1 and number.sum():
                assert chisquare(number[edges >= 0]).pvalue > 1e-4
            assert not number[edges < 0].any()


def test_numbers_and_lengths_of_strings_are_uniform():
    tables = np.repeat(random_automata(1, SMALL, np.random.default_rng(0)), 3000, 0)
    tokens, _ = sample_rows(tables, (2, 4), (1, 5), 4, np.random.default_rng(0))
    numbers = (tokens == 4).sum(1) + 1
    assert chisquare(np.bincount(numbers)[2:]).pvalue > 1e-3
    first = np.array([list(row).index(4) for row in tokens])
    assert chisquare(np.bincount(first)[1:]).pvalue > 1e-3
