"""The survey's theses say what is missing, and have predicates that can fail."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from assay import registry
from assay.measure import parameter_count
from assay.papers import after_transformers as survey
from assay.papers.after_transformers import PAPER

CLAIMS = {claim.name: claim for claim in PAPER.claims}
TRAINED = ("patterns", "long-lag", "recall", "language", "far-out")


@pytest.mark.parametrize("name", [*TRAINED, "stream"])
def test_published_scale_says_why_it_does_not_run(name: str) -> None:
    assert CLAIMS[name].experiment("paper").verdict == "not-run"


@pytest.mark.parametrize(("name", "mixer"), [("long-lag", "s4d"), ("recall", "gated-delta"), ("language", "mamba"), ("stream", "lru")])
def test_missing_mixers_are_named(monkeypatch: pytest.MonkeyPatch, name: str, mixer: str) -> None:
    monkeypatch.delitem(registry.TABLE["mixer"], mixer)
    measured = CLAIMS[name].experiment("laptop")
    assert measured.verdict == "not-run"
    assert mixer in measured.reason


def test_fixed_states_are_flat_and_the_cache_grows() -> None:
    assert CLAIMS["stream"].experiment("smoke").verdict == "holds"


def test_a_growing_state_would_fail_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "FIXED", ("attention",))
    assert CLAIMS["stream"].experiment("smoke").verdict == "fails"


def test_the_catalogue_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("networkx")
    every = survey.ideas()
    counted = CLAIMS["comprehensive"].experiment("smoke").values
    assert counted["ideas"] == len(every)
    assert counted["connected components"] == 1
    monkeypatch.setattr(survey, "ideas", lambda: every[:80])
    assert CLAIMS["comprehensive"].experiment("smoke").verdict == "fails"


def test_an_idea_runs_if_all_its_parts_are_registered() -> None:
    known = next(idea for idea in survey.ideas() if idea.id == "softmax-attention")
    assert survey._runs(known)
    assert not survey._runs(dataclasses.replace(known, parts=(*known.parts, "no-such-part")))
    assert not survey._runs(dataclasses.replace(known, parts=()))


def test_separable_and_full_convolutions_have_as_many_parameters() -> None:
    separable, full = (parameter_count(survey._convolutions(kind)) for kind in (True, False))
    assert abs(separable / full - 1) <= 0.02


def fixed(values: dict[str, float]):
    """In place of training: a network's measure by its name."""

    def run(model: str, *_: Any, **__: Any) -> SimpleNamespace:
        return SimpleNamespace(value=values[model], evaluation=SimpleNamespace(metrics={survey.LONGEST: values[model]}))

    return run


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, "holds"),
        ({"mamba": 0.95}, "fails"),  # a fixed state recalls as well
        ({"gated-delta": 0.97}, "holds"),  # the delta rule may be 5 points better, no more
        ({"gated-delta": 0.99}, "fails"),
    ],
)
def test_recall_is_judged_against_every_fixed_state(monkeypatch: pytest.MonkeyPatch, changed: dict[str, float], verdict: str) -> None:
    values = dict.fromkeys(survey.RECALL_MIXERS, 0.3) | {"attention": 0.93} | changed
    monkeypatch.setattr(survey, "_trained", fixed(values))
    monkeypatch.setattr(survey, "multi_query_recall", lambda *_, **__: None)
    assert CLAIMS["recall"].experiment("laptop").verdict == verdict


@pytest.mark.parametrize(("s4d", "attention", "verdict"), [(0.9, 0.2, "holds"), (0.9, 0.95, "fails"), (0.4, 0.1, "fails")])
def test_long_lags_are_judged_by_rank_and_by_accuracy(monkeypatch: pytest.MonkeyPatch, s4d: float, attention: float, verdict: str) -> None:
    monkeypatch.delitem(registry.TABLE["mixer"], "lssl", raising=False)
    reached = {"mamba": 0.1, "retention": 0.1, "s4d": s4d, "attention": attention}
    monkeypatch.setattr(survey, "_over_lags", lambda name, _: {f"{name}, 1024 positions": reached[name]})
    assert CLAIMS["long-lag"].experiment("laptop").verdict == verdict


def test_lags_lengthen_and_the_better_rate_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def run(network: object, tasks: object, lag: tuple[int, int, int], rate: float, split: str) -> SimpleNamespace:
        seen.append((network, lag[0], rate, split))
        return SimpleNamespace(model=network, value=rate if lag[0] == 256 else 0.5)

    monkeypatch.setattr(survey, "_first_symbol", lambda *_: SimpleNamespace(signature=None))
    monkeypatch.setattr(survey, "build", lambda *_: object())
    monkeypatch.setattr(survey, "_at_lag", run)
    assert survey._over_lags("s4d", "laptop") == {"s4d, 256 positions": 0.03, "s4d, 1024 positions": 0.5, "s4d, rate": 0.03}
    assert [call[1:] for call in seen] == [(length, rate, "validation") for rate in (0.01, 0.03) for length in (32, 256)] + [
        (1024, 0.03, "test")
    ]
    assert seen[-1][0] is seen[-2][0]  # the network itself, not a new one
    assert seen[0][0] is not seen[-1][0]


@pytest.mark.parametrize(("bits", "verdict"), [(2.05, "holds"), (2.07, "fails")])
def test_language_is_judged_by_three_per_cent(monkeypatch: pytest.MonkeyPatch, bits: float, verdict: str) -> None:
    monkeypatch.setattr(survey, "_trained", fixed({"attention": 2.0, "mamba": bits}))
    monkeypatch.setattr(survey, "_bytes", lambda *_: None)
    assert CLAIMS["language"].experiment("laptop").verdict == verdict


@pytest.mark.parametrize(("helping", "verdict"), [(3, "holds"), (2, "fails")])
def test_patterns_need_three_gains_that_are_no_chance(monkeypatch: pytest.MonkeyPatch, helping: int, verdict: str) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, (2, 200))

    def pair(name: str, helps: bool):
        better = 1.0 if name.startswith(("decompose", "weigh")) else -1.0  # accuracy, or bits

        def run(on: bool, seed: int, scale: str) -> SimpleNamespace:
            scores = noise[int(on)] + (better * 0.5 if on and helps else 0.0)
            return SimpleNamespace(model=torch.nn.Linear(1, 1), evaluation=SimpleNamespace(scores=scores))

        return run

    pairs = {name: pair(name, index < helping) for index, name in enumerate(survey.PAIRS)}
    monkeypatch.setattr(survey, "PAIRS", pairs)
    assert CLAIMS["patterns"].experiment("laptop").verdict == verdict
