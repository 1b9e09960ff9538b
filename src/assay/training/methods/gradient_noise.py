"""Annealed Gaussian noise on gradients.

Neelakantan et al., Adding Gradient Noise Improves Learning for Very Deep Networks, 2015.

What it does: adds ``N(0, σ_t²)`` to every gradient entry before the optimiser's step. When to use it: very deep, badly initialised
or algorithmic networks that do not start to learn; a well initialised network gains nothing. What it costs: one normal draw a
parameter and step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from assay.contracts import Gradients, Method, Task, Update

Scale = Literal["absolute", "relative"]


def annealed_variance(step: int, eta: float, gamma: float = 0.55) -> float:
    """The variance ``σ_t² = η / (1 + t)^γ`` at optimiser step t, counted from 0."""
    return eta / (1 + step) ** gamma


def add_gradient_noise_(
    parameters: Iterable[nn.Parameter], variance: float, generator: torch.Generator | None = None, scale: Scale = "absolute"
) -> None:
    """Add fresh Gaussian noise to every gradient in place: ``g ← g + N(0, variance)``.

    One flat draw serves all parameters, in their order; a parameter without gradient gets none, one that appears twice (tied
    weights) gets one. Half-precision gradients receive noise drawn in float32.

    Args:
        parameters: whose ``.grad`` is changed.
        variance: σ², not the standard deviation. Exactly 0 leaves the gradients bit-identical and draws nothing.
        generator: the source of the noise, on the CPU, so that every process and device draws the same.
        scale: ``absolute`` as published; ``relative`` multiplies σ by the root mean square of each gradient.

    Raises:
        ValueError: the variance is negative or not finite, or a gradient is sparse.
    """
    if not (variance >= 0 and math.isfinite(variance)):
        raise ValueError(f"variance must be finite and at least 0, got {variance}")
    gradients = [p.grad for p in dict.fromkeys(parameters) if p.grad is not None]
    if variance == 0 or not gradients:
        return
    if any(gradient.is_sparse for gradient in gradients):
        raise ValueError("a gradient is sparse: use dense embeddings (sparse=False) with gradient noise")
    flat = torch.randn(sum(gradient.numel() for gradient in gradients), generator=generator).mul_(math.sqrt(variance))
    noise = [
        part.view(gradient.shape).to(gradient)
        for part, gradient in zip(flat.split([gradient.numel() for gradient in gradients]), gradients, strict=True)
    ]
    if scale == "relative":
        noise = [part * gradient.square().mean().sqrt() for part, gradient in zip(noise, gradients, strict=True)]
    torch._foreach_add_(gradients, noise)


class GradientNoise(Method):
    """Annealed gradient noise: ``g_t ← g_t + N(0, σ_t²)``, ``σ_t² = η/(1 + t)^γ``, t the optimiser step from 0.

    Args:
        eta: variance at the first step; the paper tries 0.01, 0.3 and 1.
        gamma: rate of decay; 0 keeps the variance constant.
        order: ``after_clipping`` adds the noise just before the optimiser's step, so that clipping does not remove it;
            ``before_clipping`` right after the backward pass.
        scale: ``absolute`` as published, or ``relative`` to each gradient's root mean square.
        seed: of the method's own generator; the same on every process, so that data-parallel replicas stay equal.

    Raises:
        ValueError: eta or gamma is negative, or order or scale unknown.
    """

    def __init__(
        self,
        eta: float = 0.01,
        gamma: float = 0.55,
        order: Literal["after_clipping", "before_clipping"] = "after_clipping",
        scale: Scale = "absolute",
        seed: int = 0,
    ) -> None:
        if eta < 0 or gamma < 0:
            raise ValueError(f"eta and gamma must be at least 0, got eta={eta}, gamma={gamma}")
        if order not in ("after_clipping", "before_clipping"):
            raise ValueError(f"order must be after_clipping or before_clipping, got {order!r}")
        if scale not in ("absolute", "relative"):
            raise ValueError(f"scale must be absolute or relative, got {scale!r}")
        self.eta, self.gamma, self.order = eta, gamma, order
        self.scale: Scale = scale
        self.generator = torch.Generator().manual_seed(seed)
        self.step = 0
        self._parameters: list[nn.Parameter] = []

    def setup(self, model: nn.Module, task: Task | None = None) -> None:
        """Remember whose gradients get noise: every trained parameter."""
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def add(self) -> None:
        """Add this step's noise and advance the schedule."""
        add_gradient_noise_(self._parameters, annealed_variance(self.step, self.eta, self.gamma), self.generator, self.scale)
        self.step += 1

    def gradients(self, next: Gradients) -> Gradients:
        """Add the noise after the backward pass when it goes before clipping."""
        if self.order == "after_clipping":
            return next

        def noisy(model: nn.Module, batch: dict[str, Tensor]) -> Any:
            output = next(model, batch)
            self.add()
            return output

        return noisy

    def update(self, next: Update) -> Update:
        """Add the noise just before the optimiser's step when it goes after clipping."""
        if self.order == "before_clipping":
            return next

        def noisy(optimizer: torch.optim.Optimizer) -> None:
            self.add()
            next(optimizer)

        return noisy

    def register(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Any:
        """Use the method in a plain PyTorch loop: noise before every ``optimizer.step()``; returns the hook's handle."""
        self.setup(model)
        return optimizer.register_step_pre_hook(lambda *_: self.add())

    def state_dict(self) -> dict[str, Any]:
        """The step and the generator's state."""
        return {"step": self.step, "generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved step with the same noise as without interruption."""
        self.step = state["step"]
        self.generator.set_state(state["generator"])


def suggest_eta(model: nn.Module, learning_rate: float, steps: int, gamma: float = 0.55) -> float:
    """The η whose noise alone brings every sub-critical ReLU layer to criticality at the end of ``steps`` SGD steps.

    Injected noise random-walks a weight to variance ``α² η t^(1−γ)/(1−γ)``; a ReLU layer of fan-in n is critical at weight variance
    ``2/n``. Hence ``η = max over layers of (1−γ)(2/n − s₀²)/(α² t^(1−γ))``, s₀² the layer's variance now; 0 if no layer is
    sub-critical.

    Args:
        model: its linear and convolutional layers are looked at.
        learning_rate: α of plain SGD.
        steps: t, the optimiser steps of the run.
        gamma: of the schedule, below 1.

    Raises:
        ValueError: gamma is not in [0, 1), or the learning rate or the steps are not positive.
    """
    if not 0 <= gamma < 1:
        raise ValueError(f"gamma must be in [0, 1) for the sum of variances to grow, got {gamma}")
    if learning_rate <= 0 or steps <= 0:
        raise ValueError(f"learning_rate and steps must be positive, got {learning_rate} and {steps}")
    growth = learning_rate**2 * steps ** (1 - gamma) / (1 - gamma)
    return max((missing / growth for missing in _missing_variances(model)), default=0.0)


def onset_step(model: nn.Module, learning_rate: float, eta: float, gamma: float = 0.55) -> float:
    """The step t* at which noise alone has made the most sub-critical layer critical: `suggest_eta` solved for t."""
    missing = max(_missing_variances(model), default=0.0)
    return ((1 - gamma) * missing / (learning_rate**2 * eta)) ** (1 / (1 - gamma))


def _missing_variances(model: nn.Module) -> list[float]:
    """By layer, how far its weight variance is below 2/fan_in (layers at or above it are left out)."""
    layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d)]
    missing = [2 / layer.weight[0].numel() - float(layer.weight.detach().square().mean()) for layer in layers]
    return [value for value in missing if value > 0]
