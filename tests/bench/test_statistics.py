"""Intervals against scipy's bootstrap and closed forms; Holm against worked figures; ranks against what cannot be told apart."""

import math

import numpy as np
import pytest
from scipy import stats

from assay.bench.statistics import Comparison, holm, paired_interval, verdict


def test_one_seed_agrees_with_scipys_percentile_bootstrap():
    generator = np.random.default_rng(0)
    a, b = generator.normal(0.6, 1, 400), generator.normal(0.5, 1, 400)
    ours = paired_interval(a, b)
    peer = stats.bootstrap((a - b,), np.mean, n_resamples=9999, method="percentile", rng=1).confidence_interval
    assert ours.difference == pytest.approx((a - b).mean())
    width = peer.high - peer.low
    assert abs(ours.low - peer.low) < 0.06 * width
    assert abs(ours.high - peer.high) < 0.06 * width


def test_p_value_agrees_with_the_paired_t_test_on_many_examples():
    generator = np.random.default_rng(1)
    a = generator.normal(0, 1, 2000)
    b = a - 0.05 + generator.normal(0, 1, 2000)
    assert paired_interval(a, b).p_value == pytest.approx(stats.ttest_rel(a, b).pvalue, abs=0.02)


def test_small_p_values_agree_with_the_paired_t_test():
    """Far out no draw lies beyond zero: a count would say 1/2500 whatever the difference."""
    generator = np.random.default_rng(4)
    a = generator.normal(0, 1, 2000)
    b = a - 0.14 + generator.normal(0, 1, 2000)
    expected = stats.ttest_rel(a, b).pvalue
    assert 1e-12 < expected < 1e-6
    assert math.log10(paired_interval(a, b).p_value) == pytest.approx(math.log10(expected), rel=0.1)


def test_many_models_that_differ_plainly_have_ranks_of_their_own():
    """Of 25 models there are 300 pairs: with Holm's factor of 300 the least count of 4,999 draws would make all of them ties."""
    generator = np.random.default_rng(5)
    scores = {str(place): {0: generator.random(2000) < 0.98 - 0.04 * place} for place in range(25)}
    ranks = Comparison({name: {0: table[0].astype(float)} for name, table in scores.items()}).ranks("max")
    assert ranks["0"] == 1
    assert ranks["24"] >= 22


def test_seed_variance_has_the_right_size():
    # scores differ between seeds only: the interval's spread must be the standard error of the seeds' mean, unbiased for few seeds
    seeds = np.array([0.0, 1.0, 5.0])
    a = np.repeat(seeds[:, None], 50, 1)
    comparison = Comparison({"a": dict(enumerate(a)), "b": dict(enumerate(0 * a))}, resamples=20_000)
    draws = comparison._over_seeds(comparison._means["a"], seeds)
    assert draws.std() == pytest.approx(seeds.std(ddof=1) / math.sqrt(3), rel=0.02)
    assert draws.mean() == pytest.approx(seeds.mean(), abs=0.03)


def test_groups_are_resampled_whole():
    # 20 groups of 50 equal scores carry the information of 20 examples, not of 1000
    generator = np.random.default_rng(2)
    values = generator.normal(size=20)
    scores, groups = np.repeat(values, 50), np.repeat(np.arange(20), 50)
    apart = paired_interval(scores, 0 * scores)
    together = paired_interval(scores, 0 * scores, groups=groups)
    alone = paired_interval(values, 0 * values)
    assert together.high - together.low == pytest.approx(alone.high - alone.low, rel=0.05)
    assert together.high - together.low > 5 * (apart.high - apart.low)


def test_unequal_groups_weigh_by_their_examples():
    scores, groups = np.array([1.0, 1, 1, 0]), np.array([7, 7, 7, 3])
    assert paired_interval(scores, 0 * scores, groups=groups).difference == pytest.approx(0.75)


def test_interval_covers_the_truth_as_often_as_it_says():
    generator = np.random.default_rng(3)
    covered = 0
    for trial in range(200):
        a, b = generator.normal(0.3, 1, (3, 150)), generator.normal(0, 1, (3, 150))
        comparison = Comparison({"a": dict(enumerate(a)), "b": dict(enumerate(b))}, seed=trial, resamples=499)
        interval = comparison.paired("a", "b")
        covered += interval.low <= 0.3 <= interval.high
    assert covered >= 184  # 95 % of 200 is 190; 184 is two standard deviations below


def test_pairing_removes_what_both_share():
    generator = np.random.default_rng(4)
    hard = generator.normal(0, 10, (3, 300))
    result = paired_interval(hard + 0.1, hard)
    assert result.low == pytest.approx(0.1)
    assert result.high == pytest.approx(0.1)
    assert result.p_value < 0.001


