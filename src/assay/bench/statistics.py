"""What the test scores can tell: paired bootstrap intervals, Holm's correction, ranks in which ties look like ties.

A model's scores form a table (seeds, examples). Two models are compared on the same seeds and the same examples, and both are resampled:
examples (whole groups, where there are groups) with replacement, and seeds with replacement. Every comparison of one study shares its
resamples of the examples, so that all of them cost about as much as one.

Sources: B. Efron and R. Tibshirani, An Introduction to the Bootstrap, 1993 (percentile intervals); J. Rao and C. Wu, Resampling inference
with complex survey data, 1988 (few seeds: their deviations are stretched by √(n/(n−1))); S. Holm, A simple sequentially rejective multiple
test procedure, 1979.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

LEVEL = 0.05
RESAMPLES = 4999
COUNTABLE = 10
"""Draws beyond zero from which on their share is a p-value; fewer say little more than that it is small."""
_CHUNK_NUMBERS = 8_000_000

SeedScores = Mapping[int, np.ndarray]
"""A model's scores on the test examples, (examples,), by seed."""


class PairedInterval(NamedTuple):
    """The difference of two means, its 95 % interval, and the two-sided p-value of no difference."""

    difference: float
    low: float
    high: float
    p_value: float


class Comparison:
    """Models that were tested on the same examples, by name: each one's interval, every pair's, and the ranks.

    Args:
        scores: for each model, its scores by seed; the number of examples must agree.
        groups: (examples,), examples of one group are resampled together.
        seed: of the resampling; the same seed gives the same intervals.
        resamples: number of bootstrap resamples.

    Raises:
        ValueError: numbers of examples disagree, there are none, or a score is not finite.
    """

    def __init__(
        self, scores: Mapping[str, SeedScores], groups: np.ndarray | None = None, seed: int = 0, resamples: int = RESAMPLES
    ) -> None:
        self.scores = {name: {s: np.asarray(v, dtype=float) for s, v in sorted(table.items())} for name, table in scores.items()}
        _check(self.scores, groups)
        self.seed = seed
        self.resamples = resamples
        self._means = _resampled_means(self.scores, groups, seed, resamples)

    def mean(self, name: str) -> float:
        """Mean over seeds of the mean over examples."""
        return float(np.mean([values.mean() for values in self.scores[name].values()]))

    def interval(self, name: str) -> tuple[float, float]:
        """The model's own 95 % interval over examples and seeds, within the smallest and the largest score of any example."""
        values = self.scores[name]
        draws = self._over_seeds(self._means[name], np.array([v.mean() for v in values.values()]))
        every = [scores for table in self.scores.values() for scores in table.values()]
        ends = min(scores.min() for scores in every), max(scores.max() for scores in every)
        low, high = np.clip(np.quantile(draws, [LEVEL / 2, 1 - LEVEL / 2]), *ends)  # stretched deviations could leave the scale
        return float(low), float(high)

    def paired(self, first: str, second: str) -> PairedInterval:
        """First minus second, on the seeds that both finished (on the means over their own seeds where they share none)."""
        a, b = self.scores[first], self.scores[second]
        shared = [s for s in a if s in b]
        if not shared:
            draws = self._over_seeds(self._means[first], _seed_means(a)) - self._over_seeds(self._means[second], _seed_means(b), 1)
            return _summary(self.mean(first) - self.mean(second), draws)
        rows_a, rows_b = [list(a).index(s) for s in shared], [list(b).index(s) for s in shared]
        observed = _seed_means(a)[rows_a] - _seed_means(b)[rows_b]
        draws = self._over_seeds(self._means[first][:, rows_a] - self._means[second][:, rows_b], observed)
        return _summary(float(observed.mean()), draws)

    def ranks(self, direction: str) -> dict[str, int]:
        """``1 + number of models significantly better`` (two-sided, Holm over all pairs, level 0.05).

        Args:
            direction: ``max`` where a larger mean is better, ``min`` where a smaller one is.
        """
        pairs = list(itertools.combinations(self.scores, 2))
        intervals = [self.paired(*pair) for pair in pairs]
        adjusted = holm([interval.p_value for interval in intervals])
        ranks = dict.fromkeys(self.scores, 1)
        for (first, second), interval, p_value in zip(pairs, intervals, adjusted, strict=True):
            if p_value < LEVEL:
                first_wins = (interval.difference > 0) == (direction == "max")
                ranks[second if first_wins else first] += 1
        return ranks

    def _over_seeds(self, draws: np.ndarray, observed: np.ndarray, stream: int = 0) -> np.ndarray:
        """Resample the seeds (columns) of per-seed draws (resamples, seeds), stretching the deviations of few seeds."""
        count = draws.shape[1]
        if count == 1:
            return draws[:, 0]
        generator = np.random.default_rng([self.seed, 1 + stream, count])
        weights = generator.multinomial(count, np.full(count, 1 / count), size=self.resamples) / count
        stretched = draws + (math.sqrt(count / (count - 1)) - 1) * (observed - observed.mean())
        return (weights * stretched).sum(1)


