"""Run by test_distributed in processes of its own: trains a small sequence model and prints its loss curve as JSON."""

import json
import sys

import torch

from assay.contracts import Class, Series, Signature
from assay.models import build
from assay.tasks.base import ArrayTask
from assay.training import fit
from assay.training.distributed import make_fabric, whole_state
from assay.training.methods.gradient_noise import GradientNoise


def main(devices: int, strategy: str, noise: float) -> None:
    generator = torch.Generator().manual_seed(0)
    series = torch.randn(96, 10, 2, generator=generator)
    split = {"series": series, "target": (series[:, :, 0].mean(1) > 0).long()}
    task = ArrayTask("sign", Signature(Series(2, 10), Class(2)), {"train": split, "validation": split, "test": split})
    fabric = make_fabric(devices, strategy)
    fabric.launch()
    torch.manual_seed(0)
    model = build("lstm", task.signature, 5_000)
    methods = [GradientNoise(eta=noise, seed=1)] if noise else []
    history = fit(model, task, steps=20, learning_rate=3e-3, batch_size=32, fabric=fabric, validate_every=2, methods=methods)
    total = sum(float(tensor.double().abs().sum()) for tensor in whole_state(model).values())
    if fabric.is_global_zero:
        print("RESULT " + json.dumps({"curve": [entry["train_loss"] for entry in history.curve], "total": total}))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], float(sys.argv[3]))
