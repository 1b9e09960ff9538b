"""The book's claims that need no sampling hold in full; what decides the others is not hard-wired."""

from __future__ import annotations

import numpy as np
import pytest

from assay.papers import deep_learning_theory as paper
from assay.papers.deep_learning_theory import PAPER

CLAIMS = {claim.name: claim for claim in PAPER.claims}


@pytest.mark.parametrize("name", ["table", "equal-contributions"])
def test_figures_of_the_book_are_met_at_laptop_scale(name: str) -> None:
    assert CLAIMS[name].experiment("laptop").verdict == "holds"


@pytest.mark.parametrize(("critical", "default", "verdict"), [(0.9, 0.1, "holds"), (0.7, 0.1, "fails"), (0.9, 0.5, "fails")])
def test_training_is_judged_by_both_initialisations(monkeypatch, critical: float, default: float, verdict: str) -> None:
    found = {"critical": critical, "default": default, "1.5 × critical": 0.5}
    monkeypatch.setattr(paper, "_accuracies", lambda activation, start, scale: np.array([found[start]]))
    assert CLAIMS["criticality-trains"].experiment("laptop").verdict == verdict


def test_the_three_networks_differ_in_their_variances_alone() -> None:
    """A half more than critical is a half more; PyTorch's own is a third."""
    layers = [
        [part for part in paper._network("relu", start, 3, 100).modules() if hasattr(part, "in_features")]
        for start in paper.INITIALISATIONS
    ]
    assert len({len(found) for found in layers}) == 1
    variances = [float(found[1].weight.detach().square().mean()) * 100 for found in layers]
    assert variances == pytest.approx([2.0, 1 / 3, 3.0], rel=0.06)
