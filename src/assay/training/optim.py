"""Optimisers that papers used and torch has not: RMSProp as TensorFlow computes it; and papers' settings of the usual ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter


class RMSpropTF(torch.optim.Optimizer):
    """RMSProp with ε inside the root and a mean square that starts at one.

    ``v ← ρ v + (1 − ρ) g²``, ``m ← μ m + η g / √(v + ε)``, ``p ← p − m``, with v₀ = 1, m₀ = 0. (torch's RMSprop has √v + ε and
    v₀ = 0, so that its first steps are far longer, and ε = 1 means something else.)

    Source: as used with ρ = 0.9, ε = 1 by Szegedy, Ioffe, Vanhoucke, Alemi, Inception-v4, 2016.

    Args:
        params: what to optimise.
        lr: η.
        alpha: ρ.
        eps: ε.
        momentum: μ.
        weight_decay: λ; ``g ← g + λ p``.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.045,
        alpha: float = 0.9,
        eps: float = 1.0,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        if lr < 0 or not 0 <= alpha < 1 or eps <= 0 or momentum < 0 or weight_decay < 0:
            raise ValueError(f"RMSpropTF got lr {lr}, alpha {alpha}, eps {eps}, momentum {momentum}, weight_decay {weight_decay}")
        super().__init__(params, {"lr": lr, "alpha": alpha, "eps": eps, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: Parameter, group: dict[str, Any]) -> None:
        gradient = parameter.grad
        assert gradient is not None
        if group["weight_decay"]:
            gradient = gradient.add(parameter, alpha=group["weight_decay"])
        state: dict[str, Tensor] = self.state[parameter]
        if not state:
            state["square_average"] = torch.ones_like(parameter)
            state["momentum_buffer"] = torch.zeros_like(parameter)
        square = state["square_average"].mul_(group["alpha"]).addcmul_(gradient, gradient, value=1 - group["alpha"])
        change = gradient * (square + group["eps"]).rsqrt_()
        # the rate is inside the momentum, so that a schedule acts on new gradients only
        momentum = state["momentum_buffer"].mul_(group["momentum"]).add_(change, alpha=group["lr"])
        parameter.sub_(momentum)


def simplenet_adadelta(parameters: Iterable[Parameter], learning_rate: float = 0.1) -> torch.optim.Optimizer:
    """The optimiser of SimpleNet's CIFAR networks: Adadelta, ρ 0.9, ε 0.001, weight decay 0.001 (rate 0.1).

    With torch's own ε of 10⁻⁶ it would hardly move.
    """
    return torch.optim.Adadelta(parameters, lr=learning_rate, rho=0.9, eps=1e-3, weight_decay=1e-3)


def inception_rmsprop(parameters: Iterable[Parameter], learning_rate: float = 0.045) -> torch.optim.Optimizer:
    """The optimiser of Inception-v4 and the Inception-ResNets: `RMSpropTF` with ρ 0.9, ε 1 (rate 0.045, × 0.94 every two epochs)."""
    return RMSpropTF(parameters, lr=learning_rate, alpha=0.9, eps=1.0)
