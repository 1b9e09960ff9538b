"""`Scene`: where the queries and keys of one call of attention stand, who sees whom, and what positions add to the scores."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Scene(NamedTuple):
    """All that decides attention's weights besides queries, keys and a row's bias.

    Args:
        scale: of the products of queries and keys.
        query_positions: (batch or 1, queries), integers.
        key_positions: (batch or 1, keys).
        causal: a query sees keys at its own position and before it.
        window: a query sees keys less than ``window`` positions away.
        mask: (batch, keys), True = real: nobody sees the others.
        visible: (batch or 1, 1, queries, keys): nobody sees a key where it is False.
        slopes: (heads,), a penalty on the distance.
        score_bias: (batch or 1, heads, queries, keys), added to the scores.
    """

    scale: float
    query_positions: Tensor
    key_positions: Tensor
    causal: bool = False
    window: int | None = None
    mask: Tensor | None = None
    visible: Tensor | None = None
    slopes: Tensor | None = None
    score_bias: Tensor | None = None

    def rows(self, rows: slice) -> Scene:
        """The same for a part of the queries."""
        return self._replace(
            query_positions=self.query_positions[:, rows],
            visible=None if self.visible is None else self.visible[:, :, rows],
            score_bias=None if self.score_bias is None else self.score_bias[:, :, rows],
        )

    def seen(self) -> Tensor | None:
        """(batch or 1, 1, queries or 1, keys), True where the query sees the key; None where each sees all."""
        rules = [] if self.visible is None else [self.visible]
        if self.mask is not None:
            rules.append(self.mask[:, None, None, :])
        if self.causal or self.window is not None:
            ahead = self._ahead()[:, None]
            if self.causal:
                rules.append(ahead <= 0)
            if self.window is not None:
                rules.append(ahead.abs() < self.window)
        seen = None
        for rule in rules:
            seen = rule if seen is None else seen & rule
        return seen

    def scores(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Scores (batch, heads, queries, keys), for as many heads of keys as of queries."""
        scores = (self.scale * queries) @ keys.transpose(-1, -2)
        if self.slopes is not None:
            scores = scores - self.slopes.to(scores.dtype)[:, None, None] * self._ahead().abs()[:, None]
        return scores if self.score_bias is None else scores + self.score_bias

    def _ahead(self) -> Tensor:
        """(batch or 1, queries, keys): how far each key is ahead of each query."""
        return self.key_positions[:, None, :] - self.query_positions[:, :, None]
