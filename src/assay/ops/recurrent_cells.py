"""The cells that `assay.ops.recurrent_scan` runs: how one step makes states, and how the gradient of its states goes back through it.

With w the projected input, r = R h the recurrent product and b the bias of each gate:

- ``elman``: ``h = tanh(w + r + b)``; ``elman-relu``: ``h = max(0, w + r + b)``; ``elman-sigmoid``: ``h = σ(w + r + b)``
- ``lstm`` (i, f, z, o): ``c' = σ(f) c + σ(i) tanh(z)``, ``h = σ(o) tanh(c')``
- ``gru``, recurrent (g, r, z), input (r, z, n), bias (g, r, z, n): ``G = r_g + b_g``, ``N = tanh(w_n + b_n + σ(r) G)``,
  ``h' = σ(z) h + (1 − σ(z)) N``
- ``slstm`` (i, f, z, o): ``l = log σ(f) + m``, ``m' = max(i, l)`` (``m' = i`` and F = 0 where n = 0, the first step), ``I = exp(i − m')``,
  ``F = exp(l − m')``, ``c' = F c + I tanh(z)``, ``n' = max(F n + I, 1)``, ``h' = σ(o) c' / n'``

The stabiliser m takes part in no gradient: h does not depend on it, for c and n carry the same factor exp(−m).

Source: Elman (1990), Finding Structure in Time; Hochreiter, Schmidhuber (1997), Long Short-Term Memory; Cho et al. (2014), Learning
Phrase Representations using RNN Encoder–Decoder; Beck et al. (2024), xLSTM: Extended Long Short-Term Memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Tensors = Sequence[Tensor]


@dataclass(frozen=True)
class Cell:
    """One step of a recurrence and its gradient, element by element.

    Args:
        recurrent: gates with a recurrent weight.
        inputs: gates with an input.
        biases: gates with a bias; the first ``recurrent`` of them have the weights, the last ``inputs`` the inputs.
        states: tensors of state, the hidden state first.
        kept: activations that the backward pass needs.
        forward: ``(w (batch, inputs, …), r (batch, recurrent, …), b (biases, …), states) -> (new states, kept)``.
        backward: ``(flow, kept, before, after) -> (deltas, carried)``: with the gradients of the new states, those of the gates'
            pre-activations in the bias's order, and those of the old states, without what goes through the recurrent weights.
    """

    recurrent: int
    inputs: int
    biases: int
    states: int
    kept: int
    forward: Callable[[Tensor, Tensor, Tensor, Tensors], tuple[Tensors, Tensors]]
    backward: Callable[[Tensors, Tensors, Tensors, Tensors], tuple[Tensors, Tensors]]


def _elman(w: Tensor, r: Tensor, b: Tensor, states: Tensors) -> tuple[Tensors, Tensors]:
    return (torch.tanh(w + r + b)[:, 0],), ()


def _elman_backward(flow: Tensors, kept: Tensors, before: Tensors, after: Tensors) -> tuple[Tensors, Tensors]:
    return (flow[0] * (1 - after[0].square()),), (torch.zeros_like(flow[0]),)


def _rectified(w: Tensor, r: Tensor, b: Tensor, states: Tensors) -> tuple[Tensors, Tensors]:
    return (torch.relu(w + r + b)[:, 0],), ()


def _rectified_backward(flow: Tensors, kept: Tensors, before: Tensors, after: Tensors) -> tuple[Tensors, Tensors]:
    return (torch.where(after[0] > 0, flow[0], 0.0),), (torch.zeros_like(flow[0]),)


def _logistic(w: Tensor, r: Tensor, b: Tensor, states: Tensors) -> tuple[Tensors, Tensors]:
    return (torch.sigmoid(w + r + b)[:, 0],), ()


def _logistic_backward(flow: Tensors, kept: Tensors, before: Tensors, after: Tensors) -> tuple[Tensors, Tensors]:
    return (flow[0] * after[0] * (1 - after[0]),), (torch.zeros_like(flow[0]),)


def _lstm(w: Tensor, r: Tensor, b: Tensor, states: Tensors) -> tuple[Tensors, Tensors]:
    i, f, z, o = (w + r + b).unbind(1)
    i, f, z, o = i.sigmoid(), f.sigmoid(), z.tanh(), o.sigmoid()
    c = f * states[1] + i * z
    return (o * c.tanh(), c), (i, f, z, o)


def _lstm_backward(flow: Tensors, kept: Tensors, before: Tensors, after: Tensors) -> tuple[Tensors, Tensors]:
    i, f, z, o = kept
    shown = after[1].tanh()
    c = flow[1] + flow[0] * o * (1 - shown.square())
    deltas = (c * z * i * (1 - i), c * before[1] * f * (1 - f), c * i * (1 - z.square()), flow[0] * shown * o * (1 - o))
    return deltas, (torch.zeros_like(c), c * f)


def _gru(w: Tensor, r: Tensor, b: Tensor, states: Tensors) -> tuple[Tensors, Tensors]:
    inner = r[:, 0] + b[0]
    reset = torch.sigmoid(w[:, 0] + r[:, 1] + b[1])
    update = torch.sigmoid(w[:, 1] + r[:, 2] + b[2])
    new = torch.tanh(w[:, 2] + b[3] + reset * inner)
    return (new + update * (states[0] - new),), (inner, reset, update, new)


def _gru_backward(flow: Tensors, kept: Tensors, before: Tensors, after: Tensors) -> tuple[Tensors, Tensors]:
    inner, reset, update, new = kept
    of_new = flow[0] * (1 - update) * (1 - new.square())
    of_update = flow[0] * (before[0] - new) * update * (1 - update)
    return (of_new * reset, of_new * inner * reset * (1 - reset), of_update, of_new), (flow[0] * update,)


def _slstm(w: Tensor, r: Tensor, b: Tensor, states: Tensors) -> tuple[Tensors, Tensors]:
    _, c, n, m = states
    i, f, z, o = (w + r + b).unbind(1)
    z, o, forgotten = z.tanh(), o.sigmoid(), F.logsigmoid(f) + m.detach()
    stabiliser = torch.where(n == 0, i, torch.maximum(i, forgotten)).detach()
    enter = torch.exp(i - stabiliser)
    stay = torch.exp((forgotten - stabiliser).clamp(max=0)).masked_fill(n == 0, 0.0)  # unbounded where n = 0, and inf · 0 is NaN
    c = stay * c + enter * z
    n = (stay * n + enter).clamp(min=1)
    return (o * c / n, c, n, stabiliser), (enter, stay, z, o, torch.sigmoid(-f))


def _slstm_backward(flow: Tensors, kept: Tensors, before: Tensors, after: Tensors) -> tuple[Tensors, Tensors]:
    enter, stay, z, o, closed = kept
    _, c, n, _ = after
    of_c = flow[1] + flow[0] * o / n
    of_n = flow[2] - flow[0] * o * c / n.square()
    of_n = torch.where(stay * before[2] + enter < 1, 0.0, of_n)  # where the bound holds n, which a start from zero never meets
    deltas = (
        (of_c * z + of_n) * enter,
        (of_c * before[1] + of_n * before[2]) * stay * closed,
        of_c * enter * (1 - z.square()),
        flow[0] * c / n * o * (1 - o),
    )
    return deltas, (torch.zeros_like(c), of_c * stay, of_n * stay, torch.zeros_like(c))


CELLS: dict[str, Cell] = {
    "elman": Cell(1, 1, 1, 1, 0, _elman, _elman_backward),
    "elman-relu": Cell(1, 1, 1, 1, 0, _rectified, _rectified_backward),
    "lstm": Cell(4, 4, 4, 2, 4, _lstm, _lstm_backward),
    "gru": Cell(3, 3, 4, 1, 4, _gru, _gru_backward),
    "slstm": Cell(4, 4, 4, 4, 5, _slstm, _slstm_backward),
    "elman-sigmoid": Cell(1, 1, 1, 1, 0, _logistic, _logistic_backward),
}
"""Every cell by name; compiled forms know a cell by its place."""
