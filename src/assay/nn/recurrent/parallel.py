"""`ParallelRecurrent`: several recurrent layers side by side, each with its own input and state, their outputs summed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from assay.contracts import State
from assay.nn.recurrent.masked import MaskedRecurrentCell, recurrent_scan

FUSED_WIDTH = 256
"""Up to this joint state width one wide call beats many narrow ones; beyond it the zeros between the blocks cost more than the calls."""


class ParallelRecurrent(nn.Module):
    """``y = Σ_k R_k(x_k)``: k recurrent layers of one width, each with its own zero initial state.

    Narrow layers run as one block-diagonal layer in a single kernel call, which is the same computation; wide ones one after another.

    Args:
        input_sizes: size of each input x_k.
        hidden_size: size of every state and of y.
        mode: see `MaskedRecurrentCell`.

    Shapes: each x_k (batch, length, input_sizes[k]) → y (batch, length, hidden_size).

    Source: Darji 2024, Investigating Sparsity in Recurrent Neural Networks (skip connections as layers of their own).
    """

    def __init__(self, input_sizes: Sequence[int], hidden_size: int, mode: str) -> None:
        super().__init__()
        if not input_sizes:
            raise ValueError("input_sizes must name at least one input, got none")
        self.hidden_size, self.mode = hidden_size, mode
        self.cells = nn.ModuleList(MaskedRecurrentCell(size, hidden_size, mode) for size in input_sizes)

    def __iter__(self) -> Iterator[MaskedRecurrentCell]:
        """The cells, in the order of the inputs."""
        for cell in self.cells:
            assert isinstance(cell, MaskedRecurrentCell)  # the only kind put in
            yield cell

    def forward(self, inputs: Sequence[Tensor], mask: Tensor | None = None) -> Tensor:
        """The summed outputs for one input a cell.

        Raises:
            ValueError: not as many inputs as cells.
        """
        if len(inputs) != len(self.cells):
            raise ValueError(f"expected {len(self.cells)} inputs, got {len(inputs)}")
        if len(self.cells) == 1 or len(self.cells) * self.hidden_size > FUSED_WIDTH:
            outputs = [cell(x, mask) for cell, x in zip(self, inputs, strict=True)]
            return torch.stack(outputs).sum(0) if len(outputs) > 1 else outputs[0]
        x = torch.cat(list(inputs), -1)
        y, _ = recurrent_scan(self.mode, x, self._fused_state(x), self._fused_weights(), mask)
        return y.unflatten(-1, (len(self.cells), self.hidden_size)).sum(-2)

    def _fused_state(self, x: Tensor) -> State:
        h = x.new_zeros(x.shape[0], len(self.cells) * self.hidden_size)
        return (h, h) if self.mode == "lstm" else h

    def _fused_weights(self) -> list[Tensor]:
        """Weights and biases of one layer that holds all cells: within each gate, one diagonal block a cell."""
        inputs, states = zip(*(cell.effective_weights() for cell in self), strict=True)
        weights = [self._by_gate(tensors, torch.block_diag) for tensors in (inputs, states)]
        biases = [self._by_gate([getattr(cell, name) for cell in self], _joined) for name in ("bias_ih", "bias_hh")]
        return [*weights, *biases]

    def _by_gate(self, tensors: Sequence[Tensor], join: Any) -> Tensor:
        gates = zip(*(tensor.split(self.hidden_size) for tensor in tensors), strict=True)
        return torch.cat([join(*gate) for gate in gates])


def _joined(*parts: Tensor) -> Tensor:
    return torch.cat(parts)
