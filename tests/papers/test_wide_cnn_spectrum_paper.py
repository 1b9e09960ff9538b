"""The paper's claims rest on what they say: coarse spectra, slopes by geometric mean, a ridge chosen on validation alone."""

from __future__ import annotations

import numpy as np
import pytest

from assay.papers import wide_cnn_spectrum as paper
from assay.papers.wide_cnn_spectrum import PAPER, Look

CLAIMS = {claim.name: claim for claim in PAPER.claims}


def test_the_spectrum_is_judged_sector_by_sector(monkeypatch: pytest.MonkeyPatch) -> None:
    fine = Look((2, 2), 2, (512, 512), 16, 64, 0.05)
    monkeypatch.setattr(paper, "LOOKS", (fine,))
    measured = CLAIMS["spectrum"].experiment("laptop")
    assert measured.verdict == "holds"
    assert measured.values["rfk [2, 2], sector 2, formula"] == -5
    assert measured.values["rfk [2, 2], sector 2"] == pytest.approx(-5, abs=0.05)
    monkeypatch.setattr(paper, "LOOKS", (fine, Look((2, 2), 1, (64, 64), 4, 16, 0.05)))  # too coarse a grid
    assert CLAIMS["spectrum"].experiment("laptop").verdict == "fails"


def test_slopes_are_of_the_geometric_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = np.array(paper.SETTINGS["laptop"].sizes, dtype=float)
    errors = np.stack([3 * sizes**-0.6, 0.2 * sizes**-0.4])
    monkeypatch.setattr(paper, "_errors", lambda *_: errors)
    slope, deviation = paper._slope((2,), (2,), 8, "laptop")
    assert slope == pytest.approx(0.5, rel=0.01)
    assert deviation == pytest.approx(0.1, rel=0.05)


@pytest.mark.parametrize(("slopes", "verdict"), [((0.65, 0.45, 0.3), "holds"), ((0.65, 0.45, 0.4), "fails"), ((0.85, 0.45, 0.3), "fails")])
def test_scales_must_be_apart_and_near_the_formula(monkeypatch: pytest.MonkeyPatch, slopes: tuple[float, ...], verdict: str) -> None:
    by_teacher = dict(zip(paper.TEACHERS, slopes, strict=True))
    monkeypatch.setattr(paper, "_slope", lambda teacher, *_: (by_teacher[teacher], 0.0))
    assert CLAIMS["spatial-scale"].experiment("laptop").verdict == verdict


def test_images_stand_aside_where_theirs_are_missing() -> None:
    assert CLAIMS["images"].experiment("paper").verdict == "not-run"
    assert CLAIMS["images"].experiment("smoke").verdict == "undecided"
