"""MiniRocket on aeon's real sets, the seasonal-naive forecast on seasons that are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from assay.contracts import Class, Series, Signature, Values
from assay.models.estimators import MiniRocket, RidgeValues, SeasonalNaive
from assay.models.estimators.series import autocorrelation_peaks, equal_lengths, repeat_season
from assay.tasks.base import ArrayTask

NAMES = ("train", "validation", "test")


KNOWN = [("ItalyPowerDemand", 0.95), ("GunPoint", 0.98), ("BasicMotions", 0.97), ("JapaneseVowels", 0.93)]


@pytest.mark.parametrize(("name", "least"), KNOWN)
def test_minirocket_reaches_the_archives_figures(name, least, tmp_path):
    """Known accuracies are near 0.96, 0.99, 1.00 and 0.98, on the archive's whole training part; what was saved predicts the same."""
    pytest.importorskip("aeon")
    from assay.tasks.series import aeon_series

    task = aeon_series(name)
    parts = task.splits
    parts["train"] = {key: torch.cat([parts["train"][key], parts["validation"][key]]) for key in parts["train"]}
    fitted = MiniRocket().fit(task)
    assert task.evaluate(fitted, "test").metrics["accuracy"] >= least
    fitted.save(tmp_path)
    batch = next(task.batches("test", 20))
    torch.testing.assert_close(MiniRocket.load(tmp_path)(batch).prediction, fitted(batch).prediction)


def test_minirocket_is_deterministic_given_its_seed():
    pytest.importorskip("aeon")
    from assay.tasks.series import aeon_series

    task = aeon_series("BasicMotions")
    batch = next(task.batches("test", 20))
    assert torch.equal(MiniRocket().fit(task, seed=3)(batch).prediction, MiniRocket().fit(task, seed=3)(batch).prediction)


def test_masked_series_are_stretched_to_the_full_length():
    """A straight line stays a straight line from its first to its last real value; channels come first."""
    series = torch.zeros(1, 12, 2)
    series[0, :4, 0], series[0, :4, 1] = torch.arange(4.0), -torch.arange(4.0)
    mask = torch.arange(12)[None] < 4
    stretched = equal_lengths({"series": series, "mask": mask})
    assert stretched.shape == (1, 2, 12)
    np.testing.assert_allclose(stretched[0, 0], np.linspace(0, 3, 12), atol=1e-6)
    np.testing.assert_allclose(stretched[0, 1], -np.linspace(0, 3, 12), atol=1e-6)


def test_very_short_series_are_stretched_to_the_kernels():
    pytest.importorskip("aeon")
    series = torch.randn(40, 5, 1, generator=torch.Generator().manual_seed(0))
    target = (series[:, 0, 0] > series[:, 4, 0]).long()
    series[:, 0, 0] += 4 * target
    part = {"series": series, "target": target}
    task = ArrayTask("short", Signature(Series(1, 5), Class(2)), dict.fromkeys(NAMES, part))
    assert MiniRocket().fit(task)(part).prediction.shape == (40, 2)


def seasonal_task(seasons, noise=0.0, length=60, horizon=10):
    time = np.arange(1000)
    generator = np.random.default_rng(0)
    columns = [np.sin(2 * np.pi * time / season) + 0.5 * np.sin(4 * np.pi * time / season) for season in seasons]
    values = torch.tensor(np.stack(columns, 1) + noise * generator.normal(size=(1000, len(seasons))), dtype=torch.float32)
    windows = values.unfold(0, length + horizon, 1).transpose(1, 2)
    cuts = dict(zip(NAMES, (slice(0, 500), slice(600, 700), slice(800, 900)), strict=True))
    splits = {name: {"series": windows[cut, :length], "target": windows[cut, length:]} for name, cut in cuts.items()}
    return ArrayTask("seasonal", Signature(Series(len(seasons), length), Values(len(seasons)), horizon=horizon), splits)


def test_each_channels_season_is_found_and_repeated_exactly():
    task = seasonal_task([12, 25])
    fitted = SeasonalNaive().fit(task)
    assert [season % wanted for season, wanted in zip(fitted.fitted["seasons"], (12, 25), strict=True)] == [0, 0]
    assert task.evaluate(fitted, "test").metrics["mse"] < 1e-8


def test_the_season_is_found_under_noise_and_a_trend():
    generator = np.random.default_rng(0)
    time = np.arange(96)
    windows = np.sin(2 * np.pi * time / 24) + 0.05 * time + 0.4 * generator.normal(size=(50, 96))
    assert autocorrelation_peaks(windows[..., None])[0] in (24, 48, 72)


def test_a_random_walk_repeats_its_last_value():
    """Nothing beats the last value on a random walk; a season found by chance must not be preferred."""
    walk = np.random.default_rng(0).normal(size=(300, 70, 1)).cumsum(1).astype(np.float32)
    part = {"series": torch.tensor(walk[:, :60]), "target": torch.tensor(walk[:, 60:])}
    task = ArrayTask("walk", Signature(Series(1, 60), Values(1), horizon=10), dict.fromkeys(NAMES, part))
    fitted = SeasonalNaive().fit(task)
    assert fitted.fitted["seasons"] == [1]
    prediction = fitted(part).prediction
    assert torch.equal(prediction, part["series"][:, -1:].expand_as(prediction))


def test_a_season_longer_than_the_horizon_starts_where_it_should():
    """ŷ_{t+h} = y_{t+h−s}: with s = 5, h = 3 the first, second and third of the last five."""
    series = np.arange(10.0)[None, :, None]
    np.testing.assert_allclose(repeat_season(series, 5, 3)[0, :, 0], [5, 6, 7])
    np.testing.assert_allclose(repeat_season(series, 2, 5)[0, :, 0], [8, 9, 8, 9, 8])


def test_ridge_forecasts_the_first_channels_only():
    """The forecast's columns are the input's first ones: here one of two, and the second helps."""
    generator = torch.Generator().manual_seed(0)
    signal = torch.randn(700, generator=generator)
    values = torch.stack([torch.roll(signal, 3), signal], 1)  # the first channel repeats the second three steps later
    windows = values.unfold(0, 13, 1).transpose(1, 2)
    splits = {
        name: {"series": windows[cut, :10], "target": windows[cut, 10:, :1]}
        for name, cut in zip(NAMES, (slice(10, 400), slice(420, 500), slice(520, 680)), strict=True)
    }
    task = ArrayTask("lagged", Signature(Series(2, 10), Values(1), horizon=3), splits)
    assert task.evaluate(RidgeValues().fit(task), "test").metrics["mse"] < 1e-3
