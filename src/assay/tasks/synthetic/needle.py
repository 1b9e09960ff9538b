"""A needle in a haystack: one remark in a long stretch of noise, asked for at the end. In symbols, and in words; and as a stream.

After the single-needle tasks of Hsieh et al. (2024), RULER: What's the Real Context Size of Your Long-Context Language Models?
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from functools import cache
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from assay.contracts import Class, Evaluation, Predictor, Signature, SplitName, Tokens
from assay.tasks.base import ArrayTask

NOISE, KEYS, VALUES = 64, 16, 16
MARKER = NOISE
VOCABULARY = NOISE + 1 + KEYS + VALUES
"""Noise, the marker that announces a key, keys, values."""
BYTES = 256
FILLER = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. "
Kind = Literal["passkey", "number", "word"]
Examples = dict[str, Tensor]


def needle(length: int = 256, distractors: int = 0, train: int = 20_000, test: int = 500, seed: int = 0, name: str = "needle") -> ArrayTask:
    """``noise … marker key value … noise marker key``: the value that goes with the last symbol is asked for there, and nowhere else.

    64 symbols of noise, a marker, 16 keys and 16 values; guessing among the values gives 1/16. Batches also have ``depth`` (batch,), where
    in the noise the needle stands, from 0 to 1, uniform: accuracy by depth shows what is out of reach.

    Args:
        length: symbols, the question among them. A network of one length can be evaluated on the task of another.
        distractors: further needles with other keys.
        train: training examples.
        test: test examples, and as many for validation.
        seed: of all examples.
        name: the task's name.

    Raises:
        ValueError: a length too short for its needles, more distractors than there are other keys, or a count below 1.
    """
    if not 0 <= distractors < KEYS:
        raise ValueError(f"distractors must be 0 to {KEYS - 1}, got {distractors}")
    if length < 3 * (distractors + 1) + 2:
        raise ValueError(f"{distractors + 1} needles and a question need {3 * (distractors + 1) + 2} positions, got a length of {length}")
    if min(train, test) < 1:
        raise ValueError(f"train and test must be at least 1, got {train} and {test}")
    splits: Any = {}
    for number, (split, count) in enumerate((("train", train), ("validation", test), ("test", test))):
        splits[split] = _symbols(count, length, distractors, torch.Generator().manual_seed(3 * seed + number))
    return ArrayTask(
        name,
        Signature(Tokens(VOCABULARY, length), Class(VOCABULARY), per_position=True),
        splits,
        description=f"{train + 2 * test:,} sequences of {length} symbols, {distractors + 1} of {KEYS} keys with a value, one asked for",
        encoding={"labels": [str(symbol) for symbol in range(VOCABULARY)]},
    )


def needle_stream(length: int, depth: float = 0.5, seed: int = 0, piece: int = 4096) -> tuple[Iterator[Tensor], int]:
    """One sequence of the needle task of any length, a piece at a time, so that it need not be in memory; and its answer.

    Args:
        length: symbols.
        depth: where in the noise the needle stands, 0 to 1.
        seed: of noise, key and value.
        piece: symbols a piece.

    Returns:
        Pieces (1, up to ``piece``) in order, and the value to be named at the last position.

    Raises:
        ValueError: a length below 5, a depth outside [0, 1], or a piece below 1.
    """
    if length < 5 or piece < 1 or not 0 <= depth <= 1:
        raise ValueError(f"length must be at least 5, piece at least 1 and depth in [0, 1], got {length}, {piece} and {depth}")
    generator = torch.Generator().manual_seed(seed)
    key, value = (int(torch.randint(count, (), generator=generator)) for count in (KEYS, VALUES))
    key, value = NOISE + 1 + key, NOISE + 1 + KEYS + value
    start = round(depth * (length - 5))
    fixed = dict(zip([*range(start, start + 3), length - 2, length - 1], [MARKER, key, value, MARKER, key], strict=True))

    def pieces() -> Iterator[Tensor]:
        for begin in range(0, length, piece):
            tokens = torch.randint(NOISE, (1, min(piece, length - begin)), generator=generator)
            for place, symbol in fixed.items():
                if begin <= place < begin + tokens.shape[1]:
                    tokens[0, place - begin] = symbol
            yield tokens

    return pieces(), value


def needle_in_text(
    kind: Kind = "passkey",
    length: int = 512,
    digits: int = 5,
    train: int = 5_000,
    test: int = 200,
    seed: int = 0,
    name: str | None = None,
) -> NeedleTextTask:
    """The bytes of a text with one sentence that gives a value to a key word, then a question; the bytes of the value are asked for.

    The text is a few sentences again and again (``passkey``), or running prose: the reference pages that come with Python. The value is
    digits (``passkey``, ``number``) or a word of the prose (``word``). The needle stands between two sentences, as far in as is drawn
    uniformly; ``depth`` (batch,) says where. An answer is right when all of its bytes are.

    Args:
        kind: of haystack and value.
        length: bytes of an example; shorter ones are filled up and masked.
        digits: of a number.
        train: training examples.
        test: test examples, and as many for validation.
        seed: of all examples.
        name: the task's name; by default ``needle-`` with the kind.

    Raises:
        ValueError: an unknown kind, a length in which nothing fits, or a count below 1.
    """
    if kind not in get_args(Kind):
        raise ValueError(f"kind must be one of {', '.join(get_args(Kind))}, got {kind!r}")
    if min(digits, train, test) < 1:
        raise ValueError(f"digits, train and test must be at least 1, got {digits}, {train} and {test}")
    source = random.Random(seed)
    splits: Any = {
        split: _texts(kind, length, digits, count, source) for split, count in (("train", train), ("validation", test), ("test", test))
    }
    return NeedleTextTask(
        name or f"needle-{kind}",
        Signature(Tokens(BYTES, length), Class(BYTES), per_position=True),
        splits,
        description=f"{train + 2 * test:,} texts of up to {length} bytes, each with one {kind} to find",
        encoding={"labels": [str(byte) for byte in range(BYTES)]},
    )


class NeedleTextTask(ArrayTask):
    """Needles in text; made by `needle_in_text`. An example's score is 1 where every byte of its answer is right, else 0."""

    def evaluate(self, predictor: Predictor, split: SplitName, batch_size: int = 64) -> Evaluation:
        """Exact matches, and the other measures of single bytes."""
        evaluation = super().evaluate(predictor, split, batch_size)
        asked = self.splits[split]["target_mask"].numpy()
        right = (evaluation.predictions == self.splits[split]["target"].numpy()) | ~asked
        scores = right.all(1).astype(np.float64)
        metrics = evaluation.metrics | {"bytes_right": evaluation.metrics["accuracy"], "accuracy": float(scores.mean())}
        return Evaluation(metrics, scores, evaluation.predictions, evaluation.groups)


