"""Hessian-free optimisation: each step goes to the minimum of a quadratic model of the loss, found by conjugate gradients.

Martens, Deep learning via Hessian-free optimization, 2010; Martens & Sutskever, Learning recurrent neural networks with Hessian-free
optimization, 2011.

What it does: models the loss by its gradient and the Gauss–Newton matrix, which is never formed, and steps to the damped model's minimum.
When to use it: simple recurrent networks over long delays, small networks, full or large batches (hundreds of examples); curvature of
small batches misleads. What it costs: an iteration of conjugate gradients is about two forward passes and one backward, and a step takes
up to ``iterations`` of them, so give it that many times fewer steps; memory of a few copies of the weights. The learning rate is not
used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vjp

from assay.contracts import Batch, Gradients, Method, Output, Task, Update

Vector = list[Tensor]
Product = Callable[[Vector], Vector]
DROP, BOOST = 2 / 3, 3 / 2
"""Of the damping, where the model foretells the loss well or badly."""
SHRINK, FEWEST = 0.8, 1e-3
"""Of a step that does not lower the loss, and the least share of it that is tried."""
PROGRESS = 5e-4


def gauss_newton(predict: Callable[[Vector], Tensor], loss: Callable[[Tensor], Tensor], weights: Sequence[Tensor]) -> Product:
    """The function ``v ↦ Jᵀ H J v``: J the derivative of the prediction by the weights, H the loss's second derivative by the prediction.

    For a loss that is convex in the prediction the matrix is positive semidefinite, as the Hessian need not be.

    Args:
        predict: the prediction as a function of the weights.
        loss: a scalar of the prediction.
        weights: where both derivatives are taken.

    Source: Schraudolph (2002), Fast curvature matrix-vector products for second-order gradient descent.
    """
    weights = [weight.detach() for weight in weights]
    answer: Any = vjp(predict, weights)
    prediction, pull = answer

    def product(direction: Vector) -> Vector:
        change: Any = jvp(predict, (weights,), (direction,))[1]
        felt: Any = jvp(grad(loss), (prediction.detach(),), (change,))[1]
        return list(pull(felt)[0])

    return product


def conjugate_gradients(product: Product, gradient: Vector, start: Vector, iterations: int) -> tuple[Vector, float]:
    """Nearly the minimum of ``q(δ) = gᵀδ + ½ δᵀ A δ`` and its value there; A is positive definite.

    It ends early when the last tenth of the iterations (ten at least) has lowered q by less than 0.05 % an iteration.

    Args:
        product: ``v ↦ A v``.
        gradient: g.
        start: δ to begin with.
        iterations: at most so many.
    """
    step = [part.clone() for part in start]
    image = product(step)
    residual = [a + g for a, g in zip(image, gradient, strict=True)]
    direction, size = [-part for part in residual], _dot(residual, residual)
    values = [0.5 * (_dot(step, residual) + _dot(step, gradient))]
    for index in range(iterations):
        if size == 0:
            break
        image = product(direction)
        curvature = _dot(direction, image)
        if not curvature > 0:  # rounding, or a loss that is not convex in the prediction: no minimum lies there
            break
        _add(step, size / curvature, direction)
        _add(residual, size / curvature, image)
        values.append(0.5 * (_dot(step, residual) + _dot(step, gradient)))
        back = max(10, (index + 1) // 10)
        if len(values) > back and values[-1] < 0 and values[-1] - values[-1 - back] > back * PROGRESS * values[-1]:
            break
        before, size = size, _dot(residual, residual)
        direction = [size / before * part - left for part, left in zip(direction, residual, strict=True)]
    return step, values[-1]


class HessianFree(Method):
    """In place of the optimiser's step, ``δ = argmin gᵀδ + ½ δᵀ (G + λI) δ``, G the Gauss–Newton matrix of the batch; see the module.

    λ follows Levenberg and Marquardt: with ρ the loss's fall over the fall that the model foretold, λ becomes ⅔ λ where ρ > ¾ and 1.5 λ
    where ρ < ¼. Conjugate gradients begin at ``decay`` times the last δ. A step that does not lower the batch's loss is shortened, or not
    taken. The gradient is what the methods inside left of it; losses that other methods add are in it, not in G. Name it last: methods
    after it that wrap the update are not asked.

    Args:
        damping: λ to begin with.
        iterations: most conjugate-gradient iterations a step.
        decay: of the last step, where the next search begins.

    Raises:
        ValueError: an argument out of its range; (while training) a part of the network has no derivative forwards.
    """

    def __init__(self, damping: float = 1.0, iterations: int = 30, decay: float = 0.95) -> None:
        if not damping > 0 or iterations < 1 or not 0 <= decay <= 1:
            raise ValueError(
                f"damping must be positive, iterations at least 1 and decay in [0, 1], got {damping}, {iterations} and {decay}"
            )
        self.damping, self.iterations, self.decay = damping, iterations, decay
        self.last: Vector = []
        self._task: Task | None = None
        self._seen: tuple[nn.Module, Batch, Tensor] | None = None

    def setup(self, model: nn.Module, task: Task) -> None:
        """Remember the task, whose loss is modelled."""
        self._task = task

    def gradients(self, next: Gradients) -> Gradients:
        """Remember the batch, and what chance there was in it (dropout), so that the model is of the same function."""

        def watched(model: nn.Module, batch: Batch) -> Output:
            chance = torch.get_rng_state()
            output = next(model, batch)
            self._seen = getattr(model, "module", model), batch, chance
            return output

        return watched

    def update(self, next: Update) -> Update:
        """Step to the damped model's minimum."""

        def stepped(optimizer: torch.optim.Optimizer) -> None:
            if self._seen is not None:
                self._step(*self._seen)

        return stepped

    def state_dict(self) -> dict[str, Any]:
        """λ and the last step."""
        return {"damping": self.damping, "last": self.last}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved step."""
        self.damping, self.last = state["damping"], list(state["last"])

    def _step(self, model: nn.Module, batch: Batch, chance: Tensor) -> None:
        named = {name: p for name, p in model.named_parameters() if p.requires_grad and p.grad is not None}
        weights, gradient = [p.detach() for p in named.values()], [p.grad.detach() for p in named.values() if p.grad is not None]
        task = self._task
        assert task is not None  # `setup` comes first

        def predict(values: Vector) -> Tensor:
            with _same(chance):
                return functional_call(model, dict(zip(named, values, strict=True)), (batch,)).prediction

        def loss_at(values: Vector) -> float:
            with torch.no_grad():
                return float(task.loss(Output(predict(values)), batch))

        curvature = _differentiable(predict, lambda prediction: task.loss(Output(prediction), batch), weights)
        start = [self.decay * part for part in self.last] or [torch.zeros_like(part) for part in weights]
        step, promised = conjugate_gradients(
            lambda v: [g + self.damping * part for g, part in zip(curvature(v), v, strict=True)], gradient, start, self.iterations
        )
        before, after = loss_at(weights), loss_at(_moved(weights, 1.0, step))
        gain = (after - before) / promised if promised < 0 else 0.0
        if gain > 0.75:
            self.damping *= DROP
        elif not gain >= 0.25:
            self.damping *= BOOST
        share = 1.0
        while not after < before and share > FEWEST:
            share *= SHRINK
            after = loss_at(_moved(weights, share, step))
        self.last = step
        if after < before:
            with torch.no_grad():
                for parameter, value in zip(named.values(), _moved(weights, share, step), strict=True):
                    parameter.copy_(value)


def _differentiable(predict: Callable[[Vector], Tensor], loss: Callable[[Tensor], Tensor], weights: Vector) -> Product:
    """`gauss_newton`, tried once, so that a network it cannot take is refused in a sentence."""
    try:
        product = gauss_newton(predict, loss, weights)
        product([torch.zeros_like(weight) for weight in weights])
    except torch.OutOfMemoryError:  # a RuntimeError too, but no word about derivatives
        raise
    except (RuntimeError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"Hessian-free steps need derivatives forwards, which a part of this network has not: {reason}") from error
    return product


@contextmanager
def _same(chance: Tensor) -> Iterator[None]:
    """The same random numbers each time, and the generator afterwards as it was; and PyTorch's own LSTM, for oneDNN's is differentiated
    backwards alone.
    """
    onednn: Any = torch.backends.mkldnn
    before = onednn.enabled
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(chance)
        onednn.enabled = False
        try:
            yield
        finally:
            onednn.enabled = before


def _dot(one: Vector, other: Vector) -> float:
    return float(sum((a * b).sum() for a, b in zip(one, other, strict=True)))


def _add(to: Vector, factor: float, what: Vector) -> None:
    torch._foreach_add_(to, what, alpha=factor)


def _moved(weights: Vector, share: float, step: Vector) -> Vector:
    return [weight + share * part for weight, part in zip(weights, step, strict=True)]
