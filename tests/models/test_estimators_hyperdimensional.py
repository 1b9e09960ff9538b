"""Hyperdimensional codes: against counting by hand, a known angle law, and digits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from assay.contracts import Class, Image, Signature, Table, Values
from assay.models.estimators import Hyperdimensional
from assay.models.estimators.hyperdimensional import class_codes, code, cosine
from assay.tasks.base import ArrayTask


def test_codes_and_classes_are_those_counted_by_hand() -> None:
    projection = np.array([[1, -1], [-1, -1], [1, 1]], dtype=np.int8)
    codes = code(np.array([[3.0, 1.0], [0.0, 2.0], [1.0, 1.0]]), projection, np.array([1.0, 1.0]))
    # rows less the mean: (2, 0), (−1, 1), (0, 0); a sum of 0 counts as +1
    np.testing.assert_array_equal(codes, [[1, -1, 1], [-1, 1, 1], [1, 1, 1]])
    np.testing.assert_array_equal(class_codes(codes, np.array([0, 1, 1]), 0), [[1, -1, 1], [0, 2, 2]])


def test_a_pass_moves_wrong_codes_from_the_class_that_answered_to_their_own() -> None:
    codes = np.array([[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, -1], [-1, -1, 1, 1]], dtype=np.int8)
    target = np.array([0, 0, 1, 1])
    before = class_codes(codes, target, 0)
    answer = cosine(codes, before).argmax(1)
    assert answer.tolist() == [0, 0, 0, 1]  # the third is answered wrongly
    moved = class_codes(codes, target, 1)
    np.testing.assert_array_equal(moved - before, [[-1, -1, -1, 1], [1, 1, 1, -1]])


def test_cosines_of_codes_follow_the_angle_between_rows() -> None:
    """Random hyperplanes (Goemans and Williamson, 1995): two codes agree in a share 1 − angle / π of their signs."""
    generator = np.random.default_rng(0)
    projection = generator.choice(np.array([-1, 1], dtype=np.int8), (20_000, 200))
    rows = generator.normal(size=(2, 200))
    codes = code(rows, projection, np.zeros(200))
    angle = np.arccos(rows[0] @ rows[1] / np.linalg.norm(rows[0]) / np.linalg.norm(rows[1]))
    assert float((codes[0] == codes[1]).mean()) == pytest.approx(1 - angle / np.pi, abs=0.015)


def test_digits() -> None:
    x, y = load_digits(return_X_y=True)
    x = torch.tensor((x - 4.9) / 6.0, dtype=torch.float32).view(-1, 1, 8, 8)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    parts = {"train": order[:1000], "validation": order[1000:1400], "test": order[1400:]}
    splits = {name: {"image": x[rows], "target": torch.tensor(y)[rows].long()} for name, rows in parts.items()}
    task = ArrayTask("digits", Signature(Image(1, 8, 8), Class(10)), splits)  # pyright: ignore[reportArgumentType]
    fitted = Hyperdimensional().fit(task)
    found = task.evaluate(fitted, "test").metrics
    assert found["accuracy"] >= 0.88
    assert found["log_loss"] < 1.0  # its logits are scaled
    again = Hyperdimensional().fit(task)
    batch = next(task.batches("test", 20))
    torch.testing.assert_close(again(batch).prediction, fitted(batch).prediction, rtol=0, atol=0)
    assert fitted.parameter_count() >= 10_000 * 64 + 10 * 10_000


def test_what_it_cannot_serve() -> None:
    accepts = Hyperdimensional().accepts
    assert accepts(Signature(Table(4), Class(2))) is None
    assert accepts(Signature(Table(4), Values(1)))
    assert "20,000" in str(accepts(Signature(Image(3, 224, 224), Class(2))))
