"""Training by `assay.training.fit` against a bare PyTorch loop over the same batches: seconds a step, as a ratio (aim: at most 1.03).

Run: ``python benchmarks/fit_overhead.py [--steps 100] [--rounds 5]``. The network is sized so that a step takes at least 20 ms on one
thread, and the clock is the process's own processor time: with one thread that is the wall time of an idle machine, and a busy one does
not disturb it. The two take turns within each round; the median ratio of the rounds is printed.
Validation is left out of both.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time

import torch
from torch import nn

from assay.contracts import Class, Output, Signature, Table
from assay.tasks import ArrayTask
from assay.training import fit

FEATURES, WIDTH, BATCH = 512, 768, 96


class Network(nn.Module):
    """A plain deep perceptron."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [FEATURES, *[WIDTH] * 5, 10]
        layers = [part for pair in itertools.pairwise(sizes) for part in (nn.Linear(*pair), nn.ReLU())]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, batch):
        """Logits."""
        return Output(self.layers(batch["table"]))


def make_task() -> ArrayTask:
    generator = torch.Generator().manual_seed(0)
    splits = {}
    for split, count in (("train", 4096), ("validation", 64), ("test", 64)):
        table = torch.randn(count, FEATURES, generator=generator)
        splits[split] = {"table": table, "target": torch.randint(10, (count,), generator=generator)}
    return ArrayTask("benchmark", Signature(Table(FEATURES), Class(10)), splits)


def bare(task: ArrayTask, steps: int) -> float:
    """Seconds a step of the shortest honest loop: AdamW, cosine schedule, cross-entropy."""
    model = Network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    started = time.process_time()
    for batch in itertools.islice(task.training_batches(BATCH, 0), steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(batch).prediction, batch["target"])
        loss.backward()
        optimizer.step()
        schedule.step()
    return (time.process_time() - started) / steps


def ours(task: ArrayTask, steps: int) -> float:
    """Seconds a step of `fit`, by the same clock: start-up and the final validation are within."""
    model = Network()
    started = time.process_time()
    fit(model, task, steps=steps, batch_size=BATCH, validate_every=steps, select="last")
    return (time.process_time() - started) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    task = make_task()
    bare(task, 3), ours(task, 3)
    pairs = []
    for turn in range(options.rounds):
        order = (bare, ours) if turn % 2 == 0 else (ours, bare)
        seconds = {function.__name__: function(task, options.steps) for function in order}
        pairs.append((seconds["bare"], seconds["ours"]))
    ratio = statistics.median(b / a for a, b in pairs)
    step = 1e3 * statistics.median(a for a, _ in pairs)
    print(f"fit / bare loop: {ratio:.3f}  (aim ≤ 1.03; a bare step takes {step:.0f} ms, {options.rounds} rounds of {options.steps} steps)")


if __name__ == "__main__":
    main()
