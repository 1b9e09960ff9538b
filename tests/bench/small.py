"""A task small enough that a whole study takes seconds, and the user's files that studies are tried with."""

import numpy as np
import torch

from assay.contracts import Class, Signature, Table
from assay.tasks import ArrayTask

QUICK = {"parameters": 500, "steps": 6, "rates": (1e-2,), "seeds": 2, "threads": 1, "workers": 0, "live": False}


def table_task(examples=60, seed=0):
    """Two classes told apart by the sign of the first of four numbers, with noise."""
    generator = torch.Generator().manual_seed(seed)
    splits = {}
    for split in ("train", "validation", "test"):
        x = torch.randn(examples, 4, generator=generator)
        splits[split] = {"table": x, "target": (x[:, 0] + 0.3 * torch.randn(examples, generator=generator) > 0).long()}
    return ArrayTask("signs", Signature(Table(4), Class(2)), splits, description="180 rows", encoding={"labels": ["no", "yes"]})


def write_table(path, rows=150):
    """The same as a CSV file, for studies whose workers open it themselves."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(rows, 3)).round(4)
    labels = np.where(x[:, 0] + 0.2 * x[:, 1] > 0, "yes", "no")
    lines = ["a,b,c,label", *(",".join(map(str, row)) + f",{label}" for row, label in zip(x, labels, strict=True))]
    path.write_text("\n".join(lines) + "\n")


FAMILIES = """
import os, signal
import torch
from assay.contracts import Output, Table


class Family:
    coarse, fine = range(1, 2), range(1, 400)

    def accepts(self, signature):
        return None if isinstance(signature.input, Table) else "it reads tables"

    def network(self, signature, coarse, fine):
        return self.kind(signature, fine)


class Network(torch.nn.Module):
    def __init__(self, signature, width):
        super().__init__()
        self.signature = signature
        first, last = torch.nn.Linear(signature.input.features, width), torch.nn.Linear(width, signature.output.size)
        self.layers = torch.nn.Sequential(first, torch.nn.ReLU(), last)

    def forward(self, batch):
        self.misbehave()
        return Output(self.layers(batch["table"]))

    def misbehave(self):
        if self.training:
            raise RuntimeError("a part is\\nbroken")


class Raising(Family):
    kind = Network


class Hungry(Family):
    class kind(Network):
        def misbehave(self):
            if self.training:
                torch.empty(1 << 50)


class Exploding(Family):
    class kind(Network):
        def forward(self, batch):
            return Output(self.layers(batch["table"]) * float("inf" if self.training else 1))


class Suicidal(Family):
    class kind(Network):
        def misbehave(self):
            if self.training:
                os.kill(os.getpid(), signal.SIGKILL)


class Sound(Family):
    class kind(Network):
        def misbehave(self):
            pass
"""
"""Networks of a user's file that train well, raise, ask for a petabyte, diverge, or kill their own process."""

MIXER = """
from torch import nn


class MyMixer(nn.Module):
    causal = False

    def __init__(self, width):
        super().__init__()
        self.map = nn.Linear(width, width)

    def forward(self, x, mask=None):
        return self.map(x) + x.mean(1, keepdim=True)
"""
"""A user's mixer."""
