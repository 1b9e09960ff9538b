"""`TaylorAttention`: attention by the second-order Taylor series of the exponential, the linear attention of Based."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from assay.nn.attention.kernelised import KernelisedAttention


class TaylorAttention(KernelisedAttention):
    """Weights ``1 + s + s²/2`` with ``s = q · k / √(key width)`` in place of softmax attention's ``e^s``; they are products of features.

    ``φ(x) = [1, x / d^¼, the products x_i x_j of i ≤ j over √d, those of i = j over √2 besides]``; the published map lists every product
    twice, which is the same kernel with almost twice the state.

    Source: Arora et al. (2024), Simple linear attention language models balance the recall-throughput tradeoff (Based).

    Args:
        width: numbers per position.
        heads: heads; by default the largest of 4, 2, 1 that divides the width.
        head_width: numbers per head of the values; by default ``width / heads``.
        causal: a position sees itself and what is before it, and the layer streams; else everything.
        bias: of the projections.
        key_width: numbers per head of queries and keys, d; the state grows with its square.
        kernel_size: taps of a short causal convolution of queries, keys and values; None for no convolution.

    Shapes: x (batch, length, width); mask (batch, length), True = real; state ``(1 + d + d(d+1)/2) · (head_width + 1)`` numbers a head.

    Raises:
        ValueError: sizes that do not fit each other; an input of another width.
    """

    def __init__(
        self,
        width: int,
        heads: int | None = None,
        head_width: int | None = None,
        *,
        causal: bool = True,
        bias: bool = True,
        key_width: int = 16,
        kernel_size: int | None = None,
    ) -> None:
        super().__init__(
            width,
            heads,
            head_width,
            causal=causal,
            bias=bias,
            key_width=key_width,
            feature_width=1 + key_width + key_width * (key_width + 1) // 2,
            kernel_size=kernel_size,
        )

    def features(self, x: Tensor) -> Tensor:
        """The series' terms, (…, 1 + d + d(d+1)/2)."""
        first = x / self.key_width**0.25
        row, column = torch.triu_indices(self.key_width, self.key_width, device=x.device)
        second = first[..., row] * first[..., column]
        second = torch.where(row == column, second / math.sqrt(2), second)
        return torch.cat([torch.ones_like(first[..., :1]), first, second], -1)