def paired_interval(scores_a: np.ndarray, scores_b: np.ndarray, groups: np.ndarray | None = None, seed: int = 0) -> PairedInterval:
    """The difference of mean scores, a minus b, with its 95 % interval and p-value.

    Args:
        scores_a: (seeds, examples), or (examples,) for a single seed.
        scores_b: alike; row i of both was trained with the same seed, column j is the same example.
        groups: (examples,), examples of one group are resampled together.
        seed: of the resampling.

    Raises:
        ValueError: the shapes differ or a score is not finite.
    """
    a, b = np.atleast_2d(np.asarray(scores_a, dtype=float)), np.atleast_2d(np.asarray(scores_b, dtype=float))
    if a.shape != b.shape:
        raise ValueError(f"paired scores need one shape (seeds, examples), got {a.shape} and {b.shape}")
    return Comparison({"a": dict(enumerate(a)), "b": dict(enumerate(b))}, groups, seed).paired("a", "b")


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given: the k-th smallest of m times ``m − k + 1``, made monotone, at most 1."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, running = [0.0] * len(p_values), 0.0
    for position, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - position) * p_values[index]))
        adjusted[index] = running
    return adjusted


# ------------------------------------------------------------------------------------------------ the first sentence


@dataclass(frozen=True)
class Verdict:
    """What to use, in one sentence, and the facts behind it.

    Args:
        sentence: the report's first sentence.
        kind: ``network``, ``baseline``, ``undecided``, ``alone`` (nothing to compare with) or ``nothing`` (no run finished).
        best: the model that the sentence is about.
        other: the model it was compared with.
        interval: best minus other, on the metric's own scale.
    """

    sentence: str
    kind: Literal["network", "baseline", "undecided", "alone", "nothing"]
    best: str | None = None
    other: str | None = None
    interval: PairedInterval | None = None


def verdict(
    comparison: Comparison, metric: str, direction: str, baselines: Collection[str] = (), labels: Mapping[str, str] | None = None
) -> Verdict:
    """Say which model to use, or that the data cannot tell, in agreement with the paired 95 % interval.

    The best network is held against the best classical baseline; without a baseline (or without a network) the best is held against the
    second.

    Args:
        comparison: the finished models.
        metric: name of the primary metric; a metric in 0…1 whose larger values are better is spoken of in percentage points.
        direction: ``max`` or ``min``.
        baselines: which of the models are classical baselines.
        labels: what to call a model; by default its key.
    """
    call = {name: (labels or {}).get(name, name) for name in comparison.scores}
    speak = _Speaker(comparison, metric, direction, call)
    ordered = sorted(comparison.scores, key=comparison.mean, reverse=direction == "max")
    if not ordered:
        return Verdict("No run finished, so there is nothing to compare.", "nothing")
    networks = [name for name in ordered if name not in baselines]
    classical = [name for name in ordered if name in baselines]
    if networks and classical:
        return _network_or_baseline(comparison, speak, networks, classical[0])
    if len(ordered) == 1:
        low, high = comparison.interval(ordered[0])
        sentence = f"{speak.value(ordered[0])} (95 % interval {speak.number(low)} to {speak.number(high)}), with nothing beside it."
        return Verdict(sentence, "alone", ordered[0])
    best, second = ordered[:2]
    interval = comparison.paired(best, second)
    if _excludes_zero(interval):
        kind = "baseline" if best in baselines else "network"
        sentence = f"Use {speak.value(best)}, {speak.ahead(interval)} the next, {call[second]} {speak.range(interval)}."
        return Verdict(sentence, kind, best, second, interval)
    return Verdict(speak.undecided(best, second, interval), "undecided", best, second, interval)


