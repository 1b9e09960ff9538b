"""The claims' predicates can fail, and what they measure is what they say."""

from __future__ import annotations

from typing import Any

import pytest

from assay.papers import flashrnn


def claim(name: str) -> Any:
    return next(claim for claim in flashrnn.PAPER.claims if claim.name == name)


def test_timings_are_judged_by_their_thresholds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flashrnn, "library", lambda: object())
    monkeypatch.setattr(flashrnn, "medians", lambda rivals, repeats: {"kernel": 1.0, "loop": 9.9, "product": 1.0})
    monkeypatch.setattr(flashrnn, "LOOPS", {(1, 1, 2): 5.0, (1, 2, 2): 10.0})
    monkeypatch.setattr(flashrnn, "SHOWN", ())
    assert claim("loop").experiment("laptop").verdict == "fails"
    monkeypatch.setattr(flashrnn, "LOOPS", {(1, 1, 2): 5.0, (1, 2, 2): 9.9})
    measured = claim("loop").experiment("laptop")
    assert measured.verdict == "holds"
    share = 8 * 512 * 4 / (2 * 2048 * 512**2)
    shares = {f"share of a product's speed, batch 1, {heads} × 2": pytest.approx(heads * share) for heads in (1, 2)}
    assert measured.values == {"batch 1, 1 × 2": 9.9, "batch 1, 2 × 2": 9.9} | shares


def test_without_a_compiler_timings_are_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flashrnn, "library", lambda: None)
    for name in ("loop", "layer", "tiles"):
        assert claim(name).experiment("laptop").verdict == "not-run"


@pytest.mark.parametrize(("recurrent", "attention", "verdict"), [(0.96, 0.6, "holds"), (0.94, 0.6, "fails"), (0.96, 0.7, "fails")])
def test_parity_needs_every_recurrent_run_and_attention_near_chance(
    monkeypatch: pytest.MonkeyPatch, recurrent: float, attention: float, verdict: str
) -> None:
    monkeypatch.setattr(flashrnn, "_tracked", lambda name, *_: attention if name == "attention" else recurrent)
    assert claim("state-tracking").experiment("laptop").verdict == verdict


def test_divisibility_finds_the_same_tiles_with_a_fifth_of_the_choices() -> None:
    measured = claim("constraints").experiment("laptop")
    assert measured.verdict == "holds"
    assert measured.values["choices by ranges alone"] >= 5 * measured.values["choices with divisibility"]


def test_a_size_that_triton_took_would_fail_the_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flashrnn, "recurrent_scan", lambda inputs, *_: (inputs, inputs))
    assert claim("large-heads").experiment("laptop").verdict == "fails"
