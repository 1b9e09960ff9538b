"""The claims on wide attention run at smoke scale, can fail, and judge by the numbers they report."""

from __future__ import annotations

import math

import pytest
import torch

from assay.papers import wide_attention
from assay.papers.wide_attention import KINDS, PAPER, aspect_ratio_study
from assay.tasks.synthetic.planted_key import planted_key

SMOKE = {"size": "holds", "memory": "holds", "competes": "not-run"}


@pytest.mark.slow
@pytest.mark.parametrize("claim", PAPER.claims, ids=lambda claim: claim.name)
def test_smoke(claim) -> None:
    measured = claim.experiment("smoke")
    assert measured.reason
    assert all(math.isfinite(value) for value in measured.values.values())
    assert measured.verdict in (SMOKE[claim.name],) if claim.name in SMOKE else ("undecided", "not-run")


@pytest.mark.parametrize(("differences", "verdict"), [([0.4, -0.3, 1.0], "holds"), ([-3.0, 0.5, -1.0], "fails"), ([-1.0], "holds")])
def test_the_mean_difference_is_judged(monkeypatch, differences, verdict) -> None:
    given = dict(enumerate(differences))
    monkeypatch.setattr(wide_attention, "_differences", lambda task, scale: (given, {}, ["a-kind"]))
    for claim in PAPER.claims[:4]:
        measured = claim.experiment("laptop")
        assert measured.verdict == verdict
        assert "not there: a-kind" in measured.reason
        assert measured.values["low"] <= measured.values["wide − deep, points"] <= measured.values["high"]


def test_what_was_not_learnt_decides_nothing(monkeypatch) -> None:
    monkeypatch.setattr(wide_attention, "_differences", lambda task, scale: ({"attention": 1.0}, {"wide": 51.0, "deep": 50.0}, []))
    matching = next(claim for claim in PAPER.claims if claim.name == "competes-matching")
    monkeypatch.setattr(wide_attention, "_task", lambda name, scale: planted_key(classes=2, train=10, test=100))
    measured = matching.experiment("laptop")
    assert measured.verdict == "undecided"
    assert "did not learn" in measured.reason


def test_kinds_that_are_not_registered_are_said(monkeypatch) -> None:
    monkeypatch.setattr(wide_attention.registry, "known", lambda kind, name: False)
    measured = PAPER.claims[0].experiment("laptop")
    assert measured.verdict == "not-run"
    assert all(kind in measured.reason for kind in KINDS)


@pytest.mark.parametrize(("wide", "verdict"), [(0.3, "holds"), (0.1, "fails")])
def test_the_hit_rates_are_compared(monkeypatch, wide, verdict) -> None:
    class Run:
        def __init__(self, model, *_args, **_options) -> None:
            self.model, self.value = model, 0.9

    monkeypatch.setattr(wide_attention, "trained", Run)
    monkeypatch.setattr(wide_attention, "planted_key", lambda **options: planted_key(train=10, test=10, **options))
    monkeypatch.setattr(wide_attention, "_hit_rate", lambda network, task, key: wide if len(network.blocks) == 1 else 0.2)
    claim = next(claim for claim in PAPER.claims if claim.name == "interpretable")
    assert claim.experiment("laptop").verdict == verdict


def test_what_the_key_hit_rate_counts(monkeypatch) -> None:
    task = planted_key(train=10, test=20, length=30)
    start = task.splits["test"]["key_start"]
    for shift, rate in ((0, 1.0), (1, 0.75), (4, 0.0)):
        looked = torch.zeros(20, 30).scatter(1, (start[:, None] + shift + torch.arange(4)) % 30, 1.0)
        monkeypatch.setattr(wide_attention, "attention_rollout", lambda network, batch, looked=looked: looked)
        found = wide_attention._hit_rate(torch.nn.Identity(), task, 4)
        assert found == pytest.approx(rate, abs=0.15)  # near the end the shifted key is at the beginning


def test_the_study_is_compare_along_depth(monkeypatch) -> None:
    asked = {}
    monkeypatch.setattr(wide_attention, "compare", lambda data, **options: asked.update(options, data=data))
    aspect_ratio_study("digits", total_heads=12, hidden=64, axis={"causal": [False]}, steps=7)
    assert asked["axis"] == {
        "depth": [1, 2, 3, 4, 6, 12],
        "total_heads": [12],
        "head_width": [16],
        "width": [64],
        "hidden": [64],
        "causal": [False],
    }
    assert (asked["data"], asked["models"], asked["steps"]) == ("digits", ["attention"], 7)


@pytest.mark.slow
def test_the_study_runs_and_its_networks_differ_by_their_feed_forward_nets(tmp_path) -> None:
    task = planted_key(train=40, test=20, length=12, key=2, letters=8)
    sizes = {"total_heads": 2, "head_width": 4, "width": 8, "hidden": 16}
    study = aspect_ratio_study(task, **sizes, steps=2, seeds=1, rates=[3e-3], output=tmp_path / "study", live=False)
    rows = [row for row in study.rows if not row["baseline"]]
    assert all(row["status"] == "done" for row in rows)
    parameters = {row["axis"]["depth"]: row["parameters"] for row in rows}
    # heads cost the same; with one block less go its feed-forward net (2·8·16 + 16 + 8), its norms (4·8) and its output bias (8)
    assert parameters[2] - parameters[1] == 2 * 8 * 16 + 16 + 8 + 4 * 8 + 8
