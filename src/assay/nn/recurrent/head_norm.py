"""`GatedHeadNorm`: how the layers with a matrix per head leave it: each head normalised, then gated by the input."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class GatedHeadNorm(nn.Module):
    """``concat_heads(γ ∘ o_h / √(mean o_h² + ε)) ∘ silu(g)``: the scale of a head's output does not matter, the input chooses what passes.

    The published layers differ in the norm (group norm in Retentive Network's text, RMS in its code and in the later layers); this is the
    latter, which also works for heads of a single number.

    Source: Sun et al. (2023), Retentive Network: A Successor to Transformer for Large Language Models.

    Args:
        head_width: numbers per head; γ is shared by the heads.

    Shapes: o (batch, heads, length, head_width), g (batch, length, heads · head_width), which is also the output's shape.
    """

    def __init__(self, head_width: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(head_width, eps=1e-6)

    def forward(self, heads: Tensor, gate: Tensor) -> Tensor:
        """Normalise, join and gate."""
        return self.norm(heads).transpose(1, 2).flatten(2) * F.silu(gate)
