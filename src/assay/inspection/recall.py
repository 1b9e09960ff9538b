"""Does a language model recall? Its loss on tokens that repeat what the text has said before, beside its loss on all others."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from assay.contracts import Batch, Finding, NextTokens, Predictor, Task
from assay.errors import UserError
from assay.inspection.heads import HeadScore, head_scores
from assay.training import predictor

FREQUENCIES = (0, 1, 10, 100, 1250)
DISTANCES = (1, 4, 16, 64, 256)


class BigramCounts(NamedTuple):
    """How often each pair of neighbouring tokens occurs: sorted ``codes`` first · vocabulary + second, and ``counts``."""

    codes: Tensor
    counts: Tensor
    vocabulary: int

    def of(self, first: Tensor, second: Tensor) -> Tensor:
        """The counts of pairs, of any shape; 0 for a pair that never occurs."""
        wanted = first * self.vocabulary + second
        if not len(self.codes):
            return torch.zeros_like(wanted)
        place = torch.searchsorted(self.codes, wanted).clamp(max=len(self.codes) - 1)
        return torch.where(self.codes[place] == wanted, self.counts[place], 0)


def bigram_counts(batches: Iterable[Batch], vocabulary: int) -> BigramCounts:
    """Count the pairs (token, next token) of a corpus, exactly.

    Args:
        batches: with ``tokens`` and ``target`` (batch, length), and ``target_mask`` or ``mask`` where not all positions are real.
        vocabulary: number of different tokens.
    """
    codes, counts = torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long)
    for batch in batches:
        new = (batch["tokens"] * vocabulary + batch["target"])[_real(batch)].cpu()
        codes, where = torch.cat([codes, new]).unique(return_inverse=True)
        ones = torch.cat([counts, torch.ones_like(new)])
        counts = torch.zeros_like(codes).index_add(0, where, ones)
    return BigramCounts(codes, counts, vocabulary)


class TokenLosses(NamedTuple):
    """One entry for every predicted token, each (tokens,).

    ``loss`` in nats; ``repeated`` whether its bigram ended earlier in the row; ``distance`` positions since the first such end, 0 where
    there is none; ``frequency`` of the bigram in the training corpus.
    """

    loss: Tensor
    repeated: Tensor
    distance: Tensor
    frequency: Tensor

    def recalled(self, threshold: int) -> Tensor:
        """The tokens that only recall explains: repeated, and so rare in training that the weights cannot know them."""
        return self.repeated & (self.frequency <= threshold)


def first_mentions(tokens: Tensor, target: Tensor, vocabulary: int) -> Tensor:
    """For every bigram (token, next token), the position where the row has it first, (batch, length)."""
    length = tokens.shape[1]
    codes, order = (tokens * vocabulary + target).sort(dim=1, stable=True)
    new = F.pad(codes[:, 1:] != codes[:, :-1], (1, 0), value=True)
    start = torch.where(new, torch.arange(length, device=tokens.device), 0).cummax(1).values
    return torch.empty_like(order).scatter_(1, order, order.gather(1, start))


def token_losses(model: Predictor, batches: Iterable[Batch], counts: BigramCounts) -> TokenLosses:
    """The loss of every predicted token of some batches, and what there was to recall.

    Args:
        model: predicts logits (batch, length, vocabulary).
        batches: with ``tokens`` and ``target``, the tokens one place further.
        counts: of the training corpus.

    Raises:
        ValueError: there are no batches.
    """
    parts = []
    for batch in batches:
        tokens, target = batch["tokens"].cpu(), batch["target"].cpu()
        with torch.no_grad():
            logits = model(batch).prediction.float().cpu()
        loss = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none").view(target.shape)
        distance = torch.arange(tokens.shape[1]) - first_mentions(tokens, target, counts.vocabulary)
        row = (loss, distance > 0, distance, counts.of(tokens, target))
        parts.append([value[_real(batch).cpu()] for value in row])
    if not parts:
        raise ValueError("there must be at least one batch")
    return TokenLosses(*(torch.cat(part) for part in zip(*parts, strict=True)))


@dataclass(frozen=True)
class Slice:
    """Some of the predicted tokens: how many, their share of all, and their mean loss in nats (None where there are none)."""

    count: int
    share: float
    loss: float | None

    @property
    def perplexity(self) -> float | None:
        """``exp(loss)``."""
        return None if self.loss is None else math.exp(self.loss)


def recall_slices(losses: TokenLosses, threshold: int = 1250) -> dict[str, Slice]:
    """The loss on tokens that must be recalled, on all others, and on all.

    A token is *recalled* when its bigram has ended before in the same row, and occurs at most ``threshold`` times in the training
    corpus (otherwise the weights may know it). ``new`` are the tokens as rare whose bigram is not repeated: the recalled ones' control.

    Source: Arora, Eyuboglu, Timalsina, Johnson, Poli, Zou, Rudra, Ré (2023), Zoology: Measuring and Improving Recall in Efficient
    Language Models.
    """
    recalled = losses.recalled(threshold)
    new = ~losses.repeated & (losses.frequency <= threshold)
    parts = {"recalled": recalled, "other": ~recalled, "new": new, "all": torch.ones_like(recalled)}
    return {name: _slice(losses, where) for name, where in parts.items()}


def recall_share(losses: TokenLosses, reference: TokenLosses, threshold: int = 1250) -> float | None:
    """The part of a model's gap to a reference that lies on recalled tokens, in [0, 1]; None where the model is not behind at all.

    ``Σ_{recalled} (loss − reference) / Σ_{all} (loss − reference)``, clipped.

    Raises:
        ValueError: the two are not losses of the same tokens.
    """
    if len(losses.loss) != len(reference.loss) or not torch.equal(losses.frequency, reference.frequency):
        raise ValueError("both must be losses of the same tokens, in the same order")
    gap = losses.loss.double() - reference.loss.double()
    whole = float(gap.sum())
    if whole <= 0:
        return None
    return min(1.0, max(0.0, float(gap[losses.recalled(threshold)].sum()) / whole))


class Recall:
    """Probe that says whether a language model recalls: loss by slices, and where its attention heads look.

    Args:
        threshold: bigrams more frequent than this in training are left to the weights.
        rows: test rows that are looked at.
    """

    def __init__(self, threshold: int = 1250, rows: int = 256) -> None:
        self.threshold = threshold
        self.rows = rows

    def __call__(self, model: nn.Module, task: Task) -> Finding:
        """Slices, and head scores where the mixers are attention; nothing is changed.

        Raises:
            UserError: the task does not predict next tokens.
        """
        if not isinstance(task.signature.output, NextTokens):
            raise UserError(f"Recall is measured on models of next tokens, and {task.name} predicts something else: choose another probe.")
        counts = bigram_counts(task.batches("train", 256), task.signature.output.vocabulary)
        batches = list(itertools.islice(task.batches("test", 8), max(1, self.rows // 8)))
        losses = token_losses(predictor(model.eval()), batches, counts)
        slices = recall_slices(losses, self.threshold)
        heads = _heads(model, batches[:4])
        table: list[dict[str, Any]] = [
            {"tokens": name, "count": part.count, "share": part.share, "loss": part.loss, "perplexity": part.perplexity}
            for name, part in [*slices.items(), *binned(losses, self.threshold).items()]
        ]
        table += [
            {
                "tokens": f"layer {head.layer}, head {head.head}",
                "previous": head.previous,
                **{f"{n}-gram": m for n, m in head.ngram.items()},
            }
            for head in heads
        ]
        return Finding(_sentence(slices, heads), table, _figure(losses, self.threshold, heads))


def binned(losses: TokenLosses, threshold: int = 1250) -> dict[str, Slice]:
    """Recalled tokens by how often their bigram occurs in training, and by how long ago the row had it first."""
    recalled = losses.recalled(threshold)
    bins = {}
    for low, high in zip(FREQUENCIES, (*FREQUENCIES[1:], math.inf), strict=True):
        bins[f"recalled, {low} or more in training"] = recalled & (losses.frequency >= low) & (losses.frequency < high)
    for low, high in zip(DISTANCES, (*DISTANCES[1:], math.inf), strict=True):
        bins[f"recalled, from {low} tokens back"] = recalled & (losses.distance >= low) & (losses.distance < high)
    return {name: part for name, where in bins.items() if (part := _slice(losses, where)).count}


def _slice(losses: TokenLosses, where: Tensor) -> Slice:
    count = int(where.sum())
    return Slice(count, count / max(1, len(where)), float(losses.loss[where].double().mean()) if count else None)


def _heads(model: nn.Module, batches: list[Batch]) -> list[HeadScore]:
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    try:
        return head_scores(model, [{key: value.to(device) for key, value in batch.items()} for batch in batches])
    except UserError:  # no attention: the slices alone must tell
        return []


def _real(batch: Batch) -> Tensor:
    if "target_mask" in batch:
        return batch["target_mask"]
    return batch["mask"] if "mask" in batch else torch.ones_like(batch["target"], dtype=torch.bool)


def _sentence(slices: dict[str, Slice], heads: list[HeadScore]) -> str:
    recalled, new = slices["recalled"], slices["new"]
    if recalled.loss is None or new.loss is None:
        return "There is nothing to judge recall by: no rare bigram is repeated within a row, or none is new."
    gain = new.loss - recalled.loss
    verdict = "recalls" if recalled.loss < new.loss / 2 else "recalls a little" if gain > 0.1 else "does not recall"
    words = (
        f"The model {verdict}: its loss is {recalled.loss:.2f} nats on the {100 * recalled.share:.1f} % of tokens whose rare bigram the "
        f"row has had before, {new.loss:.2f} on rare bigrams that are new"
    )
    if not heads:
        return words + "."
    best = max(heads, key=lambda head: head.ngram[1])
    return words + (
        f"; head {best.head} of layer {best.layer} puts {100 * best.ngram[1]:.0f} % of its weight on what followed the same token before "
        f"(equal weights would put {100 * best.chance[1]:.0f} %)."
    )


def _figure(losses: TokenLosses, threshold: int, heads: list[HeadScore]) -> dict[str, Any]:
    parts = recall_slices(losses, threshold) | binned(losses, threshold)
    shown = {name: part for name, part in parts.items() if part.loss is not None}
    data: list[dict[str, Any]] = [{"type": "bar", "name": "loss", "x": list(shown), "y": [part.loss for part in shown.values()]}]
    layout: dict[str, Any] = {"yaxis": {"title": {"text": "loss, nats"}, "rangemode": "tozero"}}
    if heads:
        names = [f"{head.layer}.{head.head}" for head in heads]
        data += [
            {"type": "bar", "name": f"{n}-gram", "x": names, "y": [head.ngram[n] for head in heads], "xaxis": "x2", "yaxis": "y2"}
            for n in heads[0].ngram
        ]
        layout |= {
            "grid": {"rows": 1, "columns": 2, "pattern": "independent"},
            "xaxis2": {"title": {"text": "layer.head"}},
            "yaxis2": {"title": {"text": "attention on successors of matches"}, "range": [0, 1]},
        }
    return {"data": data, "layout": layout}
