"""Every claim of every paper runs at smoke scale: it measures something finite, says why it judges so, and never raises."""

from __future__ import annotations

import math

import pytest

from assay import registry
from assay.contracts import Claim, Measured
from assay.errors import MissingExtra

CLAIMS = {f"{slug}/{claim.name}": claim for slug in registry.TABLE["paper"] for claim in registry.resolve("paper", slug).claims}

DECIDED = {
    "aaren": ("exact", "parameters", "constant-memory", "folding"),
    "after-transformers": ("comprehensive", "stream"),
    "icll": ("exact",),
    "inception": ("cost",),
    "sigmoid-attention": ("exact",),
    "simplenet": ("parameters", "operations"),
    "wide-attention": ("size", "memory"),
    "zoology": (),
}
"""The claims of a paper that need no training: they hold at any scale, and what is trained for a few steps decides nothing."""


def smoke(claim: Claim) -> Measured:
    try:
        return claim.experiment("smoke")
    except MissingExtra as missing:
        pytest.skip(str(missing))


@pytest.mark.parametrize("name", CLAIMS)
def test_a_claim_measures_and_says_why(name: str) -> None:
    measured = smoke(CLAIMS[name])
    slug, claim = name.split("/")
    if slug in DECIDED:
        assert measured.verdict in (("holds",) if claim in DECIDED[slug] else ("undecided", "not-run"))
    assert measured.verdict in ("holds", "fails", "undecided", "not-run")
    assert measured.reason
    assert measured.values or measured.verdict == "not-run"
    assert all(math.isfinite(value) for value in (*measured.values.values(), *measured.spread.values()))


@pytest.mark.parametrize("slug", registry.TABLE["paper"])
def test_a_paper_says_whose_it_is_and_names_its_claims_once(slug: str) -> None:
    paper = registry.resolve("paper", slug)
    assert paper.slug == slug
    assert paper.title
    assert paper.authors
    assert 1950 < paper.year < 2100
    names = [claim.name for claim in paper.claims]
    assert len(names) == len(set(names))
    assert all(claim.text and claim.paper and claim.source for claim in paper.claims)
