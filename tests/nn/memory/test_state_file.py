"""A state that was saved goes on as if it had not been; merged memories hold what each held."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from assay.contracts import Class, Signature, Tokens
from assay.errors import UserError
from assay.models.build import build_network
from assay.nn.memory.neural_memory import NeuralMemory
from assay.nn.memory.state_file import load_state, merge_memories, save_state
from assay.nn.memory.titans import MemoryAsContext, MemoryAsGate
from assay.ops.surprise_scan import apply_memory, initial_surprise, surprise_scan


@pytest.mark.parametrize("make", [NeuralMemory, MemoryAsContext, MemoryAsGate, lambda width: NeuralMemory(width, kernel_size=None)])
def test_a_stream_goes_on_from_its_file(make, tmp_path: Path) -> None:
    torch.manual_seed(0)
    mixer, x = make(8).eval(), torch.randn(2, 50, 8)
    with torch.no_grad():
        _, state = mixer.scan(x[:, :37], mixer.initial_state(2))
        save_state(state, tmp_path / "memory.safetensors")
        expected, _ = mixer.scan(x[:, 37:], state)
        found, _ = mixer.scan(x[:, 37:], load_state(tmp_path / "memory.safetensors", mixer.initial_state(2)))
    torch.testing.assert_close(found, expected, atol=0, rtol=0)
    assert [path.name for path in tmp_path.iterdir()] == ["memory.safetensors"]


def test_a_whole_model_goes_on_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_network("titans-mag~lstm", Signature(Tokens(9, 20), Class(9), per_position=True), 1, 0)
    tokens = torch.randint(9, (1, 30))
    with torch.no_grad():
        _, state = model.scan(tokens[:, :21], model.initial_state(1))  # pyright: ignore[reportCallIssue]
        save_state(state, tmp_path / "state")
        expected, _ = model.scan(tokens[:, 21:], state)  # pyright: ignore[reportCallIssue]
        loaded = load_state(tmp_path / "state", model.initial_state(1))  # pyright: ignore[reportCallIssue]
        found, _ = model.scan(tokens[:, 21:], loaded)  # pyright: ignore[reportCallIssue]
    torch.testing.assert_close(found, expected, atol=0, rtol=0)


def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    save_state(NeuralMemory(8).initial_state(1), tmp_path / "memory")
    with pytest.raises(UserError, match="another network"):
        load_state(tmp_path / "memory", NeuralMemory(8, layers=1).initial_state(1))
    with pytest.raises(UserError, match="does not exist"):
        load_state(tmp_path / "nothing", NeuralMemory(8).initial_state(1))


def test_merged_linear_memories_hold_what_each_read() -> None:
    torch.manual_seed(0)
    keys, values = torch.eye(8, dtype=torch.float64)[None, None], torch.randn(1, 1, 8, 3, dtype=torch.float64)
    start = initial_surprise([torch.randn(1, 8, 3, dtype=torch.float64)], 1, 4, False, False)
    step = torch.full((1, 1, 4), 0.5, dtype=torch.float64)  # writes a value in one go
    read = [
        surprise_scan(keys[:, :, part], keys[:, :, part], values[:, :, part], step, None, None, start, chunk=4)[1]
        for part in (slice(0, 4), slice(4, 8))
    ]
    merged = merge_memories(read, start)
    torch.testing.assert_close(apply_memory(merged.weights, keys), values, atol=1e-12, rtol=0)


def test_memories_that_cannot_be_merged_are_refused() -> None:
    start = initial_surprise([torch.zeros(1, 2, 2)], 1, 4)
    pending = start._replace(count=torch.ones(1, dtype=torch.long))
    other = initial_surprise([torch.zeros(1, 3, 3)], 1, 4)
    for states, words in (([], "at least one"), ([pending], "pending"), ([other], "same shapes")):
        with pytest.raises(ValueError, match=words):
            merge_memories(states, start)
