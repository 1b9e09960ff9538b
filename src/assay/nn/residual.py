"""`ScaledResidual`: a residual sum with a damping constant."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class ScaledResidual(nn.Module):
    """A residual sum whose branch is damped: ``y = activation(x + s · branch(x))``.

    Very wide residual networks die early in training unless s is about 0.1 to 0.3. With s = 0 and x ≥ 0 the part is the identity.

    Source: Szegedy, Ioffe, Vanhoucke, Alemi, Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning, 2016.

    Args:
        branch: maps x to something of x's shape.
        scale: s.
        learnable: whether s is a parameter.
        activation: makes the activation after the sum, or None.

    Raises:
        ValueError: the branch gives another shape than x's.
    """

    def __init__(
        self, branch: nn.Module, scale: float = 0.2, learnable: bool = False, activation: Callable[[], nn.Module] | None = nn.ReLU
    ) -> None:
        super().__init__()
        self.branch = branch
        self.scale = nn.Parameter(torch.tensor(float(scale))) if learnable else float(scale)
        self.activation = activation() if activation else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map x to y of the same shape."""
        change = self.branch(x)
        if change.shape != x.shape:
            raise ValueError(f"the branch must keep x's shape {tuple(x.shape)}, it gave {tuple(change.shape)}")
        # not in place: the branch still needs x for its gradient
        return self.activation(x + self.scale * change)
