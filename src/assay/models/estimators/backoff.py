"""An n-gram model that learns from the sequence it is predicting, and from nothing else."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from assay.contracts import Batch, NextTokens, Signature, Task, Tokens
from assay.models.estimators.base import ABSENT, FittedEstimator, array
from assay.models.estimators.choice import best
from assay.ops.compaction import Compaction
from assay.ops.suffix_matches import LARGEST, grouped_sums

ORDERS = (1, 2, 3, 4)
JUDGED = 8_192
AT_ONCE = 2**22
"""Probabilities computed together: rows · positions · vocabulary."""


def backoff_probabilities(tokens: Tensor, order: int, candidates: Tensor, separator: int | None = None, uniform: bool = False) -> Tensor:
    """What an n-gram model with back-off, counted on each prefix of a row, says of the next symbol.

    With counts N over the row so far, a context c of n − 1 symbols and v a symbol,

        p_n(v | c) = N(c v) / N(c)  where N(c v) > 0,  else  β p_{n−1}(v) / Σ_{w: N(c w) = 0} p_{n−1}(w),

    β = 1 − Σ N(c w) / N(c). N(c) counts every place that c precedes, the present one and the ends of strings included, so β > 0; where
    no symbol is unseen, p_n is scaled to sum to one. The empty context precedes every symbol so far and one more; p_0 is uniform over
    the candidates.

    Args:
        tokens: (batch, length); padding on the right does no harm before it.
        order: n, at least 1.
        candidates: (vocabulary,), True for the tokens that may come next.
        separator: token at which a new string begins: no context reaches over it, and it is never predicted.
        uniform: spread the mass of all symbols that were resolved at the same order evenly (right where a state's edges are equally
            likely).

    Returns:
        Probabilities of the next token, (batch, length, vocabulary), float64.

    Raises:
        ValueError: an order below 1, or no candidates.

    Source: Akyürek, Wang, Kim, Andreas (2024), In-Context Language Learning; Katz (1987), Estimation of Probabilities from Sparse Data.
    """
    if order < 1:
        raise ValueError(f"order must be at least 1, got {order}")
    if not bool(candidates.any()):
        raise ValueError("candidates must name at least one token")
    vocabulary = len(candidates)
    start = torch.full_like(tokens[:, :1], vocabulary)  # a row begins like a string
    tokens = torch.cat([start, tokens if separator is None else tokens.masked_fill(tokens == separator, vocabulary)], 1)
    symbols = F.one_hot(tokens, vocabulary + 1)[..., :-1].double() * candidates
    probability = (candidates.double() / candidates.sum()).expand_as(symbols)
    level = torch.zeros_like(symbols)
    for n in range(1, order + 1):
        contexts = _contexts(tokens, n - 1, vocabulary)
        before = torch.where(tokens < vocabulary, F.pad(contexts, (1, -1), value=-1), -1)
        counts, _ = grouped_sums(symbols, before, contexts, inclusive=True)
        if n == 1:
            places = counts.sum(2) + 1
        else:
            places = grouped_sums(symbols[..., :0], contexts, contexts, inclusive=True)[1].double()
        probability = _refined(probability, counts, places)
        level = torch.where(counts > 0, n, level)
    return (_levelled(probability, level, order) if uniform else probability)[:, 1:]


def _contexts(tokens: Tensor, length: int, blank: int) -> Tensor:
    """A number for the last ``length`` symbols at every position, with blanks before a string's start; a blank in ``tokens`` starts one."""
    code, bound = torch.zeros_like(tokens), 1
    symbol, inside = tokens, tokens != blank
    for _ in range(length):
        if bound * (blank + 1) > LARGEST:
            code = code.unique(return_inverse=True)[1]
            bound = code.numel()
        code = code * (blank + 1) + torch.where(inside, symbol, blank)
        bound *= blank + 1
        symbol = F.pad(symbol, (1, -1), value=blank)
        inside = inside & (symbol != blank)  # one blank passed, all before it are blanks
    return code.unique(return_inverse=True)[1] if bound > LARGEST else code


