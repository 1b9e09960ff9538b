"""The in-context n-gram model against the recursion with dictionaries, and on languages it can and cannot know."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from assay.contracts import Class, NextTokens, Signature, Tokens
from assay.models.estimators import backoff
from assay.models.estimators.backoff import InContextNGram, backoff_probabilities
from assay.tasks.base import ArrayTask
from assay.tasks.synthetic.in_context_languages import REDUCED, in_context_languages
from assay.testing import check_model


def recursion(prefix, order, vocabulary, separator):
    """The definition, on one prefix of a row: probabilities, and the order at which each symbol was resolved."""
    strings = [[]]
    for token in prefix:
        if token == separator:
            strings.append([])
        else:
            strings[-1].append(token)

    def at(n):
        if n == 0:
            return {v: 1 / len(vocabulary) for v in vocabulary}, dict.fromkeys(vocabulary, 0)
        grams, places = Counter(), Counter()
        for index, string in enumerate(strings):
            padded = [None] * (n - 1) + string
            for i in range(n - 1, len(padded)):
                grams[tuple(padded[i - n + 1 : i + 1])] += 1
            for i in range(len(string) + 1):  # every place, the end of the string and the present one included
                places[tuple(padded[i : i + n - 1])] += 1
            if n == 1 and index < len(strings) - 1:
                places[()] -= 1  # the empty context: one place a symbol, and the present one
        context = tuple(([None] * (n - 1) + strings[-1])[len(strings[-1]) :])
        lower, levels = at(n - 1)
        share = {v: grams[(*context, v)] / places[context] for v in vocabulary if grams[(*context, v)]}
        left = 1 - sum(share.values())
        rest = sum(lower[v] for v in vocabulary if v not in share)
        scale = 1.0 if rest else 1 / sum(share.values())
        found = {v: share[v] * scale if v in share else left * lower[v] / rest for v in vocabulary}
        return found, {v: n if v in share else levels[v] for v in vocabulary}

    return at(order)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("separator", [None, 4])
def test_probabilities_are_the_recursions(order, separator):
    generator = torch.Generator().manual_seed(order)
    tokens = torch.randint(5 if separator else 4, (2, 30), generator=generator)
    candidates = torch.tensor([True] * 4 + [False] * 2)
    found = backoff_probabilities(tokens, order, candidates, separator)
    even = backoff_probabilities(tokens, order, candidates, separator, uniform=True)
    for row in range(2):
        for t in range(30):
            expected, levels = recursion(tokens[row, : t + 1].tolist(), order, range(4), separator)
            assert found[row, t].tolist() == pytest.approx([*expected.values(), 0, 0], abs=1e-12)
            masses = [sum(expected[w] for w in range(4) if levels[w] == levels[v]) for v in range(4)]
            members = [sum(levels[w] == levels[v] for w in range(4)) for v in range(4)]
            assert even[row, t].tolist() == pytest.approx([*(m / n for m, n in zip(masses, members, strict=True)), 0, 0], abs=1e-12)


def test_they_sum_to_one_and_know_nothing_at_first():
    tokens = torch.randint(9, (4, 80), generator=torch.Generator().manual_seed(0))
    candidates = torch.arange(10) < 8
    for uniform in (False, True):
        found = backoff_probabilities(tokens, 3, candidates, 8, uniform)
        torch.testing.assert_close(found.sum(2), torch.ones(4, 80, dtype=torch.float64))
    start = backoff_probabilities(torch.full((1, 1), 8), 3, candidates, 8)
    torch.testing.assert_close(start[0, 0], candidates / 8.0, check_dtype=False)


def test_contexts_stay_exact_when_their_numbers_would_overflow(monkeypatch):
    tokens = torch.randint(6, (3, 60), generator=torch.Generator().manual_seed(0))
    candidates = torch.ones(6, dtype=torch.bool)
    plain = backoff_probabilities(tokens, 4, candidates)
    monkeypatch.setattr(backoff, "LARGEST", 40)
    assert torch.equal(backoff_probabilities(tokens, 4, candidates), plain)


def test_on_in_context_languages_more_context_and_higher_orders_help():
    task = in_context_languages(**{**REDUCED, "train": 20}, validation=60, test=60)
    metrics = {order: task.evaluate(InContextNGram(order, False).fit(task), "test").metrics for order in (1, 2, 3)}
    assert metrics[1]["accuracy"] < metrics[2]["accuracy"] < metrics[3]["accuracy"]
    assert metrics[1]["total_variation"] > metrics[2]["total_variation"] > metrics[3]["total_variation"]
    chosen = InContextNGram().fit(task)
    assert chosen.fitted["order"] in (3, 4)
    assert chosen.fitted["separator"] == 8
    assert chosen.fitted["candidates"].tolist() == [True] * 8 + [False] * 2  # what is never scored is never predicted


def test_the_contract_of_estimators():
    check_model(InContextNGram)


def test_masked_positions_are_not_there():
    tokens = torch.randint(5, (3, 24), generator=torch.Generator().manual_seed(0))
    mask = torch.rand(3, 24, generator=torch.Generator().manual_seed(1)) < 0.7
    batch = {"tokens": tokens, "target": tokens, "mask": mask}
    task = ArrayTask("t", Signature(Tokens(5, 24), NextTokens(5)), dict.fromkeys(("train", "validation", "test"), batch))
    estimator = InContextNGram(2, False).fit(task)
    found = estimator(batch).prediction
    for row in range(3):
        alone = tokens[row : row + 1, mask[row]]
        expected = estimator({"tokens": alone, "target": alone}).prediction[0]
        torch.testing.assert_close(found[row, mask[row]], expected)


def test_what_it_refuses():
    assert "next token" in InContextNGram().accepts(Signature(Tokens(5, 5), Class(2)))
    with pytest.raises(ValueError, match="order must be at least 1, got 0"):
        backoff_probabilities(torch.zeros(1, 2).long(), 0, torch.ones(2, dtype=torch.bool))
    with pytest.raises(ValueError, match="at least one token"):
        backoff_probabilities(torch.zeros(1, 2).long(), 1, torch.zeros(2, dtype=torch.bool))


def test_predictions_are_finite_logarithms():
    task = in_context_languages(**{**REDUCED, "train": 20}, validation=20, test=20)
    prediction = InContextNGram().fit(task)(next(iter(task.batches("test", 5)))).prediction
    assert bool(torch.isfinite(prediction).all())
    assert np.allclose(prediction.exp().sum(2).numpy(), 1, atol=1e-5)
