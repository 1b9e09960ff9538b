"""Recall slices against a double loop, shares that add up, and the probe on models that recall and that do not."""

from __future__ import annotations

import json
import math
from collections import Counter

import pytest
import torch
import torch.nn.functional as F

from assay.contracts import Class, NextTokens, Output, Signature, Tokens
from assay.errors import UserError
from assay.inspection.recall import Recall, TokenLosses, bigram_counts, binned, first_mentions, recall_share, recall_slices, token_losses
from assay.models import build
from assay.tasks.base import ArrayTask


def made(rows=6, length=50, vocabulary=9, seed=0):
    text = torch.randint(vocabulary, (rows, length + 1), generator=torch.Generator().manual_seed(seed))
    return {"tokens": text[:, :-1], "target": text[:, 1:]}


def task_of(train, test, vocabulary=9):
    signature = Signature(Tokens(vocabulary, test["tokens"].shape[1]), NextTokens(vocabulary))
    return ArrayTask("text", signature, {"train": train, "validation": test, "test": test})


def test_counts_are_those_of_a_dictionary():
    batches = [made(seed=0), made(seed=1) | {"mask": torch.rand(6, 50) < 0.5}]
    expected = Counter()
    for batch in batches:
        real = batch.get("mask", torch.ones(6, 50, dtype=torch.bool))
        expected.update(zip(batch["tokens"][real].tolist(), batch["target"][real].tolist(), strict=True))
    counts = bigram_counts(batches, 9)
    for first in range(9):
        for second in range(9):
            assert int(counts.of(torch.tensor(first), torch.tensor(second))) == expected[first, second]
    assert int(bigram_counts([], 9).of(torch.tensor(1), torch.tensor(2))) == 0


def test_repeats_are_those_of_a_double_loop():
    batch = made()
    found = first_mentions(batch["tokens"], batch["target"], 9)
    for row in range(6):
        for t in range(50):
            pair = (batch["tokens"][row, t], batch["target"][row, t])
            earliest = next(s for s in range(t + 1) if (batch["tokens"][row, s], batch["target"][row, s]) == pair)
            assert found[row, t] == earliest


def test_slices_divide_the_loss():
    test, counts = made(seed=2), bigram_counts([made(seed=0), made(seed=1)], 9)
    logits = torch.randn(6, 50, 9, generator=torch.Generator().manual_seed(3))
    losses = token_losses(lambda batch: Output(logits), [test], counts)
    expected = F.cross_entropy(logits.flatten(0, 1), test["target"].flatten(), reduction="none")
    torch.testing.assert_close(losses.loss, expected)
    for threshold in (0, 5, 10**6):
        slices = recall_slices(losses, threshold)
        recalled, other = slices["recalled"], slices["other"]
        assert recalled.count + other.count == slices["all"].count == 300
        total = sum(part.loss * part.count for part in (recalled, other) if part.count)
        assert total == pytest.approx(float(expected.sum()), rel=1e-6)
        assert recalled.count == int((losses.repeated & (losses.frequency <= threshold)).sum())
    bins = binned(losses, 10**6)
    recalled = recall_slices(losses, 10**6)["recalled"].count
    for kind in ("in training", "back"):
        assert sum(part.count for name, part in bins.items() if name.endswith(kind)) == recalled > 0


def test_an_empty_slice_has_no_loss():
    batch = {"tokens": torch.arange(8)[None], "target": torch.arange(1, 9)[None]}
    losses = token_losses(lambda _: Output(torch.zeros(1, 8, 9)), [batch], bigram_counts([], 9))
    recalled = recall_slices(losses)["recalled"]
    assert (recalled.count, recalled.loss, recalled.perplexity) == (0, None, None)
    assert recall_slices(losses)["new"].perplexity == pytest.approx(9)
    assert binned(losses) == {}
    with pytest.raises(ValueError, match="at least one batch"):
        token_losses(lambda _: Output(torch.zeros(1, 8, 9)), [], bigram_counts([], 9))


def test_the_share_of_a_gap():
    repeated = torch.tensor([True, True, False, False])
    reference = TokenLosses(torch.ones(4), repeated, repeated.long(), torch.zeros(4, dtype=torch.long))
    worse = reference._replace(loss=torch.tensor([2.0, 2.0, 2.0, 1.0]))
    assert recall_share(worse, reference) == pytest.approx(2 / 3)
    assert recall_share(reference._replace(loss=torch.tensor([3.0, 1.0, 0.5, 1.0])), reference) == 1
    assert recall_share(reference._replace(loss=torch.tensor([0.5, 1.0, 3.0, 1.0])), reference) == 0
    assert recall_share(reference, worse) is None
    with pytest.raises(ValueError, match="same tokens"):
        recall_share(TokenLosses(*(part[:2] for part in worse)), reference)


def repeating(batch):
    """Continues a bigram that the row has had; knows nothing else."""
    logits = torch.zeros(*batch["tokens"].shape, 400)
    for row in range(len(logits)):
        seen = {}
        tokens = batch["tokens"][row].tolist()
        for t, token in enumerate(tokens):
            if t:
                seen[tokens[t - 1]] = token
            if token in seen:
                logits[row, t, seen[token]] = 12
    return Output(logits)


class Module(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, batch):
        return self.function(batch)


def repeats(seed, rows=40):
    half = torch.stack([torch.randperm(400, generator=torch.Generator().manual_seed(seed + row))[:20] for row in range(rows)])
    text = torch.cat([half, half], 1)
    return {"tokens": text[:, :-1], "target": text[:, 1:]}


def test_the_probe_tells_who_recalls():
    task = task_of(repeats(0), repeats(1000), 400)
    recalling = Recall()(Module(repeating), task)
    assert "recalls:" in recalling.sentence
    forgetful = Recall()(Module(lambda batch: Output(torch.zeros(*batch["tokens"].shape, 400))), task)
    assert "does not recall" in forgetful.sentence
    rows = {row["tokens"]: row for row in recalling.table}
    assert rows["recalled"]["count"] == 40 * 19
    assert rows["new"]["loss"] > math.log(100) > rows["recalled"]["loss"]
    json.dumps([recalling.table, recalling.figure])


def test_the_probe_shows_heads_of_attention_and_refuses_other_tasks():
    torch.manual_seed(0)
    task = task_of(repeats(0), repeats(1000), 400)
    finding = Recall(rows=16)(build("attention", task.signature, 40_000), task)
    assert "head" in finding.sentence
    assert sum("1-gram" in row for row in finding.table) == 8
    assert finding.figure is not None
    other = ArrayTask("classes", Signature(Tokens(9, 5), Class(2)), {split: {"target": torch.zeros(2)} for split in task.splits})
    with pytest.raises(UserError, match="next tokens"):
        Recall()(Module(repeating), other)
