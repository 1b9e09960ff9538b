"""End-to-end memory: reading a set of sentences by repeated soft look-ups.

Sukhbaatar et al., End-To-End Memory Networks, 2015.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class EndToEndMemory(nn.Module):
    """``hops`` soft look-ups of a question in a story, with adjacent weight tying.

    With word embeddings E₀…E_K (A^k = E_{k−1}, C^k = E_k, question B = E₀, answer W = E_Kᵀ), a position code l and time rows T:

        mᵢ = Σⱼ lⱼ ⊙ A xᵢⱼ + T_A(i),   cᵢ = Σⱼ lⱼ ⊙ C xᵢⱼ + T_C(i)
        p = softmax(uᵀ m),   o = Σᵢ pᵢ cᵢ,   u ← u + o,   answer logits = W u
        lₖⱼ = (1 − j/J) − (k/d)(1 − 2j/J),   j, k from 1

    Args:
        vocabulary: words; word 0 is padding and embeds to zero.
        width: d, numbers a memory.
        sentences: most sentences a story; time 1 is the latest sentence.
        words: J, words a sentence.
        hops: K.
        linear: leave the softmax out (the first stage of a "linear start").
        empty_memories: share of empty memories that are slipped in at random while training, which jitters the time rows.

    Raises:
        ValueError: a size below 1, or a share outside [0, 1).
    """

    def __init__(
        self, vocabulary: int, width: int, sentences: int, words: int, hops: int = 3, linear: bool = False, empty_memories: float = 0.1
    ) -> None:
        super().__init__()
        if min(vocabulary, width, sentences, words, hops) < 1:
            raise ValueError(f"sizes must be at least 1, got {vocabulary=}, {width=}, {sentences=}, {words=}, {hops=}")
        if not 0 <= empty_memories < 1:
            raise ValueError(f"empty_memories must be in [0, 1), got {empty_memories}")
        slack = int(2 * empty_memories * sentences) + (empty_memories > 0)
        self.embeddings = nn.ModuleList(nn.Embedding(vocabulary, width, padding_idx=0) for _ in range(hops + 1))
        self.times = nn.ModuleList(nn.Embedding(sentences + slack, width) for _ in range(hops + 1))
        for table in [*self.embeddings, *self.times]:
            assert isinstance(table, nn.Embedding)
            nn.init.normal_(table.weight, std=0.1)
        with torch.no_grad():
            for table in self.embeddings:
                assert isinstance(table, nn.Embedding)
                table.weight[0] = 0
        self.register_buffer("code", position_code(words, width), persistent=False)
        self.linear = linear
        self.empty_memories = empty_memories
        self.slack = slack

    def forward(self, story: Tensor, question: Tensor) -> Tensor:
        """Answer logits.

        Args:
            story: (batch, sentences, words), latest sentence last; a sentence of zeros is padding.
            question: (batch, words).

        Returns:
            (batch, vocabulary).
        """
        real = (story != 0).any(-1)
        time = self._times(real)
        u = self._sentence(0, question)
        for hop in range(len(self.embeddings) - 1):
            keys = self._sentence(hop, story) + self.times[hop](time)
            values = self._sentence(hop + 1, story) + self.times[hop + 1](time)
            scores = torch.einsum("bd,bsd->bs", u, keys)
            weights = torch.where(real, scores, 0.0) if self.linear else masked_softmax(scores, real)
            u = u + torch.einsum("bs,bsd->bd", weights, values)
        return u @ self.embeddings[-1].weight.T  # pyright: ignore[reportOperatorIssue]

    def _sentence(self, index: int, words: Tensor) -> Tensor:
        return (self.embeddings[index](words) * self.code).sum(-2)

    def _times(self, real: Tensor) -> Tensor:
        """Row of each sentence's time, counted back from the latest, with random gaps while training."""
        age = real.flip(1).cumsum(1).flip(1) - 1
        if self.training and self.slack:
            gaps = (torch.rand(real.shape, device=real.device) < self.empty_memories).flip(1).cumsum(1).flip(1)
            age = age + gaps.clamp(max=self.slack)
        return age.clamp(min=0)


def masked_softmax(scores: Tensor, real: Tensor) -> Tensor:
    """Softmax over real positions; a row without any is all zeros."""
    weights = scores.masked_fill(~real, -torch.inf).softmax(-1)
    return torch.where(real.any(-1, keepdim=True), weights, 0.0)


def position_code(words: int, width: int) -> Tensor:
    """``l[j, k] = (1 − j/J) − (k/d)(1 − 2j/J)``, j and k from 1: (words, width)."""
    j = torch.arange(1, words + 1)[:, None] / words
    k = torch.arange(1, width + 1)[None] / width
    return (1 - j) - k * (1 - 2 * j)
