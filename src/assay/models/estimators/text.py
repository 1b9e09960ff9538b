"""Baselines of tokens: an n-gram language model, and tf-idf of n-grams under a linear model."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
from sklearn.linear_model import LogisticRegression, Ridge

from assay.contracts import Batch, Class, NextTokens, Pair, Signature, Task, Tokens, Values
from assay.models.estimators.base import FittedEstimator, array, gather, spread, two_sided
from assay.models.estimators.choice import accuracy, best

LONGEST = 6
JUDGED = 8_192
CHARACTERS = 600
"""Up to this vocabulary tokens are taken for characters or bytes, and n-grams of up to five count; above, for words, up to two."""
FEATURES = 50_000
PLANE = 0x10000
"""First code point above the surrogates: token i becomes the character PLANE + i."""


class NGram(FittedEstimator):
    """Interpolated Kneser–Ney smoothing; the longest context is chosen on validation.

        p(w | c) = max(N(c w) − D, 0) / N(c) + D·|{w : N(c w) > 0}| / N(c) · p(w | c without its oldest token)

    N counts occurrences at the longest context and distinct preceding tokens below; D = n₁/(n₁ + 2 n₂) for each length.

    Source: Kneser, Ney, Improved Backing-Off for M-gram Language Modeling, 1995; Chen, Goodman, An Empirical Study of Smoothing
    Techniques for Language Modeling, 1999.
    """

    name = "ngram"

    def accepts(self, signature: Signature) -> str | None:
        """Tokens to the next token."""
        if not isinstance(signature.input, Tokens) or not isinstance(signature.output, NextTokens):
            return "it predicts the next token of a text"
        return None

    def learn(self, task: Task, seed: int) -> dict[str, Any]:
        """Count n-grams up to the longest context whose codes are exact integers, then choose the context."""
        assert isinstance(task.signature.input, Tokens)  # `accepts` asks for it
        base = max(task.signature.input.vocabulary, task.signature.output.size) + 1
        longest = min(LONGEST, int(62 / np.log2(base)) - 1)
        train = gather(task, "train")
        counts = [_ngram_counts(train, length, base) for length in range(longest + 1)]
        occurring = [_Level.of(grams, numbers, base) for grams, numbers in counts]
        preceded = [_Level.of(*_without_oldest(grams, length, base), base) for length, (grams, _) in enumerate(counts[1:], 1)]
        validation = _head(gather(task, "validation"), JUDGED)
        target, real = array(validation["target"]), _real(validation)
        vocabulary = task.signature.output.size

        def make(length: int) -> list[_Level]:
            return [*preceded[:length], occurring[length]]

        def score(levels: list[_Level]) -> float:
            probability = _probabilities(levels, validation, base, vocabulary)
            return float(np.log(np.take_along_axis(probability, target[..., None], -1)[..., 0][real]).mean())

        length, levels = best(range(longest + 1), make, score)
        return {"levels": [level.to_plain() for level in levels], "base": base, "context": length}

    def predict(self, batch: Batch) -> NDArray[Any]:
        """Log probabilities (batch, length, vocabulary)."""
        assert self.signature is not None  # __call__ has checked it
        levels = [_Level.from_plain(values) for values in self.fitted["levels"]]
        return np.log(_probabilities(levels, batch, self.fitted["base"], self.signature.output.size))


class _Level:
    """All contexts of one length: discounted probabilities of what followed, and the mass left for shorter contexts."""

    def __init__(self, contexts: NDArray[Any], starts: NDArray[Any], followers: NDArray[Any], shares: NDArray[Any], left: NDArray[Any]):
        self.contexts, self.starts, self.followers, self.shares, self.left = contexts, starts, followers, shares, left

    @classmethod
    def of(cls, grams: NDArray[Any], counts: NDArray[Any], base: int) -> _Level:
        """From sorted codes of (context, follower) and their counts."""
        once, twice = int((counts == 1).sum()), int((counts == 2).sum())
        discount = once / (once + 2 * twice) if once and twice else 0.5
        contexts, starts, kinds = np.unique(grams // base, return_index=True, return_counts=True)
        totals = np.add.reduceat(counts, starts) if len(starts) else np.zeros(0)
        shares = (counts - discount) / np.repeat(totals, kinds)
        return cls(contexts, np.append(starts, len(grams)), grams % base, shares, discount * kinds / totals)

    def to_plain(self) -> dict[str, NDArray[Any]]:
        """Arrays to write."""
        return dict(vars(self))

    @classmethod
    def from_plain(cls, values: dict[str, NDArray[Any]]) -> _Level:
        """From `to_plain`'s arrays."""
        return cls(**values)

    def refine(self, probability: NDArray[Any], contexts: NDArray[Any], usable: NDArray[Any]) -> None:
        """Turn p(w | shorter context), (positions, vocabulary), into p(w | context) in place where the context was seen."""
        if not len(self.contexts):  # every text is shorter
            return
        places = np.searchsorted(self.contexts, contexts).clip(max=len(self.contexts) - 1)
        rows = np.flatnonzero(usable & (self.contexts[places] == contexts))
        found = places[rows]
        probability[rows] *= self.left[found, None]
        sizes = self.starts[found + 1] - self.starts[found]
        entries = np.repeat(self.starts[found] - np.append(0, sizes.cumsum()[:-1]), sizes) + np.arange(sizes.sum())
        probability[np.repeat(rows, sizes), self.followers[entries]] += self.shares[entries]


