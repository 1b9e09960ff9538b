"""Recurrences over a sequence: torch's layers and closed forms hold the reference, and the reference holds every fast form."""

from __future__ import annotations

import importlib.util
import logging
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

from assay.ops import extension, recurrent_scan_compiled
from assay.ops import recurrent_scan as module
from assay.ops.recurrent_cells import CELLS
from assay.ops.recurrent_plan import Plan
from assay.ops.recurrent_scan import Conditions, recurrent_scan, recurrent_step, scan_states

needs_compiler = pytest.mark.skipif(recurrent_scan_compiled.library() is None, reason="there is no C++ compiler")
FAST = [("closed", torch.float64, 1e-10), pytest.param("compiled", torch.float32, 2e-5, marks=needs_compiler)]
SHAPES = [(1, 1, 1, 1), (3, 5, 2, 7), (16, 2, 1, 33), (3, 65, 2, 8), (16, 4, 1, 96), (13, 6, 3, 17)]


def problem(function: str, shape: tuple[int, int, int, int], seed: int = 0) -> list[Tensor]:
    """Inputs, weights, bias and non-zero states, float64."""
    cell, (batch, length, heads, size) = CELLS[function], shape
    generator = torch.Generator().manual_seed(seed)

    def normal(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=generator, dtype=torch.float64)

    inputs, weights = normal(batch, length, cell.inputs, heads, size), normal(cell.recurrent, heads, size, size) / math.sqrt(size)
    bias, states = normal(cell.biases, heads, size), normal(cell.states, batch, 1, heads, size)
    if function == "slstm":
        states[2] = states[2].abs() + 1  # its normaliser is never below 1
    return [inputs, weights, bias, states]


def conditions(kind: str, shape: tuple[int, int, int, int]) -> dict[str, Any]:
    """Options by name: nothing, masked, reset, decayed, clipped, cut, or all."""
    batch, length, heads, size = shape
    generator = torch.Generator().manual_seed(1)
    mask, reset = (torch.rand(batch, length, generator=generator) < chance for chance in (0.7, 0.3))
    decay = torch.rand(batch, length, heads, size, generator=generator, dtype=torch.float64)
    every = {"mask": mask, "reset": reset, "decay": decay, "recurrent_grad_clip": 0.05, "cut_recurrent_gradient": True}
    if kind == "all":
        return {name: value for name, value in every.items() if name != "cut_recurrent_gradient"}
    return {name: value for name, value in every.items() if name.startswith(kind) or name == f"recurrent_grad_{kind}"}


def with_gradients(tensors: list[Tensor], function: str, backend: Any, dtype: torch.dtype, **options: Any) -> list[Tensor]:
    """States, last states, and the gradients of a weighted sum of both, of all that has one."""
    leaves = [x.to(dtype).requires_grad_() for x in tensors]
    if "decay" in options:
        options["decay"] = options["decay"].to(dtype).requires_grad_()
    states, last = recurrent_scan(leaves[0], leaves[1], leaves[2], leaves[3], function, backend, **options)
    generator = torch.Generator().manual_seed(2)
    weights = [torch.randn(x.shape, generator=generator, dtype=torch.float64).to(dtype) for x in (states, last)]
    if function == "slstm":  # no gradient is defined for the stabiliser
        for weight in weights:
            weight[3] = 0
    asked = [*leaves, *([options["decay"]] if "decay" in options else [])]
    return [states.detach(), last.detach(), *torch.autograd.grad((states * weights[0]).sum() + (last * weights[1]).sum(), asked)]


# ------------------------------------------------------------------------------------------------ the equations


