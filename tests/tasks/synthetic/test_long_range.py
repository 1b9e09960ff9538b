"""The offline forms of the long-range tasks: what is asked is in the example, and nowhere else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from assay.tasks.passages import PACKAGES, passages
from assay.tasks.synthetic.listops import SYMBOLS, listops, value
from assay.tasks.synthetic.matching import LETTERS, document_matching
from assay.tasks.synthetic.pathfinder import pathfinder
from assay.testing import check_task

SMALL: dict[str, Any] = {"train": 60, "test": 30}


@pytest.mark.parametrize(
    "make",
    [
        lambda seed=0: listops(**SMALL, seed=seed),
        lambda seed=0: document_matching(**SMALL, seed=seed),
        lambda seed=0: pathfinder(size=16, steps=10, **SMALL, seed=seed),
        lambda seed=0: passages(per_class=20, seed=seed),
    ],
    ids=["listops", "matching", "pathfinder", "passages"],
)
def test_it_is_a_task_and_a_seed_is_a_seed(make) -> None:
    first, again, other = make(), make(), make(seed=1)
    check_task(first)
    for key, tensor in first.splits["train"].items():
        assert torch.equal(tensor, again.splits["train"][key])
    key = next(iter(first.splits["train"]))
    assert not torch.equal(first.splits["train"][key], other.splits["train"][key])


# ------------------------------------------------------------------------------------------------ lists


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[MAX 4 [SM 8 7 3 ] 2 ]", 8),
        ("[MIN 9 [MED 1 5 3 ] ]", 3),
        ("[MED 2 3 ]", 2),  # 2.5 is cut off
        ("[SM [MAX 9 1 ] [MIN 9 6 ] ]", 5),
    ],
)
def test_the_value_of_a_list(text: str, expected: int) -> None:
    assert value(text.split()) == expected


def test_lists_are_as_deep_and_long_as_asked_and_all_different() -> None:
    task = listops(depth=2, arguments=3, length=16, shortest=6, **SMALL)
    rows = [tuple(row) for split in task.splits.values() for row in split["tokens"].tolist()]
    assert len(set(rows)) == len(rows) == 120
    for split in task.splits.values():
        for tokens, mask, target in zip(split["tokens"], split["mask"], split["target"].tolist(), strict=True):
            symbols = [SYMBOLS[token] for token in tokens[mask].tolist()]
            depth = np.cumsum([symbol.startswith("[") for symbol in symbols]) - np.cumsum([symbol == "]" for symbol in symbols])
            assert 6 <= len(symbols) <= 16
            assert depth.max() <= 2
            assert depth[-1] == 0
            assert not tokens[~mask].any()
            assert value(symbols) == target


# ------------------------------------------------------------------------------------------------ documents


def test_documents_match_where_their_words_have_one_topic() -> None:
    task = document_matching(topics=4, own_words=5, common_words=3, share=1.0, length=80, **SMALL)
    batch = task.splits["train"]
    texts = [["".join(LETTERS[letter] for letter in row) for row in batch[side + "_tokens"].tolist()] for side in ("first", "second")]
    pairs = [[set(text.split()[:-1]) for text in pair] for pair in zip(*texts, strict=True)]  # the last word may be cut
    shared = [bool(first & second) for first, second in pairs]
    assert shared == batch["target"].bool().tolist()
    assert batch["target"].sum() == 30
    assert len(set().union(*(words for pair in pairs for words in pair))) == 20  # four topics of five words


# ------------------------------------------------------------------------------------------------ paths


def joined(picture: np.ndarray, reach: float = 2.9) -> bool:
    """Whether the two dots are in one part of the graph of drawn pixels that are near each other."""
    points = np.argwhere(picture > 0)
    distance = np.sqrt(((points[:, None] - points[None]) ** 2).sum(-1))
    part = {int(np.flatnonzero(picture[tuple(points.T)] == 2)[0])}
    while True:
        grown = part | set(np.flatnonzero((distance[list(part)] <= reach).any(0)).tolist())
        if grown == part:
            break
        part = grown
    return sum(picture[tuple(points[index])] == 2 for index in part) == 2


def test_following_the_dashes_tells_the_classes_apart() -> None:
    # pixels of a path that follow one another are at most √8 apart, those of two paths at least 3
    task = pathfinder(size=24, steps=14, distractors=0, form="tokens", train=100, test=10)
    pictures = task.splits["train"]["tokens"].view(-1, 24, 24).numpy()
    target = task.splits["train"]["target"].bool().numpy()
    assert all((picture == 2).sum() == 2 for picture in pictures)
    assert [joined(picture) for picture in pictures] == target.tolist()


def test_pictures_and_tokens_are_the_same() -> None:
    image, tokens = (pathfinder(size=16, steps=10, form=form, **SMALL).splits["test"] for form in ("image", "tokens"))
    assert torch.equal(image["image"].flatten(1) * 2, tokens["tokens"].float())


# ------------------------------------------------------------------------------------------------ passages


def test_bytes_and_words_are_the_same_passages() -> None:
    as_bytes, as_words = (passages(unit, length=200, per_class=20) for unit in ("bytes", "words"))
    assert as_bytes.encoding["labels"] == list(PACKAGES)
    for split in ("train", "validation", "test"):
        assert torch.equal(as_bytes.splits[split]["target"], as_words.splits[split]["target"])
        texts = [bytes(row).decode(errors="ignore") for row in as_bytes.splits[split]["tokens"].tolist()]
        assert all(len(text) >= count for text, count in zip(texts, as_words.splits[split]["mask"].sum(1).tolist(), strict=True))
    train, test = ({tuple(row) for row in as_bytes.splits[split]["tokens"].tolist()} for split in ("train", "test"))
    assert not train & test


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: listops(depth=0), "depth, train and test must be at least 1"),
        (lambda: listops(shortest=50, length=20), "shortest must be 4 to length 20, got 50"),
        (lambda: listops(depth=1, arguments=2, shortest=4, length=5, train=400, test=100), "of 600 different lists"),
        (lambda: document_matching(topics=1), "topics must be at least 2"),
        (lambda: document_matching(share=0.0), "share must be above 0"),
        (lambda: pathfinder(form="video"), "form must be image or tokens, got 'video'"),  # pyright: ignore[reportArgumentType]
        (lambda: pathfinder(size=8, steps=200, train=1, test=1), "no room for two paths of 200 pixels on 8×8"),
        (lambda: passages("letters"), "unit must be bytes or words, got 'letters'"),  # pyright: ignore[reportArgumentType]
    ],
)
def test_impossible_sizes_are_refused(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
