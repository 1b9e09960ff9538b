"""The n-gram model against counting by hand, tf-idf against scikit-learn and on texts that n-grams tell apart."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import TfidfVectorizer

from assay.contracts import Class, NextTokens, Pair, Signature, Tokens, Values
from assay.models.estimators import NGram, TfIdf
from assay.models.estimators.text import as_text
from assay.tasks.base import ArrayTask

NAMES = ("train", "validation", "test")


def language_task(rows, vocabulary, mask=None):
    tokens = torch.tensor(rows)
    batch = {"tokens": tokens[:, :-1], "target": tokens[:, 1:]}
    if mask is not None:
        batch["mask"] = mask
    return ArrayTask("text", Signature(Tokens(vocabulary, tokens.shape[1] - 1), NextTokens(vocabulary)), dict.fromkeys(NAMES, batch))


def kneser_ney(sequences, vocabulary, context):
    """The textbook recursion with dictionaries; ``context`` is the longest context's length."""
    grams = [Counter() for _ in range(context + 2)]
    for sequence in sequences:
        for length in range(1, context + 2):
            for start in range(len(sequence) - length + 1):
                if start + length > 1:  # the first token of a text is never predicted
                    grams[length][tuple(sequence[start : start + length])] += 1
    followers = []
    for length in range(context + 1):
        if length == context:
            counts = grams[length + 1]
        else:  # distinct tokens before
            counts = Counter(gram[1:] for gram in grams[length + 2])
        table = defaultdict(dict)
        for gram, count in counts.items():
            table[gram[:-1]][gram[-1]] = count
        once, twice = (sum(count == n for count in counts.values()) for n in (1, 2))
        followers.append((table, once / (once + 2 * twice) if once and twice else 0.5))

    def probability(history, token):
        value = 1 / vocabulary
        for length in range(min(len(history), context) + 1):
            table, discount = followers[length]
            seen = table.get(tuple(history[len(history) - length :]))
            if seen:
                total = sum(seen.values())
                value = max(seen.get(token, 0) - discount, 0) / total + discount * len(seen) / total * value
        return value

    return probability


def test_probabilities_are_those_of_the_textbook():
    """Every probability of every position against the recursion written with dictionaries."""
    generator = np.random.default_rng(0)
    rows = generator.choice(4, size=(6, 12), p=[0.5, 0.3, 0.15, 0.05])
    task = language_task(rows, 4)
    fitted = NGram().fit(task)
    probability = kneser_ney(rows.tolist(), 4, fitted.fitted["context"])
    ours = fitted({"tokens": torch.tensor(rows[:, :-1])}).prediction.exp().numpy()
    for row in range(6):
        for place in range(11):
            wanted = [probability(rows[row, : place + 1].tolist(), token) for token in range(4)]
            np.testing.assert_allclose(ours[row, place], wanted, atol=1e-6)


def test_probabilities_sum_to_one_on_text_never_seen():
    generator = np.random.default_rng(1)
    fitted = NGram().fit(language_task(generator.integers(0, 5, (10, 40)), 8))
    unseen = torch.tensor(generator.integers(0, 8, (3, 20)))
    np.testing.assert_allclose(fitted({"tokens": unseen}).prediction.exp().sum(-1).numpy(), 1.0, atol=1e-5)


def test_a_context_of_two_is_found_where_two_decide():
    """Each token is the sum of the two before it: context 2 explains all, context 1 nothing."""
    generator = np.random.default_rng(2)
    rows = np.zeros((60, 40), dtype=int)
    rows[:, :2] = generator.integers(0, 7, (60, 2))
    for place in range(2, 40):
        rows[:, place] = (rows[:, place - 1] + rows[:, place - 2]) % 7
    task = language_task(rows, 7)
    fitted = NGram().fit(task)
    assert fitted.fitted["context"] >= 2
    assert task.evaluate(fitted, "test").metrics["bits_per_token"] < 0.4  # of log2(7) = 2.8


def test_padding_is_not_counted():
    """Masked positions hold zeros that are no text: a model that counted them would expect zeros."""
    rows = np.tile([1, 2, 1, 2, 1, 0, 0, 0, 0], (8, 1))
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[:, :4] = True
    fitted = NGram().fit(language_task(rows, 3, mask))
    assert float(fitted({"tokens": torch.tensor([[1]])}).prediction[0, 0].exp()[0]) < 0.1


def test_later_tokens_do_not_change_earlier_predictions():
    fitted = NGram().fit(language_task(np.random.default_rng(3).integers(0, 5, (10, 30)), 5))
    first, second = torch.tensor([[0, 1, 2, 3, 4, 0]]), torch.tensor([[0, 1, 2, 4, 4, 1]])
    assert torch.equal(fitted({"tokens": first}).prediction[:, :3], fitted({"tokens": second}).prediction[:, :3])


