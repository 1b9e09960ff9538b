import pytest

from assay.bench.words import parse_axis, parse_count, parse_seconds, parse_shares
from assay.errors import UserError


@pytest.mark.parametrize(("text", "value"), [("200k", 2e5), ("1.5M", 1.5e6), ("1e12", 1e12), ("2g", 2e9), ("17", 17)])
def test_counts(text, value):
    assert parse_count(text, "--parameters") == value


@pytest.mark.parametrize(("text", "value"), [("60s", 60), ("5m", 300), ("1.5h", 5400), ("9", 9)])
def test_seconds(text, value):
    assert parse_seconds(text) == value


@pytest.mark.parametrize("text", ["", "k", "-3", "0", "inf", "nan", "many"])
def test_what_is_not_a_quantity_is_one_sentence(text):
    with pytest.raises(UserError, match="--parameters"):
        parse_count(text, "--parameters")


def test_axes_and_shares():
    assert parse_axis(["depth=1,2", "initialisation=he,zero", "rotary=true"]) == {
        "depth": [1, 2],
        "initialisation": ["he", "zero"],
        "rotary": [True],
    }
    assert parse_shares("parameters=0.5,bytes=0.25") == {"parameters": 0.5, "bytes": 0.25}
    for bad, parse in (("depth", lambda text: parse_axis([text])), ("parameters", parse_shares)):
        with pytest.raises(UserError, match="write for example"):
            parse(bad)
