"""The forms of the long short-term memory against torch.nn.LSTM and against a loop of single steps.

    python benchmarks/historical_lstm.py

One thread, float32, forward and backward. Every figure is a ratio of medians from this run; the rivals take turns, and processor time is
taken.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from assay.measure import medians
from assay.nn.recurrent.historical import GATES, HistoricalLSTM

BATCH, LENGTH, WIDTH = 32, 128, 64


def trained(module: nn.Module, function: Callable[[], Tensor]) -> Callable[[], Any]:
    """Forward and backward."""
    return lambda: torch.autograd.grad(function().square().sum(), list(module.parameters()))


def stepped(cell: HistoricalLSTM, x: Tensor) -> Tensor:
    """A position at a time, each with its own input products."""
    state, outputs = cell.initial_state(len(x)), []
    for x_t in x.unbind(1):
        y, state = cell.step(x_t, state)
        outputs.append(y)
    return torch.stack(outputs, 1)


def main() -> None:
    """Print one line a form."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = torch.randn(BATCH, LENGTH, WIDTH)
    reference = nn.LSTM(WIDTH, WIDTH, batch_first=True)
    print(f"batch {BATCH}, length {LENGTH}, width {WIDTH}")
    for variant in GATES:
        cell = HistoricalLSTM(WIDTH, variant)  # pyright: ignore[reportArgumentType]  # the keys are the variants
        rivals = {
            "own": trained(cell, lambda cell=cell: cell(x)),
            "torch": trained(reference, lambda: reference(x)[0]),
            "steps": trained(cell, lambda cell=cell: stepped(cell, x)),
        }
        found = medians(rivals, 9)
        own = found["own"]
        print(f"{variant:9} time over torch.nn.LSTM {own / found['torch']:.2f}, loop of steps over own {found['steps'] / own:.2f}")


if __name__ == "__main__":
    main()
