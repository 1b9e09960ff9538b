"""The grammar tasks: labels against an automaton written anew, no shortcut by length or letters, the long-memory property."""

import re

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from assay.tasks.synthetic.reber import embedded_reber, is_embedded_reber, is_reber, reber


def language(zero="TP", one="SX", two="TV", three="XS", four="PV"):
    """The automaton as a regular expression, by eliminating its states by hand: an independent oracle; letters by state."""
    loop_2 = f"{two[0]}*{two[1]}(?:{four[0]}{three[0]}{two[0]}*{two[1]})*(?:{four[1]}|{four[0]}{three[1]})"
    return re.compile(f"B(?:{zero[0]}{one[0]}*{one[1]}(?:{three[1]}|{three[0]}{loop_2})|{zero[1]}{loop_2})E")


PATTERN = language()
ALTERED = [language(zero="PT"), language(one="TV", two="SX"), language(three="PV", four="XS"), language(one="XS", two="VT")]


def strings(task, split):
    rows = task.splits[split]
    texts = ["".join(chr(code) for code in row if code) for row in rows["tokens"].tolist()]
    return texts, rows["target"].tolist()


def everything(task):
    pairs = [strings(task, split) for split in ("train", "validation", "test")]
    return [text for texts, _ in pairs for text in texts], [label for _, labels in pairs for label in labels]


@pytest.mark.parametrize("negatives", ["substitution", "thesis"])
def test_labels_agree_with_a_regular_expression_of_the_language(negatives):
    texts, labels = everything(reber(n=1000, negatives=negatives))
    for text, label in zip(texts, labels, strict=True):
        assert bool(PATTERN.fullmatch(text)) == bool(label) == is_reber(text)
        assert 11 <= len(text) <= 53


def test_automaton_by_hand():
    assert all(map(is_reber, ("BTXSE", "BTSSXSE", "BPVVE", "BPTVPSE", "BTXXTTVPXVVE")))
    assert not any(map(is_reber, ("", "BE", "BTXS", "BTXXE", "BPVVEE", "TXSE", "BTXSEX")))


def test_every_single_substitution_negative_is_rejected_and_differs_in_one_place():
    texts, labels = everything(reber(n=400, seed=2))
    assert sum(labels) == 200
    alphabet = set("BEPSTVX")
    for text, label in zip(texts, labels, strict=True):
        assert set(text) <= alphabet
        if not label:
            assert not is_reber(text)
            repairs = (text[:i] + c + text[i + 1 :] for i in range(1, len(text) - 1) for c in "PSTVX")
            assert any(map(is_reber, repairs))


@pytest.mark.parametrize("negatives", ["substitution", "thesis"])
def test_both_classes_have_the_same_lengths(negatives):
    """In the published set length alone tells 77 %, and a network without any input weight can count."""
    texts, labels = everything(reber(n=600, negatives=negatives))
    lengths = [sorted(len(text) for text, label in zip(texts, labels, strict=True) if label == kind) for kind in (0, 1)]
    assert lengths[0] == lengths[1]


def test_neither_length_nor_letters_tell_the_classes_apart():
    """A linear model on length and letter counts stays near chance."""
    task = reber(n=4000)

    def features(split):
        texts, labels = strings(task, split)
        return [[len(t), *(c in t for c in "PSTVX")] for t in texts], labels

    model = LogisticRegression(max_iter=1000).fit(*features("train"))
    assert model.score(*features("test")) < 0.58


def test_thesis_negatives_are_walks_through_altered_automata():
    """As in the published set: 56 % in letters of their own, the others fit one of four automata whose symbols changed places."""
    texts, labels = everything(reber(n=2000, negatives="thesis"))
    spoilt = [text for text, label in zip(texts, labels, strict=True) if not label]
    foreign = [text for text in spoilt if set(text) - set("BEPSTVX")]
    assert len(foreign) / len(spoilt) == pytest.approx(0.56, abs=0.05)
    assert not any(set(text[1:-1]) & set("PSTVX") for text in foreign)
    fits = [[bool(pattern.fullmatch(text)) for pattern in ALTERED] for text in set(spoilt) - set(foreign)]
    assert all(map(any, fits))
    assert all(sum(column) > 20 for column in zip(*fits, strict=True))


@pytest.mark.parametrize("negatives", ["memory", "substitution"])
def test_embedded_strings(negatives):
    texts, labels = everything(embedded_reber(n=600, negatives=negatives))
    for text, label in zip(texts, labels, strict=True):
        expected = text[1] == text[-2] and text[0] == "B" and text[-1] == "E" and text[1] in "TP" and bool(PATTERN.fullmatch(text[2:-2]))
        assert expected == bool(label) == is_embedded_reber(text)
        if negatives == "memory":
            assert PATTERN.fullmatch(text[2:-2])
            assert label == (text[1] == text[-2])
    if negatives == "memory":  # neither of the two symbols alone tells anything
        for place in (1, -2):
            rate = [sum(label for t, label in zip(texts, labels, strict=True) if t[place] == s) for s in "TP"]
            count = [sum(t[place] == s for t in texts) for s in "TP"]
            assert all(abs(r / c - 0.5) < 0.1 for r, c in zip(rate, count, strict=True))


def test_splits_share_no_string_and_the_seed_decides():
    task = reber(n=1000, seed=5)
    train, test = strings(task, "train")[0], strings(task, "test")[0]
    assert (len(train), task.size("validation"), len(test)) == (700, 100, 200)
    assert not set(train) & set(test)
    assert len(set(train)) == 700
    assert torch.equal(task.splits["train"]["tokens"], reber(n=1000, seed=5).splits["train"]["tokens"])
    assert not torch.equal(task.splits["train"]["tokens"], reber(n=1000, seed=6).splits["train"]["tokens"])
    batch = next(task.training_batches(8, seed=0))
    assert torch.equal(batch["mask"], batch["tokens"] > 0)


def test_bad_arguments_name_the_value():
    for count in (10, 101):
        with pytest.raises(ValueError, match=f"got {count}"):
            reber(n=count)
    with pytest.raises(ValueError, match="'foreign'"):
        reber(negatives="foreign")
    with pytest.raises(ValueError, match="'thesis'"):
        embedded_reber(negatives="thesis")
    with pytest.raises(ValueError, match="not found"):
        reber(n=200, shortest=5, longest=8)
