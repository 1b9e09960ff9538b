"""Writing tokens with a model that predicts the next one: greedy, sampling with temperature and top-k, beam search, ensembles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from assay.contracts import END, Batch, NextTokens, State, TokenSequence


@torch.no_grad()
def sample(model: nn.Module, prompt: Tensor, count: int, temperature: float = 1.0, top: int | None = None, seed: int = 0) -> Tensor:
    """Continue a prompt by ``count`` tokens drawn from ``softmax(logits / temperature)``; temperature 0 takes the likeliest.

    The prompt is read once by ``scan``, then each token by ``step``, so the cost a token is that of the model's state.

    Args:
        model: a streaming sequence model with next-token output.
        prompt: (batch, length) tokens, length ≥ 1.
        count: tokens to add.
        temperature: ≥ 0.
        top: draw only among the ``top`` likeliest tokens.
        seed: of the draws.

    Returns:
        (batch, count) tokens.

    Raises:
        ValueError: the model does not predict next tokens or does not stream, the prompt is empty, or an option is out of range.
    """
    stream = _checked(model, prompt)
    _check_draws(temperature, top)
    generator = torch.Generator(device=prompt.device).manual_seed(seed)
    predictions, state = stream.scan(prompt, stream.initial_state(prompt.shape[0]))
    logits, tokens = predictions[:, -1], []
    for index in range(count):
        tokens.append(_draw(logits, temperature, top, generator))
        if index + 1 < count:
            logits, state = stream.step(tokens[-1], state)
    return torch.stack(tokens, 1) if tokens else prompt[:, :0]


@torch.no_grad()
def beam_search(model: nn.Module, prompt: Tensor, count: int, beams: int = 4) -> Tensor:
    """The likeliest continuation found by keeping the ``beams`` likeliest prefixes at each step; of equals, the first.

    Args:
        model: a streaming sequence model with next-token output.
        prompt: (batch, length) tokens, length ≥ 1.
        count: tokens to add.
        beams: prefixes kept.

    Returns:
        (batch, count) tokens.

    Raises:
        ValueError: the model does not predict next tokens or does not stream, the prompt is empty, or there is no beam.
    """
    stream = _checked(model, prompt)
    predictions, state = stream.scan(prompt, stream.initial_state(prompt.shape[0]))
    return _search(stream.step, predictions[:, -1], state, count, beams)


@torch.no_grad()
def translate(
    models: nn.Module | Sequence[nn.Module],
    batch: Batch,
    beams: int = 1,
    normalisation: float = 1.0,
    *,
    temperature: float = 0.0,
    top: int | None = None,
    seed: int = 0,
) -> Tensor:
    """The likeliest symbol sequence for every example of a batch, or one that is drawn, with its end, which also fills the rest.

    Of finished sequences the one with the largest ``Σ log p / length^α`` wins; with a temperature above 0 each symbol is drawn from
    ``softmax(logits / temperature)`` instead. Several models vote with the mean of their log probabilities.

    Source: Sutskever, Vinyals, Le (2014), Sequence to sequence learning with neural networks; α as in Wu et al. (2016).

    Args:
        models: one network with `assay.contracts.TokenSequence` output and ``begin`` and ``step`` (`EncoderDecoder`), or several of one
            signature.
        batch: inputs as the signature declares them; a target in it is not looked at.
        beams: prefixes kept; 1 is greedy.
        normalisation: α; 0 favours short sequences.
        temperature: 0 searches, above it symbols are drawn; nothing is then searched, so ``beams`` is 1.
        top: draw only among the ``top`` likeliest symbols.
        seed: of the draws.

    Returns:
        (batch, length) tokens.

    Raises:
        ValueError: a model does not write sequences, α or the temperature is negative, there is no beam or no symbol to draw from, or beams
            are asked for of what is drawn.
    """
    voters: Any = [models] if isinstance(models, nn.Module) else list(models)
    for model in voters:
        if not isinstance(getattr(getattr(model, "signature", None), "output", None), TokenSequence):
            raise ValueError(f"{type(model).__name__} does not write symbol sequences, so it cannot translate")
    if normalisation < 0:
        raise ValueError(f"normalisation must be at least 0, got {normalisation}")
    _check_draws(temperature, top)
    if temperature > 0 and beams != 1:
        raise ValueError(f"symbols are drawn or searched for, not both: got temperature={temperature} and beams={beams}")

    def step(tokens: Tensor, states: list[State]) -> tuple[Tensor, list[State]]:
        answers = [model.step(tokens, state) for model, state in zip(voters, states, strict=True)]
        return torch.stack([logits.log_softmax(-1) for logits, _ in answers]).mean(0), [state for _, state in answers]

    inputs = {key: value for key, value in batch.items() if not key.startswith("target")}
    examples = len(next(iter(inputs.values())))
    start = torch.full((examples,), END, device=next(iter(inputs.values())).device)
    logits, states = step(start, [model.begin(inputs) for model in voters])
    count = voters[0].signature.output.length
    if temperature > 0:
        return _drawn(step, logits, states, count, temperature, top, torch.Generator(device=start.device).manual_seed(seed))
    return _search(step, logits, states, count, beams, END, normalisation)


def _drawn(
    step: Callable[[Tensor, State], tuple[Tensor, State]],
    logits: Tensor,
    state: State,
    count: int,
    temperature: float,
    top: int | None,
    generator: torch.Generator,
) -> Tensor:
    """Up to ``count`` symbols a row, ended by `END`, which fills the rest."""
    ended, written = torch.zeros(len(logits), dtype=torch.bool, device=logits.device), []
    for index in range(count):
        written.append(_draw(logits, temperature, top, generator).masked_fill(ended, END))
        ended = ended | (written[-1] == END)
        if index + 1 < count:
            logits, state = step(written[-1], state)
    return torch.stack(written, 1)


def _search(
    step: Callable[[Tensor, State], tuple[Tensor, State]],
    logits: Tensor,
    state: State,
    count: int,
    beams: int,
    end: int | None = None,
    normalisation: float = 0.0,
) -> Tensor:
    """Beam search over every row of a batch at once; after ``end`` a prefix only grows by more of it, which costs nothing."""
    if beams < 1:
        raise ValueError(f"beam search keeps at least one beam, got beams={beams}")
    batch, vocabulary = logits.shape
    rows = torch.arange(batch, device=logits.device)[:, None]
    logits, state = _repeated(logits, beams), select_state(state, _repeated(rows[:, 0], beams))
    prefixes = torch.zeros(batch, beams, 0, dtype=torch.long, device=logits.device)
    scores = logits.new_full((batch, beams), -torch.inf)
    scores[:, 0] = 0.0  # all beams begin alike: only the first may branch
    lengths, ended = torch.zeros_like(scores), torch.zeros_like(scores, dtype=torch.bool)
    for index in range(count):
        gains = logits.log_softmax(-1).view(batch, beams, vocabulary)
        if end is not None:
            nothing_more = torch.full_like(gains, -torch.inf)
            nothing_more[..., end] = 0.0
            gains = torch.where(ended[..., None], nothing_more, gains)
        longer = lengths + (~ended).to(lengths)
        total = scores[..., None] + gains
        merit = total / longer[..., None] ** normalisation
        # a stable sort: which of two equals is kept must not depend on the machine
        flat = torch.argsort(merit.flatten(1), dim=1, descending=True, stable=True)[:, :beams]
        origin, token = flat // vocabulary, flat % vocabulary
        scores, lengths, ended = total.flatten(1).gather(1, flat), longer.gather(1, origin), ended.gather(1, origin)
        prefixes = torch.cat([prefixes[rows, origin], token[..., None]], -1)
        ended = ended if end is None else ended | (token == end)
        if bool(ended.all()):
            filler = torch.full((batch, beams, count - index - 1), end or 0, device=prefixes.device)
            prefixes = torch.cat([prefixes, filler], -1)
            break
        if index + 1 < count:
            logits, state = step(token.flatten(), select_state(state, (rows * beams + origin).flatten()))
    # every beam is as good as its rank: the sort has put the best first
    return prefixes[:, 0]


def _repeated(x: Tensor, beams: int) -> Tensor:
    return x.repeat_interleave(beams, 0)


def select_state(state: State, index: Tensor) -> State:
    """The rows ``index`` of every tensor of a state (a pytree whose tensors have the batch in dimension 0)."""
    return pytree.tree_map_only(Tensor, lambda tensor: tensor[index], state)


def _check_draws(temperature: float, top: int | None) -> None:
    if temperature < 0 or (top is not None and top < 1):
        raise ValueError(f"temperature must be at least 0 and top at least 1, got temperature={temperature}, top={top}")


def _draw(logits: Tensor, temperature: float, top: int | None, generator: torch.Generator) -> Tensor:
    if temperature == 0:
        return logits.argmax(-1)
    if top is not None and top < logits.shape[-1]:
        smallest = logits.topk(top).values[:, -1:]
        logits = logits.masked_fill(logits < smallest, -torch.inf)
    return torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)[:, 0]


def _checked(model: nn.Module, prompt: Tensor) -> Any:
    signature = getattr(model, "signature", None)
    if signature is None or not isinstance(signature.output, NextTokens):
        raise ValueError(f"{type(model).__name__} does not predict next tokens, so it cannot generate")
    if not getattr(model, "causal", False):
        raise ValueError(f"{type(model).__name__} does not stream, so it cannot generate")
    if prompt.ndim != 2 or prompt.shape[1] == 0:
        raise ValueError(f"the prompt must be (batch, length) with at least one token, got {tuple(prompt.shape)}")
    return model
