"""The claims on sigmoid attention run at smoke scale, and the exact one holds there."""

from __future__ import annotations

import math

import pytest

from assay.papers.sigmoid_attention import PAPER, _judged

HOLD_AT_ONCE = {"exact"}


@pytest.mark.parametrize("claim", PAPER.claims, ids=lambda claim: claim.name)
def test_smoke(claim) -> None:
    measured = claim.experiment("smoke")
    assert measured.reason
    assert all(math.isfinite(value) for value in measured.values.values())
    expected = ("holds",) if claim.name in HOLD_AT_ONCE else ("undecided", "not-run")
    assert measured.verdict in expected


def test_the_predicate_can_fail() -> None:
    assert [_judged(holds, "laptop") for holds in (True, False)] == ["holds", "fails"]


def test_published_scale_says_what_is_missing() -> None:
    for claim in PAPER.claims:
        if claim.name not in ("exact", "regularity"):
            measured = claim.experiment("paper")
            assert measured.verdict == "not-run"
            assert measured.reason
