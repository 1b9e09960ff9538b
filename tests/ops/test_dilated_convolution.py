"""Dilated convolutions against PyTorch's grouped one: every implementation, padding and ending, with gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from assay.ops import dilated_convolution_compiled as compiled
from assay.ops.dilated_convolution import IMPLEMENTATIONS, dilated_convolution


def inputs(length: int, taps: int, width: int, batch: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(length + taps + width)
    shapes = ((batch, length, width), (taps, width), (width,))
    x, weight, bias = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return x, weight, bias


def peer(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, dilation: int, padding: tuple[int, int]) -> torch.Tensor:
    padded = F.pad(x.transpose(1, 2), padding)
    return F.conv1d(padded, weight.T[:, None], bias, dilation=dilation, groups=x.shape[2]).transpose(1, 2)


CASES = [(1, 1, 3, 2), (40, 3, 16, 1), (40, 4, 21, 5), (70, 17, 5, 3), (300, 2, 33, 100), (130, 9, 64, 1)]
"""(length, taps, width, dilation): whole vectors and parts of one, blocks that are full and that are not."""


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("case", CASES)
def test_every_implementation_is_the_grouped_convolution(implementation: Any, case: tuple[int, int, int, int]) -> None:
    length, taps, width, dilation = case
    arguments = inputs(length, taps, width)
    reach = (taps - 1) * dilation
    for padding in {(reach, 0), (reach // 2, reach - reach // 2), (reach, reach)}:
        found = dilated_convolution(*(argument.float() for argument in arguments), dilation, padding, implementation=implementation)
        torch.testing.assert_close(found.double(), peer(*arguments, dilation, padding), atol=2e-5, rtol=0)


@pytest.mark.skipif(compiled.library() is None, reason="no C++ compiler")
@pytest.mark.parametrize("activated", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_compiled_gradients_are_those_of_autograd(activated: bool, case: tuple[int, int, int, int]) -> None:
    # silu is taken apart and put together again in the backward pass, which keeps nothing but the inputs
    length, taps, width, dilation = case
    arguments = [argument.requires_grad_() for argument in inputs(length, taps, width)]
    residual = torch.randn(2, length, width, dtype=torch.float64).requires_grad_() if activated else None
    wanted = [*arguments, *([] if residual is None else [residual])]
    y = peer(arguments[0], arguments[1], arguments[2], dilation, ((taps - 1) * dilation, 0))
    y = y if residual is None else residual + F.silu(y)
    arriving = torch.randn_like(y)
    expected = torch.autograd.grad(y, wanted, arriving)
    singles = [argument.detach().float().requires_grad_() for argument in wanted]
    options: dict[str, Any] = {"activated": True, "residual": singles[3]} if activated else {}
    found = dilated_convolution(*singles[:3], dilation, implementation="compiled", **options)
    torch.testing.assert_close(found.double(), y, atol=2e-5, rtol=0)
    for mine, theirs in zip(torch.autograd.grad(found, singles, arriving.float()), expected, strict=True):
        torch.testing.assert_close(mine.double(), theirs, atol=2e-5 * float(theirs.abs().max()), rtol=0)


@pytest.mark.skipif(compiled.library() is None, reason="no C++ compiler")
def test_several_threads_share_the_work() -> None:
    # few long blocks are split among threads, and each thread sums taps' gradients of its own
    x, weight, bias = (argument.float().requires_grad_() for argument in inputs(2_000, 3, 16))
    results, before = [], torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            y = dilated_convolution(x, weight, bias, 100, implementation="compiled")
            results.append((y, *torch.autograd.grad(y.square().sum(), (x, weight, bias))))
    finally:
        torch.set_num_threads(before)
    for one, many in zip(*results, strict=True):
        torch.testing.assert_close(many, one, atol=0, rtol=1e-4)


@pytest.mark.parametrize("implementation", ["shifted", "direct"])
def test_gradcheck(implementation: Any) -> None:
    x, weight, bias = (argument.requires_grad_() for argument in inputs(7, 3, 2))
    assert torch.autograd.gradcheck(lambda *given: dilated_convolution(*given, 2, implementation=implementation), (x, weight, bias))


def test_the_default_is_causal() -> None:
    x, weight, bias = inputs(12, 3, 4)
    changed = x.clone()
    changed[:, 6:] += 1
    before, after = dilated_convolution(x, weight, bias, 2), dilated_convolution(changed, weight, bias, 2)
    assert before.shape == x.shape
    torch.testing.assert_close(after[:, :6], before[:, :6], atol=0, rtol=0)
    assert (after[:, 6:] != before[:, 6:]).all()


def test_bfloat16_is_computed_in_float32() -> None:
    # seventeen products added up in bfloat16 would lose the small ones
    x, weight, bias = (argument.to(torch.bfloat16) for argument in inputs(200, 17, 32))
    found = dilated_convolution(x, weight, bias, 3, implementation="compiled")
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, dilated_convolution(x.float(), weight.float(), bias.float(), 3).to(torch.bfloat16), atol=0, rtol=0)


def test_nothing_in_gives_nothing_out() -> None:
    for implementation in ("auto", "shifted", "compiled"):
        assert dilated_convolution(torch.zeros(2, 0, 3), torch.zeros(4, 3), implementation=implementation).shape == (2, 0, 3)
        assert dilated_convolution(torch.zeros(0, 5, 3), torch.zeros(4, 3), implementation=implementation).shape == (0, 5, 3)


def test_without_a_compiler_the_shifted_form_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, bias = (argument.float() for argument in inputs(200, 5, 16))
    expected = dilated_convolution(x, weight, bias, implementation="shifted")
    monkeypatch.setattr(compiled, "library", lambda: None)
    torch.testing.assert_close(dilated_convolution(x, weight, bias, implementation="compiled"), expected, atol=0, rtol=0)
    with pytest.raises(RuntimeError, match=r"needs a C\+\+ compiler"):
        compiled.convolution(x, weight, bias, None, compiled.Place(1, (4, 0), False))


def test_what_does_not_fit_is_refused() -> None:
    x, weight, bias = inputs(8, 3, 4)
    with pytest.raises(ValueError, match=r"got \(2, 8, 4\) and \(3, 5\)"):
        dilated_convolution(x, torch.zeros(3, 5))
    with pytest.raises(ValueError, match=r"bias must have shape \(4,\), got \(3,\)"):
        dilated_convolution(x, weight, torch.zeros(3))
    with pytest.raises(ValueError, match="dilation must be at least 1, got 0"):
        dilated_convolution(x, weight, bias, 0)
    with pytest.raises(ValueError, match=r"between 0 and the reach of 4 positions, got \(5, 0\)"):
        dilated_convolution(x, weight, bias, 2, (5, 0))
    with pytest.raises(ValueError, match="the taps reach 20 positions back, the input and its padding have 8"):
        dilated_convolution(x, weight, bias, 10, (0, 0))
    with pytest.raises(ValueError, match="give activated=True"):
        dilated_convolution(x, weight, bias, residual=x)
    with pytest.raises(ValueError, match="got 'fast'"):
        dilated_convolution(x, weight, implementation="fast")  # pyright: ignore[reportArgumentType]
