"""What attention heads look at: the token before, or what followed earlier occurrences of the present n-gram."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from assay.contracts import Batch
from assay.errors import UserError
from assay.inspection.attention import attention_calls
from assay.ops.suffix_matches import successor_weights


@dataclass(frozen=True)
class HeadScore:
    """Where one head's attention goes, means over positions.

    Args:
        layer: number of the attention layer, from 1.
        head: number of the head in it, from 1.
        previous: weight on the position before.
        ngram: by order n, weight on the successors of earlier occurrences of the last n tokens, where there are any.
        chance: by order, what equal weights on all visible positions would put there.
    """

    layer: int
    head: int
    previous: float
    ngram: dict[int, float]
    chance: dict[int, float]

    def lift(self, order: int) -> float:
        """How many times the weight that equal attention would put on the successors."""
        return self.ngram[order] / self.chance[order] if self.chance[order] else 0.0


def head_scores(model: nn.Module, batches: Iterable[Batch], orders: tuple[int, ...] = (1, 2, 3)) -> list[HeadScore]:
    """`HeadScore` of every head of every layer that can show its weights, ``weights(x, mask) -> (batch, heads, length, length)``.

    An induction head (order 1) or n-gram head (order n) puts most of its weight there: it reads what came after the same context
    before. Order n + 1 is a part of order n.

    Args:
        model: a network over tokens; its attention layers are found by their method ``weights``.
        batches: with ``tokens`` (batch, length); where there is a ``target_mask`` or a ``mask``, only positions where it is True count.
        orders: orders to score.

    Raises:
        UserError: no layer of the model can show its weights, or the batches hold no tokens.

    Source: Olsson et al. (2022), In-context Learning and Induction Heads; Akyürek, Wang, Kim, Andreas (2024), In-Context Language
    Learning.
    """
    totals: dict[tuple[int, int], dict[Any, Tensor]] = {}
    for batch in batches:
        if "tokens" not in batch:
            raise UserError("Head scores compare attention with repeated tokens, and these data have none: choose another probe.")
        for key, value in _of_batch(model, batch, orders).items():
            into = totals.setdefault(key, {})
            for name, pair in value.items():
                into[name] = into.get(name, torch.zeros(2, dtype=torch.float64)) + pair
    return [_score(key, value, orders) for key, value in totals.items()]


def _score(key: tuple[int, int], totals: dict[Any, Tensor], orders: tuple[int, ...]) -> HeadScore:
    means = {name: float(total[0] / total[1].clamp(min=1)) for name, total in totals.items()}
    return HeadScore(key[0], key[1], means["previous"], {n: means["ngram", n] for n in orders}, {n: means["chance", n] for n in orders})


def _of_batch(model: nn.Module, batch: Batch, orders: tuple[int, ...]) -> dict[tuple[int, int], dict[Any, Tensor]]:
    """Sums and numbers of positions for every (layer, head) and measure."""
    tokens = batch["tokens"]
    mask = batch.get("mask")
    counted = batch.get("target_mask", mask)
    counted = torch.ones_like(tokens, dtype=torch.bool) if counted is None else counted
    successors = {n: successor_weights(tokens, n, mask) > 0 for n in orders}
    visible = torch.arange(1, tokens.shape[1] + 1, device=tokens.device) if mask is None else mask.cumsum(1)
    found: dict[tuple[int, int], dict[Any, Tensor]] = {}
    for layer, (module, x, seen) in enumerate(attention_calls(model, batch), 1):
        with torch.no_grad():
            weights = module.weights(x, seen)
        for head in range(weights.shape[1]):
            measures: dict[Any, Tensor] = {"previous": _mean(weights[:, head].diagonal(-1, 1, 2), counted[:, 1:])}
            for n, where in successors.items():
                rows = counted & where.any(2)
                measures["ngram", n] = _mean((weights[:, head] * where).sum(2), rows)
                measures["chance", n] = _mean(where.sum(2) / visible.clamp(min=1), rows)
            found[layer, head + 1] = measures
    return found


def _mean(values: Tensor, counted: Tensor) -> Tensor:
    """Sum of the counted values and their number."""
    return torch.stack([torch.where(counted, values, 0.0).double().sum(), counted.double().sum()]).cpu()
