"""Every claim of DAGNN runs at smoke scale and says what it measured; those that need no training must hold there too."""

from __future__ import annotations

import math

import pytest

from assay.papers.dagnn import PAPER

pytest.importorskip("torch_geometric")
CLAIMS = {claim.name: claim for claim in PAPER.claims}


@pytest.mark.parametrize("name", ["beats-company", "adaptive", "depth", "few-labels", "scores", "smoothing-is-late"])
def test_trained_claims_run(name):
    measured = CLAIMS[name].experiment("smoke")
    assert measured.verdict in ("holds", "fails", "undecided")
    assert measured.reason
    assert measured.values
    assert all(math.isfinite(value) for value in measured.values.values())


@pytest.mark.parametrize("name", ["parameters", "limits"])
def test_claims_without_training_hold(name):
    assert CLAIMS[name].experiment("smoke").verdict == "holds"


@pytest.mark.parametrize("name", ["beats-company", "depth", "co-author-co-purchase"])
def test_what_needs_absent_data_says_so(name):
    measured = CLAIMS[name].experiment("paper")
    assert measured.verdict == "not-run"
    assert "ships" in measured.reason
