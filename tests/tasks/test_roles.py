"""The role of a column is what a person would say on seeing its cells."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.tasks.roles import as_category, as_strings, column_of, parse_as

COUNT = 60
GENERATOR = np.random.default_rng(0)
DAYS = pd.date_range("2019-03-01", periods=COUNT, freq="37D")


@pytest.mark.parametrize(
    ("name", "cells", "role"),
    [
        ("height", GENERATOR.normal(size=COUNT), "numeric"),
        ("rooms", GENERATOR.integers(1, 9, COUNT), "numeric"),
        ("price", [f"${value:,.2f}" for value in GENERATOR.normal(5000, 900, COUNT)], "numeric"),
        ("share", [f"{value}%" for value in GENERATOR.integers(0, 100, COUNT)], "numeric"),
        ("loss", ["(3.5)", "4.0", "-2", "1,000"] * 15, "numeric"),
        ("age", ["34", "?", "51", "NA"] * 15, "numeric"),
        ("alive", ["yes", "no", "Yes"] * 20, "boolean"),
        ("flag", [0, 1, 1] * 20, "boolean"),
        ("flag", [True, False] * 30, "boolean"),
        ("Unnamed: 0", np.arange(COUNT), "id"),
        ("customer_id", GENERATOR.permutation(10_000)[:COUNT], "id"),
        ("code", [f"C{index:04d}" for index in range(COUNT)], "id"),
        ("t", np.arange(COUNT), "numeric"),
        ("city", ["Oslo", "Lima", "Bonn"] * 20, "categorical"),
        ("ticket", [f"A/{index % 45}" for index in range(COUNT)], "categorical"),
        ("land", ["DE"] * COUNT, "constant"),
        ("seven", [7] * COUNT, "constant"),
        ("note", [None] * COUNT, "empty"),
        ("day", DAYS.strftime("%Y-%m-%d"), "date"),
        ("day", DAYS.strftime("%d.%m.%Y"), "date"),
        ("day", DAYS.strftime("%m/%d/%Y"), "date"),
        ("day", DAYS.strftime("%d %B %Y"), "date"),
        ("moment", DAYS.strftime("%Y-%m-%d %H:%M:%S"), "date"),
        ("moment", DAYS.strftime("%Y-%m-%dT%H:%M:%SZ"), "date"),
        ("moment", DAYS, "date"),
        ("date", DAYS.strftime("%Y%m%d").astype(int), "date"),
        ("quarter", [f"{1990 + index // 4}Q{1 + index % 4}" for index in range(COUNT)], "date"),
        ("review", [f"the film number {index} was quite good" for index in range(COUNT)], "text"),
        ("poem", [f"床前明月光疑是地上霜{index}" for index in range(COUNT)], "text"),
    ],
)
def test_roles(name, cells, role):
    assert column_of(name, pd.Series(cells)).role == role


@pytest.mark.parametrize("format", ["%Y-%m-%d", "%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y", "%d %b %Y", "%B %d, %Y"])
def test_dates_are_read_back_exactly(format):
    column = column_of("day", pd.Series(DAYS.strftime(format)))
    assert (column.values.to_numpy() == DAYS.to_numpy().astype(column.values.dtype)).all()


def test_numbers_with_signs_of_money_keep_their_value():
    parsed = column_of("loss", pd.Series(["(3.5)", "$4.25", "-2", "1,000", "50%"] * 5)).values
    assert parsed.iloc[:5].tolist() == [-3.5, 4.25, -2, 1000, 50]


def test_a_further_column_is_read_like_the_first():
    first = column_of("day", pd.Series(["31/12/2020", "01/02/2021"] * 10))
    further = parse_as("day", pd.Series(["03/02/2021"]), first.role, first.detail)
    assert further.values.iloc[0] == pd.Timestamp("2021-02-03"), "day first, as the first column showed"


def test_a_rare_word_among_numbers_counts_as_missing_and_is_said():
    cells = [str(index) + ".5" for index in range(100)]
    cells[3] = "n.d."
    column = column_of("depth", pd.Series(cells))
    assert column.role == "numeric"
    assert column.missing().tolist() == [index == 3 for index in range(100)]
    assert "row 4" in column.notes[0]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(st.none(), st.text(max_size=8), st.just(" ? ")), min_size=1, max_size=30))
def test_strings_and_categories_agree(cells):
    """Two ways to the same words: the quick one looks at each distinct string once."""
    values = pd.Series(cells, dtype=object)
    strings = as_strings(values)
    categories = as_category(values)
    assert [None if pd.isna(value) else value for value in categories] == strings.tolist()
    again = as_strings(pd.Series(pd.Categorical(values)))
    assert again.tolist() == strings.tolist()
