"""The paper's claims that need no training hold in full, and what the others rest on: a missing data set, rates."""

from __future__ import annotations

import pytest

from assay.papers import lssl as paper
from assay.papers.lssl import PAPER

CLAIMS = {claim.name: claim for claim in PAPER.claims}


def test_three_views_are_one_at_laptop_scale() -> None:
    measured = CLAIMS["three-views"].experiment("laptop")
    assert measured.verdict == "holds"
    assert measured.values["recurrence against convolution"] < 1e-12
    assert measured.values["order of convergence, α = 0.5"] == pytest.approx(2, abs=0.05)


def test_speech_that_is_not_there_is_not_run(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setenv("ASSAY_PROMPTS", str(tmp_path))
    measured = CLAIMS["raw-speech"].experiment("laptop")
    assert measured.verdict == "not-run"
    assert "apt-get download" in measured.reason


def test_evaluating_at_another_rate_leaves_the_network_as_it_was() -> None:
    run = paper._word_runs("lssl", "smoke")[0]
    before = [part.rate for part in run.model.modules() if hasattr(part, "rate")]
    assert paper._at_rate(run.model, paper._words("smoke"), 1) == pytest.approx(run.test["accuracy"])
    paper._at_rate(run.model, paper._words("smoke", 2), 2)
    assert before == [1.0, 1.0] == [part.rate for part in run.model.modules() if hasattr(part, "rate")]


def test_a_state_gives_back_what_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A window of 33 samples with more coefficients than that holds what came 10 samples ago; a random matrix does not."""
    monkeypatch.setattr(paper, "MEMORY", 64)
    task = paper.delayed_copy(10, 80, train=40, test=40)
    assert paper._given_back("legt", (0.03,), task) < 1e-6
    assert paper._given_back("random", (0.03,), task) > 0.8
