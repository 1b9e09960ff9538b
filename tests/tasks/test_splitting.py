"""Parts are disjoint, complete and proportionate; groups and copies are never divided; what is given is honoured."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from assay.errors import UserError
from assay.tasks.splitting import divide, divide_in_order, row_fingerprints, split_codes


def parts_of(count, **options):
    return divide(count, path="data", **options)[0]


@settings(max_examples=50, deadline=None)
@given(st.integers(5, 300), st.integers(1, 6), st.integers(0, 5))
def test_every_example_is_in_exactly_one_part(count, classes, seed):
    labels = np.random.default_rng(seed).integers(0, classes, count)
    parts = parts_of(count, labels=labels, seed=seed)
    together = np.concatenate(list(parts.values()))
    assert sorted(together.tolist()) == list(range(count))
    assert all(len(rows) for rows in parts.values())


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(10, 200), min_size=2, max_size=5), st.integers(0, 9))
def test_each_label_has_its_fifth_in_test_and_in_validation(sizes, seed):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    parts = parts_of(len(labels), labels=labels, seed=seed)
    for label, size in enumerate(sizes):
        for name in ("validation", "test"):
            assert abs((labels[parts[name]] == label).sum() - size / 5) <= 0.5


@settings(max_examples=30, deadline=None)
@given(st.integers(4, 40), st.integers(2, 8), st.integers(0, 9))
def test_groups_are_never_divided(groups, size, seed):
    of = np.random.default_rng(seed).permutation(np.repeat(np.arange(groups), size))
    parts = parts_of(len(of), groups=of, labels=of % 2, seed=seed)
    sets = [set(of[rows]) for rows in parts.values()]
    assert sum(len(one) for one in sets) == len(set.union(*sets))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=60, max_size=120), st.integers(0, 9))
def test_copies_end_on_one_side(values, seed):
    assume(len(set(values)) >= 3)  # two distinct examples cannot be three parts, and are refused
    fingerprints = row_fingerprints(pd.DataFrame({"value": values}))
    parts = parts_of(len(values), fingerprints=fingerprints, seed=seed)
    sets = [set(np.array(values)[rows]) for rows in parts.values()]
    assert sum(len(one) for one in sets) == len(set.union(*sets))


def test_the_same_seed_gives_the_same_parts_and_another_seed_others():
    one, same, other = (parts_of(200, seed=seed)["test"] for seed in (3, 3, 4))
    assert (one == same).all()
    assert not np.array_equal(one, other)


def test_given_parts_are_honoured_and_a_missing_one_is_taken_from_training():
    codes = np.array([0] * 50 + [2] * 20)
    parts = parts_of(70, given=codes, labels=np.arange(70) % 2)
    assert parts["test"].tolist() == list(range(50, 70)), "the given test part stays whole"
    assert len(parts["validation"]) == 10
    assert set(parts["validation"]) <= set(range(50))


def test_training_copies_of_given_test_examples_are_left_out_and_the_test_part_stays_whole():
    values = np.arange(30)
    values[0] = values[29]
    parts, notes = divide(30, path="data", given=np.array([0] * 15 + [1] * 5 + [2] * 10), fingerprints=values)
    assert 0 not in parts["train"]
    assert parts["test"].tolist() == list(range(20, 30))
    assert any("1 examples are exact copies of validation or test" in said for said in notes)


def test_parts_in_order_of_time_follow_one_another():
    parts = divide_in_order(100)
    assert [parts[name] for name in ("train", "validation", "test")] == [slice(0, 60), slice(60, 80), slice(80, 100)]


def test_names_of_parts_are_understood_and_others_are_not():
    assert split_codes(["Train", "val", "TEST", "valid"]).tolist() == [0, 1, 2, 1]
    assert split_codes(["train", "elsewhere"]) is None


def test_two_groups_cannot_be_three_parts():
    with pytest.raises(UserError, match="2 groups"):
        parts_of(20, groups=np.arange(20) % 2)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_fingerprints_agree_exactly_where_rows_do(data):
    """Against pandas' own comparison of rows, which hashes nothing away."""
    count = data.draw(st.integers(2, 40))
    frame = pd.DataFrame(
        {
            "number": data.draw(st.lists(st.sampled_from([0.0, -0.0, 1.5, np.nan, 1e300]), min_size=count, max_size=count)),
            "whole": data.draw(st.lists(st.integers(-2, 2), min_size=count, max_size=count)),
            "word": pd.Series(data.draw(st.lists(st.sampled_from(["a", "b", None]), min_size=count, max_size=count)), dtype=object),
        }
    )
    hashes = row_fingerprints(frame)
    assert pd.Series(hashes).duplicated().tolist() == frame.duplicated().tolist()


def test_fingerprints_of_a_grid_do_not_collide():
    """Regular numbers are what a weak hash confuses."""
    one, two = np.meshgrid(np.arange(300.0), np.arange(300.0))
    frame = pd.DataFrame({"one": one.ravel(), "two": two.ravel()})
    assert len(np.unique(row_fingerprints(frame))) == 90_000
