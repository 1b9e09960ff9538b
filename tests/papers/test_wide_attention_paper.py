"""The claims on wide attention can fail, and judge by the numbers they report."""

from __future__ import annotations

import pytest
import torch

from assay.measure import parameter_count
from assay.models import build_network
from assay.papers import wide_attention
from assay.papers.wide_attention import KINDS, PAPER, aspect_ratio_study
from assay.tasks.synthetic.planted_key import planted_key


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


def test_the_studys_networks_differ_by_their_feed_forward_nets(monkeypatch) -> None:
    asked = {}
    monkeypatch.setattr(wide_attention, "compare", lambda data, **options: asked.update(options, data=data))
    task = planted_key(train=10, test=10, length=12, key=2, letters=8)
    aspect_ratio_study(task, total_heads=2, head_width=4, width=8, hidden=16)
    shared = {name: values[0] for name, values in asked["axis"].items() if name != "depth"}
    one, two = (build_network("attention", task.signature, 1, 0, depth=depth, **shared) for depth in asked["axis"]["depth"])
    # heads cost the same; with one block less go its feed-forward net (2·8·16 + 16 + 8), its norms (4·8) and its output bias (8)
    assert parameter_count(two) - parameter_count(one) == 2 * 8 * 16 + 16 + 8 + 4 * 8 + 8
