"""What hidden states hold of a language in context: counts of n-grams, and which positions share an automaton's state."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from assay.contracts import Batch, Finding, Task
from assay.errors import UserError
from assay.ops.suffix_matches import grouped_sums, suffix_groups
from assay.tasks.synthetic.in_context_languages import InContextLanguages

STEPS = 600
BATCH = 256


class PairReader(nn.Module):
    """A small network that reads two vectors and their product: ``W₂ tanh(W₁ [a, b, a ∘ b])``.

    Args:
        width: of both vectors and of the hidden layer.
        outputs: numbers it gives.
    """

    def __init__(self, width: int, outputs: int = 1) -> None:
        super().__init__()
        self.first = nn.Linear(3 * width, width)
        self.second = nn.Linear(width, outputs, bias=False)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Map two (batch, width) to (batch, outputs)."""
        return self.second(torch.tanh(self.first(torch.cat([a, b, a * b], 1))))


class CountReader(nn.Module):
    """Reads from a hidden state how frequent a queried n-gram is: a `PairReader` of the n symbols' embeddings and the projected state.

    Args:
        width: of the hidden states.
        order: n.
        vocabulary: different symbols.
        dropout: on the hidden state.

    Source: Akyürek, Wang, Kim, Andreas (2024), In-Context Language Learning: Architectures and Algorithms.
    """

    def __init__(self, width: int, order: int, vocabulary: int, dropout: float = 0.1) -> None:
        super().__init__()
        size = width if order == 1 else -(-width // 2)
        self.embedding = nn.Embedding(vocabulary, size)
        self.projection = nn.Linear(width, order * size)
        self.dropout = nn.Dropout(dropout)
        self.reader = PairReader(order * size)

    def forward(self, hidden: Tensor, symbols: Tensor) -> Tensor:
        """Hidden states (batch, width) and n-grams (batch, order) to (batch,)."""
        return self.reader(self.embedding(symbols).flatten(1), self.projection(self.dropout(hidden)))[:, 0]


class StateReader(nn.Module):
    """Says of two hidden states whether the automaton was in one state at both: a `PairReader` of both, projected alike."""

    def __init__(self, width: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.projection = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.reader = PairReader(width)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Two (batch, width) to a logit (batch,)."""
        first, second = (self.projection(self.dropout(hidden)) for hidden in (first, second))
        return self.reader(first, second)[:, 0]


@dataclass(frozen=True)
class Reading:
    """How well a reader does on rows it has not seen, and with its answers shuffled in training (the control)."""

    score: float
    shuffled: float


class Examples(NamedTuple):
    """Inputs of a reader, tuples of tensors with one row an example, and the answers (examples,)."""

    inputs: tuple[Tensor, ...]
    answers: Tensor


def hidden_states(model: nn.Module, batch: Batch, layer: int = -1) -> Tensor:
    """What block ``layer`` of a sequence model gives, (batch, length, width).

    Raises:
        UserError: the model is not a stack of blocks, or has no such block.
    """
    blocks: Any = getattr(model, "blocks", None)
    if not isinstance(blocks, nn.ModuleList) or not -len(blocks) <= layer < len(blocks):
        raise UserError(f"{type(model).__name__} has no block {layer}: hidden states are read from sequence models.")
    kept: list[Tensor] = []
    handle = blocks[layer].register_forward_hook(lambda _module, _args, output: kept.append(output.detach()))
    training = model.training
    try:
        with torch.no_grad():
            model.eval()(batch)
    finally:
        model.train(training)
        handle.remove()
    return kept[0]


def count_examples(
    model: nn.Module, batches: Iterable[Batch], task: Task, order: int, binary: bool = False, layer: int = -1, start: int = 0, seed: int = 0
) -> Examples:
    """One query for every position from ``start``: a hidden state, the n-gram of its last n − 1 symbols and a queried one, the answer.

    The answer is the share of the queried symbol among what followed these n − 1 symbols so far (n = 1: among all symbols so far), or,
    ``binary``, whether it has followed them at all. Queried symbols are, half and half, one that has followed and any.

    Raises:
        ValueError: an order below 1.
    """
    if order < 1:
        raise ValueError(f"order must be at least 1, got {order}")
    generator = torch.Generator().manual_seed(seed)
    symbols = int(task.encoding.get("symbols", task.signature.output.size))
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for batch in batches:
        hidden = hidden_states(model, batch, layer).cpu()
        tokens = batch["tokens"].cpu()
        shares = _followers(tokens, order, symbols)
        chosen = _positions(batch, tokens, order, symbols, start) & (shares.sum(2) > 0)
        shares, recent = shares[chosen], _recent(tokens, order)[chosen]
        seen = torch.multinomial((shares > 0).float(), 1, generator=generator)[:, 0]
        anything = torch.randint(symbols, seen.shape, generator=generator)
        queried = torch.where(torch.rand(seen.shape, generator=generator) < 0.5, seen, anything)
        answer = shares.gather(1, queried[:, None])[:, 0]
        grams = torch.cat([recent, queried[:, None]], 1)
        parts.append((hidden[chosen], grams, (answer > 0).float() if binary else answer.float()))
    hidden, grams, answers = (torch.cat(part) for part in zip(*parts, strict=True))
    return Examples((hidden, grams), answers)


def state_examples(
    model: nn.Module, batches: Iterable[Batch], task: InContextLanguages, layer: int = -1, start: int = 0, seed: int = 0
) -> Examples:
    """Pairs of positions of one row, in about half of them the automaton is in the same state; the answer is whether it is."""
    generator = torch.Generator().manual_seed(seed)
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for batch in batches:
        hidden, states = hidden_states(model, batch, layer).cpu(), batch["state"].cpu()
        chosen = _positions(batch, batch["tokens"].cpu(), 1, task.encoding["symbols"], start)
        row, first = chosen.nonzero(as_tuple=True)
        others = chosen[row].scatter(1, first[:, None], False)
        same = (states[row] == states[row, first][:, None]) & others
        wanted = torch.where(torch.rand(len(row), 1, generator=generator) < 0.5, same, others & ~same)
        wanted = torch.where(wanted.any(1, keepdim=True), wanted, chosen[row])
        second = torch.multinomial(wanted.float(), 1, generator=generator)[:, 0]
        parts.append((hidden[row, first], hidden[row, second], (states[row, first] == states[row, second]).float()))
    one, other, answers = (torch.cat(part) for part in zip(*parts, strict=True))
    return Examples((one, other), answers)


def read(make: Callable[[], nn.Module], train: Examples, test: Examples, binary: bool, steps: int = STEPS, seed: int = 0) -> Reading:
    """Train a reader on some examples and score it on others: accuracy (binary), else the share of variance explained.

    Beside it the same with the training answers shuffled: what the reader gets from the answers' distribution alone.
    """
    generator = torch.Generator().manual_seed(seed)
    mixed = Examples(train.inputs, train.answers[torch.randperm(len(train.answers), generator=generator)])
    scores = [_score(_trained(make, examples, binary, steps, seed), test, binary) for examples in (train, mixed)]
    return Reading(*scores)


class LanguageStates:
    """Probe that says what a layer's hidden states hold: n-gram shares, n-grams that have occurred, the automaton's state.

    Readers learn on validation rows and are scored on test rows, each beside a control with shuffled answers.

    Args:
        layer: block whose output is read.
        start: first position read; counts need some context.
        rows: of each split.
        steps: training steps of a reader.
    """

    def __init__(self, layer: int = -1, start: int = 20, rows: int = 128, steps: int = STEPS) -> None:
        self.layer, self.start, self.rows, self.steps = layer, start, rows, steps

    def __call__(self, model: nn.Module, task: Task) -> Finding:
        """Train and score five readers; the model is left as it was.

        Raises:
            UserError: the task's automata are not known.
        """
        if not isinstance(task, InContextLanguages):
            raise UserError(f"The true automaton must be known, and {task.name} has none: this probe reads in-context languages (icll).")
        table: list[dict[str, Any]] = []
        for order in (1, 2, 3):
            for binary in (False, True) if order > 1 else (False,):
                reading = self._counts(model, task, order, binary)
                what = f"{order}-gram has occurred" if binary else f"share of a {order}-gram"
                table.append(_row(what, "accuracy" if binary else "explained variance", reading))
        table.append(_row("same state", "accuracy", self._states(model, task)))
        return Finding(_sentence(table), table, _figure(table))

    def _batches(self, model: nn.Module, task: InContextLanguages, split: Any) -> list[Batch]:
        device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        found, rows = [], 0
        for batch in task.batches(split, 32):
            found.append({key: value.to(device) for key, value in batch.items()})
            rows += 32
            if rows >= self.rows:
                break
        return found

    def _counts(self, model: nn.Module, task: InContextLanguages, order: int, binary: bool) -> Reading:
        train, test = (
            count_examples(model, self._batches(model, task, split), task, order, binary, self.layer, self.start, seed)
            for seed, split in enumerate(("validation", "test"))
        )
        width, symbols = train.inputs[0].shape[1], task.encoding["symbols"]
        return read(lambda: CountReader(width, order, symbols), train, test, binary, self.steps)

    def _states(self, model: nn.Module, task: InContextLanguages) -> Reading:
        train, test = (
            state_examples(model, self._batches(model, task, split), task, self.layer, self.start, seed)
            for seed, split in enumerate(("validation", "test"))
        )
        return read(lambda: StateReader(train.inputs[0].shape[1]), train, test, True, self.steps)


def _followers(tokens: Tensor, order: int, symbols: int) -> Tensor:
    """Shares of what followed the last ``order − 1`` tokens so far, (batch, length, symbols); zeros where they are new."""
    seen = F.one_hot(tokens, max(symbols, int(tokens.max()) + 1))[..., :symbols].double()
    groups = suffix_groups(tokens, order - 1) if order > 1 else torch.zeros_like(tokens)
    counts, _ = grouped_sums(seen, F.pad(groups, (1, -1), value=-1 if order > 1 else 0), groups, inclusive=True)
    return counts / counts.sum(2, keepdim=True).clamp(min=1)


def _recent(tokens: Tensor, order: int) -> Tensor:
    """The last ``order − 1`` tokens at every position, (batch, length, order − 1)."""
    back = [F.pad(tokens, (k, -k)) for k in range(order - 2, -1, -1)]
    return torch.stack(back, 2) if back else tokens.new_zeros(*tokens.shape, 0)


def _positions(batch: Batch, tokens: Tensor, order: int, symbols: int, start: int) -> Tensor:
    """Scored positions from ``start`` whose last ``order − 1`` tokens (at least one) are symbols of one string."""
    chosen = batch["target_mask"].cpu() if "target_mask" in batch else torch.ones_like(tokens, dtype=torch.bool)
    chosen = chosen & (torch.arange(tokens.shape[1]) >= max(start, order - 2))
    return chosen & (tokens < symbols) & (_recent(tokens, order) < symbols).all(2)


def _trained(make: Callable[[], nn.Module], examples: Examples, binary: bool, steps: int, seed: int) -> nn.Module:
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(seed)
        reader = make().train()
        optimizer = torch.optim.AdamW(reader.parameters(), lr=1e-3)
        for _ in range(steps):
            index = torch.randint(len(examples.answers), (BATCH,))
            found, wanted = reader(*(value[index] for value in examples.inputs)), examples.answers[index]
            loss = F.binary_cross_entropy_with_logits(found, wanted) if binary else F.mse_loss(found, wanted)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return reader.eval()


def _score(reader: nn.Module, examples: Examples, binary: bool) -> float:
    with torch.no_grad():
        found = reader(*examples.inputs)
    if binary:
        return float(((found > 0) == (examples.answers > 0.5)).float().mean())
    return float(1 - (found - examples.answers).square().mean() / examples.answers.var(correction=0).clamp(min=1e-12))


def _row(what: str, measure: str, reading: Reading) -> dict[str, Any]:
    return {"read": what, "measure": measure, "score": reading.score, "shuffled": reading.shuffled}


def _sentence(table: list[dict[str, Any]]) -> str:
    rows = {row["read"]: row for row in table}
    share, state = rows["share of a 2-gram"], rows["same state"]
    return (
        f"From this layer a small reader explains {100 * max(0.0, share['score']):.0f} % of the variance of 2-gram shares, and tells in "
        f"{100 * state['score']:.0f} % of pairs whether the automaton is in the same state (with shuffled answers "
        f"{100 * state['shuffled']:.0f} %)."
    )


def _figure(table: list[dict[str, Any]]) -> dict[str, Any]:
    names = [row["read"] for row in table]
    data = [{"type": "bar", "name": name, "x": names, "y": [row[name] for row in table]} for name in ("score", "shuffled")]
    return {"data": data, "layout": {"yaxis": {"title": {"text": "accuracy, or explained variance"}}}}
