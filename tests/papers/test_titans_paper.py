"""The predicates of the Titans claims can fail, each for the reason it states."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from assay.contracts import Evaluation
from assay.papers import titans
from assay.papers.titans import PAPER, Found


def test_published_scale_says_why_it_does_not_run() -> None:
    assert all(claim.experiment("paper").verdict == "not-run" for claim in PAPER.claims)


def learned(accuracies: dict[str, tuple[float, float, float]]):
    """In place of training: accuracy at the training length, far beyond it, and out of reach, by the network's shown name."""

    def run(entrant, scale: str, seed: int) -> Found:
        near, far, out_of_reach = accuracies.get(entrant.shown, (0.1, 0.1, 0.1))
        return Found({length: far if length >= titans.FAR else near for length in titans.TESTED}, out_of_reach, nn.Identity())

    return run


@pytest.mark.parametrize(
    ("accuracies", "verdict"),
    [
        ({"MAC": (0.95, 0.9, 0.9)}, "holds"),
        ({"MAC": (0.95, 0.5, 0.9), "MAL": (0.9, 0.8, 0.9)}, "holds"),  # the best Titans need not be MAC
        ({"MAC": (0.95, 0.5, 0.9)}, "fails"),  # none keeps it
        ({"MAC": (0.85, 0.8, 0.9)}, "fails"),  # not learned
        ({"MAC": (0.95, 0.9, 0.9), "windowed attention": (0.7, 0.1, 0.5)}, "fails"),  # the window reaches it, too
    ],
)
def test_needles_are_judged_by_learning_reach_and_drop(monkeypatch: pytest.MonkeyPatch, accuracies: dict, verdict: str) -> None:
    monkeypatch.setattr(titans, "_run", learned(accuracies))
    assert titans._needle("laptop").verdict == verdict


def test_what_never_learned_has_no_small_drop(monkeypatch: pytest.MonkeyPatch) -> None:
    # MAL guesses everywhere, so it drops by nothing
    monkeypatch.setattr(titans, "_run", learned({"MAC": (0.95, 0.3, 0.9)}))
    measured = titans._needle("laptop")
    assert measured.values["MAL, drop"] == 0
    assert measured.verdict == "fails"


@pytest.mark.parametrize(("ablated", "verdict"), [(0.85, "holds"), (0.95, "fails")])
def test_no_ablation_may_be_above_the_whole(monkeypatch: pytest.MonkeyPatch, ablated: float, verdict: str) -> None:
    monkeypatch.setattr(titans, "_run", learned({"LMM": (0.85, 0.85, 0.9), "LMM, no momentum": (ablated, ablated, 0.9)}))
    assert titans._parts("laptop").verdict == verdict


@pytest.mark.parametrize(
    ("taken", "sizes", "verdict"),
    [
        ([1, 2, 3, 4], [100] * 4, "holds"),
        ([1, 2, 3, 2**26], [100] * 4, "fails"),  # memory grows
        ([1, 2, 3, 4], [100, 100, 100, 200], "fails"),  # the state grows
    ],
)
def test_streams_are_judged_by_what_they_take(monkeypatch: pytest.MonkeyPatch, taken: list, sizes: list, verdict: str) -> None:
    found = iter(zip(taken, sizes, [True] * 4, strict=True))
    monkeypatch.setattr(titans, "_run", learned({}))
    monkeypatch.setattr(titans, "_read", lambda network, length: next(found))
    assert titans._stream("laptop").verdict == verdict


@pytest.mark.parametrize(("deep", "verdict"), [({8: 0.6, 512: 0.3}, "holds"), ({8: 0.6, 512: 0.6}, "fails"), ({8: 0.1, 512: 0.3}, "fails")])
def test_depth_must_cross(monkeypatch: pytest.MonkeyPatch, deep: dict, verdict: str) -> None:
    def error(layers: int, pairs: int, source: str, step: float, seed: int) -> float:
        return 0.5 if layers == 1 else deep.get(pairs, 0.5)

    monkeypatch.setattr(titans, "_recall_error", error)
    assert titans._deep("laptop").verdict == verdict


@pytest.mark.parametrize(("own", "verdict"), [(2.9, "holds"), (3.1, "fails")])
def test_language_needs_the_best_to_be_a_titan(monkeypatch: pytest.MonkeyPatch, own: float, verdict: str) -> None:
    from types import SimpleNamespace

    monkeypatch.setattr(titans, "python_source", lambda size: None)
    monkeypatch.setattr(
        titans, "trained", lambda name, task, **more: SimpleNamespace(value=own if name == "titans-mac" else 3.0 + ("ne" in name))
    )
    assert titans._language("laptop").verdict == verdict


def test_out_of_reach_is_what_two_windows_do_not_see(monkeypatch: pytest.MonkeyPatch) -> None:
    # a network that answers exactly the near needles
    task = titans._needles("smoke", titans.LENGTH)
    distance = (1 - task.splits["test"]["depth"].numpy()) * (titans.LENGTH - 5)
    near = (distance <= titans.WINDOWS * titans.WINDOW).astype(float)
    monkeypatch.setattr(type(task), "evaluate", lambda *given: Evaluation({"accuracy": near.mean(), "log_loss": 1.0}, near, near))
    titans._run.cache_clear()
    found = titans._run(titans.LMM, "smoke", 0)
    titans._run.cache_clear()
    assert found.out_of_reach == 0
    assert found.accuracy[titans.LENGTH] == pytest.approx(near.mean())


def test_a_memory_of_one_pair_recalls_it() -> None:
    assert titans._recall_error(1, 1, "random", 0.5, 0) < 1e-10
    assert torch.isfinite(torch.tensor(titans._recall_error(2, 8, "rule", 0.4, 0)))
