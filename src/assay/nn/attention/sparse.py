"""`SparseAttention`: softmax attention in which a rule on positions says who sees whom; a kind writes the rule and its groups."""

from __future__ import annotations

import torch
from torch import Tensor

from assay.nn.attention.cached import Scope
from assay.nn.attention.packed import packed
from assay.nn.attention.softmax import SoftmaxAttention
from assay.ops.masked_attention import Groups, masked_attention


class SparseAttention(SoftmaxAttention):
    """Attention over the pairs of positions that `sees` allows, whole sequences by the groups of `groups`, chunks over the cache.

    ``y = W_o concat_heads(softmax over allowed pairs(q kᵀ / √head_width + bias) v) + b_o``. Positions are counted over real ones, so masked
    positions change nothing wherever they stand. Arguments, shapes and errors as `assay.nn.attention.cached.CachedAttention`.
    """

    def sees(self, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        """Whether a query sees a key, (…, queries, keys), by their positions (…, queries) and (…, keys).

        Causal, it may leave out later keys or not: they are left out anyway, except in `groups`.
        """
        raise NotImplementedError(f"{type(self).__name__} must define sees(query_positions, key_positions)")

    def groups(self, length: int) -> list[Groups]:
        """The same pairs of a sequence of ``length`` positions as groups for `assay.ops.masked_attention`, each pair once."""
        raise NotImplementedError(f"{type(self).__name__} must define groups(length)")

    # -------------------------------------------------------------------------------------------- the contract

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mix the whole sequence (batch, length, width); the output at masked positions is zero."""
        self._check_input(x)
        if torch.compiler.is_exporting():  # groups are of one length, an exported program is of any
            return self.joined(self._dense(x, self.whole_scope(x, mask)))
        return packed(self._forward_packed, x, mask)

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, scope: Scope) -> Tensor:
        """Softmax over the allowed pairs of the scope."""
        return super().attend(queries, keys, values, self._ruled(scope))

    def whole_scope(self, x: Tensor, mask: Tensor | None) -> Scope:
        """Who sees whom within one whole sequence."""
        return self._ruled(super().whole_scope(x, mask))

    # -------------------------------------------------------------------------------------------- inside

    def _dense(self, x: Tensor, scope: Scope) -> Tensor:
        """The heads' mixtures of a whole sequence with all pairs computed: what `forward` gives, in plain operators."""
        return self.attend(*self.projected(x, scope.query_positions), scope)

    def _forward_packed(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """Rows whose real positions are the first ``lengths``."""
        positions = torch.arange(x.shape[1], device=x.device)[None]
        queries, keys, values = self.projected(x, positions)
        return self.joined(self._attend_packed(queries, keys, values, self.groups(x.shape[1]), lengths))

    def _attend_packed(self, queries: Tensor, keys: Tensor, values: Tensor, groups: list[Groups], lengths: Tensor | None) -> Tensor:
        groups = [group._replace(queries=group.queries.to(queries.device), keys=group.keys.to(queries.device)) for group in groups]
        dropout = self.dropout if self.training else 0.0
        return masked_attention(queries, keys, values, groups, lengths=lengths, bias=self.score_bias, dropout=dropout)

    def _ruled(self, scope: Scope) -> Scope:
        return scope._replace(visible=scope.seen() & self.sees(scope.query_positions, scope.key_positions)[:, None])
