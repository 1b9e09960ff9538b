"""Needles: where they stand, that the question is about them, and that what is streamed is the same task."""

from __future__ import annotations

import pytest
import torch

from assay.contracts import Output
from assay.tasks.synthetic.needle import BYTES, KEYS, MARKER, NOISE, VALUES, VOCABULARY, needle, needle_in_text, needle_stream


def test_the_question_is_answered_by_the_symbol_behind_its_key() -> None:
    task = needle(40, distractors=3, train=200, test=20)
    batch = task.batch_of("train", slice(None))
    for tokens, target, asked, depth in zip(*(batch[key] for key in ("tokens", "target", "target_mask", "depth")), strict=True):
        assert tokens[-2] == MARKER
        assert asked.tolist() == [False] * 39 + [True]
        places = [place for place in range(38) if tokens[place] == MARKER]
        assert len(places) == 4
        answers = {int(tokens[place + 1]): (place, int(tokens[place + 2])) for place in places}
        assert len(answers) == 4  # every key once
        start, value = answers[int(tokens[-1])]
        assert value == target[-1]
        assert NOISE + 1 + KEYS <= value < VOCABULARY
        assert depth == pytest.approx(start / 35)
    assert (batch["tokens"] < NOISE).sum(1).eq(40 - 4 * 3 - 2).all()  # the rest is noise: needles do not overlap


def test_needles_stand_everywhere_alike() -> None:
    depth = needle(37, train=8_000, test=1).batch_of("train", slice(None))["depth"]
    counts = torch.histc(depth, 5, 0, 1) / len(depth)
    assert (counts - 0.2).abs().max() < 0.03
    assert depth.min() == 0
    assert depth.max() == 1


def test_the_shortest_task_is_needle_and_question() -> None:
    tokens = needle(5, train=3, test=1).batch_of("train", slice(None))["tokens"]
    assert (tokens[:, [0, 3]] == MARKER).all()
    assert torch.equal(tokens[:, 1], tokens[:, 4])


@pytest.mark.parametrize("depth", [0.0, 0.4, 1.0])
def test_a_stream_is_one_example_whatever_its_pieces(depth: float) -> None:
    pieces, value = needle_stream(1000, depth, seed=3, piece=77)
    tokens = torch.cat(list(pieces), 1)[0]
    assert len(tokens) == 1000
    start = round(depth * 995)
    assert tokens[start] == tokens[-2] == MARKER
    assert tokens[start + 1] == tokens[-1]
    assert tokens[start + 2] == value
    assert (tokens < NOISE).sum() == 995
    again = torch.cat(list(needle_stream(1000, depth, seed=3, piece=77)[0]), 1)[0]
    assert torch.equal(again, tokens)


@pytest.mark.parametrize("kind", ["passkey", "number", "word"])
def test_a_text_says_what_is_asked_for(kind: str) -> None:
    task = needle_in_text(kind, 400, train=10, test=5)  # pyright: ignore[reportArgumentType]
    batch = task.batch_of("train", slice(None))
    for tokens, mask, target, asked in zip(*(batch[key] for key in ("tokens", "mask", "target", "target_mask")), strict=True):
        answer = bytes(target[asked].tolist()).decode()
        text = bytes(tokens[mask].tolist()).decode() + answer[-1]
        assert text.endswith(answer)
        assert f" is {answer}. " in text[: -len(answer)]
        # at each asked place the byte to come is the target
        assert [int(tokens[place + 1]) for place in asked.nonzero()[:-1, 0]] == target[asked][:-1].tolist()


def test_needles_in_text_stand_at_any_depth() -> None:
    depth = needle_in_text("number", 1000, train=300, test=1).batch_of("train", slice(None))["depth"]
    assert depth.min() < 0.1
    assert depth.max() > 0.9
    assert 0.4 < depth.mean() < 0.6


def test_one_wrong_byte_makes_an_answer_wrong() -> None:
    task = needle_in_text("passkey", 300, digits=3, train=5, test=8)
    batch = task.batch_of("test", slice(None))
    logits = torch.nn.functional.one_hot(batch["target"], BYTES).float()
    assert task.evaluate(lambda given: Output(logits), "test").metrics["accuracy"] == 1
    place = int(batch["target_mask"][0].nonzero()[0, 0])
    logits[0, place] = logits[0, place].roll(1)
    found = task.evaluate(lambda given: Output(logits), "test")
    assert found.metrics["accuracy"] == pytest.approx(7 / 8)
    assert found.metrics["bytes_right"] == pytest.approx(1 - 1 / 24)
    assert found.scores.tolist() == [0.0] + [1.0] * 7


def test_guessing_is_one_in_sixteen() -> None:
    task = needle(20, train=10, test=4_000)
    guess = torch.zeros(VOCABULARY).index_fill(0, torch.tensor([NOISE + 1 + KEYS]), 1.0)
    found = task.evaluate(lambda given: Output(guess.expand(*given["tokens"].shape, -1)), "test")
    assert found.metrics["accuracy"] == pytest.approx(1 / VALUES, abs=0.015)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: needle(4), "got a length of 4"),
        (lambda: needle(distractors=16), "distractors must be 0 to 15, got 16"),
        (lambda: needle(train=0), "got 0 and 500"),
        (lambda: needle_stream(4), "got 4, 4096 and 0.5"),
        (lambda: needle_stream(100, 1.5), "1.5"),
        (lambda: needle_in_text("prose"), "got 'prose'"),  # pyright: ignore[reportArgumentType]
        (lambda: needle_in_text(digits=0), "got 0, 5000 and 200"),
        (lambda: needle_in_text(length=60), "more room than length 60"),
    ],
)
def test_bad_arguments_are_refused(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
