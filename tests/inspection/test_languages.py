"""The in-context algorithm named rightly for models that are one, and hidden states that hold what they are made to hold."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from assay.contracts import Class, NextTokens, Output, Signature, Tokens
from assay.errors import UserError
from assay.inspection.hidden_states import (
    CountReader,
    LanguageStates,
    StateReader,
    count_examples,
    hidden_states,
    read,
    state_examples,
)
from assay.inspection.languages import InContextAlgorithm, distances
from assay.models import build
from assay.models.estimators.backoff import backoff_probabilities
from assay.tasks.base import ArrayTask
from assay.tasks.synthetic.in_context_languages import REDUCED, in_context_languages

CANDIDATES = torch.arange(10) < 8


@pytest.fixture(scope="module")
def task():
    return in_context_languages(**{**REDUCED, "train": 20}, validation=96, test=64)


class Module(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, batch):
        return Output(self.function(batch))


@pytest.mark.parametrize("order", [1, 2, 3])
def test_an_ngram_model_is_named(task, order):
    model = Module(lambda batch: backoff_probabilities(batch["tokens"], order, CANDIDATES, 8).clamp(min=1e-30).log())
    finding = InContextAlgorithm()(model, task)
    assert f"nearest to the {order}-gram model" in finding.sentence
    assert "further from the automaton" in finding.sentence
    assert finding.table[0][f"{order}-gram"] < 1e-6
    assert [row["strings"] for row in finding.table] == ["all", "from 1", "from 2", "from 3", "from 5", "from 8"]
    json.dumps([finding.table, finding.figure])


def test_the_oracle_is_nearer_to_the_automaton_than_to_any_ngram(task):
    finding = InContextAlgorithm()(Module(lambda batch: task.truth(batch).clamp(min=1e-30).log()), task)
    assert "nearer to the true automaton" in finding.sentence
    assert finding.table[-1]["3-gram"] < finding.table[1]["3-gram"]  # n-gram models approach the truth with more context


def test_uniform_over_what_was_seen_is_told_from_uniform(task):
    def seen(batch):
        counts = nn.functional.one_hot(batch["tokens"], 10).cumsum(1) * CANDIDATES
        return (counts > 0).float().clamp(min=1e-30).log()

    found, string = distances(Module(seen), task.batches("test", 16), task)
    assert float(found["uniform"].max()) < 1e-6
    assert int(string.min()) == 1
    assert int(string.max()) == 10


def test_a_task_without_automata_is_compared_with_ngrams_alone():
    text = torch.randint(5, (40, 31), generator=torch.Generator().manual_seed(0))
    splits = {split: {"tokens": text[:, :-1], "target": text[:, 1:]} for split in ("train", "validation", "test")}
    finding = InContextAlgorithm()(
        Module(lambda batch: torch.zeros(*batch["tokens"].shape, 5)), ArrayTask("text", Signature(Tokens(5, 30), NextTokens(5)), splits)
    )
    assert "automaton" not in finding.table[0]
    other = ArrayTask("classes", Signature(Tokens(9, 5), Class(2)), {split: {"target": torch.zeros(2)} for split in splits})
    with pytest.raises(UserError, match="something else"):
        InContextAlgorithm()(Module(lambda batch: batch), other)


class Planted(nn.Module):
    """A stack of one block that gives the vectors it was told."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.blocks = nn.ModuleList([nn.Identity()])

    def forward(self, batch):
        return Output(self.blocks[0](self.function(batch)))


def state_vectors(task, batch):
    """The automaton and its state, as a random vector each pair: equal states have equal vectors."""
    codes = batch["automaton"][:, None] * 50 + batch["state"] + 1
    return torch.randn(10_000, 16, generator=torch.Generator().manual_seed(0))[codes]


def test_states_that_are_there_are_read_and_others_are_not(task):
    train, test = list(task.batches("validation", 32)), list(task.batches("test", 32))
    for function, low, high in (
        (lambda batch: state_vectors(task, batch), 0.85, 1.0),
        (lambda batch: torch.ones(*batch["tokens"].shape, 16), 0.4, 0.6),
    ):
        model = Planted(function)
        examples = [state_examples(model, batches, task, seed=seed) for seed, batches in enumerate((train, test))]
        reading = read(lambda: StateReader(16), *examples, binary=True, steps=250)
        assert low <= reading.score <= high
        assert 0.35 < reading.shuffled < 0.65


def test_counts_that_are_there_are_read(task):
    def shares(batch):  # what follows the present symbol, and nothing else
        return torch.cat(
            [backoff_probabilities(batch["tokens"], 2, CANDIDATES).float()[..., :8], torch.zeros(*batch["tokens"].shape, 8)], 2
        )

    train, test = list(task.batches("validation", 32)), list(task.batches("test", 32))
    model = Planted(shares)
    examples = [count_examples(model, batches, task, 2, start=10, seed=seed) for seed, batches in enumerate((train, test))]
    reading = read(lambda: CountReader(16, 2, 8), *examples, binary=False, steps=400)
    assert reading.score > 0.6
    assert reading.shuffled < 0.1


def test_answers_of_count_examples_are_counts(task):
    batches = list(task.batches("test", 8))[:1]
    tokens = batches[0]["tokens"]
    model = Planted(
        lambda batch: torch.stack(
            [torch.arange(8)[:, None].expand_as(batch["tokens"]), torch.arange(tokens.shape[1]).expand_as(batch["tokens"])], 2
        ).float()
    )
    for order in (1, 2, 3):
        for binary in (False, True):
            (place, grams), answers = count_examples(model, batches, task, order, binary, start=5)
            for (row, t), gram, answer in zip(place.long().tolist(), grams.tolist(), answers.tolist(), strict=True):
                text = tokens[row, : t + 1].tolist()
                assert gram[:-1] == text[len(text) - order + 1 :]
                after = [text[i + order - 1] for i in range(len(text) - order + 1) if text[i : i + order - 1] == gram[:-1]]
                after = [token for token in after if token < 8]
                share = after.count(gram[-1]) / len(after)
                assert answer == pytest.approx(float(share > 0) if binary else share, abs=1e-6)


def test_the_probe_on_a_network_and_what_it_refuses(task):
    torch.manual_seed(0)
    model = build("lstm", task.signature, 6_000)
    finding = LanguageStates(rows=32, steps=5)(model, task)
    assert [row["read"] for row in finding.table][-1] == "same state"
    assert len(finding.table) == 6
    json.dumps([finding.table, finding.figure])
    batch = next(iter(task.batches("test", 2)))
    assert hidden_states(model, batch, 0).shape[:2] == batch["tokens"].shape
    with pytest.raises(UserError, match="no block 7"):
        hidden_states(model, batch, 7)
    with pytest.raises(ValueError, match="order must be at least 1, got 0"):
        count_examples(model, [batch], task, 0)
    with pytest.raises(UserError, match="true automaton"):
        LanguageStates()(model, ArrayTask("other", task.signature, task.splits))