@pytest.mark.parametrize(("function", "layer"), [("elman", nn.RNN), ("elman-relu", nn.RNN), ("lstm", nn.LSTM), ("gru", nn.GRU)])
def test_one_head_is_the_layer_of_torch(function: str, layer: Any) -> None:
    inputs, weights, bias, states = problem(function, (3, 9, 1, 5))
    peer = layer(5, 5, batch_first=True, **({"nonlinearity": "relu"} if function == "elman-relu" else {})).double()
    flat = weights[:, 0]
    with torch.no_grad():
        inner = torch.cat([flat[1:], flat[:1]]) if function == "gru" else flat
        peer.weight_hh_l0.copy_(inner.flatten(0, 1))
        outer_bias = torch.stack([bias[1], bias[2], bias[3]]) if function == "gru" else bias
        peer.bias_ih_l0.copy_(outer_bias.flatten())
        peer.bias_hh_l0.zero_()
        if function == "gru":
            peer.bias_hh_l0[10:].copy_(bias[0, 0])
        x = torch.randn(3, 9, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        inputs = (x @ peer.weight_ih_l0.T).view_as(inputs)
        initial = (states[0, :, 0, 0][None], states[1, :, 0, 0][None]) if function == "lstm" else states[0, :, 0, 0][None]
        expected, _ = peer(x, initial)
    found, _ = recurrent_scan(inputs, weights, bias, states, function, "reference")
    torch.testing.assert_close(found[0, :, :, 0], expected, rtol=1e-9, atol=1e-10)


def test_elman_with_the_logistic_function_is_its_equation() -> None:
    """``h_t = σ(w_t + R h_{t−1} + b)``: PyTorch has no such layer to hold it against."""
    inputs, weights, bias, states = problem("elman-sigmoid", (2, 8, 2, 3))
    found, _ = recurrent_scan(inputs, weights, bias, states, "elman-sigmoid", "reference")
    h = states[0, :, 0]
    for t in range(8):
        h = 1 / (1 + torch.exp(-(inputs[:, t, 0] + torch.einsum("hop,bhp->bho", weights[0], h) + bias[0])))
        torch.testing.assert_close(found[0, :, t], h, rtol=1e-12, atol=1e-14)


def test_slstm_is_its_unstabilised_form_where_that_fits_a_float() -> None:
    """``c = exp(i) …``, ``n = exp(i) …`` and ``h = σ(o) c / n`` without m."""
    inputs, weights, bias, _ = problem("slstm", (2, 8, 2, 3))
    hidden, _ = recurrent_scan(inputs, weights, bias, None, "slstm", "reference")
    h = c = n = torch.zeros(2, 2, 3, dtype=torch.float64)
    for t in range(8):
        i, f, z, o = (inputs[:, t] + torch.einsum("ghop,bhp->bgho", weights, h) + bias).unbind(1)
        c, n = f.sigmoid() * c + i.exp() * z.tanh(), f.sigmoid() * n + i.exp()
        h = o.sigmoid() * c / n
        torch.testing.assert_close(hidden[0, :, t], h, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("backend", "dtype", "tolerance"), FAST)
def test_slstm_holds_out_against_huge_gates(backend: Any, dtype: torch.dtype, tolerance: float) -> None:
    inputs, weights, bias, _ = (x.to(dtype) for x in problem("slstm", (2, 8, 2, 3)))
    inputs[:, :, 0] += 500
    shifted, _ = recurrent_scan(inputs, weights, bias, None, "slstm", backend)
    inputs[:, :, 0] -= 500
    plain, _ = recurrent_scan(inputs, weights, bias, None, "slstm", backend)
    assert torch.isfinite(shifted).all()
    assert (shifted[0] - plain[0]).abs().max() < 1e-3  # the shift moves the stabiliser alone, but for what 500 rounds away


@pytest.mark.parametrize("function", CELLS)
def test_heads_are_recurrences_of_their_own(function: str) -> None:
    inputs, weights, bias, states = problem(function, (2, 6, 3, 4))
    whole, _ = recurrent_scan(inputs, weights, bias, states, function, "reference")
    for head in range(3):
        at = slice(head, head + 1)
        alone, _ = recurrent_scan(inputs[:, :, :, at], weights[:, at], bias[:, at], states[:, :, :, at], function, "reference")
        torch.testing.assert_close(whole[:, :, :, at], alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("function", CELLS)
def test_a_scan_is_steps_and_chunks_join(function: str) -> None:
    inputs, weights, bias, states = problem(function, (2, 7, 2, 3))
    whole, last = recurrent_scan(inputs, weights, bias, states, function, "closed")
    first, middle = recurrent_scan(inputs[:, :3], weights, bias, states, function, "closed")
    second, end = recurrent_scan(inputs[:, 3:], weights, bias, middle, function, "closed")
    torch.testing.assert_close(torch.cat([first, second], 2), whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(end, last, rtol=1e-12, atol=1e-12)
    for t in range(7):
        states = recurrent_step(inputs[:, t], weights, bias, states, function)
        torch.testing.assert_close(states[:, :, 0], whole[:, :, t], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("function", CELLS)
@pytest.mark.parametrize("backend", ["reference", "closed"])
def test_gradients_are_those_of_differences(function: str, backend: Any) -> None:
    shape = (2, 4, 2, 3)
    *tensors, states = problem(function, shape)
    options = conditions("all", shape) | {"recurrent_grad_clip": None}
    stabiliser = states[3:]  # it has no gradient; for the other states h is a function as any

    def hidden(inputs: Tensor, weights: Tensor, bias: Tensor, states: Tensor) -> Tensor:
        found = recurrent_scan(inputs, weights, bias, torch.cat([states, stabiliser]), function, backend, **options)[0]
        return found[:1] if function == "slstm" else found

    assert gradcheck(hidden, [x.requires_grad_() for x in (*tensors, states[:3].contiguous())])


def test_the_reference_can_be_differentiated_twice() -> None:
    tensors = [x.requires_grad_() for x in problem("lstm", (1, 2, 1, 2))]
    assert gradgradcheck(lambda *x: recurrent_scan(x[0], x[1], x[2], x[3], "lstm", "reference")[0], tensors)


# ------------------------------------------------------------------------------------------------ fast forms


@pytest.mark.parametrize(("backend", "dtype", "tolerance"), FAST)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("function", CELLS)
def test_a_fast_form_is_the_reference(function: str, shape: Any, backend: Any, dtype: torch.dtype, tolerance: float) -> None:
    tensors = problem(function, shape)
    for kind in ("nothing", "all"):
        options = conditions(kind, shape)
        expected = with_gradients(tensors, function, "reference", torch.float64, **options)
        found = with_gradients(tensors, function, backend, dtype, **options)
        for mine, other in zip(found, expected, strict=True):
            assert mine.dtype == dtype
            assert (mine.double() - other).abs().max() <= tolerance * max(1.0, float(other.abs().max()))


@pytest.mark.parametrize(("backend", "dtype", "tolerance"), FAST)
@pytest.mark.parametrize("kind", ["mask", "reset", "decay", "clip", "cut"])
@pytest.mark.parametrize("function", ["gru", "slstm"])
def test_each_condition_alone(function: str, kind: str, backend: Any, dtype: torch.dtype, tolerance: float) -> None:
    shape = (3, 6, 2, 5)
    options = conditions(kind, shape)
    assert len(options) == 1
    expected = with_gradients(problem(function, shape), function, "reference", torch.float64, **options)
    plain = with_gradients(problem(function, shape), function, "reference", torch.float64)
    found = with_gradients(problem(function, shape), function, backend, dtype, **options)
    assert any(not torch.equal(with_it, without) for with_it, without in zip(expected, plain, strict=False))
    for mine, other in zip(found, expected, strict=True):
        assert (mine.double() - other).abs().max() <= tolerance * max(1.0, float(other.abs().max()))


@needs_compiler
@pytest.mark.parametrize(
    "tiling", [Plan(1, 1, 1, 1), Plan(5, 2, 3, 7), Plan(12, 1, 8, 16, bundle=3), Plan(3, 6, 100, 4), Plan(8, 3, 5, 16, bundle=2)]
)
def test_any_tiling_gives_the_same_numbers(tiling: Plan) -> None:
    """The plan decides speed alone; tiles that do not divide rows, columns or depth included."""
    functions = recurrent_scan_compiled.library()
    assert functions is not None
    if not functions.recurrent_has_tile(tiling.rows, tiling.vectors):
        pytest.skip("this processor has too few registers for the tile")
    inputs, weights, bias, states = (x.float() for x in problem("lstm", (13, 5, 2, 17)))
    arguments = ("lstm", inputs, weights, bias, states[:, :, 0].contiguous(), None, Conditions())
    usual, tiled = recurrent_scan_compiled.Compiled(), recurrent_scan_compiled.Compiled(tiling, tiling)
    (expected, kept), (found, _) = usual.forward(*arguments, keep=True), tiled.forward(*arguments, keep=True)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    back = ("lstm", weights, arguments[4], None, Conditions(), expected, kept, [expected[0], None], None)
    for mine, other in zip(tiled.backward(*back)[:3], usual.backward(*back)[:3], strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


@needs_compiler
def test_inputs_need_not_be_dense_and_stay_as_they_were() -> None:
    inputs, weights, bias, states = (x.float() for x in problem("gru", (4, 10, 2, 6)))
    wide = torch.randn(4, 20, 3, 2, 12)
    wide[:, ::2, :, :, ::2] = inputs
    before = wide.clone()
    turned = weights.transpose(2, 3).contiguous().transpose(2, 3)
    found, _ = recurrent_scan(wide[:, ::2, :, :, ::2], turned, bias, states, "gru", "compiled")
    expected, _ = recurrent_scan(inputs, weights, bias, states, "gru", "reference")
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(wide, before)


@needs_compiler
@pytest.mark.parametrize("function", ["elman", "elman-sigmoid", "lstm", "gru", "slstm"])
def test_activations_are_within_two_millionths_over_their_whole_range(function: str) -> None:
    """Without recurrence, what is left is the cell's own arithmetic: gates from −100 to 100."""
    cell = CELLS[function]
    line = torch.linspace(-100, 100, 4096, dtype=torch.float64)
    gates = torch.stack([line.roll(97 * g) for g in range(cell.inputs)]).unflatten(1, (64, 1, 1, 64)).transpose(0, 1)
    inputs, weights, bias = gates.transpose(1, 2), torch.zeros(cell.recurrent, 1, 64, 64), torch.zeros(cell.biases, 1, 64)
    expected, _ = recurrent_scan(inputs, weights.double(), bias.double(), None, function, "reference")
    found, _ = recurrent_scan(inputs.float(), weights, bias, None, function, "compiled")
    assert (found[0] - expected[0]).abs().max() < 2e-6


@needs_compiler
@pytest.mark.parametrize("function", CELLS)
def test_nan_goes_through_and_infinity_saturates(function: str) -> None:
    inputs, weights, bias, _ = (x.float() for x in problem(function, (2, 6, 1, 4)))
    inputs[1, 3, 0, 0, 2] = math.nan
    states, _ = recurrent_scan(inputs, weights, bias, None, function, "compiled")
    assert torch.isfinite(states[0, 0]).all()
    assert torch.isfinite(states[0, 1, :3]).all()
    assert states[0, 1, 3, 0, 2].isnan() or function == "lstm"
    assert states[0, 1, 4].isnan().any()
    if function in ("elman", "elman-sigmoid", "lstm", "gru"):
        inputs = torch.full_like(inputs, math.inf)
        inputs[:, ::2] = -math.inf
        assert torch.isfinite(recurrent_scan(inputs, weights, bias, None, function, "compiled")[0][0]).all()


@needs_compiler
def test_lower_precision_is_computed_in_float32_and_given_back() -> None:
    tensors = [x.to(torch.bfloat16) for x in problem("lstm", (2, 12, 2, 8))]
    states, last = recurrent_scan(*tensors[:3], None, "lstm")
    expected, _ = recurrent_scan(*[x.float() for x in tensors[:3]], None, "lstm", "reference")
    assert states.dtype == torch.bfloat16
    assert last.dtype == torch.float32
    torch.testing.assert_close(states.float(), expected, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(last[:, :, 0], expected[:, :, -1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", ["reference", "closed", pytest.param("compiled", marks=needs_compiler)])
def test_masked_positions_leave_the_state_and_resets_begin_anew(backend: Any) -> None:
    inputs, weights, bias, states = (x.float() for x in problem("lstm", (1, 9, 2, 5)))
    mask = torch.tensor([[True, True, False, True, False, False, True, True, True]])
    found, _ = recurrent_scan(inputs, weights, bias, states, "lstm", backend, mask=mask)
    short, _ = recurrent_scan(inputs[mask][None], weights, bias, states, "lstm", backend)
    torch.testing.assert_close(found[:, mask], short[:, 0], rtol=1e-5, atol=1e-6)
    assert torch.equal(found[:, :, 2], found[:, :, 1])
    reset = torch.arange(9)[None] == 4
    joined, _ = recurrent_scan(inputs, weights, bias, states, "lstm", backend, reset=reset)
    anew, _ = recurrent_scan(inputs[:, 4:], weights, bias, None, "lstm", backend)
    torch.testing.assert_close(joined[:, :, 4:], anew, rtol=1e-5, atol=1e-6)


# ------------------------------------------------------------------------------------------------ choice and refusals


def test_without_a_compiler_the_loop_runs_and_says_so_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(extension, "_compiler", lambda: (_ for _ in ()).throw(OSError("there is no C++ compiler")))
    extension.compiled.cache_clear()
    tensors = [x.float() for x in problem("gru", (2, 6, 1, 4))]
    with caplog.at_level(logging.WARNING):
        found = [recurrent_scan(*tensors, "gru", "compiled")[0] for _ in range(2)]
    extension.compiled.cache_clear()
    assert len(caplog.records) == 1
    torch.testing.assert_close(found[0], recurrent_scan(*tensors, "gru", "reference")[0])


def test_layers_get_the_states_apart() -> None:
    tensors = problem("lstm", (2, 5, 2, 3))
    states, last = recurrent_scan(*tensors, "lstm")
    hidden, same, cell = scan_states(*tensors, "lstm")
    assert torch.equal(states, torch.stack([hidden, cell]))
    assert torch.equal(last, same)


def test_what_is_not_finite_is_named_if_asked_for() -> None:
    inputs, weights, bias, _ = problem("lstm", (3, 6, 1, 2))
    inputs[2, 4, 1, 0, 1] = math.nan
    recurrent_scan(inputs, weights, bias)
    with pytest.raises(ValueError, match=r"inputs are not finite at step 4 \(row 2"):
        recurrent_scan(inputs, weights, bias, check_finite=True)
    with pytest.raises(ValueError, match="states are not finite at step 0"):
        recurrent_scan(inputs.nan_to_num(), weights * math.inf, bias, problem("lstm", (3, 6, 1, 2))[3], check_finite=True)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"function": "mlstm"}, "function must be one of elman.*got 'mlstm'"),
    ({"backend": "cuda"}, "backend must be one of.*got 'cuda'"),
    ({"inputs": torch.zeros(2, 4, 3, 1, 5)}, r"\(batch, length, 4, heads, size\), got \(2, 4, 3, 1, 5\)"),
    ({"inputs": torch.zeros(2, 0, 4, 1, 5)}, "at least one step"),
    ({"weights": torch.zeros(4, 1, 5, 6)}, r"weights of lstm must have shape \(4, 1, 5, 5\), got \(4, 1, 5, 6\)"),
    ({"bias": torch.zeros(3, 1, 5)}, r"bias of lstm must have shape \(4, 1, 5\), got \(3, 1, 5\)"),
    ({"states": torch.zeros(2, 3, 1, 1, 5)}, r"states of lstm must have shape \(2, 2, 1, 1, 5\), got \(2, 3, 1, 1, 5\)"),
    ({"states": torch.zeros(4, 2, 1, 1, 5)}, "states of lstm must have shape"),
    ({"states": torch.zeros(2, 2, 1, 1, 5, dtype=torch.int64)}, "states must be floating-point numbers, got torch.int64"),
    ({"mask": torch.ones(2, 4)}, "mask must be booleans of shape"),
    ({"reset": torch.ones(2, 3, dtype=torch.bool)}, "reset must be booleans of shape"),
    ({"decay": torch.ones(2, 4, 5)}, r"decay must have shape \(2, 4, 1, 5\), got \(2, 4, 5\)"),
    ({"recurrent_grad_clip": 0.0}, "recurrent_grad_clip must be positive, got 0"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    fitting = {"inputs": torch.zeros(2, 4, 4, 1, 5), "weights": torch.zeros(4, 1, 5, 5), "bias": torch.zeros(4, 1, 5)}
    with pytest.raises(ValueError, match=message):
        recurrent_scan(**(fitting | change))


def test_triton_refuses_heads_that_do_not_fit_the_chip() -> None:
    with pytest.raises(ValueError, match=r"heads of 16, 32, 64 in float32, got torch\.float32 and heads of 2560"):
        recurrent_scan(torch.zeros(1, 4, 1, 1, 2560), torch.zeros(1, 1, 2560, 2560), torch.zeros(1, 1, 2560), None, "elman", "triton")


def test_the_compiled_form_refuses_float64() -> None:
    with pytest.raises(ValueError, match="computes in float32"):
        recurrent_scan(*problem("lstm", (1, 4, 1, 2)), "lstm", "compiled")


# ------------------------------------------------------------------------------------------------ Triton

TRITON = """
import torch
from tests_of_scan import problem, with_gradients
for function in ("elman", "elman-relu", "lstm", "gru", "slstm", "elman-sigmoid"):
    tensors = [x.float() for x in problem(function, (3, 5, 2, 16))]
    expected = with_gradients(tensors, function, "reference", torch.float64)
    found = with_gradients(tensors, function, "triton", torch.float32)
    for mine, other in zip(found, expected, strict=True):
        assert (mine - other).abs().max() < 1e-4, function
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_triton_in_its_interpreter(tmp_path: Any) -> None:
    (tmp_path / "tests_of_scan.py").write_text(Path(__file__).read_text(encoding="utf-8"))
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", TRITON], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_triton_says_once_that_it_knows_no_masks(caplog: pytest.LogCaptureFixture) -> None:
    """What was asked for does not run: the numbers are right, and the log says that another form made them."""
    tensors = [x.float() for x in problem("lstm", (2, 5, 1, 16))]
    mask = torch.arange(5)[None] < torch.tensor([[5], [3]])
    module._say_without_triton.cache_clear()
    with caplog.at_level(logging.WARNING):
        found, _ = recurrent_scan(*tensors, "lstm", "triton", mask=mask)
        recurrent_scan(*tensors, "lstm", "triton", mask=mask)
    assert [record.message for record in caplog.records if "mask" in record.message] == [caplog.records[0].message]
    torch.testing.assert_close(found, recurrent_scan(*tensors, "lstm", "reference", mask=mask)[0])


def test_triton_without_a_gpu_falls_back_once(caplog: pytest.LogCaptureFixture) -> None:
    if torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("Triton runs here")
    module._triton.cache_clear()
    tensors = [x.float() for x in problem("lstm", (1, 4, 1, 16))]
    with caplog.at_level(logging.WARNING):
        found, _ = recurrent_scan(*tensors, "lstm", "triton")
    assert len(caplog.records) == 1
    assert torch.equal(found, recurrent_scan(*tensors, "lstm", "closed")[0])
