"""Associative recall: what followed a symbol earlier in the sequence? With many queries, with one, and with one fixed symbol.

All answers are in the sequence and nowhere else: keys and values are drawn afresh for every example, so weights cannot know them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from assay.contracts import Batch, Class, Evaluation, Predictor, Signature, SplitName, Tokens
from assay.tasks.base import ArrayTask

Examples = dict[str, Tensor]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")
BLOCK = 4096
"""Examples drawn at once: with many pairs, a random number for every symbol is needed for each of them."""


def multi_query_recall(
    sizes: Sequence[tuple[int, int]] = ((32, 4),),
    vocabulary: int = 64,
    passes: int = 1,
    power: float = 0.01,
    random_fill: bool = False,
    train: int = 40_000,
    test: int = 1_000,
    seed: int = 0,
    name: str = "recall",
) -> ArrayTask:
    """Multi-query associative recall: ``k₁ v₁ … k_P v_P``, then every key once more somewhere, to be answered with its value.

    Keys are P different symbols of 1 … V/2 − 1, values P different ones of V/2 … V − 1; symbol 0 fills the rest. The pairs, repeated
    ``passes`` times, take C = 2 · P · passes positions; of the (L − C) / 2 slots at C, C + 2, … P are drawn without replacement with
    probabilities in proportion to ``power · (j + 1)^(power − 1)``, and each holds one key. The target there is the key's value. Recalling
    no key but knowing which symbols were values gives 1 / P: training rests at that accuracy before it jumps.

    Attention does it in a width that does not grow with the length; a mixer that cannot also falls behind on repeated phrases of text.

    Source: Arora, Eyuboglu, Timalsina, Johnson, Poli, Zou, Rudra, Ré (2023), Zoology: Measuring and Improving Recall in Efficient Language
    Models. There V = 8192, (L, P) of (64, 4), (128, 8), (256, 16) and (512, 64), and 100,000 training examples; these defaults are what one
    processor core learns in a minute.

    Args:
        sizes: (length L, pairs P), one or several; a training batch has one size, and accuracy is also told for each.
        vocabulary: V, symbols.
        passes: times that the pairs are shown.
        power: 1 asks at any distance alike; near 0 keys are asked for soon after they were seen, as words recur in text.
        random_fill: fill with any symbols instead of 0; a key may then also stand where it is not asked for, followed by anything.
        train: training examples of each size.
        test: test examples of each size, and as many for validation.
        seed: of all examples.
        name: the task's name.

    Raises:
        ValueError: no size, an odd length, a vocabulary not larger than the length, pairs and queries longer than the length, or another
            number out of range.
    """
    if not sizes:
        raise ValueError("sizes must name at least one (length, pairs)")
    for length, pairs in sizes:
        _check_size(length, pairs, vocabulary, passes)
    if power <= 0:
        raise ValueError(f"power must be positive, got {power}")
    _check_counts(train, test)

    def draw(length: int, pairs: int) -> Callable[[int, torch.Generator], Examples]:
        return lambda count, generator: _multi_query(length, pairs, vocabulary, passes, power, random_fill, count, generator)

    drawn: Any = {split: [_drawn(draw(*size), split, train, test, seed) for size in sizes] for split in SPLITS}
    shown = ", ".join(f"{pairs} pairs in {length} positions (guessing among their values: {1 / pairs:.3f})" for length, pairs in sizes)
    return RecallTask(name, vocabulary, sizes, drawn, f"{(train + 2 * test) * len(sizes):,} sequences, {vocabulary} symbols: {shown}")


def associative_recall(
    vocabulary: int = 20, length: int = 32, train: int = 20_000, test: int = 1_000, seed: int = 0, name: str = "associative-recall"
) -> ArrayTask:
    """Associative recall with one query: ``k v k v … k v q``: the value that goes with the last symbol.

    Keys, of 1 … V/2 − 1, recur within an example, always with the same value, of V/2 … V − 1; only the last position is asked for. Every
    kind of mixer learns it, so it does not tell them apart.

    Source: Fu, Dao, Saab, Thomas, Rudra, Ré (2023), Hungry Hungry Hippos; Ba, Hinton, Mnih, Leibo, Ionescu (2016), Using Fast Weights to
    Attend to the Recent Past.

    Args:
        vocabulary: symbols; 0 fills the first position of an even length.
        length: positions.
        train: training examples.
        test: test examples, and as many for validation.
        seed: of all examples.
        name: the task's name.

    Raises:
        ValueError: a vocabulary below 4, a length below 3, or a count below 1.
    """
    if vocabulary < 4 or length < 3:
        raise ValueError(f"vocabulary must be at least 4 and length at least 3, got {vocabulary} and {length}")
    return _single(
        name,
        vocabulary,
        length,
        (train, test, seed),
        lambda count, generator: _single_query(vocabulary, length, count, generator),
        f"{(length - 1) // 2} pairs of {vocabulary // 2 - 1} keys and one query",
    )


def induction(
    vocabulary: int = 20, length: int = 32, train: int = 20_000, test: int = 1_000, seed: int = 0, name: str = "induction"
) -> ArrayTask:
    """Induction: random symbols with symbol 0 once among them and once more at the end, to be answered with what followed it.

    Source: Olsson et al. (2022), In-context Learning and Induction Heads; as a task, Fu, Dao, Saab, Thomas, Rudra, Ré (2023), Hungry Hungry
    Hippos.

    Args:
        vocabulary: symbols, 0 among them.
        length: positions.
        train: training examples.
        test: test examples, and as many for validation.
        seed: of all examples.
        name: the task's name.

    Raises:
        ValueError: a vocabulary below 3, a length below 3, or a count below 1.
    """
    if vocabulary < 3 or length < 3:
        raise ValueError(f"vocabulary and length must be at least 3, got {vocabulary} and {length}")
    return _single(
        name,
        vocabulary,
        length,
        (train, test, seed),
        lambda count, generator: _induction(vocabulary, length, count, generator),
        f"{vocabulary - 1} random symbols and one to remember by",
    )


class RecallTask(ArrayTask):
    """Recall at one or several sizes; made by `multi_query_recall`.

    Shorter examples are filled up with symbol 0 and masked; a training batch has one size, cut to its length. An example's score is the
    share of its queries answered.

    Args:
        name: the task's name.
        vocabulary: symbols.
        sizes: (length, pairs) of each part.
        parts: per split, the examples of each size.
        description: in one line.
    """

    def __init__(
        self, name: str, vocabulary: int, sizes: Sequence[tuple[int, int]], parts: dict[SplitName, list[Examples]], description: str
    ) -> None:
        self.sizes = tuple((int(length), int(pairs)) for length, pairs in sizes)
        longest = max(length for length, _ in self.sizes)
        super().__init__(
            name,
            Signature(Tokens(vocabulary, longest), Class(vocabulary), per_position=True),
            {split: _joined(examples, longest) for split, examples in parts.items()},
            description=description,
            encoding={"labels": [str(symbol) for symbol in range(vocabulary)]},
        )
        self.part_of = {split: np.repeat(np.arange(len(sizes)), [len(part["tokens"]) for part in parts[split]]) for split in parts}

    def training_batches(self, batch_size: int, seed: int) -> Iterator[Batch]:
        """Endless training batches, each of one size: fresh permutations an epoch, the sizes in random order."""
        if len(self.sizes) == 1:
            yield from super().training_batches(batch_size, seed)
            return
        generator = torch.Generator().manual_seed(seed)
        while True:
            batches: list[tuple[int, Tensor]] = []
            for part, (length, _) in enumerate(self.sizes):
                members = torch.from_numpy(np.flatnonzero(self.part_of["train"] == part))
                order = members[torch.randperm(len(members), generator=generator)]
                batches += [(length, chosen) for chosen in order.split(batch_size) if len(chosen) == min(batch_size, len(order))]
            for index in torch.randperm(len(batches), generator=generator).tolist():
                length, chosen = batches[index]
                yield {key: tensor[:, :length] for key, tensor in self.batch_of("train", chosen).items()}

    def evaluate(self, predictor: Predictor, split: SplitName, batch_size: int = 256) -> Evaluation:
        """Accuracy of queries averaged over examples, over all of them and for each size, and the other measures of classes."""
        evaluation = super().evaluate(predictor, split, batch_size)
        right = (evaluation.predictions == self.splits[split]["target"].numpy()) & self.splits[split]["target_mask"].numpy()
        part = self.part_of[split]
        scores = right.sum(1) / np.array([pairs for _, pairs in self.sizes])[part]
        metrics = evaluation.metrics | {"accuracy": float(scores.mean())}
        if len(self.sizes) > 1:
            of_sizes = enumerate(self.sizes)
            metrics |= {f"accuracy_{pairs}_pairs_in_{length}": float(scores[part == index].mean()) for index, (length, pairs) in of_sizes}
        return Evaluation(metrics, scores, evaluation.predictions, evaluation.groups)


# ------------------------------------------------------------------------------------------------ examples


def _multi_query(
    length: int, pairs: int, vocabulary: int, passes: int, power: float, random_fill: bool, count: int, generator: torch.Generator
) -> Examples:
    half = vocabulary // 2
    keys = 1 + _distinct(count, half - 1, pairs, generator)
    values = half + _distinct(count, vocabulary - half, pairs, generator)
    context = torch.stack([keys, values], 2).flatten(1).repeat(1, passes)
    start = context.shape[1]
    slots = torch.arange(1, (length - start) // 2 + 1, dtype=torch.float64)
    # the largest of log p + Gumbel noise, in order, are draws without replacement with probabilities p
    noise = -torch.log(-torch.log(torch.rand(count, len(slots), generator=generator, dtype=torch.float64)))
    places = start + 2 * ((power - 1) * slots.log() + noise).topk(pairs, 1).indices
    tokens = torch.zeros(count, length, dtype=torch.long)
    tokens[:, :start] = context
    tokens.scatter_(1, places, keys)
    if random_fill:
        filler = torch.randint(vocabulary, tokens.shape, generator=generator)
        tokens = torch.where(tokens == 0, filler, tokens)
    return _asked(tokens, places, values)


def _single_query(vocabulary: int, length: int, count: int, generator: torch.Generator) -> Examples:
    half, pairs = vocabulary // 2, (length - 1) // 2
    value_of = torch.randint(half, vocabulary, (count, half), generator=generator)
    keys = torch.randint(1, half, (count, pairs), generator=generator)
    asked = keys.gather(1, torch.randint(pairs, (count, 1), generator=generator))
    context = torch.stack([keys, value_of.gather(1, keys)], 2).flatten(1)
    filler = torch.zeros(count, (length - 1) % 2, dtype=torch.long)
    last = torch.full((count, 1), length - 1)
    return _asked(torch.cat([filler, context, asked], 1), last, value_of.gather(1, asked))


def _induction(vocabulary: int, length: int, count: int, generator: torch.Generator) -> Examples:
    tokens = torch.randint(1, vocabulary, (count, length), generator=generator)
    place = torch.randint(length - 2, (count, 1), generator=generator)
    tokens.scatter_(1, place, 0)
    tokens[:, -1] = 0
    return _asked(tokens, torch.full((count, 1), length - 1), tokens.gather(1, place + 1))


def _asked(tokens: Tensor, places: Tensor, answers: Tensor) -> Examples:
    """Examples whose targets are ``answers`` at ``places``, and nothing elsewhere."""
    target = torch.zeros_like(tokens).scatter_(1, places, answers)
    return {"tokens": tokens, "target": target, "target_mask": torch.zeros_like(tokens, dtype=torch.bool).scatter_(1, places, True)}


def _distinct(count: int, symbols: int, wanted: int, generator: torch.Generator) -> Tensor:
    """So many different numbers below ``symbols`` a row, in random order."""
    if wanted * wanted > symbols:
        return torch.rand(count, symbols, generator=generator).topk(wanted, 1).indices
    # of a large vocabulary few are wanted: draw freely, and once more the rows in which a number came twice
    drawn = torch.randint(symbols, (count, wanted), generator=generator)
    while len(rows := (drawn.sort(1).values.diff(dim=1) == 0).any(1).nonzero()[:, 0]):
        drawn[rows] = torch.randint(symbols, (len(rows), wanted), generator=generator)
    return drawn


# ------------------------------------------------------------------------------------------------ tasks


def _drawn(draw: Callable[[int, torch.Generator], Examples], split: SplitName, train: int, test: int, seed: int) -> Examples:
    """A split's examples, from a seed of its own: the test split does not change with the number of training examples."""
    generator = torch.Generator().manual_seed(len(SPLITS) * seed + SPLITS.index(split))
    count = train if split == "train" else test
    blocks = [draw(min(BLOCK, count - start), generator) for start in range(0, count, BLOCK)]
    return {key: torch.cat([block[key] for block in blocks]) for key in blocks[0]}


