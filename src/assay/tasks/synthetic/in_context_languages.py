"""`in_context_languages`: every example is written in a language of its own, which must be learned from the example alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from assay.contracts import Batch, Evaluation, NextTokens, Predictor, Signature, SplitName, Tokens
from assay.tasks.base import ArrayTask
from assay.tasks.synthetic.automata import AutomatonShape, Tables, random_automata, sample_rows, states_of

OFFICIAL_CODE: dict[str, Any] = {"edges": (1, 3), "string_length": (1, 49)}
"""Where the published code differs from the paper: its upper ends are excluded. ``in_context_languages(**OFFICIAL_CODE)``."""

REDUCED: dict[str, Any] = {
    "states": (4, 6),
    "alphabet": (4, 8),
    "symbols": 8,
    "edges": (1, 3),
    "strings": (8, 10),
    "string_length": (4, 12),
    "train": 2000,
}
"""A tenth of the length, for a processor: ``in_context_languages(**REDUCED)``."""

POOL = 16
"""Batches that are sorted by length together, so that a batch holds rows of about one length."""


def in_context_languages(
    train: int = 5000,
    validation: int = 500,
    test: int = 500,
    states: tuple[int, int] = (4, 12),
    alphabet: tuple[int, int] = (4, 18),
    edges: tuple[int, int] = (1, 4),
    symbols: int = 18,
    strings: tuple[int, int] = (10, 19),
    string_length: tuple[int, int] = (1, 50),
    seed: int = 0,
    name: str = "icll",
) -> InContextLanguages:
    """Strings of a fresh random automaton in every row, ``s₁ | s₂ | … | s_k``: after each symbol, one is wanted that may follow.

    Defaults are the paper's; the automata of all rows and splits have different languages, so that nothing but the row tells its
    language. Every range holds both ends. The longest row has strings[1] · (string_length[1] + 1) − 1 tokens.

    Source: Akyürek, Wang, Kim, Andreas (2024), In-Context Language Learning: Architectures and Algorithms.

    Args:
        train: training rows (the paper: 1,250 to 40,000).
        validation: validation rows.
        test: test rows.
        states: of an automaton, before minimisation.
        alphabet: different symbols of an automaton.
        edges: that leave a state, each equally likely.
        symbols: that alphabets are drawn from, tokens 0 … symbols − 1; then come the separator and the padding.
        strings: in a row.
        string_length: symbols of a string.
        seed: of everything.
        name: the task's name.

    Raises:
        ValueError: an empty range, or one that automata cannot have; see `AutomatonShape`.
    """
    shape = AutomatonShape(states, alphabet, edges, symbols)
    if min(train, validation, test) < 1:
        raise ValueError(f"train, validation and test must be at least 1, got {train}, {validation} and {test}")
    random = np.random.default_rng(seed)
    sizes = {"train": train, "validation": validation, "test": test}
    tables = random_automata(sum(sizes.values()), shape, random)
    tokens, after = sample_rows(tables, strings, string_length, symbols, random)
    longest = strings[1] * (string_length[1] + 1) - 2  # inputs: all tokens of the longest row but the last
    rows = _rows(tokens, after, symbols) | {"automaton": torch.arange(len(tables))}
    splits: dict[Any, Mapping[str, Tensor]] = {}
    start = 0
    for split, size in sizes.items():
        splits[split] = {key: value[start : start + size] for key, value in rows.items()}
        start += size
    words = f"{sum(sizes.values()):,} rows of {strings[0]}–{strings[1]} strings, {symbols} symbols, a new random automaton in each row"
    return InContextLanguages(name, tables, splits, longest, words)


class InContextLanguages(ArrayTask):
    """Next-token prediction where the true distribution of every next symbol is known.

    A batch has ``tokens``, ``target`` and ``target_mask`` (batch, length), False where a separator or padding comes next;
    ``state`` (batch, length), the automaton's state after each symbol, −1 at separators and padding; ``automaton`` (batch,), the row of
    ``automata``. Batches are cut to their longest row. There is no ``mask``: padding lies on the right, where no causal model looks.

    Measures, means over the positions where a symbol comes next, for the model's p (a softmax over all tokens) and the truth q:
    ``accuracy``, whether the most likely token may follow; ``total_variation`` ½ Σ |p − q|; ``cross_entropy`` −Σ q log p; ``kl``, how
    far that is above its floor. ``l1_official`` is Σ |p − q| over all positions, ends of strings included, as published code has it.

    Args:
        name: short name.
        automata: canonical tables (automata, states, symbols).
        splits: rows; see `in_context_languages`.
        longest: the signature's length.
        description: in one line.
    """

    def __init__(
        self, name: str, automata: Tables, splits: Mapping[SplitName, Mapping[str, Tensor]], longest: int, description: str
    ) -> None:
        symbols = automata.shape[2]
        labels = [*(f"{symbol}" for symbol in range(symbols)), "|", "."]
        super().__init__(
            name,
            Signature(Tokens(symbols + 2, longest), NextTokens(symbols + 2)),
            splits,
            description=description,
            encoding={"labels": labels, "symbols": symbols, "separator": symbols, "padding": symbols + 1},
            metric="accuracy",
            prepare=_prepared,
        )
        self.automata = automata
        allowed = torch.from_numpy(automata[:, : int(states_of(automata).max())] >= 0).float()
        following = allowed / allowed.sum(2, keepdim=True).clamp(min=1)
        self._following = F.pad(following, (0, 2))  # neither separator nor padding is ever right

    def truth(self, batch: Batch) -> Tensor:
        """The distribution of the next symbol at every position (batch, length, vocabulary); at a separator, of a string's first."""
        return self._following[batch["automaton"].cpu()[:, None], batch["state"].cpu().clamp(min=0)]

    def training_batches(self, batch_size: int, seed: int) -> Iterator[Batch]:
        """Endless training batches of rows of about one length: sorted within a pool of batches, the batches in random order."""
        generator = torch.Generator().manual_seed(seed)
        lengths = self._lengths("train")
        while True:
            order = torch.randperm(len(lengths), generator=generator)
            for start in range(0, max(len(order) - batch_size, 0) + 1, POOL * batch_size):
                pool = order[start : start + POOL * batch_size]
                batches = pool[lengths[pool].argsort(stable=True)].split(batch_size)
                whole = [batch for batch in batches if len(batch) == batch_size] or [batches[0]]
                for index in torch.randperm(len(whole), generator=generator).tolist():
                    yield self.batch_of("train", whole[index])

    def position_scores(self, prediction: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Every measure at every position, (batch, length), scored or not.

        Args:
            prediction: logits (batch, length, vocabulary).
            batch: the batch that they predict.
        """
        truth = self.truth(batch)
        logarithm = prediction.float().cpu().log_softmax(2)
        distance = (logarithm.exp() - truth).abs().sum(2)
        entropy = -torch.xlogy(truth, truth).sum(2)
        crossed = -torch.where(truth > 0, truth * logarithm, 0.0).sum(2)
        return {
            "accuracy": (truth.gather(2, logarithm.argmax(2, keepdim=True))[..., 0] > 0).float(),
            "total_variation": distance / 2,
            "l1_official": distance,
            "cross_entropy": crossed,
            "kl": crossed - entropy,
        }

    def evaluate(self, predictor: Predictor, split: SplitName, batch_size: int = 64) -> Evaluation:
        """All measures over one pass of a split; a row's score is its mean accuracy, weighted by its number of scored positions."""
        sums: dict[str, list[Tensor]] = {}
        predictions = np.full((self.size(split), self.splits[split]["tokens"].shape[1]), -1)
        start = 0
        with torch.no_grad():
            for batch in self.batches(split, batch_size):
                prediction = predictor(batch).prediction
                scored, real = batch["target_mask"], batch["tokens"] != self.encoding["padding"]
                for name, value in self.position_scores(prediction, batch).items():
                    sums.setdefault(name, []).append((value * (real if name == "l1_official" else scored)).sum(1))
                sums.setdefault("scored", []).append(scored.sum(1).float())
                sums.setdefault("real", []).append(real.sum(1).float())
                end = start + len(scored)
                predictions[start:end, : scored.shape[1]] = prediction.argmax(2).cpu().numpy()
                start = end
        joined = {name: torch.cat(parts).double() for name, parts in sums.items()}
        scored, real = joined.pop("scored").mean(), joined.pop("real").mean()
        metrics = {name: float(value.mean() / (real if name == "l1_official" else scored)) for name, value in joined.items()}
        return Evaluation(metrics, (joined["accuracy"] / scored).numpy(), predictions)

    def _lengths(self, split: SplitName) -> Tensor:
        return (self.splits[split]["tokens"] != self.encoding["padding"]).sum(1)


def _rows(tokens: np.ndarray, after: np.ndarray, symbols: int) -> dict[str, Tensor]:
    """Inputs and targets of rows whose end is −1; small integers, for there are many."""
    filled = torch.from_numpy(np.where(tokens < 0, symbols + 1, tokens)).to(torch.int16)
    target = filled[:, 1:]
    inputs = torch.where(target == symbols + 1, target, filled[:, :-1])  # a row's last token is only ever a target
    return {
        "tokens": inputs,
        "target": target,
        "target_mask": target < symbols,
        "state": torch.where(inputs < symbols, torch.from_numpy(after[:, :-1]).to(torch.int16), -1),
    }


def _prepared(batch: Batch) -> Batch:
    """As long integers, cut to the longest row."""
    longest = max(1, int(batch["target_mask"].any(0).nonzero().max() + 1)) if batch["target_mask"].any() else 1
    cut = {key: value[:, :longest] if value.ndim == 2 else value for key, value in batch.items()}
    return {key: value if value.dtype == torch.bool else value.long() for key, value in cut.items()}