def _contexts(tokens: NDArray[Any], mask: NDArray[Any], length: int, base: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Code of the ``length`` tokens up to and with each position, the oldest most significant, and whether all are real."""
    code, usable = np.zeros(tokens.shape, dtype=np.int64), np.ones(tokens.shape, dtype=bool)
    for back in range(length - 1, -1, -1):
        shifted, real = np.zeros_like(code), np.zeros_like(usable)
        shifted[:, back:], real[:, back:] = tokens[:, : tokens.shape[1] - back], mask[:, : tokens.shape[1] - back]
        code, usable = code * base + shifted, usable & real
    return code, usable


def _ngram_counts(batch: Batch, length: int, base: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Sorted codes of (context, next token) and how often each occurs."""
    real = _real(batch)
    code, usable = _contexts(array(batch["tokens"]), real, length, base)
    return np.unique((code * base + array(batch["target"]))[usable & real], return_counts=True)


def _without_oldest(grams: NDArray[Any], length: int, base: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Codes without their oldest token, and how many distinct oldest tokens each had."""
    return np.unique(grams % base**length, return_counts=True)


def _probabilities(levels: list[_Level], batch: Batch, base: int, vocabulary: int) -> NDArray[Any]:
    """p(next token), (batch, length, vocabulary): uniform, refined by ever longer contexts."""
    tokens, mask = array(batch["tokens"]), _real(batch)
    probability = np.full((tokens.size, vocabulary), 1.0 / vocabulary)
    for length, level in enumerate(levels):
        code, usable = _contexts(tokens, mask, length, base)
        level.refine(probability, code.ravel(), usable.ravel())
    return probability.reshape(*tokens.shape, vocabulary)


def _real(batch: Batch) -> NDArray[Any]:
    return array(batch["mask"]) if "mask" in batch else np.ones(batch["tokens"].shape, dtype=bool)


def _head(batch: Batch, positions: int) -> Batch:
    """The first examples, at most ``positions`` positions in all."""
    rows = max(1, positions // batch["tokens"].shape[1])
    return {key: value[:rows] for key, value in batch.items()}


# ------------------------------------------------------------------------------------------------ tf-idf


class TfIdf(FittedEstimator):
    """tf-idf of token n-grams, then logistic or ridge regression; the penalty is chosen on validation.

    Bytes and characters count in n-grams of up to five, words of up to two; at most 50,000 n-grams. A pair is described by
    |a − b|, a ∘ b and the cosine of its two vectors.
    """

    name = "tfidf"

    def __init__(self) -> None:
        super().__init__()
        self._fitted_counter: tuple[Any, Any] | None = None  # rebuilt from ``fitted`` on first use

    def accepts(self, signature: Signature) -> str | None:
        """Tokens, or pairs of tokens, to one class or some values."""
        kinds = (signature.input.first, signature.input.second) if isinstance(signature.input, Pair) else (signature.input,)
        if not all(isinstance(kind, Tokens) for kind in kinds):
            return "it counts n-grams of tokens"
        if not isinstance(signature.output, Class | Values) or signature.per_position or signature.multi_label:
            return "it predicts one class, or values, for each text"
        return None

    def learn(self, task: Task, seed: int) -> dict[str, Any]:
        """Count, weigh, fit for each penalty, keep the best on validation."""
        kind = task.signature.input
        kind = kind.first if isinstance(kind, Pair) else kind
        assert isinstance(kind, Tokens)  # `accepts` asks for it
        longest = 5 if kind.vocabulary <= CHARACTERS else 2
        train, validation = gather(task, "train"), gather(task, "validation")
        texts = [text for prefix in _prefixes(train) for text in as_text(train, prefix)]
        counter = _counter(longest, max_features=FEATURES)
        weights = TfidfTransformer(sublinear_tf=True).fit(counter.fit_transform(texts))
        grams = np.array(sorted(counter.vocabulary_, key=counter.vocabulary_.__getitem__))
        self.fitted = {"grams": grams, "rarity": np.asarray(weights.idf_), "longest": longest}
        x, held_out = self._rows(train), self._rows(validation)
        y, truth = array(train["target"]), array(validation["target"])
        return self.fitted | (_fit_values if isinstance(task.signature.output, Values) else _fit_classes)(x, y, held_out, truth)

    def predict(self, batch: Batch) -> NDArray[Any]:
        """Logits (batch, classes), or values (batch, count)."""
        assert self.signature is not None  # __call__ has checked it
        scores = np.asarray(self._rows(batch) @ self.fitted["weights"].T) + self.fitted["bias"]
        if isinstance(self.signature.output, Values):
            return scores
        return spread(two_sided(scores[:, 0]) if scores.shape[1] == 1 else scores, self.fitted["seen"], self.signature.output.size)

    def _rows(self, batch: Batch) -> Any:
        """Sparse rows of features, (batch, features)."""
        if self._fitted_counter is None or self._fitted_counter[0] is not self.fitted["grams"]:
            vocabulary = {gram: index for index, gram in enumerate(self.fitted["grams"])}
            self._fitted_counter = self.fitted["grams"], _counter(int(self.fitted["longest"]), vocabulary=vocabulary)
        counter = self._fitted_counter[1]
        vectors: list[Any] = []
        for prefix in _prefixes(batch):
            counts = counter.transform(as_text(batch, prefix))
            counts.data = 1 + np.log(counts.data)
            weighted = counts @ scipy.sparse.diags(self.fitted["rarity"])
            length = np.sqrt(np.asarray(weighted.multiply(weighted).sum(1)).ravel())
            vectors.append(scipy.sparse.diags(1 / np.maximum(length, 1e-12)) @ weighted)
        if len(vectors) == 1:
            return vectors[0].tocsr()
        first, second = vectors
        product = first.multiply(second)
        return scipy.sparse.hstack([abs(first - second), product, scipy.sparse.csr_matrix(product.sum(1))]).tocsr()


def _counter(longest: int, **options: Any) -> Any:
    return CountVectorizer(analyzer="char", ngram_range=(1, longest), lowercase=False, dtype=np.float32, **options)  # pyright: ignore[reportArgumentType]


def as_text(batch: Batch, prefix: str = "") -> list[str]:
    """Each row of tokens as a string with one character a token, so that n-grams of characters are n-grams of tokens."""
    tokens = array(batch[f"{prefix}tokens"])
    mask = array(batch[f"{prefix}mask"]) if f"{prefix}mask" in batch else np.ones(tokens.shape, dtype=bool)
    return ["".join(map(chr, row[real] + PLANE)) for row, real in zip(tokens, mask, strict=True)]


def _prefixes(batch: Batch) -> tuple[str, ...]:
    return ("first_", "second_") if "first_tokens" in batch else ("",)


def _fit_classes(x: Any, y: NDArray[Any], held_out: Any, truth: NDArray[Any]) -> dict[str, Any]:
    seen = np.unique(y)
    if len(seen) == 1:
        return {"weights": np.zeros((2, x.shape[1]))[:1], "bias": np.zeros(1), "seen": np.repeat(seen, 2)}
    penalty, model = best(
        (1.0, 10.0, 100.0),
        lambda c: LogisticRegression(C=c, max_iter=200).fit(x, y),
        lambda model: accuracy(np.eye(int(max(seen.max(), truth.max())) + 1)[model.predict(held_out)], truth),
    )
    return {"weights": model.coef_, "bias": model.intercept_, "seen": seen, "penalty": penalty}


def _fit_values(x: Any, y: NDArray[Any], held_out: Any, truth: NDArray[Any]) -> dict[str, Any]:
    penalty, model = best(
        (0.01, 0.1, 1.0, 10.0, 100.0),
        lambda alpha: Ridge(alpha=alpha, solver="sparse_cg").fit(x, y),
        lambda model: -float(np.square(model.predict(held_out).reshape(truth.shape) - truth).mean()),
    )
    weights = np.atleast_2d(model.coef_)
    return {"weights": weights, "bias": np.broadcast_to(model.intercept_, len(weights)).copy(), "penalty": penalty}
