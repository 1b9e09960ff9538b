"""Three known networks seen as recurrent ones whose hidden state is the softmax summary (m, u, w).

Source: Feng, Tung, Hajimirsadeghi, Ahmed, Bengio, Mori (2024), Attention as an RNN, sections 3.1 and 3.2.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from assay.ops.prefix_attention import combine, initial_prefix_state, leaf, output


def attention_as_many_to_one(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attention with a given query is a many-to-one recurrent network: it reads one token at a time and answers at the end.

    Args:
        query: (batch, width); keys, values: (batch, length, width).

    Returns:
        (batch, width), equal to ``softmax(query · keysᵀ / √width) values``.

    >>> q, k, v = torch.randn(2, 4), torch.randn(2, 6, 4), torch.randn(2, 6, 4)
    >>> expected = torch.nn.functional.scaled_dot_product_attention(q[:, None], k, v)[:, 0]
    >>> torch.allclose(attention_as_many_to_one(q, k, v), expected, atol=1e-6)
    True
    """
    batch, length, width = values.shape
    state = initial_prefix_state(batch, 1, width, values.dtype, values.device)
    for t in range(length):
        score = (query * keys[:, t]).sum(-1, keepdim=True) / math.sqrt(width)
        state = combine(state, leaf(score, values[:, t, None]))
    return output(state)[:, 0]


def self_attention_as_networks(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Self-attention is one such network for every token, each with that token as its query and all tokens as its input.

    A new token brings a new network, which must read the whole past: hence keys and values have to be kept.

    Args:
        queries, keys, values: (batch, length, width).

    Returns:
        (batch, length, width).

    >>> q, k, v = torch.randn(3, 2, 5, 4)
    >>> expected = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    >>> torch.allclose(self_attention_as_networks(q, k, v), expected, atol=1e-6)
    True
    """
    return torch.stack([attention_as_many_to_one(query, keys, values) for query in queries.unbind(1)], 1)


def latent_attention_as_networks(latents: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Cross-attention of learned latents (Perceiver) is one such network a latent: their number does not grow with the input, so a
    new token is absorbed in constant memory.

    Args:
        latents: (latents, width), the same for every example; keys, values: (batch, length, width).

    Returns:
        (batch, latents, width).

    >>> z, k, v = torch.randn(3, 4), torch.randn(2, 5, 4), torch.randn(2, 5, 4)
    >>> expected = torch.nn.functional.scaled_dot_product_attention(z.expand(2, 3, 4), k, v)
    >>> torch.allclose(latent_attention_as_networks(z, k, v), expected, atol=1e-6)
    True
    """
    return self_attention_as_networks(latents.expand(len(keys), *latents.shape), keys, values)
