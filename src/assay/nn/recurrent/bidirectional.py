"""`Bidirectional`: one recurrent network from the left, one from the right, and a map of both; any causal mixer will do."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from assay.nn.linear import Linear
from assay.nn.recurrent.reference import LSTM


class Bidirectional(nn.Module):
    """``y_t = W_f →(x)_t + W_b ←(x)_t + b``: what a mixer reads up to t, and what another reads from the end back to t.

    The backward mixer begins at each sequence's own last real position. With ``look_ahead`` k it begins at t + k instead: the output then
    depends on k later positions alone, can be given with a delay of k, and costs k + 1 backward steps a position.

    Source: Schuster, Paliwal (1997), Bidirectional recurrent neural networks.

    Args:
        forward_mixer: a causal mixer of that width.
        backward_mixer: another.
        width: numbers per position.
        look_ahead: k, positions that the backward mixer may see; by default all.

    Shapes: x (batch, length, width); mask (batch, length), True = real.

    Raises:
        ValueError: a mixer that is not causal, or a negative ``look_ahead``.
        NotImplementedError: asked for a stream (``step``): use ``look_ahead`` and a window of that many positions.
    """

    causal = False

    def __init__(self, forward_mixer: nn.Module, backward_mixer: nn.Module, width: int, look_ahead: int | None = None) -> None:
        super().__init__()
        for mixer in (forward_mixer, backward_mixer):
            if not getattr(mixer, "causal", False):
                raise ValueError(f"a direction must be a causal mixer, and {type(mixer).__name__} is none")
        if look_ahead is not None and look_ahead < 0:
            raise ValueError(f"look_ahead must be at least 0, got {look_ahead}")
        self.width, self.look_ahead = width, look_ahead
        self.forward_mixer, self.backward_mixer = forward_mixer, backward_mixer
        self.combine = Linear(2 * width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mix the whole sequence."""
        return self.combine(torch.cat(self.directions(x, mask), -1))

    def directions(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What each direction gives, both (batch, length, width)."""
        forwards = self.forward_mixer(x, mask)
        if self.look_ahead is not None:
            return forwards, self._windows(x, mask, self.look_ahead)
        if mask is None:
            return forwards, self.backward_mixer(x.flip(1)).flip(1)
        order = reversal(mask)[..., None].expand_as(x)
        return forwards, self.backward_mixer(x.gather(1, order), mask).gather(1, order)

    def step(self, x_t: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Not possible: what comes later decides, too."""
        raise NotImplementedError("a bidirectional network cannot read a stream; with look_ahead=k, give it windows of k later positions")

    def _windows(self, x: Tensor, mask: Tensor | None, ahead: int) -> Tensor:
        """The backward mixer's last output over t + k … t, for every t at once."""
        batch, length, width = x.shape
        if length == 0:
            return x
        real = torch.ones(batch, length, dtype=torch.bool, device=x.device) if mask is None else mask
        windows = nn.functional.pad(x, (0, 0, 0, ahead)).unfold(1, ahead + 1, 1).transpose(2, 3)
        seen = nn.functional.pad(real, (0, ahead)).unfold(1, ahead + 1, 1)
        # a masked position is its own window's last one and would be zero, or a repeat: either is left out by whoever reads the mask
        return self.backward_mixer(windows.flatten(0, 1).flip(1), seen.flatten(0, 1).flip(1))[:, -1].view(batch, length, width)


class BidirectionalLSTM(Bidirectional):
    """Two stacks of `torch.nn.LSTM`, one from each end; see `Bidirectional`.

    Source: Graves, Schmidhuber (2005), Framewise phoneme classification with bidirectional LSTM.

    Args:
        width: numbers per position, and hidden units of either direction.
        layers: stacked layers of either direction.
        look_ahead: positions that the backward direction may see; by default all.
    """

    def __init__(self, width: int, layers: int = 1, look_ahead: int | None = None) -> None:
        super().__init__(LSTM(width, layers), LSTM(width, layers), width, look_ahead)


def reversal(mask: Tensor) -> Tensor:
    """Indices (batch, length) that turn the real positions of each row around and leave the masked ones where they are.

    ``x.gather(1, reversal(mask))`` twice is x again, so the same indices bring the outputs back.

    Args:
        mask: (batch, length), True = real.
    """
    length = mask.shape[1]
    places = torch.arange(length, device=mask.device).expand_as(mask)
    rank = mask.cumsum(1) - 1
    # the position of the r-th real one; the place beyond the end collects the masked ones
    position = places.new_zeros(mask.shape[0], length + 1).scatter(1, torch.where(mask, rank, length), places)
    mirrored = position.gather(1, (rank[:, -1:] - rank).clamp(min=0, max=length))
    return torch.where(mask, mirrored, places)
