"""`HyperNetworkLinear`: a linear map whose weights another network makes."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from assay.nn.linear import Linear


class HyperNetworkLinear(nn.Module):
    """A linear map with weights of its own for every condition: ``y = W(c) x + b(c)``, ``(W, b)(c) = W₂ relu(W₁ c + b₁) + b₂``.

    W₂ is drawn so that, for conditions with components of variance 1, the entries of W(c) start with variance ``1 / (3 · inputs)``,
    that of `torch.nn.Linear`; drawn as an ordinary layer, W₂ would make y larger the more inputs there are. b(c) starts at 0.

    Source: Ha, Dai, Le (2016), HyperNetworks; the initialisation follows Chang, Flokas, Lipson (2020), Principled Weight Initialization
    for Hypernetworks.

    Args:
        inputs: numbers in x.
        outputs: numbers in y.
        condition: numbers in c.
        hidden: units between W₁ and W₂; the parameters grow with ``hidden · inputs · outputs``.

    Shapes: x (batch, ..., inputs), c (batch, condition), y (batch, ..., outputs).

    Raises:
        ValueError: a size below 1; an input or a condition of another width, or not one condition an example.
    """

    def __init__(self, inputs: int, outputs: int, condition: int, hidden: int = 32) -> None:
        super().__init__()
        if min(inputs, outputs, condition, hidden) < 1:
            raise ValueError(f"all sizes must be at least 1, got {inputs=}, {outputs=}, {condition=}, {hidden=}")
        self.inputs, self.outputs, self.condition = inputs, outputs, condition
        self.expand = Linear(condition, hidden)
        self.generate = Linear(hidden, outputs * (inputs + 1))
        nn.init.kaiming_normal_(self.expand.weight, nonlinearity="relu")  # a hidden unit then has a mean square of 1
        nn.init.zeros_(self.expand.bias)
        nn.init.normal_(self.generate.weight, std=1 / math.sqrt(3 * inputs * hidden))
        nn.init.zeros_(self.generate.weight[outputs * inputs :])
        nn.init.zeros_(self.generate.bias)

    def weights(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        """W(c), (batch, outputs, inputs), and b(c), (batch, outputs), for conditions (batch, condition)."""
        made = self.generate(torch.relu(self.expand(condition)))
        weight, bias = made.split([self.outputs * self.inputs, self.outputs], -1)
        return weight.unflatten(-1, (self.outputs, self.inputs)), bias

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Map x (batch, ..., inputs) to (batch, ..., outputs), each example by the weights of its own condition."""
        if x.ndim < 2 or x.shape[-1] != self.inputs:
            raise ValueError(f"x must be (batch, ..., {self.inputs}), got {tuple(x.shape)}")
        if condition.shape != (x.shape[0], self.condition):
            raise ValueError(f"the condition must be ({x.shape[0]}, {self.condition}), got {tuple(condition.shape)}")
        weight, bias = self.weights(condition)
        rows = x.flatten(1, -2) if x.ndim > 2 else x[:, None]
        y = torch.baddbmm(bias[:, None], rows, weight.transpose(1, 2))
        return y.view(*x.shape[:-1], self.outputs)
