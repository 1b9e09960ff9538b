"""`SelectiveAttention`: attention over all past positions, worked out only where a rule says that something may be recalled."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from assay.nn.attention.cache import CacheState, append, empty_cache, is_even
from assay.nn.attention.heads import head_shape
from assay.nn.linear import Linear
from assay.nn.mixer import StreamingMixer

Selection = Literal["learned", "programmatic", "random", "all"]


class SelectiveState(NamedTuple):
    """The cache of keys and values, and ``seen`` (batch, symbols): which tokens occurred (no symbols unless the rule asks for them)."""

    cache: CacheState
    seen: Tensor


class SelectiveAttention(StreamingMixer):
    """``y_t = s_t (W_o softmax(q_t Kᵀ / √(head width)) V + b_o)`` over the keys up to t at selected positions, and 0 at all others.

    Rules of selection, all of them causal:

    - ``learned``: ``s_t = σ(w · x_t + b)``. In training every position is worked out and weighted by s; in evaluation those with
      s_t > ½ are, so its cost falls only as far as training has made s small: ``losses["selection"]`` is
      ``penalty · relu(mean_t s_t − k / n)``, with ``k = ⌈budget √n⌉`` of the n real positions.
    - ``programmatic``: positions whose token occurred before in the sequence; s = 1. Needs ``tokens``.
    - ``random``: a control, s = 1 with probability ``budget / (2 √(t + 1))``: about ``budget √n`` of n, the same ones in every sequence.
    - ``all``: every position, which is multi-head attention.

    Keys and values are made for all n positions, queries and scores for the k selected ones alone: O(n k) instead of O(n²) in the length.
    Meant as every third layer or so of a network of convolutions, which need no more to recall.

    Source: Arora, Eyuboglu, Timalsina, Johnson, Poli, Zou, Rudra, Ré (2023), Zoology: Measuring and Improving Recall in Efficient Language
    Models. The causal rule of ``learned`` is ours; theirs is `RowSelectiveAttention`.

    Args:
        width: numbers per position.
        heads: heads; by default the largest of 4, 2, 1 that divides the width.
        head_width: numbers per head; by default ``width / heads``.
        selection: the rule.
        budget: selected positions that are wanted (``learned``) or taken (``random``), in units of √n.
        penalty: of selecting more than the budget (``learned``).
        bias: of the projections.

    Shapes: x (batch, length, width); mask (batch, length), True = real, a masked position being skipped as if it were not there; tokens
    (batch, length), integers ≥ 0, and (batch,) in `step`.

    Raises:
        ValueError: sizes that do not fit, an unknown rule, a budget or penalty that is not positive, or tokens that are missing.
    """

    bfloat16_bound = 1.0  # a score near the threshold falls on either side of it by rounding, and a position is selected or not

    def __init__(
        self,
        width: int,
        heads: int | None = None,
        head_width: int | None = None,
        *,
        selection: Selection = "learned",
        budget: float = 1.0,
        penalty: float = 1e-3,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if selection not in get_args(Selection):
            raise ValueError(f"selection must be one of {', '.join(get_args(Selection))}, got {selection!r}")
        if budget <= 0 or penalty <= 0:
            raise ValueError(f"budget and penalty must be positive, got {budget} and {penalty}")
        self.heads, self.head_width = head_shape(width, heads, head_width)
        self.width, self.selection, self.budget, self.penalty = width, selection, budget, penalty
        self.inputs = ("tokens",) if selection == "programmatic" else ()
        self.losses: dict[str, Tensor] = {}
        inner = self.heads * self.head_width
        self.query_projection = Linear(width, inner, bias)
        self.key_value_projection = Linear(width, 2 * inner, bias)
        self.selector = Linear(width, 1) if selection == "learned" else None
        self.output_projection = Linear(inner, width, bias)  # last: edits find a mixer's last map by its place

    def forward(self, x: Tensor, mask: Tensor | None = None, *, tokens: Tensor | None = None) -> Tensor:
        """Mix the whole sequence (batch, length, width)."""
        self._check(x, tokens)
        keys, values = self._keys_and_values(x)
        places = torch.arange(x.shape[1], device=x.device).expand(x.shape[:2])
        real = torch.ones_like(places, dtype=torch.bool) if mask is None else mask
        score = self._scores(x)
        if self.training and score is not None:
            self.losses = {"selection": self._excess(score, real)}
            return score[..., None] * self._attended(x, keys, values, places, mask)
        selected = self._selected(score, real.cumsum(1) - 1, real, tokens, None)
        return self._at_selected(x, score, selected, keys, values, places, mask)

    def initial_state(self, batch_size: int) -> SelectiveState:
        """Nothing was read."""
        if not self.causal:
            raise ValueError(f"{type(self).__name__} selects by the whole sequence: it has no state and cannot read a stream")
        weight = self.output_projection.weight
        cache = empty_cache(batch_size, self.heads, self.head_width, weight)
        return SelectiveState(cache, torch.zeros(batch_size, 0, dtype=torch.bool, device=weight.device))

    def scan(
        self, x: Tensor, state: SelectiveState, mask: Tensor | None = None, *, tokens: Tensor | None = None
    ) -> tuple[Tensor, SelectiveState]:
        """Mix a chunk (batch, length, width), continuing from ``state``, selecting as in evaluation."""
        self._check(x, tokens)
        before, seen = CacheState(*state[0]), state[1]
        if x.shape[1] == 0:
            return x, SelectiveState(before, seen)
        real = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if mask is None else mask
        positions = before.lengths[:, None] + real.cumsum(1) - 1
        keys, values = self._keys_and_values(x)
        cache = append(before, keys, values, None if mask is None and is_even(before) else real)
        score = self._scores(x)
        selected = self._selected(score, positions, real, tokens, seen)
        stored = int(cache.lengths.max()) if len(x) else 0
        y = self._at_selected(x, score, selected, cache.keys[:, :, :stored], cache.values[:, :, :stored], positions, None)
        return y, SelectiveState(cache, _with_tokens(seen, tokens, real) if self.inputs and tokens is not None else seen)

    def step(self, x_t: Tensor, state: SelectiveState, *, tokens: Tensor | None = None) -> tuple[Tensor, SelectiveState]:
        """Mix one position (batch, width), whose tokens are (batch,)."""
        y, state = self.scan(x_t[:, None], state, tokens=None if tokens is None else tokens[:, None])
        return y[:, 0], state

    # -------------------------------------------------------------------------------------------- which positions

    def _scores(self, x: Tensor) -> Tensor | None:
        return None if self.selector is None else torch.sigmoid(self.selector(x)[..., 0])

    def _selected(self, score: Tensor | None, positions: Tensor, real: Tensor, tokens: Tensor | None, seen: Tensor | None) -> Tensor:
        """Which positions of a chunk are worked out, (batch, length)."""
        if score is not None:
            return self._by_score(score, real)
        if tokens is not None and self.inputs:
            return repeated(tokens, real, seen) & real
        if self.selection == "random":
            return (_hashed(positions) < self.budget / (2 * (positions.clamp(min=0) + 1.0).sqrt())) & real
        return real

    def _by_score(self, score: Tensor, real: Tensor) -> Tensor:
        return (score > 0.5) & real

    def _excess(self, score: Tensor, real: Tensor) -> Tensor:
        """``penalty · relu(mean_t s_t − k / n)``, the mean over sequences."""
        count = real.sum(1).clamp(min=1)
        mean = torch.where(real, score, 0.0).sum(1) / count
        return self.penalty * F.relu(mean - (self.budget * count.sqrt()).ceil().clamp(max=count) / count).mean()

    # -------------------------------------------------------------------------------------------- attention there

    def _keys_and_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = self.key_value_projection(x).chunk(2, -1)
        return self._in_heads(keys), self._in_heads(values)

    def _in_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, self.head_width)).transpose(1, 2)

    def _attended(self, x: Tensor, keys: Tensor, values: Tensor, last: Tensor, mask: Tensor | None) -> Tensor:
        """Attention of the queries of x (batch, queries, width), each over the real keys up to number ``last`` (batch, queries)."""
        queries = self._in_heads(self.query_projection(x))
        visible = torch.arange(keys.shape[2], device=x.device) <= last[..., None]
        if mask is not None:
            visible = visible & mask[:, None, :]
        visible = visible[:, None]
        # a masked position may see nothing: it is computed over everything instead, for nobody reads it
        mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=visible | ~visible.any(-1, keepdim=True))
        return self.output_projection(mixed.transpose(1, 2).flatten(2))

    def _at_selected(
        self, x: Tensor, score: Tensor | None, selected: Tensor, keys: Tensor, values: Tensor, last: Tensor, mask: Tensor | None
    ) -> Tensor:
        """Attention at the selected positions, weighted by their score, and zero elsewhere."""
        weight = selected.to(x.dtype) if score is None else score * selected
        if torch.compiler.is_exporting():  # how many are selected depends on the data: a graph works out all of them
            return weight[..., None] * self._attended(x, keys, values, last, mask)
        most = int(selected.sum(1).max()) if selected.numel() else 0
        if most == 0 and not torch.is_grad_enabled():
            return torch.zeros_like(x)
        # at least one, whose weight may be zero: then every parameter still gets a gradient
        place = selected.long().argsort(dim=1, descending=True, stable=True)[:, : max(most, 1)]
        rows = place[..., None].expand(-1, -1, self.width)
        attended = self._attended(x.gather(1, rows), keys, values, last.gather(1, place), mask)
        return torch.zeros_like(x).scatter(1, rows, weight.gather(1, place)[..., None] * attended)

    def _check(self, x: Tensor, tokens: Tensor | None) -> None:
        if x.ndim != 3 or x.shape[-1] != self.width:
            raise ValueError(f"x must have shape (batch, length, {self.width}), got {tuple(x.shape)}")
        if self.inputs and (tokens is None or tokens.shape != x.shape[:2]):
            found = "none" if tokens is None else tuple(tokens.shape)
            raise ValueError(f"programmatic selection needs tokens= of shape {tuple(x.shape[:2])}, got {found}")


class RowSelectiveAttention(SelectiveAttention):
    """Learned selection of the ``k = ⌈budget √n⌉`` largest scores of the whole sequence, in evaluation; else as `SelectiveAttention`.

    Whether a position is selected depends on later ones: it cannot read a stream, and as a language model it would peek.

    Source: as published by Arora et al. (2023), Zoology.

    Args:
        width: numbers per position.
        heads: as `SelectiveAttention`'s.
        head_width: as `SelectiveAttention`'s.
        budget: selected positions in units of √n.
        penalty: as `SelectiveAttention`'s.
        bias: of the projections.
    """

    causal = False

    def __init__(
        self,
        width: int,
        heads: int | None = None,
        head_width: int | None = None,
        *,
        budget: float = 1.0,
        penalty: float = 1e-3,
        bias: bool = True,
    ) -> None:
        super().__init__(width, heads, head_width, selection="learned", budget=budget, penalty=penalty, bias=bias)

    def _by_score(self, score: Tensor, real: Tensor) -> Tensor:
        wanted = (self.budget * real.sum(1, keepdim=True).sqrt()).ceil()
        rank = score.masked_fill(~real, -1.0).argsort(dim=1, descending=True).argsort(1)
        return (rank < wanted) & real


def repeated(tokens: Tensor, real: Tensor, seen: Tensor | None = None) -> Tensor:
    """Which tokens occurred before: earlier in their row at a real position, or in ``seen``.

    Args:
        tokens: (batch, length), integers ≥ 0.
        real: (batch, length).
        seen: (batch, symbols), True for tokens that occurred before the first position.
    """
    if torch.compiler.is_exporting():  # no operator of exporters sorts stably
        places = torch.arange(tokens.shape[1], device=tokens.device)
        return ((tokens[:, :, None] == tokens[:, None, :]) & (places < places[:, None]) & real[:, None, :]).any(-1)
    # equal tokens side by side, in the order of their positions; masked ones behind all others
    marked = torch.where(real, tokens, torch.iinfo(torch.long).max)
    ordered, order = marked.sort(dim=1, stable=True)
    again = torch.zeros_like(real)
    again[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    found = torch.zeros_like(real).scatter(1, order, again)
    if seen is not None and seen.shape[1]:
        found = found | (seen.gather(1, tokens.clamp(max=seen.shape[1] - 1)) & (tokens < seen.shape[1]))
    return found


def _with_tokens(seen: Tensor, tokens: Tensor, real: Tensor) -> Tensor:
    """``seen`` with the real tokens of a chunk, widened to the largest of them."""
    symbols = int(torch.where(real, tokens, 0).max()) + 1
    missing = max(0, symbols - seen.shape[1])
    # one column more takes what masked positions would write
    wide = F.pad(seen, (0, missing + 1))
    places = torch.where(real, tokens, wide.shape[1] - 1)
    return wide.scatter(1, places, True)[:, :-1]


def _hashed(positions: Tensor) -> Tensor:
    """A fixed pseudo-random number in [0, 1) for every position: the finishing rounds of MurmurHash3 (Appleby)."""
    z = positions.clamp(min=0) + 1
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        z = ((z ^ (z >> shift)) * factor) & 0xFFFFFFFF
    return (z ^ (z >> 16)) / 2.0**32
