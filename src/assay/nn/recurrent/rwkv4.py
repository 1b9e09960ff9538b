"""`RWKV4TimeMix`: a running average of values with exponential weights and decay in every channel, the time mixing of RWKV-4."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from assay.nn.linear import Linear
from assay.nn.mixer import StreamingMixer
from assay.nn.recurrent.cost import register_recurrence
from assay.ops.linear_recurrence import linear_recurrence
from assay.ops.running_maximum import running_maximum


class RWKV4State(NamedTuple):
    """``last`` x (batch, width); ``sums`` (batch, 2, width) of weights times values and of weights, over e^``maximum`` (batch, width)."""

    last: Tensor
    sums: Tensor
    maximum: Tensor


class RWKV4TimeMix(StreamingMixer):
    """``y = W_o(σ(r) ∘ wkv)`` with ``wkv_t = (Σ_{i<t} e^{k_i − (t−1−i)w} v_i + e^{u + k_t} v_t) / (the same without v)``.

    r, k, v are linear maps of ``μ ∘ x_t + (1 − μ) ∘ x_{t−1}``, each with its own learned μ; ``w = e^{log w} > 0`` and u a channel. Both
    sums are kept over e to their largest exponent so far, so that none overflows: any such number gives the same quotient.

    Source: Peng et al. (2023), RWKV: Reinventing RNNs for the Transformer Era. The starting values are those of a layer in the middle of
    the published stack.

    Args:
        width: numbers per position, and channels.
        bias: of the projections.

    Shapes: x (batch, length, width); mask (batch, length), True = real; state 4 · width numbers, whatever comes.

    Raises:
        ValueError: a width below 1; an input of another width.
    """

    positional = False  # decay and shift tell positions apart

    def __init__(self, width: int, *, bias: bool = False) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width must be at least 1, got {width}")
        self.width = width
        place = torch.arange(width) / max(width - 1, 1)
        self.log_decay_rate = nn.Parameter(-5 + 8 * place**1.35)
        self.bonus = nn.Parameter(torch.full((width,), 0.3).log() + 0.5 * ((torch.arange(width) + 1) % 3 - 1))
        share = (torch.arange(width) / width) ** 0.5
        self.shift = nn.Parameter(torch.stack([0.5 * share, share, (share + 0.15).clamp(max=1)]))  # μ of r, k, v
        self.receptance_projection, self.key_projection, self.value_projection = (Linear(width, width, bias) for _ in "rkv")
        self.output_projection = Linear(width, width, bias)

    def initial_state(self, batch_size: int) -> RWKV4State:
        """Nothing was read: zeros, over e to a number below any exponent."""
        weight = self.output_projection.weight
        dtype = torch.promote_types(weight.dtype, torch.float32)
        sums = weight.new_zeros(batch_size, 2, self.width, dtype=dtype)
        lowest = torch.finfo(dtype).min / 2  # finite, so that no difference is undefined
        return RWKV4State(weight.new_zeros(batch_size, self.width), sums, torch.full_like(sums[:, 0], lowest))

    def scan(self, x: Tensor, state: RWKV4State, mask: Tensor | None = None) -> tuple[Tensor, RWKV4State]:
        """Mix a chunk (batch, length, width), continuing from ``state``."""
        if x.ndim != 3 or x.shape[-1] != self.width:
            raise ValueError(f"x must have shape (batch, length, {self.width}), got {tuple(x.shape)}")
        state = RWKV4State(*state)
        if x.shape[1] == 0:
            return x, state
        before, last = _previous(x, state.last, mask)
        mixed = [before + share * (x - before) for share in self.shift]
        projections = (self.receptance_projection, self.key_projection, self.value_projection)
        receptance, keys, values = (project(part) for project, part in zip(projections, mixed, strict=True))
        average, sums, maximum = self._average(keys.to(state.sums.dtype), values.to(state.sums.dtype), state, mask)
        return self.output_projection(receptance.sigmoid() * average.to(x.dtype)), RWKV4State(last, sums, maximum)

    def _average(self, keys: Tensor, values: Tensor, state: RWKV4State, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """wkv (batch, length, width), the sums after the last position and their exponent."""
        rate = self.log_decay_rate.to(keys.dtype).exp()
        maximum = _largest_exponents(keys.detach(), rate.detach(), state.maximum, mask)
        kept = (maximum[:, :-1] - rate - maximum[:, 1:]).exp()
        exponents = keys - maximum[:, 1:]
        if mask is not None:  # what is not counted in the maximum could overflow
            exponents = exponents.masked_fill(~mask[..., None], 0.0)
        weight = exponents.exp()
        added = torch.stack([weight * values, weight], 2)
        after, last = linear_recurrence(kept[:, :, None], added, state.sums, mask)
        before = torch.cat([state.sums[:, None], after[:, :-1]], 1)
        # the present position counts e^u times more than it will in the sums
        present = self.bonus + keys
        largest = torch.maximum(maximum[:, :-1], present.detach())
        past, now = (maximum[:, :-1] - largest).exp(), (present - largest).exp()
        average = (past * before[:, :, 0] + now * values) / (past * before[:, :, 1] + now)
        return average, last, maximum[:, -1]


def _largest_exponents(keys: Tensor, rate: Tensor, before: Tensor, mask: Tensor | None) -> Tensor:
    """``m_t = max(m_{t−1} − w, k_t)`` behind the state and every position, (batch, length + 1, width).

    With t counting real positions, ``m_t + t w`` is a running maximum of ``k_t + t w``. Digits that this loses do not matter.
    """
    read = torch.arange(1, keys.shape[1] + 1, device=keys.device).expand(keys.shape[:2]) if mask is None else mask.cumsum(1)
    grown = read[..., None] * rate
    raised = keys + grown
    if mask is not None:
        raised = raised.masked_fill(~mask[..., None], torch.finfo(keys.dtype).min / 2)
    running = running_maximum(torch.cat([before[:, None], raised], 1))
    return torch.cat([before[:, None], running[:, 1:] - grown], 1)


def _previous(x: Tensor, last: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """The real input before each position, and the last of all; ``last`` is the one before the chunk."""
    seen = torch.cat([last[:, None], x], 1)
    if mask is None:
        return seen[:, :-1], seen[:, -1]
    places = torch.arange(1, x.shape[1] + 1, device=x.device)
    places = running_maximum(torch.where(mask, places, 0))
    latest = seen.gather(1, places[..., None].expand_as(x))
    return torch.cat([last[:, None], latest[:, :-1]], 1), latest[:, -1]


# per channel: the running maximum and exponentials, two sums kept and two read, and the three shifts
register_recurrence(RWKV4TimeMix, lambda module: 24 * module.width)
