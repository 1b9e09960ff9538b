"""The in-context language task: labels, truths and measures against automata walked by hand, and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from assay.contracts import Output
from assay.tasks.synthetic.in_context_languages import OFFICIAL_CODE, REDUCED, in_context_languages
from assay.testing import check_task

SIZES = {"train": 60, "validation": 20, "test": 40}


@pytest.fixture(scope="module")
def task():
    return in_context_languages(**{**REDUCED, **SIZES})


def test_the_contract(task):
    check_task(task)


def test_targets_are_the_next_tokens_and_separators_are_not_scored(task):
    separator, padding = task.encoding["separator"], task.encoding["padding"]
    for batch in task.batches("train", 7):
        tokens, target, scored = batch["tokens"], batch["target"], batch["target_mask"]
        inside = tokens[:, 1:] != padding
        assert torch.equal(tokens[:, 1:][inside], target[:, :-1][inside])
        assert torch.equal(scored, (target != separator) & (target != padding))
        assert scored[tokens == separator].all()  # what follows a separator is a symbol, and counts
        assert scored.any(0)[-1]  # cut to the longest row


def test_truth_is_what_a_walk_through_the_automaton_allows(task):
    batch = next(iter(task.batches("test", 40)))
    truth, separator = task.truth(batch), task.encoding["separator"]
    for row in range(40):
        table, state = task.automata[int(batch["automaton"][row])], 0
        for t, token in enumerate(batch["tokens"][row].tolist()):
            if token > separator:
                break
            state = 0 if token == separator else table[state, token]
            expected = (table[state] >= 0) / (table[state] >= 0).sum()
            np.testing.assert_allclose(truth[row, t, :-2].numpy(), expected, atol=1e-7)
            if batch["target_mask"][row, t]:
                assert truth[row, t, batch["target"][row, t]] > 0
    assert not truth[..., -2:].any()


def test_the_oracle_is_perfect(task):
    metrics = task.evaluate(lambda batch: Output(task.truth(batch).clamp(min=1e-30).log()), "test").metrics
    assert metrics["accuracy"] == 1
    for name in ("total_variation", "l1_official", "kl"):
        assert abs(metrics[name]) < 1e-6
    assert metrics["cross_entropy"] > 0  # the entropy of the languages: the floor of any loss


def test_a_uniform_model_has_the_closed_forms(task):
    evaluation = task.evaluate(lambda batch: Output(torch.zeros(*batch["tokens"].shape, 10)), "test", batch_size=16)
    branches, scored = [], []
    for batch in task.batches("test", 64):
        branches.append((task.truth(batch) > 0).sum(2))
        scored.append(batch["target_mask"])
    m, where = torch.cat([part.flatten() for part in branches]).double(), torch.cat([part.flatten() for part in scored])
    assert evaluation.metrics["total_variation"] == pytest.approx(float((1 - m[where] / 10).mean()), abs=1e-6)
    assert evaluation.metrics["cross_entropy"] == pytest.approx(np.log(10), abs=1e-6)
    assert evaluation.metrics["kl"] == pytest.approx(float((np.log(10) - m[where].log()).mean()), abs=1e-6)


def test_official_l1_counts_ends_of_strings_and_has_no_half(task):
    def wrong_at_ends(batch):
        logits = task.truth(batch).clamp(min=1e-30).log()
        ends = batch["target"] == task.encoding["separator"]
        return Output(torch.where(ends[..., None], 50.0 * torch.nn.functional.one_hot(batch["target"], 10), logits))

    metrics = task.evaluate(wrong_at_ends, "test").metrics
    assert metrics["total_variation"] < 1e-6
    batch = next(iter(task.batches("test", 40)))
    ends = float((batch["target"] == 8).sum() / (batch["tokens"] != 9).sum())
    assert metrics["l1_official"] == pytest.approx(2 * ends, abs=1e-5)


def test_scores_weigh_positions_alike(task):
    random = torch.Generator().manual_seed(0)
    fixed = torch.randn(200, 10, generator=random)
    evaluation = task.evaluate(lambda batch: Output(fixed[: batch["tokens"].shape[1]].expand(len(batch["tokens"]), -1, -1)), "test")
    right = total = 0
    for batch in task.batches("test", 40):
        allowed = task.truth(batch).gather(2, fixed[: batch["tokens"].shape[1]].argmax(1).expand(40, -1)[..., None])[..., 0] > 0
        right += int((allowed & batch["target_mask"]).sum())
        total += int(batch["target_mask"].sum())
    assert evaluation.metrics["accuracy"] == pytest.approx(right / total, abs=1e-6)
    assert evaluation.scores.shape == (40,)


def test_languages_of_all_splits_are_different(task):
    assert len({table.tobytes() for table in task.automata}) == len(task.automata) == sum(SIZES.values())
    used = torch.cat([batch["automaton"] for split in SIZES for batch in task.batches(split, 16)])
    assert torch.equal(used.sort().values, torch.arange(len(task.automata)))


def test_training_batches_hold_rows_of_about_one_length_and_every_row_once(task):
    batches = task.training_batches(10, 0)
    one_pass = [next(batches) for _ in range(6)]
    assert torch.equal(torch.cat([batch["automaton"] for batch in one_pass]).sort().values, torch.arange(60))
    real = sum(int((batch["tokens"] != task.encoding["padding"]).sum()) for batch in one_pass)
    assert real / sum(batch["tokens"].numel() for batch in one_pass) > 0.93


def test_both_published_presets():
    paper, code = (in_context_languages(train=300, validation=1, test=1, **options) for options in ({}, OFFICIAL_CODE))
    assert (paper.automata >= 0).sum(2).max() == 4
    assert (code.automata >= 0).sum(2).max() == 3
    assert paper.signature.input.vocabulary == 20
    assert paper.signature.input.length == 19 * 51 - 2
    strings = (paper.splits["train"]["tokens"] == 18).sum(1) + 1
    assert (int(strings.min()), int(strings.max())) == (10, 19)


def test_bad_sizes_are_refused():
    with pytest.raises(ValueError, match="must be at least 1, got 0"):
        in_context_languages(train=0)
    with pytest.raises(ValueError, match="strings must be a range"):
        in_context_languages(**{**REDUCED, **SIZES, "strings": (3, 2)})
