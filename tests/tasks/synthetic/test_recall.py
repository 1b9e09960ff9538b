"""Recall tasks: the answer must be in the sequence and nowhere else, at the places and with the odds that are published."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from assay.contracts import Output
from assay.nn.attention.softmax import SoftmaxAttention
from assay.tasks.synthetic.recall import associative_recall, induction, multi_query_recall
from assay.testing import check_task


@st.composite
def settings_of_recall(draw):
    pairs, passes = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    length = 2 * pairs * (passes + 1) + 2 * draw(st.integers(0, 10))
    return {"sizes": ((length, pairs),), "passes": passes, "vocabulary": length + draw(st.integers(1, 20))}


@settings(max_examples=30, deadline=None)
@given(options=settings_of_recall(), power=st.sampled_from([0.01, 0.5, 1.0]))
def test_every_key_is_asked_for_once_and_its_value_is_the_target(options: dict, power: float) -> None:
    task = multi_query_recall(**options, power=power, train=7, test=3)
    ((length, pairs),), passes, half = options["sizes"], options["passes"], options["vocabulary"] // 2
    batch = task.splits["train"]
    for tokens, target, asked in zip(batch["tokens"].tolist(), batch["target"].tolist(), batch["target_mask"].tolist(), strict=True):
        block, start = tokens[: 2 * pairs], 2 * pairs * passes
        keys, values = block[::2], block[1::2]
        assert tokens[:start] == block * passes
        assert len(set(keys)) == len(set(values)) == pairs
        assert all(0 < key < half for key in keys)
        assert all(half <= value < options["vocabulary"] for value in values)
        places = [place for place in range(length) if asked[place]]
        assert sorted(tokens[place] for place in places) == sorted(keys)
        assert all(place >= start and (place - start) % 2 == 0 for place in places)
        assert all(target[place] == values[keys.index(tokens[place])] for place in places)
        assert all(token == 0 for place, token in enumerate(tokens) if place >= start and not asked[place])


def slot_counts(power: float) -> list[int]:
    task = multi_query_recall(((20, 1),), vocabulary=30, power=power, train=20_000, test=1)
    counts = Counter(task.splits["train"]["target_mask"].nonzero()[:, 1].tolist())
    return [counts[2 + 2 * slot] for slot in range(9)]


def test_slots_are_uniform_at_power_one_and_follow_the_power_law_below() -> None:
    uniform, near = slot_counts(1.0), slot_counts(0.01)
    assert chisquare(uniform).pvalue > 0.001
    odds = torch.arange(1, 10, dtype=torch.float64) ** -0.99
    assert chisquare(near, (20_000 * odds / odds.sum()).numpy()).pvalue > 0.001
    assert chisquare(near).pvalue < 1e-6  # the test tells the two apart


def test_random_filler_changes_nothing_that_is_asked() -> None:
    plain, filled = (multi_query_recall(train=50, test=5, random_fill=fill).splits["train"] for fill in (False, True))
    asked = filled["target_mask"]
    assert int(asked.sum()) == 200
    half = 32
    for row, place in asked.nonzero().tolist():
        tokens = filled["tokens"][row].tolist()
        assert dict(zip(tokens[:8:2], tokens[1:8:2], strict=True))[tokens[place]] == int(filled["target"][row, place])
    assert (filled["tokens"][:, 8:][~asked[:, 8:]] >= half).float().mean() == pytest.approx(0.5, abs=0.06)
    assert (plain["tokens"][:, 8:][~plain["target_mask"][:, 8:]] == 0).all()


def look_up(batch) -> Output:
    """The last earlier occurrence of a token, and what followed it: all that the task asks for."""
    tokens = batch["tokens"]
    prediction = torch.zeros(*tokens.shape, 64)
    for row, symbols in enumerate(tokens.tolist()):
        for place, symbol in enumerate(symbols):
            earlier = [before for before in range(place) if symbols[before] == symbol]
            prediction[row, place, symbols[earlier[0] + 1] if earlier else 0] = 1.0
    return Output(prediction)


def test_looking_up_scores_one_and_guessing_among_the_values_one_in_pairs() -> None:
    task = multi_query_recall(train=10, test=200)
    assert task.evaluate(look_up, "test").metrics["accuracy"] == 1.0

    def guess(batch) -> Output:
        return Output(torch.nn.functional.one_hot(batch["tokens"][:, 1:2].expand_as(batch["tokens"]), 64).float())

    assert task.evaluate(guess, "test").metrics["accuracy"] == pytest.approx(0.25, abs=1e-6)  # every value is asked for once
    assert "0.250" in task.description


def test_two_attention_layers_with_weights_set_by_hand_recall_everything() -> None:
    # a head that copies the previous token, and one that looks for the current token among the copies
    symbols, length, sharp = 64, 32, 60.0
    width = 3 * symbols + length
    token, copy, answer, place = (slice(start, start + symbols) for start in (0, symbols, 2 * symbols, 3 * symbols))
    place = slice(place.start, place.start + length)
    first, second = (SoftmaxAttention(width, 1, bias=False) for _ in range(2))
    with torch.no_grad():
        for layer in (first, second):
            layer.input_projection.weight.zero_()
            layer.output_projection.weight.copy_(torch.eye(width))
        query, key, value = first.input_projection.weight.view(3, width, width)
        query[place, place] = sharp * width**0.5 * torch.eye(length).roll(-1, 0)
        query[place, place][-1] = 0  # nothing comes before the first position
        key[place, place] = torch.eye(length)
        value[copy, token] = torch.eye(symbols)
        query, key, value = second.input_projection.weight.view(3, width, width)
        query[:symbols, token] = sharp * width**0.5 * torch.eye(symbols)
        key[:symbols, copy] = torch.eye(symbols)
        value[answer, token] = torch.eye(symbols)

    def network(batch) -> Output:
        tokens = batch["tokens"]
        x = torch.zeros(*tokens.shape, width)
        x[..., token] = torch.nn.functional.one_hot(tokens, symbols).float()
        x[..., place] = torch.eye(length)
        x = x + first(x)
        found = second(x)[..., answer]
        found[..., : symbols // 2] = 0  # an answer is a value; position 0 has no previous token and copies its own
        return Output(found)

    assert multi_query_recall(train=1, test=100).evaluate(network, "test").metrics["accuracy"] == 1.0


def test_several_sizes_train_apart_and_are_told_apart() -> None:
    task = multi_query_recall(((32, 4), (64, 8)), vocabulary=80, train=40, test=20)
    check_task(task)
    batches = task.training_batches(16, 0)
    lengths = Counter(next(batches)["tokens"].shape[1] for _ in range(8))
    assert lengths == {32: 4, 64: 4}  # two whole batches of each an epoch
    metrics = task.evaluate(
        lambda batch: Output(torch.nn.functional.one_hot(batch["target"] * (batch["mask"].sum(1) > 32)[:, None], 80).float()), "test"
    ).metrics
    assert metrics["accuracy_8_pairs_in_64"] == 1.0
    assert metrics["accuracy_4_pairs_in_32"] == 0.0
    assert metrics["accuracy"] == 0.5  # an example counts once, however many queries it has


def test_one_query_asks_for_the_value_of_a_key_that_may_recur() -> None:
    task = associative_recall(train=200, test=20)
    check_task(task)
    batch = task.splits["train"]
    assert batch["target_mask"].sum(1).tolist() == [1] * 200
    for tokens, target in zip(batch["tokens"].tolist(), batch["target"].tolist(), strict=True):
        pairs = list(zip(tokens[1:-1:2], tokens[2:-1:2], strict=True))
        assert len(set(pairs)) == len({key for key, _ in pairs})  # a key always has the same value
        assert dict(pairs)[tokens[-1]] == target[-1]
        assert tokens[0] == 0


def test_induction_asks_for_what_followed_the_marked_symbol() -> None:
    task = induction(train=200, test=20)
    check_task(task)
    batch = task.splits["train"]
    places = Counter()
    for tokens, target in zip(batch["tokens"].tolist(), batch["target"].tolist(), strict=True):
        assert tokens.count(0) == 2
        assert tokens[-1] == 0
        assert tokens[tokens.index(0) + 1] == target[-1] != 0
        places[tokens.index(0)] += 1
    assert len(places) > 20


def test_splits_differ_a_seed_is_a_seed_and_the_test_split_is_the_same_for_any_training() -> None:
    first, again, other, longer = (
        multi_query_recall(train=count, test=30, seed=seed) for seed, count in ((0, 300), (0, 300), (1, 300), (0, 400))
    )
    rows = [{tuple(row) for row in task.splits[split]["tokens"].tolist()} for task in (first, other) for split in ("train", "test")]
    assert torch.equal(first.splits["train"]["tokens"], again.splits["train"]["tokens"])
    assert torch.equal(first.splits["test"]["tokens"], longer.splits["test"]["tokens"])
    assert all(not a & b for index, a in enumerate(rows) for b in rows[:index])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sizes": ()}, "at least one"),
        ({"sizes": ((33, 4),)}, "even, got 33"),
        ({"sizes": ((32, 9),)}, "9 pairs shown 1 times and their queries need 36 positions, but the length is 32"),
        ({"sizes": ((64, 4),)}, "larger than the length 64, got 64"),
        ({"passes": 0}, "got 4 and 0"),
        ({"power": 0.0}, "power must be positive"),
        ({"train": 0}, "got 0 and 1000"),
    ],
)
def test_impossible_settings_are_refused(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        multi_query_recall(**options)


def test_impossible_single_queries_are_refused() -> None:
    with pytest.raises(ValueError, match="got 3 and 32"):
        associative_recall(vocabulary=3)
    with pytest.raises(ValueError, match="got 20 and 2"):
        induction(length=2)