def _refined(lower: Tensor, counts: Tensor, places: Tensor) -> Tensor:
    """``p_n`` from ``p_{n−1}``, the counts of each symbol after the context and the number of places that it precedes."""
    share = counts / places[..., None]
    rest = torch.where(counts > 0, 0.0, lower)
    left = rest.sum(2, keepdim=True)
    total = share.sum(2, keepdim=True)
    spread = share + (1 - total) * rest / torch.where(left > 0, left, 1.0)
    return torch.where(left > 0, spread, share / torch.where(total > 0, total, 1.0))


def _levelled(probability: Tensor, level: Tensor, order: int) -> Tensor:
    for n in range(order + 1):
        here = (level == n) & (probability > 0)
        mean = torch.where(here, probability, 0.0).sum(2, keepdim=True) / here.sum(2, keepdim=True).clamp(min=1)
        probability = torch.where(here, mean, probability)
    return probability


class InContextNGram(FittedEstimator):
    """`backoff_probabilities` as a baseline: it learns nothing from the training split but which tokens are ever predicted.

    Args:
        order: longest n-gram; chosen among 1 to 4 on the validation split where it is not given.
        uniform: equal mass at an order; likewise.
    """

    name = "in-context-ngram"

    def __init__(self, order: int | None = None, uniform: bool | None = None) -> None:
        super().__init__()
        self.order, self.uniform = order, uniform

    def accepts(self, signature: Signature) -> str | None:
        """Tokens to the next token."""
        if not isinstance(signature.input, Tokens) or not isinstance(signature.output, NextTokens):
            return "it predicts the next token of a text"
        return None

    def learn(self, task: Task, seed: int) -> dict[str, Any]:
        """Note which tokens are ever predicted; choose the order by the likelihood of the validation split."""
        train, validation = gather_targets(task, "train"), next(iter(task.batches("validation", _rows_judged(task))))
        candidates = torch.zeros(task.signature.output.size, dtype=torch.bool)
        candidates[train.unique()] = True
        separator = task.encoding.get("separator")
        fixed = {"candidates": array(candidates), "separator": -1 if separator is None else int(separator)}
        settings = [
            (order, uniform)
            for order in (ORDERS if self.order is None else (self.order,))
            for uniform in ((False, True) if self.uniform is None else (self.uniform,))
        ]

        def make(setting: tuple[int, bool]) -> dict[str, Any]:
            return fixed | {"order": setting[0], "uniform": setting[1]}

        def score(fitted: dict[str, Any]) -> float:
            chosen = _probabilities(validation, fitted).gather(2, validation["target"][..., None].cpu())[..., 0]
            return float(chosen[_scored(validation).cpu()].clamp(min=1e-12).log().mean())

        return best(settings, make, score)[1]

    def predict(self, batch: Batch) -> NDArray[Any]:
        """Log probabilities (batch, length, vocabulary)."""
        return array(_probabilities(batch, self.fitted).log().clamp(min=ABSENT))


def gather_targets(task: Task, split: Any) -> Tensor:
    """All real targets of a split, (targets,)."""
    return torch.cat([batch["target"][_scored(batch)] for batch in task.batches(split, 1024)])


def _probabilities(batch: Batch, fitted: dict[str, Any]) -> Tensor:
    tokens, candidates = batch["tokens"].cpu(), torch.as_tensor(fitted["candidates"])
    separator = None if fitted["separator"] < 0 else int(fitted["separator"])
    real = Compaction(batch["mask"].cpu()) if "mask" in batch else None
    if real is not None:
        tokens = real.pack(tokens[..., None])[..., 0]
    rows = max(1, AT_ONCE // max(1, tokens.shape[1] * len(candidates)))
    order, uniform = int(fitted["order"]), bool(fitted["uniform"])
    parts = [backoff_probabilities(part, order, candidates, separator, uniform) for part in tokens.split(rows)]
    probabilities = torch.cat(parts)
    return probabilities if real is None else real.unpack(probabilities)


def _scored(batch: Batch) -> Tensor:
    if "target_mask" in batch:
        return batch["target_mask"]
    return batch["mask"] if "mask" in batch else torch.ones_like(batch["target"], dtype=torch.bool)


def _rows_judged(task: Task) -> int:
    assert isinstance(task.signature.input, Tokens)  # `accepts` asks for it
    return max(1, JUDGED // task.signature.input.length)
