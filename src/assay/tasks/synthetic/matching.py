"""Two documents, letter by letter; the question is whether they are of one topic."""

from __future__ import annotations

import random
from typing import Any

import torch

from assay.contracts import Class, Pair, Signature, Tokens
from assay.tasks.base import ArrayTask

LETTERS = " abcdefghijklmnopqrstuvwxyz"
"""What the token numbers stand for."""


def document_matching(
    topics: int = 12,
    own_words: int = 10,
    common_words: int = 50,
    share: float = 0.3,
    length: int = 128,
    train: int = 8_000,
    test: int = 1_000,
    seed: int = 0,
    name: str = "document-matching",
) -> ArrayTask:
    """Pairs of documents of made-up words, half of them of one topic; a topic shows in some of its words only.

    A word of a document is one of its topic's own with probability ``share``, else one of those common to all topics. Both documents
    are letters, so words must be put together before they can be compared; no document is used twice. An offline form of the document
    matching of Tay et al. (2021), Long Range Arena.

    Args:
        topics: number of topics.
        own_words: of each topic, used by no other.
        common_words: used by all.
        share: of a topic's own words in its documents.
        length: letters of each document.
        train: training pairs.
        test: test pairs, and as many for validation.
        seed: of all examples.
        name: the task's name.

    Raises:
        ValueError: a count below 1, fewer than two topics, or a share outside (0, 1].
    """
    if topics < 2 or min(own_words, common_words, length, train, test) < 1:
        raise ValueError(f"topics must be at least 2 and counts at least 1, got {(topics, own_words, common_words, length, train, test)}")
    if not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1, got {share}")
    source = random.Random(seed)
    words = _words(topics * own_words + common_words, source)
    common, special = words[:common_words], words[common_words:]
    own = [special[topic * own_words : (topic + 1) * own_words] for topic in range(topics)]
    index = {letter: number for number, letter in enumerate(LETTERS)}

    def document(topic: int) -> list[int]:
        letters = ""
        while len(letters) <= length:
            letters += source.choice(own[topic] if source.random() < share else common) + " "
        return [index[letter] for letter in letters[:length]]

    def examples(count: int) -> dict[str, torch.Tensor]:
        target = [number % 2 for number in range(count)]
        source.shuffle(target)
        first = [source.randrange(topics) for _ in range(count)]
        second = [topic if same else (topic + source.randrange(1, topics)) % topics for topic, same in zip(first, target, strict=True)]
        documents = {"first_tokens": [document(topic) for topic in first], "second_tokens": [document(topic) for topic in second]}
        return {**{key: torch.tensor(rows) for key, rows in documents.items()}, "target": torch.tensor(target)}

    splits: Any = {split: examples(count) for split, count in (("train", train), ("validation", test), ("test", test))}
    kind = Tokens(len(LETTERS), length)
    return ArrayTask(
        name,
        Signature(Pair(kind, kind), Class(2)),
        splits,
        description=f"{train + 2 * test:,} pairs of documents of {length} letters, {topics} topics; of one topic or not",
        encoding={"labels": ["different", "same"]},
    )


def _words(count: int, source: random.Random) -> list[str]:
    """Different words of two to four syllables."""
    consonants, vowels = "bcdfghjklmnprstvwz", "aeiou"
    words: dict[str, None] = {}
    while len(words) < count:
        words["".join(source.choice(consonants) + source.choice(vowels) for _ in range(source.randint(2, 4)))] = None
    return list(words)
