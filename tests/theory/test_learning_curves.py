"""Learning curves: laws that are known are found and covered by their intervals, real digits are forecast from half, refusals."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from assay.theory.hierarchical_kernels import hierarchical_kernel
from assay.theory.kernel_regression import nested_predictions
from assay.theory.learning_curves import fit_learning_curve

SIZES = np.array([32.0, 64, 128, 256, 512, 1024])


@pytest.mark.parametrize(("scale", "slope", "level"), [(3.0, 0.7, 0.02), (1.0, 0.35, 0.0), (5.0, 1.2, 0.1)])
def test_a_law_without_noise_is_found(scale: float, slope: float, level: float) -> None:
    curve = fit_learning_curve(SIZES, scale * SIZES**-slope + level, draws=50)
    assert curve.slope == pytest.approx(slope, rel=0.01)
    assert curve.offset == pytest.approx(level, abs=0.002)
    expected = scale * 2048**-slope + level
    forecast = curve.forecast(2048)
    assert forecast.value == pytest.approx(expected, rel=0.01)
    assert forecast.low <= forecast.value <= forecast.high
    assert forecast.high - forecast.low < 0.02 * expected
    np.testing.assert_allclose(curve(SIZES), scale * SIZES**-slope + level, rtol=2e-3)


@pytest.mark.parametrize(("repeats", "noise", "level"), [(3, 0.08, 0.05), (1, 0.05, 0.0)])
def test_intervals_cover_what_is_known(repeats: int, noise: float, level: float) -> None:
    """Of 40 curves nominally 38 forecasts of twice the data and 38 slopes are covered; fewer than 33 have a chance of 1 in 500."""
    generator = np.random.default_rng(0)
    truth = 2 * np.array([*SIZES, 2048]) ** -0.5 + level
    covered = np.zeros(2)
    for seed in range(40):
        errors = truth[:-1, None] * np.exp(noise * generator.standard_normal((len(SIZES), repeats)))
        curve = fit_learning_curve(SIZES, errors, draws=200, seed=seed)
        forecast = curve.forecast(2048)
        covered += [forecast.low <= truth[-1] <= forecast.high, curve.interval[0] <= 0.5 <= curve.interval[1]]
    assert covered.min() >= 33


def test_more_noise_makes_wider_intervals_and_other_seeds_almost_the_same() -> None:
    generator = np.random.default_rng(1)
    noise = generator.standard_normal((6, 3))
    widths = []
    for size in (0.02, 0.2):
        forecast = fit_learning_curve(SIZES, SIZES[:, None] ** -0.4 * np.exp(size * noise)).forecast(2048)
        widths.append(forecast.high - forecast.low)
    assert widths[1] > 5 * widths[0]
    again = [fit_learning_curve(SIZES, SIZES**-0.4 * np.exp(0.1 * noise[:, 0]), seed=seed).forecast(2048) for seed in (0, 1)]
    assert again[0].value == again[1].value
    assert again[0].high == pytest.approx(again[1].high, rel=0.1)


def test_digits_are_forecast_from_half_of_them() -> None:
    """Squared error of a deep kernel on 500 digits: the curve up to 560 examples has what 800, 1,120 and 1,290 give in its interval."""
    pixels, digit = load_digits(return_X_y=True)
    images = np.asarray(pixels).reshape(-1, 1, 8, 8) / 16
    one_hot = np.eye(10)[np.asarray(digit)] - 0.1
    sizes = (70, 120, 200, 340, 560, 800, 1120, 1290)
    errors = []
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(images))
        train, test = order[: sizes[-1]], order[-500:]
        gram = hierarchical_kernel(images[train], filters=[2, 2])
        across = hierarchical_kernel(images[test], images[train], filters=[2, 2])
        found = nested_predictions(gram, across, one_hot[train], sizes, 1e-3 * float(np.diag(gram).mean()))
        errors.append([np.square(answer - one_hot[test]).mean() for answer in found])
    curve = fit_learning_curve(sizes[:5], np.array(errors).T[:5])
    for size, measured in zip(sizes[5:], np.mean(errors, 0)[5:], strict=True):
        forecast = curve.forecast(size)
        assert forecast.low <= measured <= forecast.high
        assert forecast.high - forecast.low < measured  # an interval that says something


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda n, e: fit_learning_curve(n[:3], e[:3]), "a curve of 3 parameters needs at least 4 sizes, got 3"),
        (lambda n, e: fit_learning_curve(n[:2], e[:2], offset=False), "a curve of 2 parameters needs at least 3 sizes, got 2"),
        (lambda n, e: fit_learning_curve(100 + n / 100, e), "span a factor of 3 or more"),
        (lambda n, e: fit_learning_curve(n, e[:5]), r"got \(5,\) for \(6,\) sizes"),
        (lambda n, e: fit_learning_curve(n, 0 * e), "above 0 in the mean of every size"),
        (lambda n, e: fit_learning_curve(n, np.where(n > 99, np.nan, e)), "finite"),
        (lambda n, e: fit_learning_curve(n, e, draws=0), "at least 1, got 0"),
        (lambda n, e: fit_learning_curve(n, e, confidence=1.0), "between 0 and 1, got 1.0"),
        (lambda n, e: fit_learning_curve(n, e, draws=2).forecast(0), "at least 1, got 0"),
    ],
)
def test_too_little_to_tell_is_refused(call, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call(SIZES, SIZES**-0.5)
