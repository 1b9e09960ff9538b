"""Infinite networks as baselines: quality on real data, saved files, one class, classes never seen, values, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes

from assay import registry
from assay.contracts import Class, Signature, Table, Tokens, Values
from assay.models.estimators import InfiniteDepth, InfiniteWidth
from assay.tasks.base import ArrayTask
from assay.tasks.builtin import digits

TABLE = Signature(Table(10), Class(3))


def table_task(x: np.ndarray, y: np.ndarray, signature: Signature) -> ArrayTask:
    third = len(x) // 3
    parts = {"train": slice(third, None), "validation": slice(0, third // 2), "test": slice(third // 2, third)}
    tensors = {"table": torch.from_numpy(x).float(), "target": torch.from_numpy(y)}
    return ArrayTask("table", signature, {name: {key: value[where] for key, value in tensors.items()} for name, where in parts.items()})


@pytest.mark.parametrize("kind", [InfiniteWidth, InfiniteDepth])
def test_digits_without_a_gradient_step_and_from_file(kind, tmp_path) -> None:
    task = digits()
    estimator = kind().fit(task)
    assert task.evaluate(estimator, "test").metrics["accuracy"] > 0.95
    estimator.save(tmp_path)
    loaded = kind.load(tmp_path)
    batch = next(task.batches("test", 64))
    assert torch.equal(loaded(batch).prediction, estimator(batch).prediction)
    assert loaded.parameter_count() == estimator.parameter_count() > 0


@pytest.mark.parametrize("kind", [InfiniteWidth, InfiniteDepth])
def test_classes_that_training_never_shows_are_never_answered(kind) -> None:
    random = np.random.default_rng(0)
    x = random.standard_normal((90, 10))
    x[:, 3] = 2.5  # constant
    some = kind().fit(table_task(x, np.where(x[:, 0] > 0, 2, 0), TABLE))
    prediction = some({"table": torch.from_numpy(x).float()}).prediction
    assert prediction.shape == (90, 3)
    assert not (prediction.argmax(1) == 1).any()
    one = kind().fit(table_task(x, np.full(90, 1), TABLE))
    assert (one({"table": torch.from_numpy(x).float()}).prediction.argmax(1) == 1).all()


def test_values_beat_their_mean() -> None:
    x, y = load_diabetes(return_X_y=True)
    task = table_task(x, ((y - y.mean()) / y.std())[:, None].astype(np.float32), Signature(Table(10), Values(1)))
    estimator = InfiniteWidth().fit(task)
    predicted = estimator(task.splits["test"]).prediction
    assert predicted.shape == task.splits["test"]["target"].shape
    assert float((predicted - task.splits["test"]["target"]).square().mean()) < 0.7


def test_what_they_serve() -> None:
    assert "not Tokens" in str(InfiniteWidth().accepts(Signature(Tokens(9, 4), Class(2))))
    assert "one class" in str(InfiniteDepth().accepts(Signature(Table(3), Values(1))))
    assert InfiniteWidth().accepts(Signature(Table(3), Values(1))) is None
    assert registry.resolve("estimator", "infinite-depth") is InfiniteDepth
