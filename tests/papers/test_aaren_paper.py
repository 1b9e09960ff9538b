"""The claims of Attention as an RNN run at smoke scale, and those that need no training hold there."""

from __future__ import annotations

import math

import pytest

from assay.errors import MissingExtra
from assay.papers import aaren
from assay.papers.aaren import PAPER

HOLD_AT_ONCE = {"exact", "parameters", "constant-memory", "folding"}


@pytest.mark.parametrize("claim", PAPER.claims, ids=lambda claim: claim.name)
def test_smoke(claim) -> None:
    try:
        measured = claim.experiment("smoke")
    except MissingExtra as missing:
        pytest.skip(str(missing))
    assert measured.reason
    assert all(math.isfinite(value) for value in measured.values.values())
    expected = ("holds",) if claim.name in HOLD_AT_ONCE else ("undecided", "not-run")
    assert measured.verdict in expected


def test_the_predicate_can_fail_in_both_directions() -> None:
    assert aaren._within(0.95, 1.0, "max")
    assert not aaren._within(0.94, 1.0, "max")
    assert aaren._within(1.05, 1.0, "min")
    assert not aaren._within(1.06, 1.0, "min")
    assert not aaren._within(-0.9, -1.0, "min")  # a negative log-likelihood may be negative


def test_published_scale_says_what_is_missing() -> None:
    for claim in PAPER.claims:
        if claim.name.startswith("comparable") or claim.name == "ranks":
            assert claim.experiment("paper").verdict == "not-run"
