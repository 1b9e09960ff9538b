"""The claims of DAGNN say what is missing, and have predicates that can fail."""

from __future__ import annotations

import pytest

from assay.papers.dagnn import PAPER

pytest.importorskip("torch_geometric")
CLAIMS = {claim.name: claim for claim in PAPER.claims}


@pytest.mark.parametrize("name", ["parameters", "limits"])
def test_claims_without_training_hold(name):
    assert CLAIMS[name].experiment("smoke").verdict == "holds"


@pytest.mark.parametrize("name", ["beats-company", "depth", "co-author-co-purchase"])
def test_what_needs_absent_data_says_so(name):
    measured = CLAIMS[name].experiment("paper")
    assert measured.verdict == "not-run"
    assert "ships" in measured.reason
