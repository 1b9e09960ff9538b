"""The review's claims judge by their stated thresholds: made-up results on either side of them give either verdict."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from assay.papers import rnn_review
from assay.papers.rnn_review import PAPER


def results(values: dict[str, float]):
    """In place of training: a run's value by its mixer's name (and the task's, where both are there), log loss alike."""

    def run(mixer: str, task: Any, steps: int, seed: int, **_: Any) -> Any:
        value = values.get(f"{mixer} {task.name}", values.get(mixer, 0.0))
        return SimpleNamespace(value=value, model=None, evaluation=SimpleNamespace(metrics={"log_loss": value}))

    return run


@pytest.fixture
def no_data(monkeypatch) -> None:
    """Tasks of a name alone: what is judged here is not read from data."""
    for name in ("python_tags", "window_sign", "captions", "transduction", "copying", "continual_reber", "timed_spikes"):
        monkeypatch.setattr(rnn_review, name, lambda *_, name=name, **options: SimpleNamespace(name=name))


def test_claims_say_why_they_have_no_published_scale() -> None:
    for claim in PAPER.claims:
        measured = claim.experiment("paper")
        assert measured.verdict == "not-run"
        assert measured.reason


@pytest.mark.parametrize(("errors", "verdict"), [((0.05, 0.24), "holds"), ((0.15, 0.24), "fails")])
def test_bidirectional_must_err_half_as_often(no_data, monkeypatch, errors: tuple[float, float], verdict: str) -> None:
    monkeypatch.setattr(rnn_review, "_run", results({"bilstm": 1 - errors[0], "lstm": 1 - errors[1]}))
    assert rnn_review._bidirectional("laptop").verdict == verdict


@pytest.mark.parametrize(
    ("original", "forget", "growth", "verdict"),
    [(0.6, 0.9, 3.0, "holds"), (0.6, 0.7, 3.0, "fails"), (0.6, 0.9, 1.2, "fails")],
)
def test_forgetting_needs_fewer_errors_and_a_growing_cell(
    no_data, monkeypatch, original: float, forget: float, growth: float, verdict: str
) -> None:
    monkeypatch.setattr(rnn_review, "_run", results({"lstm-original": original, "lstm-forget": forget}))
    monkeypatch.setattr(rnn_review, "_state_growth", lambda network, task: growth)
    assert rnn_review._forgetting("laptop").verdict == verdict


@pytest.mark.parametrize(("peephole", "verdict"), [(0.1, "holds"), (0.2, "fails")])
def test_peepholes_are_judged_by_log_loss(no_data, monkeypatch, peephole: float, verdict: str) -> None:
    monkeypatch.setattr(rnn_review, "_run", results({"lstm-peephole": peephole, "lstm-forget": 0.15}))
    assert rnn_review._timing("laptop").verdict == verdict


@pytest.mark.parametrize(("machine", "verdict"), [(0.9, "holds"), (0.6, "fails")])
def test_the_machine_must_halve_the_error(no_data, monkeypatch, machine: float, verdict: str) -> None:
    monkeypatch.setattr(rnn_review, "_run", results({"ntm": machine, "lstm": 0.5}))
    assert rnn_review._copying("laptop").verdict == verdict


@pytest.mark.parametrize(
    ("spikes", "last", "verdict"),
    [(3, 2.0, "holds"), (0, 2.0, "fails"), (3, 0.5, "fails")],
)
def test_clipping_must_save_spikes_and_loss(monkeypatch, spikes: int, last: float, verdict: str) -> None:
    """Unclipped losses are 1 with so many spikes of 100 and a last tenth at ``last``; clipped ones are 1 throughout."""

    def descent(steps: int, limit: float | None, seed: int) -> np.ndarray:
        losses = np.ones(steps)
        if limit is None:
            losses[-steps // 10 :] = last
            losses[:spikes] = 100.0
        return losses

    monkeypatch.setattr(rnn_review, "_descent", descent)
    assert rnn_review._clipping("laptop").verdict == verdict


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("_reversal", lambda options: 0.6 if options.get("reverse_source", True) else 0.5, lambda options: 0.6),
        ("_captions", lambda options: 0.95, lambda options: 0.95 if options["inject"] == "first" else 0.8),
    ],
)
def test_what_is_written_is_judged_by_exact_matches(no_data, monkeypatch, name: str, good: Any, bad: Any) -> None:
    for value, verdict in ((good, "holds"), (bad, "fails")):
        monkeypatch.setattr(
            rnn_review, "_written", lambda task, steps, seed, *_, value=value, **options: SimpleNamespace(value=value(options))
        )
        assert getattr(rnn_review, name)("laptop").verdict == verdict


@pytest.mark.parametrize(("second", "first", "verdict"), [(0.05, 0.15, "holds"), (0.12, 0.15, "fails"), (0.05, 0.04, "fails")])
def test_hessian_free_must_solve_it_and_be_below(monkeypatch, second: float, first: float, verdict: str) -> None:
    monkeypatch.setattr(rnn_review, "adding", lambda *_: None)
    monkeypatch.setattr(rnn_review, "_simple", lambda *_, **options: second if options else first)
    assert rnn_review._curvature("laptop").verdict == verdict


@pytest.mark.parametrize(("both", "forwards", "verdict"), [(0.9, 0.8, "holds"), (0.75, 0.5, "fails"), (0.85, 0.9, "fails")])
def test_handwriting_must_be_read_best_both_ways(monkeypatch, both: float, forwards: float, verdict: str) -> None:
    monkeypatch.setattr(rnn_review, "digit_strings", lambda *_: SimpleNamespace(signature=None))
    monkeypatch.setattr(rnn_review, "build_network", lambda *_, mixer, **options: mixer)
    monkeypatch.setattr(
        rnn_review, "trained", lambda network, *_, **options: SimpleNamespace(value=both if network == "bilstm" else forwards)
    )
    assert rnn_review._handwriting("laptop").verdict == verdict


def test_the_claims_without_training_hold() -> None:
    """Closed forms and hand-set weights: these are exact, so they are run as they are."""
    for experiment in (rnn_review._gradients, rnn_review._automaton):
        assert experiment("laptop").verdict == "holds"
