"""Backpropagation through time, truncated: a long sequence is learned from in pieces.

Williams & Peng, An efficient gradient-based algorithm for on-line training of recurrent network trajectories, 1990.

What it does: cuts every sequence into pieces of ``k1`` positions; the errors of a piece flow back over the last ``k2`` positions only. When
to use it: sequences too long to keep every activation of, and dependencies that are not. What it costs: memory of k2 positions instead
of all; where k2 is larger than k1, one more forward pass; whatever depends on more than k2 positions is learned by luck alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from assay.contracts import Batch, Class, Gradients, Method, NextTokens, Output, Series, State, Task, Tokens, Values
from assay.tasks.base import target_mask

Loss = Callable[[Output, Batch], Tensor]
_BY_POSITION = ("tokens", "series", "mask", "target", "target_mask")


def truncated_backpropagation(
    model: Any, batch: Batch, loss: Loss, k1: int, k2: int | None = None, after_piece: Callable[[], None] | None = None
) -> Output:
    """Accumulate the truncated gradients of one batch; the loss is the mean over all targets, whatever piece they are in.

    Piece j covers positions ``j k1 … (j + 1) k1 − 1``. The state k2 positions before its end (if k1 = k2, at its start) is computed without
    gradient; from there on errors flow. With ``k2 ≥`` the length, all pieces together give the whole gradient.

    Args:
        model: a streaming `assay.models.sequence.SequenceModel` (or its like) with an output at every position.
        batch: Tokens or Series, with targets by position.
        loss: ``(output, batch) -> scalar``, a mean over targets.
        k1: positions of a piece.
        k2: positions that errors flow back over, at least k1; by default k1.
        after_piece: called when a piece's gradients are there: an optimiser's step there trains on-line.

    Returns:
        The predictions of all pieces and the loss, both detached.

    Raises:
        ValueError: k1 below 1, or k2 below k1.
    """
    k2 = _checked(k1, k2)
    x = batch["tokens" if "tokens" in batch else "series"]
    length, mask = x.shape[1], batch.get("mask")
    total = max(1, int(asked_positions(batch).sum()))
    state, at = model.initial_state(len(x)), 0
    predictions: list[Tensor] = []
    value = torch.zeros((), device=x.device)
    for start in range(0, length, k1):
        end = min(start + k1, length)
        first = start if k1 == k2 else max(0, min(start, end - k2))
        state, at = _walked(model, x, mask, state, at, first), first
        piece = {key: tensor[:, start:end] if key in _BY_POSITION else tensor for key, tensor in batch.items()}
        found, after = model.scan(x[:, first:end], state, None if mask is None else mask[:, first:end])
        share = int(asked_positions(piece).sum()) / total
        output = Output(found[:, start - first :])
        if share > 0:
            piece_loss = loss(output, piece) * share
            piece_loss.backward()
            value = value + piece_loss.detach()
        if k1 == k2:  # the state behind this piece is where the next begins
            state, at = _detached(after), end
        predictions.append(output.prediction.detach())
        if after_piece is not None:
            after_piece()
    return Output(torch.cat(predictions, 1), loss=value)


def asked_positions(batch: Batch) -> Tensor:
    """Where a target counts, (batch, length), of a batch with targets by position."""
    asked = target_mask(batch)
    return asked if asked.ndim > 1 else asked[:, None].expand(batch["target"].shape[:2])


class TruncatedBackpropagation(Method):
    """`truncated_backpropagation` in place of the backward pass: one optimiser step a batch, over the gradients of all its pieces.

    Models that do not stream, and tasks without an output at every position, train as without it.

    Args:
        k1: positions of a piece.
        k2: positions that errors flow back over, at least k1; by default k1.

    Raises:
        ValueError: k1 below 1, or k2 below k1.
    """

    def __init__(self, k1: int = 32, k2: int | None = None) -> None:
        self.k2 = _checked(k1, k2)
        self.k1 = k1
        self.loss: Loss | None = None

    def setup(self, model: nn.Module, task: Task) -> None:
        """Remember the task's loss, if its sequences can be cut."""
        output, kind = task.signature.output, task.signature.input
        by_position = isinstance(output, NextTokens) or (task.signature.per_position and isinstance(output, Class | Values))
        cuts = isinstance(kind, Tokens | Series) and by_position and getattr(model, "causal", False)
        self.loss = task.loss if cuts else None

    def gradients(self, next: Gradients) -> Gradients:
        """Replace objective and backward pass."""

        def truncated(model: nn.Module, batch: Batch) -> Any:
            if self.loss is None:
                return next(model, batch)
            inner: Any = getattr(model, "module", model)  # a launcher's wrapper has `forward` alone
            return truncated_backpropagation(inner, batch, self.loss, self.k1, self.k2)

        return truncated


def _checked(k1: int, k2: int | None) -> int:
    k2 = k1 if k2 is None else k2
    if k1 < 1 or k2 < k1:
        raise ValueError(f"k1 must be at least 1 and k2 at least k1, or some positions would never teach, got k1={k1} and k2={k2}")
    return k2


def _walked(model: Any, x: Tensor, mask: Tensor | None, state: State, at: int, to: int) -> State:
    """The state at position ``to``, from that at position ``at``, without gradient."""
    if at == to:
        return state
    with torch.no_grad():
        _, state = model.scan(x[:, at:to], state, None if mask is None else mask[:, at:to])
    return state


def _detached(state: State) -> State:
    return pytree.tree_map_only(Tensor, lambda tensor: tensor.detach(), state)
