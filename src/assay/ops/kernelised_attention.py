"""`kernelised_attention`: attention whose weight of a key is the product of features of query and key, so that sums over keys suffice.

    o_i = φ(q_i) · (Σ_j φ(k_j)ᵀ v_j) / (φ(q_i) · Σ_j φ(k_j) + ε)

over all j, or over j ≤ i. Both sums come from one pass: a column of ones stands beside the values.

Source: Katharopoulos, Vyas, Pappas, Fleuret (2020), Transformers are RNNs: Fast Autoregressive Transformers with Linear Attention.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from assay.ops.linear_attention import linear_attention

EPSILON = 1e-6


def kernelised_attention(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention over all positions, in time linear in their number.

    Args:
        queries: features φ(q) (batch, heads, queries, features), none negative.
        keys: features φ(k) (batch, heads, length, features).
        values: v (batch, heads, length, value width).
        mask: (batch, length), True = real; a masked position is seen by nobody.

    Returns:
        (batch, heads, queries, value width) in the values' type; zero where nothing is seen.
    """
    dtype = torch.promote_types(values.dtype, torch.float32)
    if mask is not None:
        keys = keys.masked_fill(~mask[:, None, :, None], 0.0)
    sums = keys.to(dtype).transpose(-1, -2) @ _with_ones(values.to(dtype))
    return _ratio(queries.to(dtype) @ sums).to(values.dtype)


def causal_kernelised_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    state: Tensor | None = None,
    mask: Tensor | None = None,
    log_decay: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention over a position and all before it, continuing from ``state``.

    Args:
        queries: features φ(q) (batch, heads, length, features), none negative.
        keys: features φ(k), like the queries.
        values: v (batch, heads, length, value width).
        state: the sums so far, (batch, heads, features, value width + 1), the keys' own sum last; by default zero.
        mask: (batch, length), True = real; a masked position leaves the state unchanged and reads it.
        log_decay: logarithm of what is kept of the sums at each position, (batch, heads, length); by default all is kept.

    Returns:
        (batch, heads, length, value width) in the values' type, and the state, in float32 or wider.
    """
    sums, state = linear_attention(queries, keys, _with_ones(values), log_decay, state, mask)
    return _ratio(sums), state


def _with_ones(values: Tensor) -> Tensor:
    return F.pad(values, (0, 1), value=1.0)


def _ratio(sums: Tensor) -> Tensor:
    return sums[..., :-1] / (sums[..., -1:] + EPSILON)
