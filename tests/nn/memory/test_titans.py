"""Memory as context, gate and layer: their contract, what sees what, and how they are made of their parts."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from assay.nn.memory.titans import MemoryAsContext, MemoryAsGate, MemoryAsLayer
from assay.testing import check_mixer

torch.set_num_threads(1)
KINDS = {"context": MemoryAsContext, "gate": MemoryAsGate, "layer": MemoryAsLayer}
VARIANTS = {
    "context, short segments, no persistent tokens": partial(MemoryAsContext, heads=1, segment=15, persistent=0, layers=1),
    "context, gates a chunk": partial(MemoryAsContext, heads=1, segment=21, gates="chunk", read="after", expansion=1),
    "gate, short window, no persistent tokens": partial(MemoryAsGate, window=3, persistent=0, positions=None, chunk=12),
    "layer, more persistent tokens than a chunk": partial(MemoryAsLayer, window=6, persistent=19, chunk=12, positions="relative"),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_option_keeps_the_contract(name: str) -> None:
    check_mixer(VARIANTS[name])


def test_the_gate_joins_attention_and_a_memory_that_read_the_persistent_tokens_first() -> None:
    torch.manual_seed(0)
    layer, x = MemoryAsGate(8, window=4).double(), torch.randn(2, 11, 8, dtype=torch.float64)
    tokens = layer.attention.first(2)
    with torch.no_grad():
        read = layer.memory(torch.cat([tokens, x], 1))[:, 4:]
        torch.testing.assert_close(layer(x), layer.gate(layer.attention(x), read), atol=1e-12, rtol=0)


def test_a_layer_attends_to_what_the_memory_made() -> None:
    torch.manual_seed(0)
    layer, x = MemoryAsLayer(8, window=4).double(), torch.randn(2, 11, 8, dtype=torch.float64)
    tokens = layer.attention.first(2)
    with torch.no_grad():
        read = layer.memory(torch.cat([tokens, x], 1))[:, 4:]
        torch.testing.assert_close(layer(x), layer.attention(read), atol=1e-12, rtol=0)


def test_a_context_is_the_loop_over_its_segments() -> None:
    torch.manual_seed(0)
    layer, x = MemoryAsContext(8, segment=4).double(), torch.randn(1, 10, 8, dtype=torch.float64)
    memory, expected = layer.memory.initial_state(1), []
    with torch.no_grad():
        for start in (0, 4, 8):
            part = x[:, start : start + 4]
            recalled = layer.memory.recall(part, memory)
            y = []
            for t in range(part.shape[1]):
                # what position t may see: what was recalled for it and for those before it, and these themselves
                seen = torch.stack([recalled[:, : t + 1], part[:, : t + 1]], 2).flatten(1, 2)
                y.append(layer.attention(seen)[:, -1:])
            y = torch.cat(y, 1)
            read, memory = layer.memory.scan(y, memory)
            expected.append(layer.gate(y, read))
        torch.testing.assert_close(layer(x), torch.cat(expected, 1), atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", KINDS)
def test_what_lies_outside_the_window_is_seen_through_the_memory_alone(name: str) -> None:
    torch.manual_seed(0)
    near = {"segment": 4} if name == "context" else {"window": 4}
    layer = KINDS[name](8, **near).double()
    x = torch.randn(1, 20, 8, dtype=torch.float64)
    changed = x.clone()
    changed[:, 0] += 1
    with torch.no_grad():
        assert (layer(x) - layer(changed))[:, -1].abs().max() > 1e-9
        layer.memory.output_projection.weight.zero_()  # the memory silenced
        torch.testing.assert_close(layer(x)[:, -1], layer(changed)[:, -1], atol=1e-14, rtol=0)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (partial(MemoryAsGate, persistent=-1), "tokens must be at least 0, got -1"),
        (partial(MemoryAsGate, window=0), "window must be at least 1, got 0"),
        (partial(MemoryAsContext, segment=0), "segment must be at least 1"),
        (partial(MemoryAsLayer, positions="rotary"), "must not be 'rotary'"),
        (partial(MemoryAsLayer, layers=0), "layers must be 1 to 4, got 0"),
    ],
)
def test_bad_options_are_refused(make: partial, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make(8)
