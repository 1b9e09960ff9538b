"""The block model has the communities, hubs and words that it was asked for."""

from __future__ import annotations

import pytest
import torch

from assay.tasks.synthetic.block_model import block_model


@pytest.mark.parametrize("homophily", [0.2, 0.9])
def test_homophily_and_degree_are_as_asked(homophily):
    task = block_model(nodes=2_000, classes=4, degree=6.0, homophily=homophily)
    assert task.homophily() == pytest.approx(homophily, abs=0.03)
    degree = torch.bincount(task.graph["edges"][0], minlength=2_000).double()
    assert 4.5 < float(degree.mean()) < 6.0  # repeated edges and loops are dropped
    assert float(degree.var()) > 2 * float(degree.mean())  # hubs: a plain random graph has variance = mean


def test_words_tell_the_class_as_often_as_asked():
    """A tenth of the words is topical by chance; a share of 0.5 puts about 0.55 of a node's words there."""
    task = block_model(nodes=1_000, classes=3, words=300, topical=0.5, seed=1)
    label = torch.empty(1_000, dtype=torch.long)
    for part in task.splits.values():
        label[part["selected"]] = part["target"]
    bags = task.graph["nodes"].to_dense()
    for index in range(3):
        share = bags[label == index].mean(0).sort(descending=True).values[:30].sum() / bags[label == index].mean(0).sum()
        assert 0.45 < float(share) < 0.65


def test_same_seed_same_graph_and_other_seed_another():
    one, again, other = block_model(seed=1), block_model(seed=1), block_model(seed=2)
    assert torch.equal(one.graph["edges"], again.graph["edges"])
    assert not torch.equal(one.graph["edges"], other.graph["edges"])
    assert {split: one.size(split) for split in one.splits} == {"train": 140, "validation": 210, "test": 2_650}


@pytest.mark.parametrize(("options", "message"), [({"homophily": 1.5}, r"1\.5"), ({"topical": -1.0}, r"-1\.0"), ({"classes": 1}, "1")])
def test_wrong_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        block_model(**options)
