"""The neural memory as a layer: its contract in every variant, what it holds, and what it is surprised by."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from assay.measure import state_bytes
from assay.nn.memory.neural_memory import NeuralMemory
from assay.ops.surprise_scan import apply_memory
from assay.testing import check_mixer

torch.set_num_threads(1)
VARIANTS = {
    "linear": partial(NeuralMemory, layers=1, chunk=9),
    "deep, gates a chunk": partial(NeuralMemory, layers=4, expansion=1, heads=2, gates="chunk", read="after", chunk=21),
    "a memory that lags": partial(NeuralMemory, chunk=11, heads=1, read="before"),
    "a residual around it": partial(NeuralMemory, residual=True, chunk=11, heads=1, normalised=False, rate=0.02),
    "nothing optional": partial(NeuralMemory, momentum=False, forget=False, kernel_size=None, head_width=3, heads=2),
    "small steps without a limit": partial(NeuralMemory, largest_gradient=None, chunk=64, rate=0.01),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_option_keeps_the_contract(name: str) -> None:
    check_mixer(VARIANTS[name])


def loop(layer: NeuralMemory, x: torch.Tensor) -> torch.Tensor:
    """The layer's equations, one row, head and position at a time, with autograd's gradients."""
    heads, size, outputs = layer.heads, layer.head_width, []
    projected = layer.convolution(layer.input_projection(x))  # pyright: ignore[reportOptionalCall]
    projected = F.silu(projected) if layer.activated else projected
    for row, x_row in zip(projected, x, strict=True):
        weights = [part.detach().clone() for part in layer.memory]
        moving = [torch.zeros_like(part) for part in weights]
        for t, numbers in enumerate(row):
            query, key, value = numbers.view(3, heads, 1, size)
            if layer.normalised:
                query, key = (part / (part.square().sum(-1, keepdim=True) + 1e-6).sqrt() for part in (query, key))
            if t % layer.chunk == 0:
                anchor = [part.detach().requires_grad_() for part in weights]
            with torch.enable_grad():
                found = torch.autograd.grad((apply_memory(anchor, key.detach()) - value.detach()).square().sum(), anchor)
            theta, alpha, eta = layer.rates_projection(x_row[t]).sigmoid().view(3, heads, 1, 1)
            moving = [eta * s - layer.rate * theta * u for s, u in zip(moving, found, strict=True)]
            weights = [(1 - alpha) * part + s for part, s in zip(weights, moving, strict=True)]
            read = apply_memory(weights, query)[:, 0]
            read = read / (read.square().mean(-1, keepdim=True) + 1e-6).sqrt()
            outputs.append(layer.output_projection(read.flatten() * F.silu(layer.gate_projection(x_row[t]))))
    return torch.stack(outputs).view_as(x)


@pytest.mark.parametrize(("depth", "plain"), [(1, False), (2, False), (2, True)])
def test_outputs_are_those_of_a_loop(depth: int, plain: bool) -> None:
    torch.manual_seed(0)
    options = {"activated": False, "normalised": False} if plain else {}
    layer = NeuralMemory(8, 2, layers=depth, chunk=4, largest_gradient=None, **options).double()
    x = torch.randn(2, 18, 8, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), loop(layer, x), atol=1e-11, rtol=0)


def test_forgetting_starts_at_its_horizon() -> None:
    layer = NeuralMemory(8, horizon=50)
    torch.testing.assert_close(layer.rates_projection.bias[4:8].sigmoid(), torch.full((4,), 1 / 50))


def test_bfloat16_is_near_float32() -> None:
    torch.manual_seed(0)
    layer, x = NeuralMemory(8), torch.randn(2, 50, 8)
    with torch.no_grad():
        expected = layer(x)
        found = layer.bfloat16()(x.bfloat16())
    assert found.dtype == torch.bfloat16
    assert (found.float() - expected).abs().max() < 0.05 * expected.abs().max()


def test_the_state_holds_the_memory_twice_and_one_chunk_however_long_the_stream() -> None:
    layer = NeuralMemory(8, 2, layers=2, expansion=4, chunk=16)
    state = layer.initial_state(1)
    weights, pending, convolution = 2 * 2 * (4 * 16 + 16 * 4), 2 * 15 * (4 + 4 + 3), 3 * 24
    expected = 4 * (weights + pending + convolution) + 8
    assert state_bytes(state) == expected
    with torch.no_grad():
        for _ in range(3):
            _, state = layer.scan(torch.randn(1, 333, 8), state)
    assert state_bytes(state) == expected


def test_recall_reads_the_last_chunk_end_and_writes_nothing() -> None:
    torch.manual_seed(0)
    layer, x = NeuralMemory(8, chunk=4, kernel_size=None, read="before").double(), torch.randn(2, 9, 8, dtype=torch.float64)
    with torch.no_grad():
        _, state = layer.scan(x[:, :8], layer.initial_state(2))
        before = [part.clone() for part in state["memory"].weights]
        recalled = layer.recall(x[:, 8:], state)
        expected, _ = layer.scan(x[:, 8:], state)
    torch.testing.assert_close(recalled, expected, atol=1e-12, rtol=0)  # without a convolution a query is the same in both
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(before, state["memory"].weights, strict=True))


def test_what_is_repeated_surprises_less() -> None:
    torch.manual_seed(0)
    layer = NeuralMemory(16, 1, layers=1, chunk=1, forget=False, momentum=False, kernel_size=None, rate=0.8).double()
    word = torch.randn(1, 1, 16, dtype=torch.float64)
    with torch.no_grad():
        found = layer.surprise(word.expand(1, 30, 16))[0, 0]
    assert (found.diff() <= 1e-12).all()
    assert found[-1] < 1e-3 * found[0]


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_a_long_stream_of_one_symbol_stays_finite(layers: int) -> None:
    # every chunk's gradients are taken at the same weights and add up: without a limit the linear memory overshoots and overflows
    torch.manual_seed(0)
    layer, x = NeuralMemory(16, layers=layers), torch.randn(1, 1, 16).expand(1, 3000, 16)
    with torch.no_grad():
        y, state = layer.scan(x, layer.initial_state(1))
    assert torch.isfinite(y).all()
    assert max(float(weights.abs().max()) for weights in state["memory"].weights) < 10


def test_surprise_skips_masked_positions() -> None:
    torch.manual_seed(0)
    layer, x = NeuralMemory(8, chunk=3).double(), torch.randn(1, 12, 8, dtype=torch.float64)
    mask = torch.arange(12)[None] % 3 != 1
    with torch.no_grad():
        found = layer.surprise(x, mask)
        torch.testing.assert_close(found[:, :, mask[0]], layer.surprise(x[:, mask[0]]), atol=1e-12, rtol=0)
    assert (found[:, :, ~mask[0]] == 0).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"layers": 5}, "layers must be 1 to 4, got 5"),
        ({"chunk": 0}, "got expansion=4, chunk=0"),
        ({"rate": 0.0}, "rate=0.0"),
        ({"horizon": 1}, "horizon=1"),
        ({"heads": 3}, "got 3"),
        ({"gates": "chunk"}, "got 'token'"),
        ({"largest_gradient": -1.0}, "got -1.0"),
    ],
)
def test_bad_options_are_refused(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        NeuralMemory(8, **options)


def test_a_state_of_another_batch_is_refused() -> None:
    layer = NeuralMemory(8)
    with pytest.raises(ValueError, match="must hold the 2 examples of x, got 3"):
        layer.scan(torch.randn(2, 4, 8), layer.initial_state(3) | {"inputs": layer.initial_state(2)["inputs"]})
