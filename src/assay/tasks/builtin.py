"""Built-in real data that need no download: digits, and the sets that the libraries of the extras carry."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from assay.contracts import Class, Task
from assay.tasks.images import Pictures, finish_task
from assay.tasks.options import Options
from assay.tasks.series import aeon_series, co2, weather
from assay.tasks.targets import Target

__all__ = [
    "acsf1",
    "arrow_head",
    "basic_motions",
    "co2",
    "digits",
    "gunpoint",
    "italy_power_demand",
    "japanese_vowels",
    "osu_leaf",
    "weather",
]


def digits(seed: int = 0) -> Task:
    """1,797 handwritten digits, 8×8 grey (E. Alpaydin, C. Kaynak, 1998: Optical recognition of handwritten digits), from scikit-learn."""
    from sklearn.datasets import load_digits

    pixels, digit = load_digits(return_X_y=True)
    pictures = np.round(np.asarray(pixels) * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    labels = [str(digit) for digit in range(10)]
    target = Target(Class(10), ["folder"], codes=np.asarray(digit).astype(np.int64), labels=labels)
    names = [f"digit {index}" for index in range(len(pictures))]
    return finish_task(Pictures(pictures, []), names, target, Options(Path("digits"), seed=seed))


def gunpoint(seed: int = 0) -> Task:
    """GunPoint: 200 hand movements of 150 steps, a gun drawn or a finger pointed (Ratanamahatana, Keogh, 2005)."""
    return aeon_series("GunPoint", seed)


def italy_power_demand(seed: int = 0) -> Task:
    """ItalyPowerDemand: 1,096 days of 24 hourly loads, October to March against April to September (Keogh et al., 2006)."""
    return aeon_series("ItalyPowerDemand", seed)


def arrow_head(seed: int = 0) -> Task:
    """ArrowHead: 211 outlines of projectile points as series of 251 steps, three kinds (Ye, Keogh, 2009)."""
    return aeon_series("ArrowHead", seed)


def osu_leaf(seed: int = 0) -> Task:
    """OSULeaf: 442 outlines of leaves as series of 427 steps, six species (Gandhi, 2002)."""
    return aeon_series("OSULeaf", seed)


def acsf1(seed: int = 0) -> Task:
    """ACSF1: 200 power signatures of household appliances, 1,460 steps, ten kinds (Gisler et al., 2013)."""
    return aeon_series("ACSF1", seed)


def basic_motions(seed: int = 0) -> Task:
    """BasicMotions: 80 recordings of a smart watch, six channels of 100 steps, four activities (Bagnall et al., 2018)."""
    return aeon_series("BasicMotions", seed)


def japanese_vowels(seed: int = 0) -> Task:
    """JapaneseVowels: 640 utterances, 12 channels of 7 to 29 steps, nine speakers (Kudo, Toyama, Shimbo, 1999)."""
    return aeon_series("JapaneseVowels", seed)
