"""The running maximum, as it runs and as it is exported."""

from __future__ import annotations

import pytest
import torch

from assay.ops.running_maximum import running_maximum


class Module(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return running_maximum(x)


@pytest.mark.parametrize("x", [torch.randn(2, 9, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([[3, 1, 4, 1, 5]])])
def test_every_position_holds_the_largest_so_far(x: torch.Tensor) -> None:
    expected = torch.stack([x[:, : t + 1].amax(1) for t in range(x.shape[1])], 1)
    assert torch.equal(running_maximum(x), expected)
    exported = torch.export.export(Module(), (x,))
    assert torch.equal(exported.module()(x), expected)
    assert "cummax" not in str(exported.graph)  # what ONNX has no operator for