def test_the_same_seed_gives_the_same_interval_and_swapping_mirrors_it():
    generator = np.random.default_rng(5)
    a, b = generator.normal(size=(3, 40)), generator.normal(size=(3, 40))
    assert paired_interval(a, b) == paired_interval(a, b)
    forward, backward = paired_interval(a, b), paired_interval(b, a)
    assert forward.low == pytest.approx(-backward.high)
    assert forward.p_value == pytest.approx(backward.p_value)


def test_holm_on_worked_figures():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_ties_look_like_ties_and_direction_matters():
    generator = np.random.default_rng(6)
    right = generator.random(500)
    good, equal, bad = (right < 0.9).astype(float), (generator.random(500) < 0.9).astype(float), (right < 0.5).astype(float)
    comparison = Comparison({"good": {0: good, 1: good}, "equal": {0: equal, 1: equal}, "bad": {0: bad, 1: bad}})
    assert comparison.ranks("max") == {"good": 1, "equal": 1, "bad": 3}
    assert comparison.ranks("min") == {"good": 2, "equal": 2, "bad": 1}


def test_models_with_a_missing_seed_are_compared_on_the_seeds_they_share():
    a = {0: np.array([1.0, 1, 1]), 1: np.array([2.0, 2, 2])}
    b = {1: np.array([1.5, 1.5, 1.5]), 2: np.array([9.0, 9, 9])}
    assert Comparison({"a": a, "b": b}).paired("a", "b").difference == pytest.approx(0.5)
    apart = Comparison({"a": {0: a[0]}, "b": {1: b[1]}}).paired("a", "b")
    assert apart.difference == pytest.approx(-0.5)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.zeros((2, 3)), np.zeros((2, 4)), r"\(2, 3\) and \(2, 4\)"),
        (np.array([0.0, np.nan]), np.zeros(2), "not finite"),
        (np.zeros((1, 0)), np.zeros((1, 0)), "no test examples"),
    ],
)
def test_unusable_scores_are_refused(a, b, message):
    with pytest.raises(ValueError, match=message):
        paired_interval(a, b)


def table(rate, seed=0, examples=600):
    return {s: (np.random.default_rng([seed, s]).random(examples) < rate).astype(float) for s in range(3)}


def test_verdict_names_the_network_that_wins_and_its_interval():
    comparison = Comparison({"net": table(0.97), "twin": table(0.97, 5), "svm": table(0.85, 1)})
    found = verdict(comparison, "accuracy", "max", baselines={"svm"})
    interval = comparison.paired("net" if found.best == "net" else "twin", "svm")
    assert found.kind == "network"
    assert found.interval == interval
    assert found.sentence.startswith(f"Use {found.best}: accuracy 0.9")
    assert f"points above the best baseline, svm (95 % interval {100 * interval.low:.1f} to {100 * interval.high:.1f})" in found.sentence
    assert "cannot tell it from" in found.sentence


def test_verdict_lets_the_baseline_stand():
    found = verdict(Comparison({"net": table(0.7), "svm": table(0.9, 1)}), "accuracy", "max", baselines={"svm"})
    assert found.kind == "baseline"
    assert found.best == "svm"
    assert found.interval.low > 0
    assert found.sentence.startswith("Use the baseline svm: accuracy 0.9")
    assert "points above the best network, net (95 % interval" in found.sentence


def test_verdict_says_when_the_data_cannot_tell():
    found = verdict(Comparison({"net": table(0.9), "svm": table(0.9, 1)}), "accuracy", "max", baselines={"svm"})
    assert found.kind == "undecided"
    assert found.interval.low <= 0 <= found.interval.high
    assert found.sentence.startswith("The data cannot tell net from the baseline svm")


def test_verdict_reads_a_smaller_error_as_better():
    generator = np.random.default_rng(8)
    errors = generator.exponential(1.0, 300)
    found = verdict(Comparison({"net": {0: errors}, "ridge": {0: errors + 0.5}}), "mse", "min", baselines={"ridge"})
    assert found.kind == "network"
    assert "0.5 below the best baseline, ridge (95 % interval 0.5 to 0.5)" in found.sentence


def test_verdict_without_a_peer_or_without_any_run():
    assert verdict(Comparison({"net": table(0.9)}), "accuracy", "max").kind == "alone"
    assert verdict(Comparison({}), "accuracy", "max").kind == "nothing"
    assert verdict(Comparison({"a": table(0.9), "b": table(0.5, 3)}), "accuracy", "max").kind == "network"


def test_an_accuracy_s_interval_stays_on_the_scale():
    from assay.bench.statistics import Comparison

    generator = np.random.default_rng(0)
    scores = {"a": {seed: (generator.random(40) < (0.7, 1.0, 1.0)[seed]).astype(float) for seed in range(3)}}
    low, high = Comparison(scores).interval("a")
    assert 0 <= low < high <= 1
