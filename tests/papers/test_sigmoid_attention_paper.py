"""The claims on sigmoid attention can fail, and say what is missing."""

from __future__ import annotations

from assay.papers.sigmoid_attention import PAPER, _judged


def test_the_predicate_can_fail() -> None:
    assert [_judged(holds, "laptop") for holds in (True, False)] == ["holds", "fails"]


def test_published_scale_says_what_is_missing() -> None:
    for claim in PAPER.claims:
        if claim.name not in ("exact", "regularity"):
            measured = claim.experiment("paper")
            assert measured.verdict == "not-run"
            assert measured.reason
