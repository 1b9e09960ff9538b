"""Made signals: what they hold can be found in them, sampling rates agree, and refusals."""

from __future__ import annotations

import math

import pytest
import torch

from assay.tasks.synthetic.signals import WORDS, delayed_copy, tone_frequency, tone_words


def test_a_quiet_tone_has_the_frequency_that_is_asked_for() -> None:
    task = tone_frequency(4_000, noise=0.0, train=5, test=20)
    part = task.splits["test"]
    peak = torch.fft.rfft(part["series"][..., 0]).abs().argmax(1) / 4_000
    expected = 0.01 * 10 ** (part["target"][:, 0] / math.sqrt(12) + 0.5)
    assert (peak - expected).abs().max() <= 0.5 / 4_000 + 1e-6


def test_the_mean_answers_with_an_error_of_one() -> None:
    target = tone_frequency(10, train=20_000, test=1).splits["train"]["target"]
    assert target.mean().abs() < 0.03
    assert target.square().mean() == pytest.approx(1, abs=0.03)


def test_a_copy_comes_later() -> None:
    part = delayed_copy(7, 20, train=3, test=2).splits["train"]
    assert torch.equal(part["target"][:, 7:], part["series"][:, :-7])
    assert part["target_mask"].sum(1).tolist() == [13] * 3
    assert part["target"][~part["target_mask"]].abs().max() == 0


def test_words_differ_by_pitch_over_time() -> None:
    """Zero crossings a third of the way in, and near the end, of the quiet word low–middle–high: the pitch rises."""
    task = tone_words(2_000, noise=0.0, train=200, test=5)
    part = task.splits["train"]
    for word, sign in ((WORDS.index((0, 1, 2)), 1), (WORDS.index((2, 1, 0)), -1)):
        series = part["series"][part["target"] == word, :, 0]
        crossed = (series[:, 1:].sign() != series[:, :-1].sign()).float()
        early, late = crossed[:, 600:800].sum(1), crossed[:, 1200:1400].sum(1)
        assert ((late - early) * sign > 0).all()
    assert len(set(WORDS)) == 10


def test_half_the_samples_are_the_same_words() -> None:
    whole, half = (tone_words(400, every, train=10, test=5, seed=3) for every in (1, 2))
    assert torch.equal(whole.splits["test"]["series"][:, ::2], half.splits["test"]["series"])
    assert torch.equal(whole.splits["test"]["target"], half.splits["test"]["target"])
    assert half.signature.input.length == 200


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: tone_words(50), "length must be at least 100, got 50"),
        (lambda: tone_words(keep_every=13), "two samples a period of the highest tone, 25 samples, got 13"),
        (lambda: tone_words(noise=-1), "noise must be at least 0, got -1"),
        (lambda: tone_frequency(train=0), "train must be at least 1, got 0"),
        (lambda: delayed_copy(200), "delay must lie between 0 and length − 1 = 199, got 200"),
    ],
)
def test_bad_numbers_are_refused(call, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()
