"""`SequenceTask`: tasks whose answer is a sequence of symbols, scored by what is written freely as well as by its log likelihood."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from assay.contracts import END, Evaluation, Predictor, Signature, SplitName
from assay.errors import require
from assay.tasks.base import ArrayTask, example_losses, target_mask

METRICS: dict[str, Literal["max", "min"]] = {"exact_match": "max", "token_accuracy": "max", "bits_per_token": "min"}


class SequenceTask(ArrayTask):
    """An `ArrayTask` with `assay.contracts.TokenSequence` output.

    ``exact_match`` is the share of examples that are written without any error when the model reads what it wrote itself;
    ``token_accuracy`` and ``bits_per_token`` are of its next symbol given the true ones before it.

    Args:
        metric: the primary one.
        options: as `ArrayTask`. ``encoding["target_symbols"]`` are the symbols' texts, ``encoding["between"]`` what stands between them.

    Raises:
        ValueError: an unknown metric.
    """

    def __init__(
        self,
        name: str,
        signature: Signature,
        splits: Mapping[SplitName, Mapping[str, Tensor]],
        *,
        metric: str = "exact_match",
        **options: Any,
    ) -> None:
        if metric not in METRICS:
            raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {metric!r}")
        super().__init__(name, signature, splits, metric=metric, **options)
        self.direction: Literal["max", "min"] = METRICS[metric]

    def evaluate(self, predictor: Predictor, split: SplitName, batch_size: int = 256) -> Evaluation:
        """One pass with the true symbols before each, and one in which the model reads its own."""
        parts: dict[str, list[Tensor]] = {"written": [], "target": [], "mask": [], "right": [], "loss": [], "count": []}
        with torch.no_grad():
            for batch in self.batches(split, batch_size):
                forced = predictor(batch).prediction.float().cpu()
                free = predictor({key: value for key, value in batch.items() if not key.startswith("target")}).prediction.cpu()
                loss, count = example_losses(self.signature, forced, batch)
                right = (forced.argmax(-1) == batch["target"]) & target_mask(batch)
                row = (free.argmax(-1), batch["target"], target_mask(batch), right.sum(1), loss, count)
                for part, value in zip(parts.values(), row, strict=True):
                    part.append(value)
        joined = {name: torch.cat(part) for name, part in parts.items()}
        share = len(joined["count"]) / joined["count"].sum().clamp(min=1)  # scores average to the mean over symbols
        scores = {
            "exact_match": ((joined["written"] == joined["target"]) | ~joined["mask"]).all(1).double(),
            "token_accuracy": joined["right"] * share.double(),
            "bits_per_token": joined["loss"].double() * share / math.log(2),
        }
        metrics = {name: float(score.mean()) for name, score in scores.items()}
        metrics["log_loss"] = metrics["bits_per_token"] * math.log(2)
        return Evaluation(metrics, scores[self.metric].numpy(), until_end(joined["written"]).numpy(), self.groups.get(split))

    def texts(self, tokens: Tensor) -> list[str]:
        """Sequences (examples, length) as text, each up to its end."""
        symbols, between = self.encoding["target_symbols"], self.encoding["between"]
        return [between.join(symbols[token] for token in row if token != END) for row in until_end(tokens).tolist()]


def until_end(tokens: Tensor) -> Tensor:
    """Sequences (examples, length) with everything after the first end replaced by ends."""
    return tokens.masked_fill((tokens == END).cumsum(1) > 0, END)


def padded_sources(rows: Sequence[Sequence[int]], length: int) -> dict[str, Tensor]:
    """``tokens`` (rows, length), filled with 0 on the right, and their ``mask``."""
    tokens, mask = torch.zeros(len(rows), length, dtype=torch.long), torch.zeros(len(rows), length, dtype=torch.bool)
    for index, row in enumerate(rows):
        tokens[index, : len(row)] = torch.tensor(row, dtype=torch.long)
        mask[index, : len(row)] = True
    return {"tokens": tokens, "mask": mask}


def ended_targets(rows: Sequence[Sequence[int]], length: int) -> dict[str, Tensor]:
    """``target`` (rows, length), each row followed by ends, and ``target_mask``, True up to the first of them.

    Raises:
        ValueError: a row leaves no place for its end.
    """
    longest = max((len(row) for row in rows), default=0)
    if longest >= length:
        raise ValueError(f"a sequence of {longest} symbols and its end do not fit into {length}")
    found = padded_sources([[*row, END] for row in rows], length)
    return {"target": found["tokens"], "target_mask": found["mask"]}


def corpus_bleu(found: Sequence[str], expected: Sequence[str]) -> float:
    """BLEU of a corpus in percent, as sacrebleu computes it: up to four words, with a penalty for brevity.

    Args:
        found: what was written.
        expected: one reference for each.

    Raises:
        MissingExtra: sacrebleu is not installed.
        ValueError: there are not as many references as texts.

    Source: Papineni et al. (2002), BLEU: a method for automatic evaluation of machine translation; Post (2018), A call for clarity.
    """
    if len(found) != len(expected):
        raise ValueError(f"BLEU needs a reference for each text, got {len(found)} texts and {len(expected)} references")
    sacrebleu = require("sacrebleu", extra="translation", purpose="BLEU")
    return float(sacrebleu.corpus_bleu(list(found), [list(expected)]).score)
