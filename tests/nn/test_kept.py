"""What is made of parameters: once, again when they change, with a gradient through it, and as a constant in a graph for export."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from assay.nn.kept import Kept, as_constants


class Turned(nn.Module):
    """``x e^{A − Aᵀ}``, and how often the exponential was made."""

    def __init__(self) -> None:
        super().__init__()
        self.times = 1
        self.generator = nn.Parameter(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))
        self.kept, self.made = Kept(), 0

    def rotation(self) -> Tensor:
        self.made += 1
        return torch.linalg.matrix_exp(self.times * (self.generator - self.generator.T))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.kept.get("rotation", self, self.rotation, self.times)


def test_it_is_made_once_until_a_parameter_changes() -> None:
    layer, x = Turned(), torch.randn(2, 3)
    with torch.no_grad():
        first = layer(x)
        assert torch.equal(layer(x), first)
        assert layer.made == 1
        layer.generator.mul_(2)
        assert not torch.equal(layer(x), first)
    assert layer.made == 2


def test_a_gradient_flows_through_the_making() -> None:
    layer = Turned()
    with torch.no_grad():
        layer(torch.randn(2, 3))
    layer(torch.randn(2, 3)).square().sum().backward()
    assert layer.generator.grad is not None


def test_an_exported_graph_holds_it_as_a_constant_where_that_is_asked_for() -> None:
    layer, x = Turned(), torch.randn(2, 3)

    def operations() -> list[str]:
        program = torch.export.export(layer, (x,))
        torch.testing.assert_close(program.module()(x), layer(x))
        return [str(node.target) for node in program.graph.nodes if node.op == "call_function"]

    with as_constants(layer, x):
        assert not any("matrix_exp" in name for name in operations())
        layer.times = 2  # not what was kept: it is made in the graph
        assert any("matrix_exp" in name for name in operations())
    assert any("matrix_exp" in name for name in operations())  # outside, parameters may have changed: it is made in the graph
