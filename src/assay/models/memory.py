"""`MemoryNetwork`: end-to-end memory as a model for story–question pairs."""

from __future__ import annotations

from typing import Any

from torch import nn

from assay.contracts import Batch, Class, Output, Pair, Signature, Tokens
from assay.nn.memory.end_to_end import EndToEndMemory


class MemoryNetwork(nn.Module):
    """Answers a question about a story; the first tokens are sentences of the question's length, one after the other.

    Args:
        signature: Pair of Tokens (story, question) → Class over the vocabulary (the answer is a word).
        width: numbers a memory.
        options: of `EndToEndMemory`.
    """

    def __init__(self, signature: Signature, width: int, **options: Any) -> None:
        super().__init__()
        self.signature = signature
        story, question = _story_and_question(signature)
        self.words = question.length
        self.memory = EndToEndMemory(story.vocabulary, width, story.length // question.length, question.length, **options)

    def forward(self, batch: Batch) -> Output:
        """Predict a batch."""
        story = batch["first_tokens"].unflatten(1, (-1, self.words))
        return Output(self.memory(story, batch["second_tokens"]))


class MemoryNetworkFamily:
    """Memory networks; one dial, the width."""

    coarse = range(1, 4097)
    fine = range(0, 1)

    def accepts(self, signature: Signature) -> str | None:
        """Stories with questions whose answer is a word."""
        kind = signature.input
        if not isinstance(kind, Pair) or not isinstance(kind.first, Tokens) or not isinstance(kind.second, Tokens):
            return "a memory network reads a story and a question"
        if kind.first.length % kind.second.length:
            return "the story's length must be a multiple of the question's: sentences have the question's number of words"
        if not isinstance(signature.output, Class) or signature.output.classes != kind.first.vocabulary:
            return "its answer is one word of the story's vocabulary"
        return None

    def network(self, signature: Signature, coarse: int, fine: int, **options: Any) -> nn.Module:
        """A memory network of width ``coarse``."""
        return MemoryNetwork(signature, coarse, **options)


def _story_and_question(signature: Signature) -> tuple[Tokens, Tokens]:
    assert isinstance(signature.input, Pair)  # what `MemoryNetworkFamily.accepts` lets through
    assert isinstance(signature.input.first, Tokens)
    assert isinstance(signature.input.second, Tokens)
    return signature.input.first, signature.input.second
