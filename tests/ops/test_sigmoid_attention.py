"""Sigmoid attention: the equation against numpy loops and closed forms, and every fast form against the equation."""

from __future__ import annotations

import importlib.util
import itertools
import math
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from assay.ops import sigmoid_attention as module
from assay.ops import sigmoid_attention_compiled
from assay.ops.sigmoid_attention import packed_sigmoid_attention, sigmoid_attention, update

needs_compiler = pytest.mark.skipif(sigmoid_attention_compiled.library() is None, reason="there is no C++ compiler")
FAST = [("blocked", torch.float64, 1e-12), pytest.param("compiled", torch.float32, 1e-5, marks=needs_compiler)]
SHAPES = [
    (2, 4, 4, 100, 100, 16, 16),
    (2, 2, 1, 33, 129, 7, 10),
    (1, 3, 3, 48, 64, 80, 33),
    (2, 2, 2, 130, 50, 32, 16),
    (1, 1, 1, 1, 5, 4, 4),
]


def _inputs(shape: tuple[int, ...], seed: int = 0) -> list[Tensor]:
    """Queries, keys, values and a bias (batch, heads, queries), float64."""
    batch, heads, key_heads, queries, keys, width, value_width = shape
    generator = torch.Generator().manual_seed(seed)
    sizes = [
        (batch, heads, queries, width),
        (batch, key_heads, keys, width),
        (batch, key_heads, keys, value_width),
        (batch, heads, queries),
    ]
    return [torch.randn(*size, generator=generator, dtype=torch.float64) for size in sizes]


def _options(shape: tuple[int, ...], causal: bool, window: int | None, masked: bool, sloped: bool) -> dict[str, Any]:
    batch, heads, _, _, keys, _, _ = shape
    generator = torch.Generator().manual_seed(1)
    mask = torch.rand(batch, keys, generator=generator) < 0.7
    mask[0] = False  # an example of which nobody sees anything
    slopes = torch.rand(heads, generator=generator, dtype=torch.float64)
    return {"causal": causal, "window": window, "mask": mask if masked else None, "slopes": slopes if sloped else None}


def _with_gradients(inputs: list[Tensor], dtype: torch.dtype, **options: Any) -> list[Tensor]:
    leaves = [x.to(dtype).requires_grad_() for x in inputs]
    outputs = sigmoid_attention(leaves[0], leaves[1], leaves[2], leaves[3], **options)
    weight = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(dtype)
    return [outputs.detach(), *torch.autograd.grad((outputs * weight).sum(), leaves)]


def _largest_error(found: list[Tensor], expected: list[Tensor]) -> float:
    return max(float((a.double() - b).abs().max() / b.abs().max().clamp(min=1e-300)) for a, b in zip(found, expected, strict=True))


