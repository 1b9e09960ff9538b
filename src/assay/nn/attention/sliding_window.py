"""`SlidingWindowAttention`: attention to the neighbourhood, and to a few global positions that see and are seen by all."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from assay.nn.attention.cached import Scope
from assay.nn.attention.sparse import SparseAttention
from assay.nn.linear import Linear
from assay.nn.position.rotary import rotate
from assay.ops.masked_attention import Groups, band_groups


class SlidingWindowAttention(SparseAttention):
    """Attention in which position i sees the ``window`` positions around it, and causal, the ``window`` up to and with it.

    Not causal, i sees j where ``−⌊window / 2⌋ ≤ j − i ≤ ⌊(window − 1) / 2⌋``. The first ``global_tokens`` real positions are seen by all
    and see all; their own queries, and the keys and values these meet, have a projection of their own. Linear in the length; causal, the
    state is bounded by the window.

    Source: Beltagy, Peters, Cohan (2020), Longformer: The Long-Document Transformer.

    Args:
        width: numbers per position.
        heads: heads; by default the largest of 4, 2, 1 that divides the width.
        head_width: numbers per head; by default ``width / heads``.
        window: positions that one sees, itself among them.
        global_tokens: real positions from the first on that see all and are seen by all; not causal only.
        causal: a position sees nothing that comes later.
        options: as `assay.nn.attention.cached.CachedAttention`.

    Shapes: x (batch, length, width); mask (batch, length), True = real.

    Raises:
        ValueError: ``window`` is below 1, ``global_tokens`` below 0 or beside ``causal``, or sizes do not fit each other.
    """

    def __init__(
        self,
        width: int,
        heads: int | None = None,
        head_width: int | None = None,
        *,
        window: int = 512,
        global_tokens: int = 0,
        causal: bool = True,
        **options: Any,
    ) -> None:
        if window < 1:
            raise ValueError(f"window must be at least 1, got {window}")
        if global_tokens < 0 or (global_tokens and causal):
            raise ValueError(f"global_tokens must be at least 0, and 0 where causal, for they see what comes later; got {global_tokens}")
        self.global_tokens = global_tokens
        self.before, self.after = (window - 1, 0) if causal else (window // 2, (window - 1) // 2)
        super().__init__(width, heads, head_width, causal=causal, window=window if causal else None, **options)

    def make_parameters(self) -> None:
        """The projection of global queries and of the keys and values that they meet."""
        self.global_projection = None
        if self.global_tokens:
            inner = (self.heads + 2 * self.key_value_heads) * self.head_width
            self.global_projection = Linear(self.width, inner, self.input_projection.bias is not None)

    def sees(self, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        """Those in the window, and all that is global."""
        queries, keys = query_positions[..., :, None], key_positions[..., None, :]
        return self._near(queries, keys) | (queries < self.global_tokens) | (keys < self.global_tokens)

    def groups(self, length: int) -> list[Groups]:
        """Runs of neighbours with what their windows reach; and the global positions as keys of all, and with all keys."""
        unit = max(16, min(64, (self.before + self.after + 1) // 2))
        found = [band_groups(length, unit, self.before, self.after, self._near_only)]
        fixed = min(self.global_tokens, length)
        if fixed:
            everything, first = torch.arange(length)[None], torch.arange(fixed)[None]
            found += [Groups(everything[:, fixed:], first), Groups(first, everything)]
        return found

    def weights(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The attention weights (batch, heads, length, length), those of global positions by their own projection."""
        weights = super().weights(x, mask)
        if self.global_projection is None:
            return weights
        scope = self.whole_scope(x, mask)
        queries, keys, _ = self._globally_projected(x, scope.query_positions)
        identity = torch.eye(x.shape[1], dtype=x.dtype, device=x.device).expand(x.shape[0], self.key_value_heads, -1, -1)
        own = self.attend(queries, keys, identity, scope)  # the weights are what attention makes of unit vectors
        return torch.where((scope.query_positions < self.global_tokens)[:, None, :, None], own, weights)

    # -------------------------------------------------------------------------------------------- inside

    def _dense(self, x: Tensor, scope: Scope) -> Tensor:
        mixed = super()._dense(x, scope)
        if self.global_projection is None:
            return mixed
        own = self.attend(*self._globally_projected(x, scope.query_positions), scope)
        return torch.where((scope.query_positions < self.global_tokens)[:, None, :, None], own, mixed)

    def _forward_packed(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        fixed = min(self.global_tokens, x.shape[1])
        if not fixed:
            return super()._forward_packed(x, lengths)
        positions = torch.arange(x.shape[1], device=x.device)[None]
        *groups, rows = self.groups(x.shape[1])
        mixed = self._attend_packed(*self.projected(x, positions), groups, lengths)
        queries, keys, values = self._globally_projected(x, positions)
        own = self._attend_packed(queries[:, :, :fixed], keys, values, [rows], lengths)
        return self.joined(torch.cat([own, mixed[:, :, fixed:]], 2))

    def _globally_projected(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        assert self.global_projection is not None  # there are global positions
        sizes = [count * self.head_width for count in (self.heads, self.key_value_heads, self.key_value_heads)]
        parts = self.global_projection(x).split(sizes, -1)
        queries, keys, values = (part.unflatten(-1, (-1, self.head_width)).transpose(1, 2) for part in parts)
        queries, keys = self.query_norm(queries), self.key_norm(keys)
        if self.positions == "rotary":
            queries, keys = rotate(queries, positions), rotate(keys, positions)
        return queries, keys, values

    def _near(self, queries: Tensor, keys: Tensor) -> Tensor:
        return (keys - queries >= -self.before) & (keys - queries <= self.after)

    def _near_only(self, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        """In the window, and not among what the other groups hold."""
        queries, keys = query_positions[..., :, None], key_positions[..., None, :]
        return self._near(queries, keys) & (queries >= self.global_tokens) & (keys >= self.global_tokens)
