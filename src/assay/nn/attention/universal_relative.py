"""`UniversalRelativeAttention`: relative positions that a Transformer can tell absolute ones from."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from assay.nn.attention.cached import CachedAttention, Positions, Scope
from assay.nn.position.relative import OffsetTable, RelativeBias
from assay.ops.relative_attention import Matrix, Toeplitz, relative_attention


class UniversalRelativeAttention(CachedAttention):
    """Softmax attention whose weights are multiplied by a learned number a head and offset.

    ``A = softmax(q kᵀ / √head_width + B) ∘ C``, ``y = W_o concat_heads(A v) + b_o``, with ``B_ij = b[j − i]`` and ``C_ij = c[j − i]``.
    Softmax rows sum to one, so identical tokens have identical outputs at every position, whatever B is and however deep the network: no
    function of the absolute position can be learned. C gives every row a sum of its own. C starts at one, where the layer is attention
    with a bias; learned, the weights may be negative and are no distribution.

    Source: Luo, Li, Zheng, Liu, Wang, He (2022), Your Transformer May Not be as Powerful as You Expect.

    Args:
        width: numbers per position.
        heads: heads; by default the largest of 4, 2, 1 that divides the width.
        head_width: numbers per head; by default ``width / heads``.
        length: longest sequence, the reach of the tables.
        positions: of B: ``offset`` (a number an offset), ``relative`` (a bucket of them), ``alibi``; in its place ``rotary``, or None.
        multiplier: of C: ``offset`` or ``relative``.
        beyond: positions farther apart than ``length`` ``raise``, or ``clamp`` to the farthest number.
        options: as `assay.nn.attention.cached.CachedAttention`: causal, bias, dropout, key_value_heads, window, query_key_norm.

    Shapes: x (batch, length, width); mask (batch, length), True = real.

    Raises:
        ValueError: sizes that do not fit each other, or a sequence longer than ``length``.
    """

    def __init__(
        self,
        width: int,
        heads: int | None = None,
        head_width: int | None = None,
        *,
        length: int = 1024,
        positions: Positions | None = "offset",
        multiplier: Literal["offset", "relative"] = "offset",
        beyond: Literal["raise", "clamp"] = "raise",
        **options: Any,
    ) -> None:
        if multiplier not in ("offset", "relative"):
            raise ValueError(f"multiplier must be offset or relative, got {multiplier!r}")
        self._multiplier_kind: str = multiplier
        self.beyond: Literal["raise", "clamp"] = beyond
        super().__init__(width, heads, head_width, length=length, positions=positions, **options)
        self.positional = False  # C is what tells positions apart: none are added to the input

    def make_parameters(self) -> None:
        """The table of C; the offset table of B is told what to do beyond its reach."""
        if self._multiplier_kind == "offset":
            self.multiplier: nn.Module = OffsetTable(self.heads, self.length, mean=1.0, deviation=0.0, beyond=self.beyond)
        else:
            self.multiplier = RelativeBias(self.heads, self.causal, mean=1.0, deviation=0.0)
        if isinstance(self.score_bias, OffsetTable):
            self.score_bias.beyond = self.beyond

    def share(self, other: UniversalRelativeAttention) -> UniversalRelativeAttention:
        """Use the tables B and C of another layer in place of one's own, as the published networks do in all layers; returns itself.

        Raises:
            ValueError: the layers differ in heads.
        """
        if other.heads != self.heads:
            raise ValueError(f"layers that share tables must have equally many heads, got {self.heads} and {other.heads}")
        self.score_bias, self.multiplier = other.score_bias, other.multiplier
        return self

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, scope: Scope) -> Tensor:
        """Multiplied softmax weights over the values."""
        groups = self.heads // self.key_value_heads
        keys, values = (part.repeat_interleave(groups, 1) for part in (keys, values)) if groups > 1 else (keys, values)
        dropout = self.dropout if self.training else 0.0
        bias, multiplier = _matrix(self.score_bias, scope, queries), _matrix(self.multiplier, scope, queries)
        return relative_attention(queries, keys, values, bias, multiplier, scope.visible, scope.causal, dropout)


class GraphRelativeAttention(CachedAttention):
    """Attention among the nodes of a graph, with a bias before and a multiplier after the softmax for every kind of relation.

    ``A = softmax(q kᵀ / √head_width + b[r_ij]) ∘ c[r_ij]``, where ``r_ij`` is a small integer: the length of the shortest path between
    nodes i and j, with one number for "farther" and one for "not connected". Not causal.

    Source: Luo, Li, Zheng, Liu, Wang, He (2022), Your Transformer May Not be as Powerful as You Expect.

    Args:
        width: numbers per node.
        heads: heads; by default the largest of 4, 2, 1 that divides the width.
        head_width: numbers per head; by default ``width / heads``.
        relations: number of different relations.
        options: as `assay.nn.attention.cached.CachedAttention`, without causal and positions.

    Shapes: x (batch, nodes, width); mask (batch, nodes), True = real; relation (batch, nodes, nodes), integers below ``relations``.

    Raises:
        ValueError: sizes that do not fit each other, or a relation out of range.
    """

    inputs = ("relation",)
    causal = False

    def __init__(self, width: int, heads: int | None = None, head_width: int | None = None, *, relations: int = 16, **options: Any) -> None:
        if relations < 1:
            raise ValueError(f"relations must be at least 1, got {relations}")
        self.relations = relations
        super().__init__(width, heads, head_width, causal=False, **options)
        self.positional = False

    def make_parameters(self) -> None:
        """The tables b and c, (relations, heads)."""
        self.relation_bias = nn.Parameter(0.02 * torch.randn(self.relations, self.heads))
        self.multiplier = nn.Parameter(torch.ones(self.relations, self.heads))

    def forward(self, x: Tensor, mask: Tensor | None = None, *, relation: Tensor) -> Tensor:
        """Mix all nodes (batch, nodes, width)."""
        self._check_input(x)
        if relation.shape != (*x.shape[:2], x.shape[1]):
            raise ValueError(f"relation must have shape {(*x.shape[:2], x.shape[1])}, got {tuple(relation.shape)}")
        if relation.numel() and not 0 <= int(relation.min()) <= int(relation.max()) < self.relations:
            raise ValueError(f"relations reach from {int(relation.min())} to {int(relation.max())}, and there are {self.relations}")
        scope = self.whole_scope(x, mask)
        queries, keys, values = self.projected(x, scope.query_positions)
        bias, multiplier = (table[relation].permute(0, 3, 1, 2) for table in (self.relation_bias, self.multiplier))
        dropout = self.dropout if self.training else 0.0
        return self.joined(relative_attention(queries, keys, values, bias, multiplier, scope.visible, dropout=dropout))


def _matrix(table: nn.Module | None, scope: Scope, like: Tensor) -> Matrix | None:
    """The numbers between queries and keys: rows cut out of the table where both are simply counted, else looked up one by one."""
    if table is None:
        return None
    whole = scope.visible is None and scope.query_positions is scope.key_positions
    if whole and isinstance(table, OffsetTable) and scope.key_positions.shape[1] <= table.length:
        return Toeplitz(table.weight.T, table.length - 1)
    return table(scope.query_positions, scope.key_positions).to(like.dtype)
