"""Learning curves of models on data: fair nested parts, a law that is known, the capacity and the scale probe, refusals."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from assay.contracts import Batch, Class, Output, Predictor, Series, Signature, Table, Task, Values
from assay.errors import UserError
from assay.inspection.capacity import Capacity, feature_dimension, participation_ratio
from assay.inspection.learning_curve import curve_sizes, data_finding, data_needed, measure_learning_curve, nested_order
from assay.inspection.scale import Scale, scale_ladder
from assay.models import build
from assay.models.estimators import Logistic
from assay.tasks.base import ArrayTask, training_part
from assay.tasks.builtin import digits
from assay.tasks.graphs import karate
from assay.theory.hierarchical_kernels import hierarchical_kernel
from assay.theory.spectrum import gaussian_field_targets, sample_multisphere


def table_task(train: int = 320, validation: int = 400, groups: np.ndarray | None = None) -> ArrayTask:
    """Two classes, one example in four of the second; the first column tells them."""
    generator = torch.Generator().manual_seed(0)
    splits = {}
    for split, count in (("train", train), ("validation", validation), ("test", 8)):
        target = (torch.arange(count) % 4 == 0).long()
        x = torch.randn(count, 3, generator=generator)
        x[:, 0] += 2.0 * target
        splits[split] = {"table": x, "target": target}
    return ArrayTask("rows", Signature(Table(3), Class(2)), splits, groups=None if groups is None else {"train": groups})


def test_every_beginning_of_the_order_is_a_fair_sample() -> None:
    task = table_task()
    order = nested_order(task, 0)
    assert sorted(order) == list(range(320))
    labels = task.splits["train"]["target"].numpy()[order]
    for size in (8, 40, 100, 320):
        assert labels[:size].mean() == pytest.approx(0.25, abs=1.01 / size)
    assert (nested_order(task, 1) != order).any()


def test_groups_stay_together() -> None:
    groups = np.repeat(np.arange(32), 10)
    order = nested_order(table_task(groups=groups), 0)
    assert (np.diff(groups[order]) != 0).sum() == 31


def test_a_part_shares_all_but_its_training_examples() -> None:
    task = table_task(groups=np.arange(320))
    part = training_part(task, np.array([5, 3]))
    assert part.size("train") == 2
    assert torch.equal(part.splits["train"]["table"][0], task.splits["train"]["table"][5])
    assert part.groups["train"].tolist() == [5, 3]
    assert part.splits["validation"] is task.splits["validation"]
    assert task.size("train") == 320


def test_a_learner_of_known_error_is_read_off() -> None:
    """It is wrong on n^−½ of the 400 validation examples: of twice 256 examples it would be on 0.0442."""
    seen: dict[int, list[set[float]]] = {}

    def learner(task: Task, seed: int) -> Predictor:
        assert isinstance(task, ArrayTask)
        n = task.size("train")
        seen.setdefault(seed, []).append(set(task.splits["train"]["table"][:, 1].tolist()))
        wrong = round(400 * n**-0.5)

        def answer(batch: Batch) -> Output:
            truth = torch.nn.functional.one_hot(batch["target"], 2).float()
            return Output(torch.where(torch.arange(len(truth))[:, None] < wrong, 1 - truth, truth))

        return lambda batch: answer(batch)

    task = table_task(256)
    task.evaluate = lambda predictor, split, batch_size=400: ArrayTask.evaluate(task, predictor, split, 400)  # type: ignore[method-assign]
    measured = measure_learning_curve(learner, task, repeats=2)
    assert measured.sizes[-1] == 256
    assert measured.curve.slope == pytest.approx(0.5, abs=0.05)
    low, value, high = measured.at(512)
    assert low <= value <= high
    assert value == pytest.approx(1 - 512**-0.5, abs=0.005)
    for parts in seen.values():
        assert all(before < after for before, after in pairwise(parts))
    finding = data_finding(measured)
    assert "twice as many would give 0.9" in finding.sentence
    assert [row["kind"] for row in finding.table] == ["measured"] * 6 + ["expected"] * 2
    assert finding.figure is not None


def test_an_estimator_is_measured_without_the_test_split() -> None:
    task = table_task()
    del task.splits["test"]
    measured = measure_learning_curve(lambda part, seed: Logistic().fit(part, seed), task, (20, 60, 120, 320), repeats=1)
    assert measured.errors.shape == (4, 1)
    assert 0.05 < measured.errors[-1, 0] < 0.25


def test_what_a_named_model_needs_is_told_in_a_sentence() -> None:
    finding = data_needed(table_task(), "logistic-regression", repeats=1)
    assert "with 320 training examples; twice as many would give" in finding.sentence
    network = data_needed(table_task(64), "mlp", parameters=300, steps=5, repeats=1)
    assert network.table[-1]["examples"] == 256
    with pytest.raises(UserError, match="no model or mixer named 'logistic'"):
        data_needed(table_task(), "logistic")


def test_capacity_of_a_network_on_digits() -> None:
    task = digits()
    torch.manual_seed(0)
    model = build("mlp", task.signature, 5_000)
    before = [parameter.clone() for parameter in model.parameters()]
    finding = Capacity(sizes=4, repeats=1, steps=60, seconds=3600.0)(model, task)
    assert all(torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True))
    measured = [row["accuracy"] for row in finding.table if row.get("kind") == "measured"]
    assert len(measured) == 4
    assert measured[-1] > measured[0] + 0.05
    assert "directions of its features" in finding.sentence
    assert finding.table[-1]["effective dimension of features"] <= finding.table[-1]["features"]


def test_participation_ratio_counts_directions() -> None:
    torch.manual_seed(0)
    assert participation_ratio(torch.randn(4000, 5)) == pytest.approx(5, rel=0.02)
    assert participation_ratio(torch.randn(500, 1) * torch.ones(1, 7)) == pytest.approx(1)
    assert participation_ratio(torch.ones(10, 3)) == 0
    wide = torch.randn(6, 40)
    assert participation_ratio(wide) == pytest.approx(participation_ratio(torch.cat([wide, torch.zeros(6, 3)], 1)))
    with pytest.raises(ValueError, match="rows ≥ 2"):
        participation_ratio(torch.ones(1, 3))


def field_task(teacher: list[int]) -> ArrayTask:
    """Series of eight numbers, four directions in the plane, and a Gaussian field of the teacher's kernel."""
    generator = np.random.default_rng(0)
    x = sample_multisphere(700, 8, 2, generator)
    y = gaussian_field_targets(hierarchical_kernel(x, filters=teacher), generator)
    tensors = {"series": torch.from_numpy(x[..., None]).float(), "target": torch.from_numpy(y).float()}
    parts = {"train": slice(400), "validation": slice(400, 690), "test": slice(690, 700)}
    splits = {split: {key: value[part] for key, value in tensors.items()} for split, part in parts.items()}
    return ArrayTask("field", Signature(Series(1, 8), Values(1)), splits)