def _joined(parts: list[Examples], longest: int) -> Examples:
    """All sizes in one tensor a key, filled up to the longest, with a mask if there are several."""
    if len({part["tokens"].shape[1] for part in parts}) > 1:
        parts = [{**part, "mask": torch.ones_like(part["tokens"], dtype=torch.bool)} for part in parts]
    filled = [{key: F.pad(value, (0, longest - value.shape[1])) for key, value in part.items()} for part in parts]
    return {key: torch.cat([part[key] for part in filled]) for key in parts[0]}


def _single(
    name: str,
    vocabulary: int,
    length: int,
    counts: tuple[int, int, int],
    draw: Callable[[int, torch.Generator], Examples],
    shown: str,
) -> ArrayTask:
    train, test, seed = counts
    _check_counts(train, test)
    splits: Any = {split: _drawn(draw, split, train, test, seed) for split in SPLITS}
    return ArrayTask(
        name,
        Signature(Tokens(vocabulary, length), Class(vocabulary), per_position=True),
        splits,
        description=f"{train + 2 * test:,} sequences of {length} positions, {vocabulary} symbols: {shown}",
        encoding={"labels": [str(symbol) for symbol in range(vocabulary)]},
    )


def _check_size(length: int, pairs: int, vocabulary: int, passes: int) -> None:
    if min(pairs, passes) < 1:
        raise ValueError(f"pairs and passes must be at least 1, got {pairs} and {passes}")
    if length % 2:
        raise ValueError(f"length must be even, got {length}")
    if vocabulary <= length:
        raise ValueError(f"vocabulary must be larger than the length {length}, got {vocabulary}")
    if 2 * pairs * passes + 2 * pairs > length:
        needed = 2 * pairs * passes + 2 * pairs
        raise ValueError(f"{pairs} pairs shown {passes} times and their queries need {needed} positions, but the length is {length}")


def _check_counts(train: int, test: int) -> None:
    if min(train, test) < 1:
        raise ValueError(f"train and test must be at least 1, got {train} and {test}")
