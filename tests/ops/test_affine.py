"""`affine` must be the linear map of PyTorch whichever library multiplies, and leave everything but large float32 products alone."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from assay.nn import Linear
from assay.ops import affine as module
from assay.ops.affine import ROWS, affine
from assay.ops.processor import _vendor


@pytest.fixture
def by_convolution(monkeypatch) -> list[tuple[int, ...]]:
    """The convolution is taken whatever this processor is; the shapes it was given."""
    seen, real = [], F.conv2d

    def counted(x, *rest):
        seen.append(tuple(x.shape))
        return real(x, *rest)

    monkeypatch.setattr(module, "leaves_vectors_unused", lambda: True)
    monkeypatch.setattr(module.F, "conv2d", counted)
    return seen


@pytest.mark.parametrize("shape", [(16, 64, 24), (2048, 16), (3, 17, 23, 40)])
@pytest.mark.parametrize("biased", [True, False])
def test_values_and_gradients_are_those_of_the_plain_product(by_convolution, shape, biased):
    torch.manual_seed(0)
    x, weight, bias = torch.randn(shape), torch.randn(48, shape[-1]), torch.randn(48) if biased else None
    flow = torch.randn(*shape[:-1], 48)
    found = []
    for function in (affine, F.linear):
        leaves = [each.clone().requires_grad_() for each in (x, weight, bias) if each is not None]
        y = function(*leaves)
        found.append((y.detach(), *torch.autograd.grad(y, leaves, flow)))
    assert by_convolution, "the convolution was not taken, so nothing was tested"
    for ours, theirs in zip(*found, strict=True):
        assert ours.shape == theirs.shape
        assert ours.is_contiguous()
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * float(theirs.abs().max()))


def test_a_second_derivative_passes(by_convolution):
    """Penalties of the gradient differentiate twice."""
    torch.manual_seed(0)
    x, weight = torch.randn(ROWS, 16, requires_grad=True), torch.randn(16, 16, requires_grad=True)
    (slope,) = torch.autograd.grad(affine(x, weight).pow(3).sum(), x, create_graph=True)
    (ours,) = torch.autograd.grad(slope.pow(2).sum(), weight)
    (slope,) = torch.autograd.grad(F.linear(x, weight).pow(3).sum(), x, create_graph=True)
    (theirs,) = torch.autograd.grad(slope.pow(2).sum(), weight)
    assert by_convolution
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))


@pytest.mark.parametrize(
    ("x", "why"),
    [
        (torch.randn(ROWS - 1, 32), "few rows"),
        (torch.randn(ROWS, 32).double(), "another type"),
        (torch.randn(32, ROWS).T, "rows that do not lie one after another"),
        (torch.randn(ROWS, 15), "a map too narrow to gain"),
        (torch.randn(1031, 32), "a prime number of rows, which no number of images divides"),
        (torch.randn(0, 32), "no rows"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_gains_nothing_is_left_to_the_plain_product(by_convolution, x, why):
    weight = torch.randn(16, x.shape[-1], dtype=x.dtype)
    assert torch.equal(affine(x, weight), F.linear(x, weight))
    assert not by_convolution, why


def test_half_precision_by_autocast_is_left_to_pytorch(by_convolution):
    x, weight = torch.randn(ROWS, 16), torch.randn(16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        assert affine(x, weight).dtype == torch.bfloat16
        assert not by_convolution


def test_an_exported_layer_is_a_plain_product(by_convolution):
    """Whoever runs the graph elsewhere should see a matrix product."""
    program = torch.export.export(Linear(16, 16), (torch.randn(ROWS, 16),))
    assert any("linear" in str(node.target) for node in program.graph.nodes)
    assert not by_convolution


def test_a_compiler_sees_a_plain_product_and_has_nothing_to_warn_of(by_convolution):
    torch._dynamo.reset()
    compiled, x = torch.compile(Linear(16, 16), backend="aot_eager", fullgraph=True), torch.randn(ROWS, 16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compiled(x)
    assert not by_convolution


def test_the_layer_keeps_pytorchs_parameters():
    torch.manual_seed(0)
    theirs = nn.Linear(24, 40)
    ours = Linear(24, 40)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(ROWS, 24)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)
    assert isinstance(ours, nn.Linear), "what looks for linear layers must find it"


def test_the_maker_is_read_from_the_systems_table(tmp_path: Path):
    table = tmp_path / "cpuinfo"
    table.write_text("processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel\t: 2\n")
    assert _vendor(table) == "AuthenticAMD"
    table.write_text("processor\t: 0\nCPU implementer\t: 0x41\n")
    assert [_vendor(table), _vendor(tmp_path / "none")] == ["", ""]
