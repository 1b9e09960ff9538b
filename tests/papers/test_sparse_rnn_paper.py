"""The claims of the sparse RNN paper run, can fail, and judge by the numbers they report."""

import numpy as np
import pytest
from torch import nn

from assay.compression.regain import RegainPoint
from assay.papers import sparse_rnn


@pytest.mark.parametrize(("gated", "ungated", "verdict"), [(0.97, 0.6, "holds"), (0.94, 0.6, "fails"), (0.97, 0.8, "fails")])
def test_the_sharpest_contrast_is_judged_by_both_sides(monkeypatch, gated, ungated, verdict):
    def retrained(scale, mode, *_):
        value = gated if mode in ("gru", "lstm") else ungated
        return [RegainPoint(1.0, 1.0, 0.5, [], None, value, nn.Identity())] * 3

    monkeypatch.setattr(sparse_rnn, "_retrained", retrained)
    monkeypatch.setattr(sparse_rnn, "_safe", lambda *_: 0.5)
    assert sparse_rnn.without_recurrence("smoke").verdict == verdict


@pytest.mark.parametrize(("fall", "verdict"), [([0.99, 0.9, 0.8, 0.7, 0.5], "holds"), ([0.99, 0.7, 0.8, 0.7, 0.5], "fails")])
def test_a_collapse_that_rises_again_is_none(monkeypatch, fall, verdict):
    monkeypatch.setattr(sparse_rnn, "_sweep", lambda *_: np.array([[1.0] * 5 + fall] * 3))
    assert sparse_rnn.collapse("smoke").verdict == verdict


def test_safe_fraction_ends_at_the_first_loss(monkeypatch):
    """An accuracy that comes back later does not count."""
    monkeypatch.setattr(sparse_rnn, "_base", lambda *_: np.array([1.0]))
    monkeypatch.setattr(sparse_rnn, "_sweep", lambda *_: np.array([[1.0, 0.995, 0.9, 1.0] + [0.5] * 6]))
    assert sparse_rnn._safe("smoke", "gru", "both") == 0.2