@pytest.mark.parametrize(("teacher", "patch"), [([2], 2), ([2, 2], 4)])
def test_the_scale_of_a_field_is_found(teacher: list[int], patch: int) -> None:
    curves = scale_ladder(field_task(teacher), 1e-4)
    assert [len(filters) for filters in curves] == [1, 2, 3]
    best = min(curves, key=lambda filters: curves[filters].errors[-1])
    assert 2 ** len(best) == patch


def test_scale_says_what_it_found_of_digits() -> None:
    task = digits()
    part = training_part(task, nested_order(task, 0)[:300])
    finding = Scale(sizes=4, repeats=1)(torch.nn.Identity(), part)
    assert "patches of" in finding.sentence
    assert [row["patch"] for row in finding.table] == [2, 4, 8]
    assert all(row["error"] < 0.2 for row in finding.table)


def test_what_has_no_parts_or_no_scale_is_refused() -> None:
    graph = karate()
    with pytest.raises(UserError, match="too few for a learning curve"):
        measure_learning_curve(lambda task, seed: Logistic().fit(task, seed), graph)
    with pytest.raises(UserError, match="one of images or series, and rows has Table"):
        Scale()(torch.nn.Identity(), table_task())
    with pytest.raises(UserError, match="30 training examples are too few"):
        curve_sizes(30)
    with pytest.raises(UserError, match="no recipe to build it afresh"):
        Capacity()(torch.nn.Linear(3, 2), table_task())
    with pytest.raises(UserError, match="no linear map"):
        feature_dimension(torch.nn.ReLU(), table_task())
    with pytest.raises(ValueError, match="at least 4 sizes, got 3"):
        Capacity(sizes=3)
    with pytest.raises(ValueError, match="ridge must be above 0, got 0"):
        Scale(ridge=0)
    with pytest.raises(ValueError, match="between 1 and the 320 training examples"):
        measure_learning_curve(lambda task, seed: Logistic().fit(task, seed), table_task(), (20, 400))
