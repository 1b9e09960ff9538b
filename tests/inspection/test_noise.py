import math

import pytest
import torch

from assay.contracts import Class, Signature, Table
from assay.inspection.noise import NoiseToGradient
from assay.models import build
from assay.tasks.base import ArrayTask


def test_ratio_is_deviation_over_root_mean_square():
    split = {"table": torch.randn(64, 3, generator=torch.Generator().manual_seed(0)), "target": torch.arange(64) % 2}
    task = ArrayTask("t", Signature(Table(3), Class(2)), {"train": split, "validation": split, "test": split})
    model = build("mlp", task.signature, 100)
    finding = NoiseToGradient(eta=0.04)(model, task)
    assert all(parameter.grad is None for parameter in model.parameters())  # the model is left as it was
    batch = next(task.training_batches(64, 0))
    task.loss(model(batch), batch).backward()
    for row, (name, parameter) in zip(finding.table, model.named_parameters(), strict=True):
        assert row["parameter"] == name
        assert row["ratio"] == pytest.approx(0.2 / math.sqrt(float(parameter.grad.square().mean())), rel=1e-4)
