"""`quadratic_learning_rate`: the step of a fresh network along the sign of its gradient, by the curvature of its own loss."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import torch
from torch import Tensor, nn

from assay.contracts import Batch, Output, Task

_MOVE = 1e-3
"""Length of the trial step relative to the parameters: small enough for the difference to be a derivative in single precision."""


def quadratic_learning_rate(model: nn.Module, task: Task, batch_size: int = 32, batches: int = 8) -> float:
    """Adam's first step is ``−η sign(g)``; along it the loss of the linearised network is least at ``η* = ‖g‖₁ / (sᵀ G s)``.

    ``g`` is the gradient of the training loss, ``s = sign(g)``, ``G = Jᵀ H J`` the Gauss–Newton matrix (J the derivative of the
    predictions with respect to the parameters, H the second derivative of the loss with respect to the predictions). ``J s`` is the
    difference of two forward passes, so that every network has it. Numerators and denominators are added over the batches; the result is
    that of the network as it is, and falls with its width as ``1/width``.

    Args:
        model: a fresh network; it is left as it was.
        task: gives batches and the loss.
        batch_size: examples a batch.
        batches: training batches looked at.

    Returns:
        η*, positive and finite.

    Raises:
        ValueError: fewer than one batch; no gradient or no curvature reaches the parameters (a network whose output is constant).

    Source: D. Kingma and J. Ba, Adam, 2015 (the first step); N. Schraudolph, Fast curvature matrix-vector products, 2002 (``G``).
    """
    if batches < 1:
        raise ValueError(f"batches must be at least 1, got {batches}")
    trial = copy.deepcopy(model).train()
    slope = curvature = 0.0
    for number, batch in enumerate(itertools.islice(task.training_batches(batch_size, 0), batches)):
        falls, bends = _along_the_sign(trial, task, batch, seed=number)
        slope, curvature = slope + falls, curvature + bends
    rate = slope / curvature if curvature > 0 else math.nan
    if not (math.isfinite(rate) and rate > 0):
        raise ValueError(f"along the gradient's sign the loss has slope {slope:.3g} and curvature {curvature:.3g}, which name no step")
    return rate


def _along_the_sign(model: nn.Module, task: Task, batch: Batch, seed: int) -> tuple[float, float]:
    """``‖g‖₁`` and ``sᵀ G s`` on one batch."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    output = _forward(model, batch, seed)
    gradients = torch.autograd.grad(_loss(task, output, batch), parameters, allow_unused=True, materialize_grads=True)
    size = torch.stack([parameter.detach().square().mean().sqrt() for parameter in parameters if parameter.numel()]).mean()
    move = _MOVE * float(size)
    with torch.no_grad():
        before = [parameter.detach().clone() for parameter in parameters]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.add_(gradient.sign(), alpha=move)
        moved = (_forward(model, batch, seed).prediction - output.prediction) / move
        for parameter, value in zip(parameters, before, strict=True):
            parameter.copy_(value)
    return float(sum(gradient.abs().sum() for gradient in gradients)), _bend(task, output.prediction.detach(), moved, batch)


def _bend(task: Task, prediction: Tensor, direction: Tensor, batch: Batch) -> float:
    """``uᵀ H u``: the second derivative of the loss when the prediction moves along u."""
    with torch.enable_grad():
        point = prediction.requires_grad_()
        (first,) = torch.autograd.grad(task.loss(Output(point), batch), point, create_graph=True)
        if not first.requires_grad:
            return 0.0
        (second,) = torch.autograd.grad((first * direction).sum(), point, allow_unused=True, materialize_grads=True)
    return float((second * direction).sum())


def _forward(model: nn.Module, batch: Batch, seed: int) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # the same dropout in both passes
        return model(batch)


def _loss(task: Task, output: Any, batch: Batch) -> Tensor:
    return task.loss(output, batch) + sum(output.losses.values())
