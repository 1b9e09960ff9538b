"""Filters as long as the sequence: learned tap by tap, or as a small network's function of the position."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from assay.nn.linear import Linear

LOWEST_FREQUENCY = 1e-4  # as published: almost, not quite, constant


class ExplicitFilter(nn.Module):
    """Every tap is a parameter, drawn from N(0, 1 / length).

    Arora et al. (2023) draw from N(0, 1), which makes the outputs of long filters √length times as large as their inputs.

    Args:
        width: channels.
        length: taps.
    """

    def __init__(self, width: int, length: int) -> None:
        super().__init__()
        _check(width, length)
        self.weight = nn.Parameter(torch.randn(width, length) / math.sqrt(length))

    def forward(self) -> Tensor:
        """All taps, (width, length)."""
        return self.weight


class ImplicitFilter(nn.Module):
    """``h_t = W₂ relu(W₁ z_t + b₁) + b₂``: few parameters however long the filter, and taps that vary slowly.

    ``z_t = (t / (length − 1), cos(f w_t) …, −sin(f w_t) …)`` with ``w_t = 2πt / length`` and f evenly spaced in [10⁻⁴, bands − 1].

    Source: BaseConv's filter of Arora, Eyuboglu, Timalsina, Johnson, Poli, Zou, Rudra, Ré (2023), Zoology.

    Args:
        width: channels.
        length: taps.
        hidden: hidden units.
        bands: frequencies of the position features.
    """

    def __init__(self, width: int, length: int, hidden: int = 16, bands: int = 1) -> None:
        super().__init__()
        _check(width, length)
        self.length, self.bands = length, bands
        self.expand = Linear(2 * bands + 1, hidden)
        self.contract = Linear(hidden, width)

    def forward(self) -> Tensor:
        """All taps, (width, length), in float32 or wider."""
        z = position_features(self.length, self.bands, self.expand.weight)
        return _linear(F.relu(_linear(z, self.expand)), self.contract).T


class SineFilter(nn.Module):
    """``h_t = e^{−t |δ|} ∘ W sin(a ∘ (W₂ sin(a ∘ (W₁ sin(a ∘ (W₀ z_t)) …``: a network of sines under a window that decays.

    z as in `ImplicitFilter`; the frequencies a are learned and start at 1; t runs from 0 to 1; δ, one a channel, is evenly spaced between
    rates that bring the window down to 0.01 at t = 1.5 and at t = 0.3.

    Source: Poli, Massaroli, Nguyen, Fu, Dao, Baccus, Bengio, Ermon, Ré (2023), Hyena Hierarchy: Towards Larger Convolutional Language
    Models.

    Args:
        width: channels.
        length: taps.
        hidden: units of each of the three hidden layers.
        bands: frequencies of the position features.
    """

    def __init__(self, width: int, length: int, hidden: int = 64, bands: int = 1) -> None:
        super().__init__()
        _check(width, length)
        self.width, self.length, self.bands = width, length, bands
        self.layers = nn.ModuleList([Linear(2 * bands + 1, hidden), Linear(hidden, hidden), Linear(hidden, hidden)])
        self.frequency = nn.Parameter(torch.ones(hidden))
        self.contract = Linear(hidden, width, bias=False)

    def forward(self) -> Tensor:
        """All taps, (width, length), in float32 or wider."""
        h = z = position_features(self.length, self.bands, self.frequency)
        for layer in self.layers:
            h = torch.sin(self.frequency.to(z.dtype) * _linear(h, layer))
        rates = torch.linspace(-math.log(0.01) / 1.5, -math.log(0.01) / 0.3, self.width, device=z.device, dtype=z.dtype)
        return (_linear(h, self.contract) * torch.exp(-z[:, :1] * rates)).T


FILTERS: dict[str, type[nn.Module]] = {"explicit": ExplicitFilter, "implicit": ImplicitFilter, "sine": SineFilter}


def position_features(length: int, bands: int, like: Tensor) -> Tensor:
    """``(t / (length − 1), cos(f w_t) …, −sin(f w_t) …)`` of every position, (length, 2 · bands + 1), in float32 or wider."""
    dtype = torch.promote_types(like.dtype, torch.float32)  # bfloat16 could not tell a thousand positions apart
    position = torch.arange(length, device=like.device, dtype=dtype)[:, None]
    frequency = torch.linspace(LOWEST_FREQUENCY, bands - 1, bands, device=like.device, dtype=dtype)
    angle = frequency * (2 * math.pi / length) * position
    return torch.cat([position / max(length - 1, 1), torch.cos(angle), -torch.sin(angle)], 1)


def _linear(x: Tensor, layer: nn.Module) -> Tensor:
    """A linear layer in x's type, whatever its own."""
    assert isinstance(layer, nn.Linear)
    return F.linear(x, layer.weight.to(x.dtype), None if layer.bias is None else layer.bias.to(x.dtype))


def _check(width: int, length: int) -> None:
    if min(width, length) < 1:
        raise ValueError(f"width and length must be at least 1, got {width} and {length}")
