"""Activations by name, gated ones among them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from assay import registry


class SquaredReLU(nn.Module):
    """``y = max(x, 0)²``, any shape. Source: So et al. (2021), Primer: Searching for Efficient Transformers for Language Modeling."""

    def forward(self, x: Tensor) -> Tensor:
        """Map x (any shape) to y of the same shape."""
        return F.relu(x).square()


class Erf(nn.Module):
    """``y = erf(x)``, any shape: much like tanh(1.13 x), and its infinitely wide networks are known in closed form.

    Source: Williams (1997), Computing with Infinite Networks.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map x (any shape) to y of the same shape."""
        return torch.erf(x)


class GatedActivation(nn.Module):
    """``y = v ∘ φ(g)`` of the halves ``x = (v, g)``; a subclass says φ. x is (..., 2 · size), y is (..., size).

    Source: Dauphin, Fan, Auli, Grangier (2017), Language Modeling with Gated Convolutional Networks; Shazeer (2020), GLU Variants
    Improve Transformer.

    Raises:
        ValueError: x cannot be halved.
    """

    gated = True

    def gate(self, x: Tensor) -> Tensor:
        """φ."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., 2 · size) to (..., size)."""
        if x.shape[-1] % 2:
            raise ValueError(f"a gated activation halves its input, so the last size must be even, got {tuple(x.shape)}")
        value, gate = x.chunk(2, -1)
        return value * self.gate(gate)


class GLU(GatedActivation):
    """`GatedActivation` with the logistic function."""

    def gate(self, x: Tensor) -> Tensor:
        """1 / (1 + e^−x)."""
        return x.sigmoid()


class SwiGLU(GatedActivation):
    """`GatedActivation` with SiLU."""

    def gate(self, x: Tensor) -> Tensor:
        """x / (1 + e^−x)."""
        return F.silu(x)


class GEGLU(GatedActivation):
    """`GatedActivation` with GELU."""

    def gate(self, x: Tensor) -> Tensor:
        """x Φ(x)."""
        return F.gelu(x)


class ReGLU(GatedActivation):
    """`GatedActivation` with ReLU."""

    def gate(self, x: Tensor) -> Tensor:
        """max(x, 0)."""
        return F.relu(x)


def activation(name: str) -> nn.Module:
    """A fresh activation by its registered name, or by ``file.py:Class``; its parameters, if it has any, are its own.

    Raises:
        UserError: nothing has that name.
    """
    return registry.resolve("activation", name)()
