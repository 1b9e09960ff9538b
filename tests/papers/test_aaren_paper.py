"""The claims of Attention as an RNN can fail, and say what is missing."""

from __future__ import annotations

from assay.papers import aaren
from assay.papers.aaren import PAPER


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
