"""The claims of In-Context Language Learning can fail."""

from __future__ import annotations

from assay.papers.icll import PAPER, _ahead


def test_being_ahead_needs_both_measures_and_an_interval() -> None:
    def runs(variations, accuracies):
        class Evaluated:
            def __init__(self, variation, accuracy):
                self.metrics = {"total_variation": variation, "accuracy": accuracy}

        return [(None, 0.0, Evaluated(*pair)) for pair in zip(variations, accuracies, strict=True)]

    good, bad = runs([0.20, 0.21, 0.22], [0.9, 0.9, 0.9]), runs([0.30, 0.31, 0.32], [0.8, 0.8, 0.8])
    assert _ahead(good, bad)
    assert not _ahead(bad, good)
    assert not _ahead(good, runs([0.30, 0.31, 0.32], [0.95, 0.95, 0.95]))  # lower variation, but not the more accurate
    assert not _ahead(runs([0.1, 0.2, 0.4], [0.9, 0.9, 0.9]), runs([0.2, 0.3, 0.4], [0.8, 0.8, 0.8]))  # seeds differ too much


def test_published_scale_says_what_is_missing() -> None:
    for claim in PAPER.claims:
        if claim.name.startswith("beats") or claim.name in ("ngram-heads", "hard-wired", "language-model"):
            assert claim.experiment("paper").verdict == "not-run"
