"""`SinkhornAttention`: attention to one's own block and to a learned mixture of all blocks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from assay.nn.attention.heads import head_shape
from assay.nn.attention.low_rank import check_length
from assay.nn.attention.packed import packed
from assay.nn.linear import Linear


class SinkhornAttention(nn.Module):
    """Attention of each block of queries to its own keys and to those of the block that the layer sorts beside it.

    Of block I with the sum of keys ``s_I = Σ_{j ∈ I} k_j`` the logits over blocks are ``W s_I + b``. R is their softmax, or with
    ``iterations`` what as many rounds of normalising rows and columns make of ``exp(logits / temperature)``, nearly doubly stochastic;
    ``k̃_I = Σ_J R_IJ k_J``, ``ṽ_I = Σ_J R_IJ v_J`` position by position; queries of I attend to k_I and k̃_I in one softmax. Sorting
    takes ``length² / block`` products a number, attention ``2 · block · length``. Not causal.

    Source: Tay, Bahri, Yang, Metzler, Juan (2020), Sparse Sinkhorn Attention.

    Args:
        width: numbers per position.
        heads: heads; by default the largest of 4, 2, 1 that divides the width.
        head_width: numbers per head; by default ``width / heads``.
        length: longest sequence.
        block: positions a block.
        iterations: rounds of normalisation; 0 for a softmax over blocks.
        temperature: the logits are divided by it.
        bias: of the projections of positions.
        dropout: probability of dropping a weight, in training.

    Shapes: x (batch, length, width); mask (batch, length), True = real.

    Raises:
        ValueError: a number out of its range, heads that do not fit, or (when called) a sequence longer than ``length``.
    """

    causal = False

    def __init__(
        self,
        width: int,
        heads: int | None = None,
        head_width: int | None = None,
        *,
        length: int = 1024,
        block: int = 50,
        iterations: int = 0,
        temperature: float = 1.0,
        bias: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.heads, self.head_width = head_shape(width, heads, head_width)
        if min(length, block) < 1 or iterations < 0:
            raise ValueError(f"length and block must be at least 1, iterations at least 0, got {length}, {block} and {iterations}")
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {dropout}")
        self.width, self.length, self.block, self.iterations, self.temperature = width, length, block, iterations, temperature
        self.dropout = dropout
        inner = self.heads * self.head_width
        self.input_projection = Linear(width, 3 * inner, bias)
        self.block_projection = Linear(self.head_width, -(-length // block), bias)
        self.output_projection = Linear(inner, width, bias)  # last: edits find a mixer's last map by its place

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mix the whole sequence (batch, length, width)."""
        check_length(x, self.width, self.length)
        return packed(self._mix, x, mask)

    def _mix(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        if x.shape[1] == 0:
            return x
        if lengths is None:
            lengths = torch.full((x.shape[0],), x.shape[1], device=x.device)
        there = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
        projected = torch.where(there[..., None], self.input_projection(x), 0.0)
        missing = -x.shape[1] % self.block
        blocks = F.pad(projected, (0, 0, 0, missing)).unflatten(1, (-1, self.block)).unflatten(-1, (3, self.heads, -1))
        queries, keys, values = blocks.permute(3, 0, 4, 1, 2, 5)  # (batch, heads, blocks, positions of a block, head width)
        own = F.pad(there, (0, missing)).unflatten(1, (-1, self.block))
        order = self._order(keys, own.any(-1))
        sorted_keys, sorted_values = (torch.einsum("bhij,bhjpd->bhipd", order, part) for part in (keys, values))
        # a place in the sorted block is something as soon as it is in one of the blocks it is mixed of
        seen = torch.cat([own, own.any(1, keepdim=True).expand_as(own)], -1)
        mixed = self._attend(queries, torch.cat([keys, sorted_keys], 3), torch.cat([values, sorted_values], 3), seen)
        return self.output_projection(mixed.permute(0, 2, 3, 1, 4).flatten(3).flatten(1, 2)[:, : x.shape[1]])

    def _order(self, keys: Tensor, there: Tensor) -> Tensor:
        """R (batch, heads, blocks, blocks): what a block's sorted neighbour is mixed of."""
        logits = self.block_projection(keys.sum(3))[..., : keys.shape[2]] / self.temperature
        return sinkhorn(logits, (there[:, :, None] & there[:, None, :])[:, None], self.iterations)

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor, seen: Tensor) -> Tensor:
        """Within each block; ``seen`` (batch, blocks, keys). Blocks without any real position are computed over everything."""
        batch, heads = queries.shape[:2]
        parts = (part.transpose(1, 2).flatten(0, 1) for part in (queries, keys, values))
        allowed = (seen | ~seen.any(-1, keepdim=True)).flatten(0, 1)[:, None, None]
        allowed = allowed.expand(-1, 1, self.block, -1)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(*parts, attn_mask=allowed, dropout_p=dropout)
        return mixed.unflatten(0, (batch, -1)).transpose(1, 2).unflatten(1, (heads,))


def sinkhorn(logits: Tensor, there: Tensor, iterations: int) -> Tensor:
    """A matrix of weights (…, rows, columns) from logits: softmax over columns, or rounds of normalising rows and then columns.

    Args:
        logits: (…, rows, columns).
        there: which entries there are, of a shape that broadcasts; the others are zero, and so are rows and columns without any.
        iterations: rounds; 0 for the softmax.

    Source: Sinkhorn (1964), A Relationship Between Arbitrary Positive Matrices and Doubly Stochastic Matrices.
    """
    logits = logits.masked_fill(~there, -torch.inf)
    for dimension in (-1, -2) * iterations if iterations else (-1,):
        nothing = ~there.any(dimension, keepdim=True)  # its sum would be zero, and the gradient of its logarithm not a number
        logits = logits - logits.masked_fill(nothing, 0.0).logsumexp(dimension, keepdim=True)
    return logits.exp()