def change(comparison: Comparison, metric: str, direction: str, changed: str, plain: str, names: tuple[str, str]) -> str:
    """One clause on what a change did: better or worse with its interval, or that the data cannot tell.

    Args:
        comparison: holds the scores of both.
        metric: the measure's name.
        direction: ``max`` or ``min``.
        changed: the key of the changed model.
        plain: the key of the model as it was.
        names: what to call the two.
    """
    speak = _Speaker(comparison, metric, direction, {changed: names[0], plain: names[1]})
    interval = comparison.paired(changed, plain)
    if not _excludes_zero(interval):
        return speak.undecided(changed, plain, interval)
    if speak.better(interval.difference):
        return f"{speak.value(changed)}, {speak.ahead(interval)} {names[1]} {speak.range(interval)}."
    mirrored = PairedInterval(-interval.difference, -interval.high, -interval.low, interval.p_value)
    return f"{speak.value(plain)}, {speak.ahead(mirrored)} {names[0]} {speak.range(mirrored)}."


def _network_or_baseline(comparison: Comparison, speak: _Speaker, networks: list[str], baseline: str) -> Verdict:
    network = networks[0]
    interval = comparison.paired(network, baseline)
    if not _excludes_zero(interval):
        return Verdict(speak.undecided(network, baseline, interval, simpler=baseline), "undecided", network, baseline, interval)
    if speak.better(interval.difference):
        sentence = f"Use {speak.value(network)}, {speak.ahead(interval)} the best baseline, {speak.call[baseline]} {speak.range(interval)}"
        peers = [speak.call[name] for name in networks[1:] if not _excludes_zero(comparison.paired(network, name))]
        tail = f"; the data cannot tell it from {_listed(peers)}." if peers else "."
        return Verdict(sentence + tail, "network", network, baseline, interval)
    mirrored = PairedInterval(-interval.difference, -interval.high, -interval.low, interval.p_value)
    distance = f"{speak.ahead(mirrored)} the best network, {speak.call[network]} {speak.range(mirrored)}"
    return Verdict(f"Use the baseline {speak.value(baseline)}, {distance}.", "baseline", baseline, network, mirrored)


class _Speaker:
    """Puts values and differences into words: points for shares, three digits for everything else."""

    def __init__(self, comparison: Comparison, metric: str, direction: str, call: Mapping[str, str]) -> None:
        self.comparison, self.metric, self.direction, self.call = comparison, metric.replace("_", " "), direction, call
        means = [comparison.mean(name) for name in comparison.scores]
        self.points = direction == "max" and all(0 <= mean <= 1 for mean in means)

    def better(self, difference: float) -> bool:
        return difference > 0 if self.direction == "max" else difference < 0

    def number(self, value: float) -> str:
        return f"{value:.3f}" if self.points else f"{value:.4g}"

    def value(self, name: str) -> str:
        return f"{self.call[name]}: {self.metric} {self.number(self.comparison.mean(name))}"

    def ahead(self, interval: PairedInterval) -> str:
        side = "above" if self.direction == "max" else "below"
        return f"{self._size(abs(interval.difference))}{' points' if self.points else ''} {side}"

    def range(self, interval: PairedInterval) -> str:
        ends = (interval.low, interval.high) if self.direction == "max" else (-interval.high, -interval.low)
        return f"(95 % interval {self._size(ends[0])} to {self._size(ends[1])})"

    def undecided(self, first: str, second: str, interval: PairedInterval, simpler: str | None = None) -> str:
        unit = " points" if self.points else ""
        names = f"{self.call[first]} from {'the baseline ' if simpler else ''}{self.call[second]}"
        values = f"{self.metric} {self.number(self.comparison.mean(first))} and {self.number(self.comparison.mean(second))}"
        ends = f"95 % interval of the difference {self._size(interval.low)} to {self._size(interval.high)}{unit}"
        advice = "; the baseline is the simpler choice." if simpler else "."
        return f"The data cannot tell {names}: {values}, {ends}{advice}"

    def _size(self, difference: float) -> str:
        text = f"{100 * difference:.1f}" if self.points else f"{difference:.3g}"
        if self.points and float(text) == 0 and difference:
            text = f"{100 * difference:.2g}"  # never let a difference that excludes zero read as zero
        return text.replace("-", "−")


