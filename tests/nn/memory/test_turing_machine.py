"""The Turing machine's addressing, function by function, and its memory between sequences."""

from __future__ import annotations

import pytest
import torch

from assay.nn.memory.turing_machine import NeuralTuringMachine, content_weights, interpolate, read, sharpen, shift_weights, write

MEMORY = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_a_sharp_key_reads_its_row() -> None:
    weights = content_weights(MEMORY, MEMORY[:, 2:3], torch.full((2, 1, 1), 1e4))
    torch.testing.assert_close(read(MEMORY, weights)[:, 0], MEMORY[:, 2])


def test_content_is_the_softmax_of_cosines() -> None:
    key = torch.randn(2, 1, 4, dtype=torch.float64)
    cosines = torch.nn.functional.cosine_similarity(MEMORY, key, dim=-1)
    torch.testing.assert_close(content_weights(MEMORY, key, torch.full((2, 1, 1), 3.0))[:, 0], (3 * cosines).softmax(-1))


def test_shifting_rotates() -> None:
    weights = torch.eye(5)[None]
    for place, step in enumerate((-1, 0, 1)):
        shift = torch.eye(3)[place].expand(1, 5, 3)
        assert torch.equal(shift_weights(weights, shift), weights.roll(step, -1))


def test_sharpening_and_interpolating() -> None:
    weights = torch.tensor([[[0.5, 0.25, 0.25]]])
    torch.testing.assert_close(sharpen(weights, torch.full((1, 1, 1), 2.0)), weights.square() / weights.square().sum())
    before = torch.tensor([[[0.0, 0.0, 1.0]]])
    torch.testing.assert_close(interpolate(weights, before, torch.full((1, 1, 1), 0.25)), 0.25 * weights + 0.75 * before)


def test_writing_erases_then_adds() -> None:
    """With one head wholly on row 1: that row is replaced, the others stay; two heads erase one after the other."""
    on_row = torch.eye(6, dtype=torch.float64)[1].expand(2, 1, 6)
    new = torch.full((2, 1, 4), 7.0, dtype=torch.float64)
    after = write(MEMORY, on_row, torch.ones_like(new), new)
    assert torch.equal(after[:, 1], new[:, 0])
    assert torch.equal(after[:, 2:], MEMORY[:, 2:])
    half = torch.full((2, 2, 4), 0.5, dtype=torch.float64)
    twice = write(MEMORY, on_row.expand(2, 2, 6), half, torch.zeros_like(half))
    torch.testing.assert_close(twice[:, 1], 0.25 * MEMORY[:, 1])


@pytest.mark.parametrize("controller", ["lstm", "feed-forward"])
def test_weights_sum_to_one_and_memory_is_empty_for_every_sequence(controller: str) -> None:
    torch.manual_seed(0)
    machine = NeuralTuringMachine(6, slots=8, slot_width=3, heads=2, controller=controller)
    x = torch.randn(3, 12, 6)
    once, state = machine.scan(x, machine.initial_state(3))
    torch.testing.assert_close(state["weights"].sum(-1), torch.ones(3, 4))
    assert state["memory"].abs().max() > 1e-2
    assert torch.equal(machine(x), once)


@pytest.mark.parametrize("options", [{"slots": 2}, {"controller": "gru"}, {"heads": 0}])
def test_bad_arguments_are_named(options: dict) -> None:
    with pytest.raises(ValueError, match=str(next(iter(options.values())))):
        NeuralTuringMachine(4, **options)
