"""Padded texts are batched by length: padding must cost no time and change no answer."""

import itertools

import pytest
import torch

from assay import models
from assay.contracts import Class, Signature, Tokens
from assay.measure import count_flops
from assay.tasks.base import GRAIN, ArrayTask, lengths_of
from assay.training import fit


@pytest.fixture
def task():
    """200 sequences of 1 to 300 symbols, most of them short, the last one empty."""
    generator = torch.Generator().manual_seed(0)
    lengths = (300 * torch.rand(200, generator=generator) ** 3).long() + 1
    lengths[-1] = 0
    mask = torch.arange(300) < lengths[:, None]
    tokens = torch.randint(0, 50, mask.shape, generator=generator) * mask
    split = {"tokens": tokens, "mask": mask, "target": torch.arange(200) % 3}
    return ArrayTask("padded", Signature(Tokens(50, 300), Class(3)), {"train": split, "validation": split, "test": split})


def test_batches_are_short_and_an_epoch_holds_every_example(task):
    """Sorting within pools must neither lose nor repeat an example, and most batches must be far shorter than the longest text."""
    epoch = list(itertools.islice(task.training_batches(32, seed=1), 200 // 32))
    seen = torch.cat([batch["tokens"].sum(1) for batch in epoch])
    whole = task.splits["train"]["tokens"].sum(1)
    assert all(int((seen == value).sum()) <= int((whole == value).sum()) for value in seen)
    assert len(seen) == 192
    widths = [batch["tokens"].shape[1] for batch in epoch]
    assert all(width % GRAIN == 0 or width == 300 for width in widths)
    assert all(batch["mask"].shape == batch["tokens"].shape for batch in epoch)
    assert sum(widths) < 0.7 * 300 * len(epoch)


def test_the_batches_of_two_epochs_differ(task):
    """Sorting everything would make the same batches again and again; pools are drawn anew."""
    batches = itertools.islice(task.training_batches(32, seed=1), 12)
    assert len({tuple(sorted(batch["tokens"].sum(1).tolist())) for batch in batches}) == 12


@pytest.mark.parametrize("name", ["lstm", "attention", "aaren"])
def test_evaluation_in_order_of_length_gives_the_answers_in_order(task, name):
    """Scores and predictions are those of the padded whole, example by example."""
    torch.manual_seed(0)
    model = models.build(name, task.signature, 20_000).eval()
    with torch.no_grad():
        expected = model(task.batch_of("test", slice(None))).prediction.argmax(-1)
    evaluation = task.evaluate(model, "test", batch_size=16)
    assert torch.from_numpy(evaluation.predictions).equal(expected)
    assert evaluation.scores.tolist() == (expected == task.splits["test"]["target"]).double().tolist()


def test_operations_are_counted_batch_by_batch(task):
    """A budget in operations must see that short batches are cheap."""
    torch.manual_seed(0)
    model = models.build("lstm", task.signature, 20_000)
    expected = sum(3 * count_flops(model, batch) for batch in itertools.islice(task.training_batches(32, 0), 7))
    assert fit(model, task, steps=7, seed=0).flops == expected


def test_targets_at_every_position_keep_their_length(task):
    """Answers at every position are stacked over a split, so they stay as long as they were."""
    split = {**task.splits["train"], "target": task.splits["train"]["tokens"]}
    tagged = ArrayTask(
        "tags", Signature(Tokens(50, 300), Class(50), per_position=True), {"train": split, "validation": split, "test": split}
    )
    assert next(tagged.training_batches(8, 0))["tokens"].shape == (8, 300)
    assert int(lengths_of(split["mask"]).max()) <= 300