# ------------------------------------------------------------------------------------------------ symbols


def _symbols(count: int, length: int, distractors: int, generator: torch.Generator) -> Examples:
    needles, places = distractors + 1, length - 2
    tokens = torch.randint(NOISE, (count, length), generator=generator)
    keys = NOISE + 1 + torch.rand(count, KEYS, generator=generator).topk(needles, 1).indices
    values = NOISE + 1 + KEYS + torch.randint(VALUES, (count, needles), generator=generator)
    # needles that do not overlap: draw places as if each had one symbol, in order, then make room for the other two of each
    free = places - 2 * needles
    chosen = torch.rand(count, free, generator=generator).topk(needles, 1).indices.sort(1).values
    starts = (chosen + 2 * torch.arange(needles)).gather(1, torch.rand(count, needles, generator=generator).argsort(1))
    for offset, symbols in enumerate((torch.full_like(keys, MARKER), keys, values)):
        tokens.scatter_(1, starts + offset, symbols)
    tokens[:, -2], tokens[:, -1] = MARKER, keys[:, 0]
    target, asked = torch.zeros_like(tokens), torch.zeros_like(tokens, dtype=torch.bool)
    target[:, -1], asked[:, -1] = values[:, 0], True
    return {"tokens": tokens, "target": target, "target_mask": asked, "depth": starts[:, 0] / max(1, places - 3)}


# ------------------------------------------------------------------------------------------------ text


@cache
def _prose() -> tuple[str, ...]:
    """Sentences of Python's reference pages, as the standard library has them."""
    from pydoc_data.topics import topics

    text = " ".join(" ".join(topics[name].split()) for name in sorted(topics))
    sentences = re.findall(r"[A-Z][a-z][^.!?*\"`|]{20,160}\.(?= )", text)
    return tuple(sentence.encode("ascii", "ignore").decode() + " " for sentence in sentences)


@cache
def _words() -> tuple[str, ...]:
    """Words of that prose, of five to eight letters."""
    return tuple(sorted({word for sentence in _prose() for word in re.findall(r"\b[a-z]{5,8}\b", sentence)}))


def _texts(kind: Kind, length: int, digits: int, count: int, source: random.Random) -> Examples:
    tokens = torch.zeros(count, length, dtype=torch.long)
    mask, asked = (torch.zeros(count, length, dtype=torch.bool) for _ in "ma")
    target, depths = torch.zeros_like(tokens), torch.zeros(count)
    for row in range(count):
        text, answer, depth = _text(kind, length, digits, source)
        written = text + answer
        # at the byte before each of its own an answer's byte is predicted
        tokens[row, : len(written) - 1] = torch.tensor(list(written[:-1].encode()))
        mask[row, : len(written) - 1] = True
        where = slice(len(text) - 1, len(written) - 1)
        target[row, where], asked[row, where] = torch.tensor(list(answer.encode())), True
        depths[row] = depth
    return {"tokens": tokens, "mask": mask, "target": target, "target_mask": asked, "depth": depths}


def _text(kind: Kind, length: int, digits: int, source: random.Random) -> tuple[str, str, float]:
    """Haystack with needle and question, the answer, and the needle's depth."""
    key = source.choice(_words())
    value = source.choice(_words()) if kind == "word" else "".join(source.choice("0123456789") for _ in range(digits))
    thing = {"passkey": "pass key", "number": "magic number", "word": "magic word"}[kind]
    remark, question = f"The {thing} for {key} is {value}. ", f"What is the {thing} for {key}? It is "
    room = length + 1 - len(remark) - len(question) - len(value)
    sentences = re.findall(r"[^.]+\. ", FILLER) if kind == "passkey" else _prose()
    if room < max(map(len, sentences)) // 2:
        raise ValueError(f"a {kind} needs more room than length {length}: its needle and question take {length + 1 - room}")
    hay: list[str] = []
    place = source.randrange(len(sentences))
    while (filled := sum(map(len, hay))) < room:
        sentence = sentences[(place + len(hay)) % len(sentences)]
        if filled + len(sentence) > room:
            break
        hay.append(sentence)
    at = source.randint(0, len(hay))
    return "".join([*hay[:at], remark, *hay[at:], question]), value, at / max(1, len(hay))
