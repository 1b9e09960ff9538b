"""`KernelisedAttention`: projections, heads, state and the two ways of summing of every attention by features of queries and keys."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

from assay.nn.attention.heads import head_shape
from assay.nn.convolution.short import ShortConvolution
from assay.nn.linear import Linear
from assay.nn.mixer import StreamingMixer
from assay.ops.kernelised_attention import causal_kernelised_attention, kernelised_attention

SEGMENT = 1024
"""Positions whose features are there at once: many more numbers than the positions' own, they should stay in the cache."""

KernelisedState: TypeAlias = dict[str, Tensor]
"""What a causal kind carries from one position to the next; constant in size.

``sums`` (batch, heads, features, head width + 1) of features times values, and of the features alone; ``maximum`` (batch, heads), what the
features' exponents were lowered by, where a kind does so; ``inputs``, the short convolution's, where there is one.
"""


class KernelisedAttention(StreamingMixer):
    """``o_i = φ(q_i) (Σ_j φ(k_j)ᵀ v_j) / (φ(q_i) · Σ_j φ(k_j) + ε)`` and ``y = W_o concat_heads(o)``; a subclass gives the features φ.

    Source: Katharopoulos, Vyas, Pappas, Fleuret (2020), Transformers are RNNs.

    Args:
        width: numbers per position.
        heads: heads; by default the largest of 4, 2, 1 that divides the width.
        head_width: numbers per head of the values; by default ``width / heads``.
        causal: a position sees itself and what is before it; else everything, and there is no state.
        bias: of the projections.
        key_width: numbers per head of queries and keys; by default ``head_width``.
        feature_width: numbers that `features` makes of a head's query or key; by default ``key_width``.
        kernel_size: taps of a short causal convolution of queries, keys and values; None for no convolution.

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
        key_width: int | None = None,
        feature_width: int | None = None,
        kernel_size: int | None = None,
    ) -> None:
        super().__init__()
        self.heads, self.head_width = head_shape(width, heads, head_width)
        self.width, self.causal, self.key_width = width, causal, self.head_width if key_width is None else key_width
        if self.key_width < 1:
            raise ValueError(f"key_width must be at least 1, got {key_width}")
        self.feature_width = self.key_width if feature_width is None else feature_width
        if self.feature_width < 1:
            raise ValueError(f"feature_width must be at least 1, got {feature_width}")
        inner = self.heads * (2 * self.key_width + self.head_width)
        self.input_projection = Linear(width, inner, bias)
        self.convolution = None if kernel_size is None else ShortConvolution(inner, kernel_size)
        self.output_projection = Linear(self.heads * self.head_width, width, bias)  # last: edits find a mixer's last map by its place

    # -------------------------------------------------------------------------------------------- what a kind writes

    def features(self, x: Tensor) -> Tensor:
        """φ of queries or keys (batch, heads, length, key width): (batch, heads, length, feature_width), none negative."""
        raise NotImplementedError

    def mix(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Attention of queries and keys (batch, heads, length, key width) over all positions."""
        return kernelised_attention(self.features(queries), self.features(keys), values, mask)

    def mix_causally(
        self, queries: Tensor, keys: Tensor, values: Tensor, state: KernelisedState, mask: Tensor | None
    ) -> tuple[Tensor, KernelisedState]:
        """Attention over the past, continuing from the state's sums."""
        mixed, sums = causal_kernelised_attention(self.features(queries), self.features(keys), values, state["sums"], mask)
        return mixed, state | {"sums": sums}

    # -------------------------------------------------------------------------------------------- the mixer

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mix the whole sequence (batch, length, width)."""
        if self.causal:
            return super().forward(x, mask)
        projected = self._projected(x)
        if self.convolution is not None:
            projected = self.convolution(projected, mask)
        queries, keys, values = self._heads(projected)
        return self._joined(self.mix(queries, keys, values, mask))

    def initial_state(self, batch_size: int) -> KernelisedState:
        """Sums of nothing."""
        if not self.causal:
            raise ValueError(f"{type(self).__name__}(causal=False) sees the future: it has no state and cannot read a stream")
        weight = self.output_projection.weight
        dtype = torch.promote_types(weight.dtype, torch.float32)
        state = {"sums": weight.new_zeros(batch_size, self.heads, self.feature_width, self.head_width + 1, dtype=dtype)}
        return state if self.convolution is None else state | {"inputs": self.convolution.initial_state(batch_size)}

    def scan(self, x: Tensor, state: KernelisedState, mask: Tensor | None = None) -> tuple[Tensor, KernelisedState]:
        """Mix a chunk (batch, length, width), continuing from ``state``; the output at a masked position is that of its query."""
        projected = self._projected(x)
        if self.convolution is not None:
            projected, inputs = self.convolution.scan(projected, state["inputs"], mask)
            state = state | {"inputs": inputs}
        parts, masks = [], None if mask is None else mask.split(SEGMENT, 1)
        for index, segment in enumerate(projected.split(SEGMENT, 1)):
            queries, keys, values = self._heads(segment)
            mixed, state = self.mix_causally(queries, keys, values, state, None if masks is None else masks[index])
            parts.append(mixed)
        return self._joined(torch.cat(parts, 2)), state

    def _projected(self, x: Tensor) -> Tensor:
        if x.ndim != 3 or x.shape[-1] != self.width:
            raise ValueError(f"x must have shape (batch, length, {self.width}), got {tuple(x.shape)}")
        return self.input_projection(x)

    def _heads(self, projected: Tensor) -> list[Tensor]:
        heads = projected.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return list(heads.split([self.key_width, self.key_width, self.head_width], -1))

    def _joined(self, mixed: Tensor) -> Tensor:
        return self.output_projection(mixed.transpose(1, 2).flatten(2))
