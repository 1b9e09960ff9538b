"""`FeedForward`: the channel mixer of every block, with any activation."""

from __future__ import annotations

from torch import Tensor, nn

from assay.nn.channel.activation import activation as make_activation
from assay.nn.linear import Linear


class FeedForward(nn.Module):
    """Two linear maps with an activation between: ``y = W₂ f(W₁ x + b₁) + b₂``, on each position alone.

    With a gated activation W₁ gives value and gate, ``2 · round(2/3 · hidden)`` numbers, and W₂ reads ``round(2/3 · hidden)``: as many
    parameters as the ungated net of the same ``hidden``, to rounding (Shazeer, 2020).

    Args:
        width: size of x and y; x is (..., width).
        hidden: size between the maps, of an ungated net.
        dropout: probability of dropping a hidden unit.
        activation: a name of the registry's kind ``activation``, or ``file.py:Class``.

    Raises:
        ValueError: ``hidden`` is below 1.
        UserError: no activation has that name.
    """

    def __init__(self, width: int, hidden: int, dropout: float = 0.0, activation: str = "gelu") -> None:
        super().__init__()
        if hidden < 1:
            raise ValueError(f"hidden must be at least 1, got {hidden}")
        self.activation = make_activation(activation)
        gated = getattr(self.activation, "gated", False)
        inner = max(1, round(2 * hidden / 3)) if gated else hidden
        self.expand = Linear(width, 2 * inner if gated else inner)
        self.dropout = nn.Dropout(dropout)
        self.contract = Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., width) to (..., width)."""
        return self.contract(self.dropout(self.activation(self.expand(x))))
