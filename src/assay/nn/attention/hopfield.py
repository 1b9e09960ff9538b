"""`HopfieldRetrieval`: a continuous Hopfield network's retrieval as an attention layer."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from assay.nn.attention.cached import Scope
from assay.nn.attention.softmax import SoftmaxAttention


class HopfieldRetrieval(SoftmaxAttention):
    """Attention whose queries are first drawn to the stored keys: ``q ← softmax(β q kᵀ) k``, then ``y = W_o softmax(β q kᵀ) v + b_o``.

    A query is the state of a continuous Hopfield network, the keys are its patterns; an update never raises the energy
    ``E(q) = −β⁻¹ log Σ_j e^{β q·k_j} + ½ q·q``. With one iteration and β = 1/√head_width it is plain attention; with more, a query ends at
    a stored key or, small β, at a mean of several. By default not causal: a memory is whole before it is asked.

    Source: Ramsauer et al. (2021), Hopfield Networks is All You Need.

    Args:
        width: numbers per position.
        heads: heads; by default the largest of 4, 2, 1 that divides the width.
        head_width: numbers per head; by default ``width / heads``.
        beta: β, the inverse temperature; by default ``1 / √head_width``.
        iterations: attention steps, the last of which reads the values.
        causal: a position sees nothing that comes later.
        options: as `assay.nn.attention.cached.CachedAttention`.

    Shapes: x (batch, length, width); mask (batch, length), True = real.

    Raises:
        ValueError: ``iterations`` is below 1, β not positive, or sizes do not fit each other.
    """

    causal = False

    def __init__(
        self,
        width: int,
        heads: int | None = None,
        head_width: int | None = None,
        *,
        beta: float | None = None,
        iterations: int = 3,
        causal: bool = False,
        **options: Any,
    ) -> None:
        if iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {iterations}")
        if beta is not None and not (beta > 0 and math.isfinite(beta)):
            raise ValueError(f"beta must be positive, got {beta}")
        super().__init__(width, heads, head_width, causal=causal, **options)
        self.beta, self.iterations = beta, iterations

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, scope: Scope) -> Tensor:
        """Retrieved values."""
        scale = 1.0 if self.beta is None else self.beta * math.sqrt(self.head_width)  # attention divides by the root
        for _ in range(self.iterations - 1):
            queries = super().attend(scale * queries, keys, keys, scope)
        return super().attend(scale * queries, keys, values, scope)

    def weights(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The attention weights (batch, heads, length, length) of the last iteration."""
        scope = self.whole_scope(x, mask)
        queries, keys, _ = self.projected(x, scope.query_positions)
        identity = torch.eye(x.shape[1], dtype=x.dtype, device=x.device).expand(x.shape[0], self.key_value_heads, -1, -1)
        return self.attend(queries, keys, identity, scope)  # the weights are what attention makes of unit vectors