def _excludes_zero(interval: PairedInterval) -> bool:
    return interval.low > 0 or interval.high < 0


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


# ------------------------------------------------------------------------------------------------ inside


def _seed_means(table: SeedScores) -> np.ndarray:
    return np.array([values.mean() for values in table.values()])


def _summary(difference: float, draws: np.ndarray) -> PairedInterval:
    low, high = np.quantile(draws, [LEVEL / 2, 1 - LEVEL / 2])
    return PairedInterval(float(difference), float(low), float(high), _p_value(difference, draws))


def _p_value(difference: float, draws: np.ndarray) -> float:
    """Twice the share of draws beyond zero; where too few are there to count, the normal tail of their spread.

    Counting alone cannot say less than 2 / (draws + 1), and Holm's factor over hundreds of pairs would then leave nothing significant.
    """
    beyond = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    counted, spread = min(1.0, 2 * (beyond + 1) / (len(draws) + 1)), float(draws.std())
    if beyond >= COUNTABLE or spread == 0:
        return counted
    return min(counted, math.erfc(abs(difference) / spread / math.sqrt(2)))


def _check(scores: Mapping[str, SeedScores], groups: np.ndarray | None) -> None:
    lengths = {len(values) for table in scores.values() for values in table.values()}
    if groups is not None:
        lengths.add(len(groups))
    if len(lengths) > 1:
        raise ValueError(f"models were tested on different numbers of examples: {sorted(lengths)}")
    if 0 in lengths:
        raise ValueError("there are no test examples to compare on")
    for name, table in scores.items():
        if not table:
            raise ValueError(f"{name} has no finished seed")
        if not all(np.isfinite(values).all() for values in table.values()):
            raise ValueError(f"{name} has scores that are not finite")


def _resampled_means(scores: Mapping[str, SeedScores], groups: np.ndarray | None, seed: int, resamples: int) -> dict[str, np.ndarray]:
    """Every seed's mean score under the same resamples of the groups: (resamples, seeds) a model."""
    if not scores:
        return {}
    columns = np.stack([values for table in scores.values() for values in table.values()], 1)
    if groups is None:
        sums, sizes = columns, np.ones(len(columns))
    else:
        _, index = np.unique(np.asarray(groups), return_inverse=True)
        sizes = np.bincount(index).astype(float)
        sums = np.stack([np.bincount(index, weights=column) for column in columns.T], 1)
    generator = np.random.default_rng([seed, 0])
    count = len(sizes)
    parts = []
    step = max(1, _CHUNK_NUMBERS // count)
    for start in range(0, resamples, step):
        drawn = generator.integers(count, size=(min(step, resamples - start), count))
        weights = np.stack([np.bincount(row, minlength=count) for row in drawn]).astype(float)
        parts.append(weights @ sums / (weights @ sizes)[:, None])
    means = np.concatenate(parts)
    ends = np.cumsum([len(table) for table in scores.values()])
    return dict(zip(scores, np.split(means, ends[:-1], axis=1), strict=True))
