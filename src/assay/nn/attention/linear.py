"""`LinearAttention`: attention by the features ``elu(x) + 1``, linear in the length, with a state of constant size."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from assay.nn.attention.kernelised import KernelisedAttention


class LinearAttention(KernelisedAttention):
    """``o_i = φ(q_i) (Σ_j φ(k_j)ᵀ v_j) / (φ(q_i) · Σ_j φ(k_j) + 1e-6)`` with ``φ(x) = elu(x) + 1``; ``y = W_o concat_heads(o)``.

    Source: Katharopoulos, Vyas, Pappas, Fleuret (2020), Transformers are RNNs: Fast Autoregressive Transformers with Linear Attention.

    Args:
        width: numbers per position.
        heads: heads; by default the largest of 4, 2, 1 that divides the width.
        head_width: numbers per head; by default ``width / heads``.
        causal: a position sees itself and what is before it, and the layer streams; else everything.
        bias: of the projections.

    Shapes: x (batch, length, width); mask (batch, length), True = real; state ``head_width · (head_width + 1)`` numbers a head.

    Raises:
        ValueError: sizes that do not fit each other; an input of another width.
    """

    def __init__(
        self, width: int, heads: int | None = None, head_width: int | None = None, *, causal: bool = True, bias: bool = True
    ) -> None:
        super().__init__(width, heads, head_width, causal=causal, bias=bias)

    def features(self, x: Tensor) -> Tensor:
        """``elu(x) + 1``."""
        return F.elu(x) + 1
