"""`MLP`: a plain stack of linear maps, of any depth, with the initialisations that experiments on depth ask for."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from assay.contracts import Batch, Class, Image, Output, Series, Signature, Table, Values
from assay.nn.channel.activation import activation as make_activation
from assay.nn.linear import Linear

INITIALISATIONS = ("he", "simple", "sussillo-abbott", "zero", "default")

NORMS: dict[str, Callable[[int], list[nn.Module]]] = {
    "none": lambda width: [],
    "batch": lambda width: [nn.BatchNorm1d(width)],
    "layer": lambda width: [nn.LayerNorm(width)],
}


class MLP(nn.Module):
    """Flatten, then ``depth`` layers ``x ← f(W x + b)`` of ``width`` units, then a linear head.

    Initialisations of the weights (biases start at 0, but for ``default``): ``he`` N(0, 2/fan_in); ``simple`` N(0, 0.1²);
    ``sussillo-abbott`` g·N(0, 1/fan_in), g = √2·exp(1.2/(max(n, 6) − 2.4)) and g = 1 at the head (Sussillo & Abbott, Random Walk
    Initialization, 2014); ``zero``; ``default`` PyTorch's own.

    Args:
        signature: Table, Image or Series (flattened, padding read as 0) → Class or Values.
        width: units a hidden layer.
        depth: number of hidden layers.
        dropout: after every hidden layer.
        initialisation: one of the five above.
        activation: f, by name; one that gates halves its input and has no place here.
        norm: of the sums before f: ``none``, ``batch`` or ``layer``.

    Raises:
        ValueError: depth < 1, an unknown initialisation or norm, or a gated activation.
        UserError: no activation has that name.
    """

    def __init__(
        self,
        signature: Signature,
        width: int,
        depth: int = 2,
        dropout: float = 0.0,
        initialisation: str = "he",
        activation: str = "relu",
        norm: str = "none",
    ) -> None:
        super().__init__()
        if depth < 1:
            raise ValueError(f"depth must be at least 1, got {depth}")
        if initialisation not in INITIALISATIONS:
            raise ValueError(f"initialisation must be one of {', '.join(INITIALISATIONS)}, got {initialisation!r}")
        if norm not in NORMS:
            raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {norm!r}")
        self.signature = signature
        sizes = [input_size(signature), *[width] * depth]
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(sizes):
            layers += [Linear(fan_in, fan_out), *NORMS[norm](fan_out)]
            layers += [make_activation(activation), *([nn.Dropout(dropout)] if dropout else [])]
        if any(getattr(layer, "gated", False) for layer in layers):
            raise ValueError(f"activation {activation!r} is gated: it would halve the layers of an MLP")
        self.layers = nn.Sequential(*layers, Linear(width, signature.output.size * (signature.horizon or 1)))
        initialise(self.layers, initialisation)

    def forward(self, batch: Batch) -> Output:
        """Predict a batch."""
        x = next(batch[key] for key in ("table", "image", "series") if key in batch)
        if "mask" in batch:
            x = torch.where(batch["mask"][..., None], x, 0.0)
        return Output(self.predict(x))

    def predict(self, x: Tensor) -> Tensor:
        """The prediction for raw inputs ``x`` (batch, ...)."""
        y = self.layers(x.flatten(1))
        return y if self.signature.horizon is None else y.unflatten(-1, (self.signature.horizon, self.signature.output.size))


def initialise(layers: nn.Sequential, initialisation: str) -> None:
    """Set the weights of every linear layer in place; see `MLP` for the five kinds."""
    if initialisation == "default":
        return
    linears = [layer for layer in layers if isinstance(layer, nn.Linear)]
    for layer in linears:
        fan_in = layer.in_features
        gain = 1.0 if layer is linears[-1] else math.sqrt(2) * math.exp(1.2 / (max(fan_in, 6) - 2.4))
        deviation = {"he": math.sqrt(2 / fan_in), "simple": 0.1, "sussillo-abbott": gain / math.sqrt(fan_in), "zero": 0.0}[initialisation]
        with torch.no_grad():
            layer.weight.normal_(0, deviation)
            layer.bias.zero_()


def input_size(signature: Signature) -> int:
    """Numbers in one flattened example."""
    kind = signature.input
    if isinstance(kind, Table):
        return kind.features
    if isinstance(kind, Image):
        return kind.channels * kind.height * kind.width
    assert isinstance(kind, Series)  # what `MLPFamily.accepts` lets through
    return kind.length * kind.channels


class MLPFamily:
    """Multi-layer perceptrons; one dial, the width."""

    coarse = range(1, 65537)
    fine = range(0, 1)

    def accepts(self, signature: Signature) -> str | None:
        """Tables, images and series to one class or some values."""
        if not isinstance(signature.input, Table | Image | Series):
            return f"an MLP reads a fixed number of values, not {type(signature.input).__name__}"
        if not isinstance(signature.output, Class | Values) or signature.per_position:
            return "an MLP predicts once an example"
        return None

    def network(self, signature: Signature, coarse: int, fine: int, **options: Any) -> nn.Module:
        """An MLP of width ``coarse``."""
        return MLP(signature, coarse, **options)
