"""A misspelt option costs nothing: what no network of a study can be built with is refused before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from assay.bench.advising import advise
from assay.bench.study import compare
from assay.errors import UserError
from assay.tasks.synthetic.state_tracking import parity


@pytest.mark.parametrize(
    ("axis", "words"),
    [
        (
            {"activation": ("gelu", "nosuch")},
            r"No network of this study can be built with activation=nosuch .attention: There is no",
        ),
        ({"dpth": (1,)}, r"dpth=1 .*has no option 'dpth'.*correct --axis dpth"),
        ({"depth": (2, 0)}, "depth=0 .*must be at least 1"),
        ({"heads": ("two",)}, "attention: heads must be a whole number or null, got 'two'"),
        ({"depth": (1.5,)}, "depth must be a whole number or null, got 1.5"),
        ({"bias": ("maybe",)}, "bias must be true or false, got 'maybe'"),
        ({"steps": (0,)}, "The axis steps needs positive numbers"),
    ],
)
def test_what_no_network_can_have_is_refused_before_anything_runs(axis: dict, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        compare(
            "digits", models=["attention", "lstm"], axis=axis, parameters=5_000, steps=1, seeds=1, output=tmp_path / "study", live=False
        )
    assert not (tmp_path / "study").exists()


def test_what_one_network_can_have_runs_and_is_a_failed_row_for_the_other(tmp_path: Path) -> None:
    study = compare(
        "digits", models=["attention", "lstm"], axis={"window": (3,)}, parameters=5_000, steps=1, seeds=1, rates=(1e-3,), workers=0,
        output=tmp_path / "study", live=False,
    )  # fmt: skip
    rows = {row["model"]: row["status"] for row in study.rows if not row["baseline"]}
    assert rows["attention"] == "done"
    assert rows["lstm"] == "failed"


@pytest.mark.parametrize("verb", [compare, advise])
def test_a_misspelt_argument_beside_a_task_made_in_python_is_refused(verb: Any) -> None:
    """It is no option of opening, for nothing is opened."""
    with pytest.raises(TypeError, match="axes: no argument of this call"):
        verb(parity(8, 12, train=64, test=8), axes={"width": (8, 16)})