def test_the_equation_against_a_loop_in_numpy() -> None:
    shape = (2, 4, 2, 9, 12, 3, 5)
    inputs, options = _inputs(shape), _options(shape, True, 4, True, True)
    queries, keys, values, bias = (x.numpy() for x in inputs)
    mask, slopes = options["mask"].numpy(), options["slopes"].numpy()
    expected = np.zeros((2, 4, 9, 5))
    for b, h, i, j in itertools.product(range(2), range(4), range(9), range(12)):
        distance = i + 3 - j  # nine queries at the last of twelve positions
        if mask[b, j] and 0 <= distance < 4:
            score = queries[b, h, i] @ keys[b, h // 2, j] / math.sqrt(3) - slopes[h] * distance + bias[b, h, i]
            expected[b, h, i] += values[b, h // 2, j] / (1 + math.exp(-score))
    np.testing.assert_allclose(sigmoid_attention(*inputs, **options, implementation="plain").numpy(), expected, atol=1e-13)


@pytest.mark.parametrize(("implementation", "dtype", "tolerance"), FAST)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_fast_form_is_the_equation_in_value_and_gradient(shape, implementation, dtype, tolerance, monkeypatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 48)
    inputs = _inputs(shape)
    for flags in itertools.product((False, True), (None, 5, 70), (False, True), (False, True)):
        options = _options(shape, *flags)
        expected = _with_gradients(inputs, torch.float64, **options, implementation="plain")
        found = _with_gradients(inputs, dtype, **options, implementation=implementation)
        assert _largest_error(found, expected) <= tolerance, flags


@pytest.mark.parametrize(("implementation", "dtype", "tolerance"), FAST)
@pytest.mark.parametrize("examples", [1, 2])
def test_any_pattern_of_visible_pairs(implementation, dtype, tolerance, examples) -> None:
    inputs = _inputs((2, 4, 2, 100, 130, 16, 16))
    visible = torch.rand(examples, 1, 100, 130, generator=torch.Generator().manual_seed(3)) < 0.3
    visible[:, :, 48:96, :64] = False  # whole blocks of nothing and of everything
    visible[:, :, :48, 64:128] = True
    expected = _with_gradients(inputs, torch.float64, visible=visible, implementation="plain")
    found = _with_gradients(inputs, dtype, visible=visible, implementation=implementation)
    assert _largest_error(found, expected) <= tolerance


@needs_compiler
def test_compiled_with_more_keys_than_a_chunk_and_several_threads() -> None:
    # one head and two threads: the chunks of keys are dealt out, and the sums for the queries come together again
    inputs, threads = _inputs((1, 2, 1, 300, 1300, 24, 40)), torch.get_num_threads()
    expected = _with_gradients(inputs, torch.float64, causal=True, implementation="plain")
    try:
        torch.set_num_threads(3)
        found = _with_gradients(inputs, torch.float32, causal=True, implementation="compiled")
    finally:
        torch.set_num_threads(threads)
    assert _largest_error(found, expected) <= 1e-5


@needs_compiler
def test_compiled_at_the_ends_of_the_sigmoid() -> None:
    queries = torch.ones(1, 1, 30, 1)
    keys = torch.tensor([-1e30, -200.0, -87.0, -20.0, 0.0, 20.0, 200.0, 1e30]).view(1, 1, -1, 1)
    values = torch.eye(8)[None, None]
    found = sigmoid_attention(queries, keys, values, implementation="compiled")[0, 0, 0]
    expected = torch.sigmoid(keys.double()).flatten()
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=3e-38)  # no weight is below 2^−125
    queries[0, 0, 3] = math.nan  # one query's NaN is its own
    found = sigmoid_attention(queries, keys, values, implementation="compiled")[0, 0]
    assert torch.isnan(found).any(1).tolist() == [row == 3 for row in range(30)]


@needs_compiler
def test_compiled_in_half_precision_computes_in_single() -> None:
    inputs = [x.bfloat16() for x in _inputs((1, 2, 2, 200, 200, 16, 16))[:3]]
    found = sigmoid_attention(*inputs, -1.0, implementation="compiled")
    assert found.dtype == torch.bfloat16
    exact = sigmoid_attention(*(x.double() for x in inputs), -1.0, implementation="plain")
    torch.testing.assert_close(found.double(), exact, rtol=2**-8, atol=1e-3)


@needs_compiler
@pytest.mark.parametrize("causal", [False, True])
def test_the_yardstick_is_softmax_attention(causal: bool) -> None:
    queries, keys, values = (x.float() for x in _inputs((2, 4, 2, 150, 150, 20, 12))[:3])
    expected = torch.nn.functional.scaled_dot_product_attention(
        queries, keys.repeat_interleave(2, 1), values.repeat_interleave(2, 1), is_causal=causal
    )
    torch.testing.assert_close(sigmoid_attention_compiled.softmax_attention(queries, keys, values, causal), expected, rtol=1e-5, atol=1e-5)


def test_gradients_of_the_blocks_by_finite_differences(monkeypatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 4)
    inputs = [x.requires_grad_() for x in _inputs((1, 2, 1, 7, 9, 3, 2))]

    def blocked(*leaves: Tensor) -> Tensor:
        return sigmoid_attention(*leaves, causal=True, window=5, implementation="blocked")

    assert gradcheck(blocked, inputs)


@pytest.mark.parametrize("implementation", ["plain", "blocked", pytest.param("compiled", marks=needs_compiler)])
def test_closed_forms(implementation) -> None:
    queries, keys, values = (x.float() for x in _inputs((1, 2, 2, 40, 40, 8, 8))[:3])
    total = values.sum(2, keepdim=True).expand_as(values)
    run = {"implementation": implementation}
    for bias in (1e4, math.inf):
        torch.testing.assert_close(sigmoid_attention(queries, keys, values, bias, **run), total, rtol=1e-5, atol=1e-5)
    assert sigmoid_attention(queries, keys, values, -math.inf, **run).abs().max() < 1e-30
    even = sigmoid_attention(torch.zeros_like(queries), keys, values, -math.log(40), **run)
    torch.testing.assert_close(even, total / 41, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("implementation", ["plain", "blocked", pytest.param("compiled", marks=needs_compiler)])
def test_no_keys_give_zeros_and_no_queries_nothing(implementation) -> None:
    queries, keys = torch.ones(2, 1, 3, 4, requires_grad=True), torch.ones(2, 1, 0, 4)
    outputs = sigmoid_attention(queries, keys, keys, implementation=implementation)
    assert torch.equal(outputs, torch.zeros(2, 1, 3, 4))
    outputs.sum().backward()
    assert torch.equal(queries.grad, torch.zeros_like(queries))
    assert sigmoid_attention(keys, queries, queries, implementation=implementation).shape == (2, 1, 0, 4)


def test_keys_are_added_to_outputs_that_are_there() -> None:
    queries, keys, values, _ = _inputs((2, 2, 2, 20, 30, 4, 4))
    early = sigmoid_attention(queries, keys[:, :, :20], values[:, :, :20], -2.0)
    late = update(early, queries, keys[:, :, 20:], values[:, :, 20:], -2.0)
    torch.testing.assert_close(late, sigmoid_attention(queries, keys, values, -2.0), rtol=0, atol=1e-13)


def test_packed_sequences_do_not_see_each_other() -> None:
    queries, keys, values, _ = (x[0] for x in _inputs((1, 4, 2, 37, 37, 4, 6)))
    stops, bias = torch.tensor([0, 10, 10, 37]), torch.randn(4, dtype=torch.float64)
    packed = packed_sigmoid_attention(queries, keys, values, stops, bias, causal=True, slopes=torch.rand(4))
    sequence = torch.bucketize(torch.arange(37), stops[1:], right=True)
    together = (sequence[:, None] == sequence[None, :])[None, None]
    positions = torch.cat([torch.arange(10), torch.arange(27)])[None]
    torch.manual_seed(0)
    bias, slopes = torch.randn(4, dtype=torch.float64), torch.rand(4)
    packed = packed_sigmoid_attention(queries, keys, values, stops, bias, causal=True, slopes=slopes)
    options: Any = {"causal": True, "slopes": slopes, "query_positions": positions, "key_positions": positions}
    whole = sigmoid_attention(queries[None], keys[None], values[None], bias, visible=together, **options)[0]
    torch.testing.assert_close(packed, whole, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="must rise from 0 to the 37 positions"):
        packed_sigmoid_attention(queries, keys, values, torch.tensor([0, 40]))


def test_memory_of_the_blocks_grows_with_the_length_alone() -> None:
    # nothing of the size (queries, keys) may be kept for the backward pass
    kept: list[int] = []
    inputs = [x.requires_grad_() for x in _inputs((1, 1, 1, 600, 600, 4, 4))]
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        sigmoid_attention(*inputs, implementation="blocked")
    assert max(kept) == 600 * 4


def test_dropout_drops_weights_and_keeps_their_mean() -> None:
    queries, keys, values = torch.zeros(1, 1, 400, 4), torch.zeros(1, 1, 100, 4), torch.ones(1, 1, 100, 1)
    torch.manual_seed(0)
    outputs = sigmoid_attention(queries, keys, values, dropout=0.5)
    assert outputs.std() > 1
    assert abs(float(outputs.mean()) - 50) < 1
    with pytest.raises(ValueError, match="dropout need implementation 'plain' or 'auto', got 'blocked'"):
        sigmoid_attention(queries, keys, values, dropout=0.5, implementation="blocked")


def test_without_a_compiler_blocks_take_over(monkeypatch) -> None:
    monkeypatch.setattr(sigmoid_attention_compiled, "library", lambda: None)
    inputs = [x.float() for x in _inputs((1, 2, 2, 200, 200, 8, 8))]
    expected = sigmoid_attention(*inputs, implementation="blocked")
    for implementation in ("auto", "compiled", "triton"):
        assert torch.equal(sigmoid_attention(*inputs, implementation=implementation), expected)


@needs_compiler
def test_auto_is_compiled_for_long_single_precision_and_never_for_double() -> None:
    inputs = _inputs((1, 1, 1, 200, 200, 8, 8))
    single = [x.float() for x in inputs]
    assert torch.equal(sigmoid_attention(*single), sigmoid_attention(*single, implementation="compiled"))
    assert torch.equal(sigmoid_attention(*inputs), sigmoid_attention(*inputs, implementation="blocked"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"implementation": "fast"}, "implementation must be one of"),
        ({"window": 0}, "window must be at least 1, got 0"),
        ({"mask": torch.ones(2, 4, dtype=torch.bool)}, r"mask must have shape \(2, 5\), got \(2, 4\)"),
        ({"visible": torch.ones(3, 1, 5, 5, dtype=torch.bool)}, r"visible must have shape \(2, 1, 5, 5\), got \(3, 1, 5, 5\)"),
        ({"mask": torch.ones(2, 5)}, "mask and visible must be booleans"),
        ({"slopes": torch.ones(1)}, r"slopes must have shape \(2,\), got \(1,\)"),
        ({"bias": torch.ones(3)}, r"bias must be a number"),
        ({"keys": torch.ones(2, 2, 5, 3)}, "must fit each other"),
        ({"keys": torch.ones(2, 3, 5, 4), "values": torch.ones(2, 3, 5, 4)}, "heads of keys must divide"),
        ({"queries": torch.ones(2, 5, 4)}, "must have shape"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict, words: str) -> None:
    given = {name: torch.ones(2, 2, 5, 4) for name in ("queries", "keys", "values")} | change
    with pytest.raises(ValueError, match=words):
        sigmoid_attention(**given)


INTERPRETED = """
import torch
from assay.ops.sigmoid_attention import sigmoid_attention
torch.manual_seed(0)
for causal, rich in ((False, False), (True, True)):
    q, k, v, b = torch.randn(2, 2, 70, 16), torch.randn(2, 1, 80, 16), torch.randn(2, 1, 80, 24), torch.randn(2, 2, 70)
    options = {"causal": causal}
    if rich:
        visible = torch.rand(2, 1, 70, 80) < 0.5
        options |= {"window": 50, "mask": torch.rand(2, 80) < 0.7, "slopes": torch.rand(2), "visible": visible}
    results = []
    for name in ("plain", "triton"):
        leaves = [x.clone().requires_grad_() for x in (q, k, v, b)]
        y = sigmoid_attention(*leaves, **options, implementation=name)
        results.append([y.detach(), *torch.autograd.grad(y.square().sum(), leaves)])
    for found, expected in zip(*results):
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_triton_kernels_in_the_interpreter() -> None:
    done = subprocess.run([sys.executable, "-c", INTERPRETED], env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