def test_a_saved_ngram_model_predicts_the_same(tmp_path):
    fitted = NGram().fit(language_task(np.random.default_rng(4).integers(0, 5, (10, 30)), 5))
    fitted.save(tmp_path)
    batch = {"tokens": torch.tensor([[0, 1, 2, 3, 4, 0]])}
    assert torch.equal(NGram.load(tmp_path)(batch).prediction, fitted(batch).prediction)


# ------------------------------------------------------------------------------------------------ tf-idf


WORDS = {0: ["sun ", "rain ", "cloud ", "wind "], 1: ["goal ", "match ", "team ", "ball "]}


def texts(count, generator, length=40):
    """Byte rows of words of two topics, padded with zeros."""
    rows, labels, mask = np.zeros((count, length), dtype=np.int64), generator.integers(0, 2, count), np.zeros((count, length), dtype=bool)
    for row, label in enumerate(labels):
        coded = "".join(generator.choice(WORDS[label], 5)).encode()[:length]
        rows[row, : len(coded)], mask[row, : len(coded)] = list(coded), True
    return torch.tensor(rows), torch.tensor(labels), torch.tensor(mask)


def topic_task():
    generator = np.random.default_rng(0)
    parts = {name: texts(count, generator) for name, count in zip(NAMES, (60, 30, 60), strict=True)}
    splits = {name: {"tokens": rows, "mask": mask, "target": labels} for name, (rows, labels, mask) in parts.items()}
    return ArrayTask("topics", Signature(Tokens(256, 40), Class(2)), splits)


def test_topics_are_told_apart_and_saved(tmp_path):
    task = topic_task()
    fitted = TfIdf().fit(task)
    assert task.evaluate(fitted, "test").metrics["accuracy"] == 1.0
    fitted.save(tmp_path)
    batch = next(task.batches("test", 16))
    assert torch.equal(TfIdf.load(tmp_path)(batch).prediction, fitted(batch).prediction)


def test_rows_are_scikit_learns_tfidf():
    """The features of a text are TfidfVectorizer's own, fitted to the same training texts."""
    task = topic_task()
    fitted = TfIdf().fit(task)
    peer = TfidfVectorizer(analyzer="char", ngram_range=(1, 5), lowercase=False, sublinear_tf=True)
    peer.fit(as_text(task.splits["train"]))
    ours, theirs = fitted._rows(task.splits["test"]), peer.transform(as_text(task.splits["test"]))
    np.testing.assert_allclose(ours.toarray(), theirs.toarray(), atol=1e-6)


def test_tokens_become_distinct_characters():
    """Every token, 0 and 255 too, is one character, none of them a blank that a text library would fold."""
    text = as_text({"tokens": torch.arange(256)[None]})[0]
    assert len(set(text)) == 256
    assert not any(character.isspace() for character in text)


def test_a_pairs_similarity_is_predicted():
    """Pairs of the same topic score 1, others 0."""
    generator = np.random.default_rng(1)
    splits = {}
    for name, count in zip(NAMES, (300, 100, 100), strict=True):
        (a, one, a_mask), (b, two, b_mask) = texts(count, generator), texts(count, generator)
        same = (one == two).float()[:, None]
        splits[name] = {"first_tokens": a, "first_mask": a_mask, "second_tokens": b, "second_mask": b_mask, "target": same}
    task = ArrayTask("pairs", Signature(Pair(Tokens(256, 40), Tokens(256, 40)), Values(1)), splits)
    found = task.evaluate(TfIdf().fit(task), "test").metrics
    assert found["r2"] > 0.5


def test_texts_to_values():
    """The number of a word's occurrences is linear in n-gram features up to the length's norm."""
    generator = np.random.default_rng(2)
    splits = {}
    for name, count in zip(NAMES, (200, 60, 60), strict=True):
        tokens, labels, mask = texts(count, generator)
        splits[name] = {"tokens": tokens, "mask": mask, "target": labels.float()[:, None] * 2 - 1}
    task = ArrayTask("values", Signature(Tokens(256, 40), Values(1)), splits)
    assert task.evaluate(TfIdf().fit(task), "test").metrics["mse"] < 0.2


@pytest.mark.parametrize("vocabulary", [2, 300, 50_000])
def test_codes_of_contexts_stay_exact(vocabulary):
    """Large vocabularies must shorten the longest context before codes overflow: the most frequent bigram stays most likely."""
    rows = np.tile([vocabulary - 1, 0], (5, 6))
    fitted = NGram().fit(language_task(rows, vocabulary))
    assert int(fitted({"tokens": torch.tensor([[vocabulary - 1]])}).prediction[0, 0].argmax()) == 0
