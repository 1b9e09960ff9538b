"""Generating tokens from a model that predicts the next one: greedy, sampling with temperature and top-k, beam search."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from assay.contracts import NextTokens, State


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
    if temperature < 0 or (top is not None and top < 1):
        raise ValueError(f"temperature must be at least 0 and top at least 1, got temperature={temperature}, top={top}")
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
    """The likeliest continuation found by keeping the ``beams`` likeliest prefixes at each step.

    Args:
        model: a streaming sequence model with next-token output.
        prompt: (1, length) tokens.
        count: tokens to add.
        beams: prefixes kept.

    Returns:
        (1, count) tokens.
    """
    stream = _checked(model, prompt)
    if prompt.shape[0] != 1 or beams < 1:
        raise ValueError(f"beam search takes one prompt and at least one beam, got {prompt.shape[0]} prompts and beams={beams}")
    predictions, state = stream.scan(prompt, stream.initial_state(1))
    scores, first = predictions[:, -1].log_softmax(-1).topk(min(beams, predictions.shape[-1]))
    prefixes, scores = first.T, scores[0]
    state = select_state(state, torch.zeros(len(prefixes), dtype=torch.long))
    for _ in range(count - 1):
        logits, state = stream.step(prefixes[:, -1], state)
        total = scores[:, None] + logits.log_softmax(-1)
        scores, flat = total.flatten().topk(min(beams, total.numel()))
        origin, token = flat // total.shape[1], flat % total.shape[1]
        prefixes = torch.cat([prefixes[origin], token[:, None]], 1)
        state = select_state(state, origin)
    return prefixes[scores.argmax()][None, :count]


def select_state(state: State, index: Tensor) -> State:
    """The rows ``index`` of every tensor of a state (a pytree whose tensors have the batch in dimension 0)."""
    return pytree.tree_map_only(Tensor, lambda tensor: tensor[index], state)


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
