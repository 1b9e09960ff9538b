"""The claims of Zoology say what is missing, and have predicates that can fail."""

from __future__ import annotations

from typing import Any

import pytest

from assay import registry
from assay.papers import zoology
from assay.papers.zoology import PAPER, Recalled


def test_published_scale_says_why_it_does_not_run() -> None:
    assert all(claim.experiment("paper").verdict == "not-run" for claim in PAPER.claims)


def test_missing_mixers_are_named(monkeypatch) -> None:
    monkeypatch.delitem(registry.TABLE["mixer"], "hyena")
    measured = zoology._separation("smoke")
    assert measured.verdict == "not-run"
    assert "hyena" in measured.reason


def fixed(accuracies: dict[str, Any], selected: float = 0.2):
    """In place of training: a run's accuracy by the network's shown name, or by name and width."""

    def run(entrant, queries: str, scale: str, width: int, rate: float, seed: int, steps: int) -> Recalled:
        accuracy = accuracies[entrant.shown]
        if isinstance(accuracy, dict):
            accuracy = accuracy[width]
        return Recalled({"accuracy": accuracy, zoology.LONGEST: accuracy}, accuracy, width, selected)

    return run


@pytest.mark.parametrize(
    ("attention", "convolution", "verdict"),
    [
        ({16: 0.3, 32: 0.95}, {16: 0.2, 32: 0.3}, "holds"),
        ({16: 0.3, 32: 0.95}, {16: 0.2, 32: 0.8}, "fails"),  # not 0.2 apart
        ({16: 0.3, 32: 0.95}, {16: 0.91, 32: 0.6}, "fails"),  # the convolution gets there at a smaller width
        ({16: 0.3, 32: 0.85}, {16: 0.2, 32: 0.3}, "fails"),  # attention does not get there
    ],
)
def test_separation_is_judged_by_smallest_width_and_distance(monkeypatch, attention, convolution, verdict: str) -> None:
    monkeypatch.setattr(zoology, "_run", fixed({"attention": attention, "base-conv": convolution, "hyena": {16: 0.1, 32: 0.1}}))
    assert zoology._separation("laptop").verdict == verdict


@pytest.mark.parametrize(
    ("random", "learned", "selected", "verdict"),
    [
        (0.3, 0.9, 0.2, "holds"),
        (0.7, 0.9, 0.2, "fails"),  # random positions do, too
        (0.3, 0.7, 0.2, "fails"),  # the learned rule closes too little
        (0.3, 0.9, 0.9, "fails"),  # the learned rule selects nearly everything
    ],
)
def test_hybrids_are_judged_by_the_gap_and_by_what_is_selected(
    monkeypatch, random: float, learned: float, selected: float, verdict: str
) -> None:
    accuracies = {"random": random, "programmatic": 0.95, "learned": learned, "all": 1.0}
    runs = {"base-conv": 0.2} | {f"with {rule} attention": accuracy for rule, accuracy in accuracies.items()}
    monkeypatch.setattr(zoology, "_run", fixed(runs, selected))
    measured = zoology._hybrids("laptop")
    assert measured.verdict == verdict
    assert measured.values["gap closed, learned"] == pytest.approx((learned - 0.2) / 0.8)
