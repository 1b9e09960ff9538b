"""Made signals whose sampling rate is known: words of gliding tones, the frequency of a noisy tone, and a signal to be given back later."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from assay.contracts import Class, Series, Signature, Values
from assay.tasks.base import ArrayTask

WORDS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0), (0, 1, 0), (1, 0, 1), (1, 2, 1), (2, 1, 2))
"""Levels of pitch at the beginning, the middle and the end: most words differ from others in the order alone."""
LEVELS = (0.01, 0.02, 0.04)
"""Periods a sample."""


def tone_words(
    length: int = 2_000, keep_every: int = 1, noise: float = 0.5, train: int = 1_500, test: int = 300, seed: int = 0
) -> ArrayTask:
    """Ten words of tones that glide between three pitches, of any phase, onset, duration and loudness, in noise, to be told apart.

    Args:
        length: samples before any are left out.
        keep_every: take one sample in so many, without a filter; the words are the same as without.
        noise: deviation of the white noise; tones have an amplitude between 0.5 and 1.
        train: training examples.
        test: test examples, and as many for validation.
        seed: of all examples.

    Raises:
        ValueError: fewer than 100 samples, a rate at which the highest tone has fewer than two samples a period, or another number out of
            its range.
    """
    _at_least(100, length=length)
    _at_least(1, keep_every=keep_every, train=train, test=test)
    _at_least(0, noise=noise)
    if 2 * LEVELS[-1] * keep_every > 1:
        raise ValueError(f"keep_every must leave two samples a period of the highest tone, {1 / LEVELS[-1]:.0f} samples, got {keep_every}")
    generator = torch.Generator().manual_seed(seed)

    def examples(count: int) -> dict[str, Tensor]:
        words = torch.randint(len(WORDS), (count,), generator=generator)
        onset, end = (length * (low + 0.25 * torch.rand(count, 1, generator=generator)) for low in (0.0, 0.75))
        spread = 1 + 0.1 * (2 * torch.rand(count, 1, generator=generator) - 1)  # a speaker's own pitch
        pitch = spread * torch.tensor(LEVELS)[torch.tensor(WORDS)[words]]
        place = ((torch.arange(length) - onset) / (end - onset)).clamp(0, 1)
        first, middle, last = pitch.log().unsqueeze(-1).unbind(1)
        glide = torch.where(place < 0.5, first + 2 * place * (middle - first), middle + (2 * place - 1) * (last - middle))
        phase = 2 * math.pi * (glide.exp().cumsum(1) + torch.rand(count, 1, generator=generator))
        loud = (0.5 + 0.5 * torch.rand(count, 1, generator=generator)) * ((place > 0) & (place < 1))
        signal = loud * phase.sin() + noise * torch.randn(count, length, generator=generator)
        return {"series": signal[:, ::keep_every, None].contiguous(), "target": words}

    splits: Any = {split: examples(count) for split, count in (("train", train), ("validation", test), ("test", test))}
    steps = splits["train"]["series"].shape[1]
    return ArrayTask(
        "tone-words",
        Signature(Series(1, steps), Class(len(WORDS))),
        splits,
        description=f"{train + 2 * test:,} words of tones, {steps:,} samples, {len(WORDS)} classes",
        encoding={"labels": ["–".join(("low", "middle", "high")[level] for level in word) for word in WORDS]},
    )


def tone_frequency(length: int = 1_000, noise: float = 1.0, train: int = 1_500, test: int = 300, seed: int = 0) -> ArrayTask:
    """A tone of unit amplitude and any phase in noise: the logarithm of its frequency, standardised.

    Frequencies are log-uniform between 0.01 and 0.1 periods a sample. The mean as an answer has an error of 1.

    Args:
        length: samples.
        noise: deviation of the white noise.
        train: training examples.
        test: test examples, and as many for validation.
        seed: of all examples.

    Raises:
        ValueError: a number out of its range.
    """
    _at_least(1, length=length, train=train, test=test)
    _at_least(0, noise=noise)
    generator = torch.Generator().manual_seed(seed)

    def examples(count: int) -> dict[str, Tensor]:
        place, phase = (torch.rand(count, 1, generator=generator) for _ in range(2))
        angle = 2 * math.pi * (0.01 * 10**place * torch.arange(length) + phase)
        signal = angle.sin() + noise * torch.randn(count, length, generator=generator)
        return {"series": signal[..., None], "target": (place - 0.5) * math.sqrt(12)}

    splits: Any = {split: examples(count) for split, count in (("train", train), ("validation", test), ("test", test))}
    return ArrayTask(
        "tone-frequency",
        Signature(Series(1, length), Values(1)),
        splits,
        description=f"{train + 2 * test:,} noisy tones, {length:,} samples, their frequency",
        encoding={"target": {"kind": "values", "names": ["log frequency"]}},
    )


def delayed_copy(delay: int = 50, length: int = 200, train: int = 1_000, test: int = 200, seed: int = 0) -> ArrayTask:
    """White noise, to be given back ``delay`` samples later, as much of it as a state holds.

    Zero as an answer has an error of 1.

    Args:
        delay: samples between input and output.
        length: samples; the first ``delay`` answers do not count.
        train: training examples.
        test: test examples, and as many for validation.
        seed: of all examples.

    Raises:
        ValueError: a delay that is negative or not below the length, or another number below 1.
    """
    _at_least(1, train=train, test=test)
    if not 0 <= delay < length:
        raise ValueError(f"delay must lie between 0 and length − 1 = {length - 1}, got {delay}")
    generator = torch.Generator().manual_seed(seed)
    asked = torch.arange(length) >= delay

    def examples(count: int) -> dict[str, Tensor]:
        series = torch.randn(count, length, 1, generator=generator)
        target = torch.where(asked[:, None], series.roll(delay, 1), 0.0)
        return {"series": series, "target": target, "target_mask": asked.expand(count, length)}

    splits: Any = {split: examples(count) for split, count in (("train", train), ("validation", test), ("test", test))}
    return ArrayTask(
        "delayed-copy",
        Signature(Series(1, length), Values(1), per_position=True),
        splits,
        description=f"{train + 2 * test:,} series of {length:,} samples, to be given back {delay} samples later",
        encoding={"target": {"kind": "values", "names": ["delayed"]}},
    )


def _at_least(least: float, **given: float) -> None:
    for name, value in given.items():
        if not value >= least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
