"""`Linear`: `torch.nn.Linear` by the fastest product this processor has."""

from __future__ import annotations

from torch import Tensor, nn

from assay.ops.affine import affine


class Linear(nn.Linear):
    """``y = x Wᵀ + b``; arguments, parameters and errors as `torch.nn.Linear`, the product by `assay.ops.affine`.

    Shapes: (…, inputs) to (…, outputs).
    """

    def forward(self, input: Tensor) -> Tensor:
        """``x Wᵀ + b``, the argument named as in PyTorch."""
        return affine(input, self.weight, self.bias)
