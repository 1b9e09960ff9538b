"""The loop over positions: what it gives, and that a graph for export holds it once, whatever the length."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from assay import registry
from assay.ops.loop import SHORT, Tensors, walk


class Leaky(nn.Module):
    """A recurrence with a parameter, a mask that may be missing, and two outputs a position."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 3) / 3)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        def step(state: Tensors, now: tuple[Any, ...]) -> tuple[Tensors, Tensors]:
            after = torch.tanh(now[0] + state[0] @ self.weight.T)
            after = after if now[1] is None else torch.where(now[1], after, state[0])
            return (after, state[1] + 1), (after, after * state[1])

        start = (x.new_zeros(x.shape[0], 3), x.new_zeros(x.shape[0], 1))
        (last, _), (states, weighted) = walk(step, start, (x, None if mask is None else mask[..., None]))
        return states, weighted, last


def exported(module: nn.Module, *arguments: Tensor) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=1)
    with torch.no_grad():
        return torch.export.export(module, arguments, dynamic_shapes=tuple({0: batch} for _ in arguments))


def test_it_is_the_loop_that_it_looks_like() -> None:
    torch.manual_seed(0)
    module, x = Leaky().double(), torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    states, weighted, last = module(x)
    h = torch.zeros(2, 3, dtype=torch.float64)
    for t in range(5):
        h = torch.tanh(x[:, t] + h @ module.weight.T)
        assert torch.equal(states[:, t], h)
        assert torch.equal(weighted[:, t], h * t)
    assert torch.equal(last, h)
    assert torch.autograd.gradcheck(lambda x: module(x)[0], (x,))


@pytest.mark.parametrize("length", [SHORT - 1, SHORT, 50])
def test_a_graph_gives_the_same_for_any_batch_and_mask(length: int) -> None:
    torch.manual_seed(0)
    module, mask = Leaky(), torch.rand(2, length) < 0.7
    program = exported(module, torch.randn(2, length, 3), mask).module()
    x, other = torch.randn(5, length, 3), torch.rand(5, length) < 0.5
    for found, expected in zip(program(x, other), module(x, other), strict=True):
        torch.testing.assert_close(found, expected)


RECURRENT = ["gru-original", "jordan", "lstm-forget", "lstm-peephole", "slstm", "multi-head-gru", "min-gru", "lru", "s4d", "mamba", "rwkv"]


@pytest.mark.parametrize("name", [*RECURRENT, pytest.param("gated-delta", marks=pytest.mark.slow)])
def test_graphs_of_recurrences_do_not_grow_with_the_length(name: str) -> None:
    mixer = registry.resolve("mixer", name)(8).eval()
    short, long = (len(exported(mixer, torch.randn(2, length, 8)).graph.nodes) for length in (20, 60))
    assert short == long


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), [("neural-memory", {"chunk": 2}), ("titans-mac", {"segment": 2})])
def test_graphs_of_memories_do_not_grow_with_the_length(name: str, options: dict[str, int]) -> None:
    """They walk over chunks, not positions; the last, unfinished chunk is read, too."""
    torch.manual_seed(0)
    mixer = registry.resolve("mixer", name)(8, **options).double().eval()
    counts = []
    for length in (33, 41):
        program = exported(mixer, torch.randn(2, length, 8, dtype=torch.float64))
        x = torch.randn(3, length, 8, dtype=torch.float64)
        with torch.no_grad():
            torch.testing.assert_close(program.module()(x), mixer(x), rtol=0, atol=1e-9)
        counts.append(len(program.graph.nodes))
    assert counts[0] == counts[1]
