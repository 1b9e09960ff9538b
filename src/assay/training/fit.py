"""`fit`: the one training loop, on one device or many through Lightning Fabric."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from assay.contracts import Batch, Gradients, Method, Objective, Output, Predictor, Task, Update
from assay.measure import count_flops
from assay.training.schedule import SCHEDULES

OptimizerMaker = Callable[[Iterable[nn.Parameter], float], torch.optim.Optimizer]
VALIDATIONS = 10
SHAPES = 32  # of batches whose operations are counted; graphs cut anew every step would have no end of them
VALIDATION_SHARE = 0.25  # of the training's operations, at most, for the validations along the way


@dataclass
class History:
    """What happened while training.

    Args:
        curve: one entry a validation: step, seconds, train_loss, validation_loss, validation_<metric>.
        status: ``done``, or ``diverged`` when a loss was not finite.
        steps: optimiser steps taken.
        seconds: training seconds, validation not counted.
        flops: floating-point operations of those steps, forward and backward (three times the counted forward).
        best_step: the step whose weights were kept.
        best_validation: the primary metric on validation at that step.
    """

    curve: list[dict[str, float]] = field(default_factory=list)
    status: Literal["done", "diverged"] = "done"
    steps: int = 0
    seconds: float = 0.0
    flops: float = 0.0
    best_step: int = 0
    best_validation: float = math.nan


def fit(
    model: nn.Module,
    task: Task,
    *,
    steps: int | None = None,
    seconds: float | None = None,
    flops: float | None = None,
    learning_rate: float = 1e-3,
    batch_size: int = 32,
    seed: int = 0,
    methods: Sequence[Method] = (),
    optimizer: OptimizerMaker | None = None,
    schedule: str = "cosine",
    validate_every: int | None = None,
    select: Literal["best", "last"] = "best",
    fabric: Fabric | None = None,
    on_progress: Callable[[History], None] | None = None,
) -> History:
    """Train ``model`` on ``task`` in place until the first of the given budgets is spent.

    Args:
        model: any module with ``forward(batch) -> Output``.
        task: gives the batches, the loss and the validation measure.
        steps: budget of optimiser steps.
        seconds: budget of training seconds; validation does not count.
        flops: budget of floating-point operations, as `assay.measure.count_flops` counts them.
        learning_rate: peak learning rate.
        batch_size: examples a step, over all processes together.
        seed: of the order of batches and of dropout.
        methods: what changes the training, first is outermost.
        optimizer: ``(parameters, learning_rate) -> optimizer``; AdamW with weight decay 0.01 by default.
        schedule: ``cosine`` (5 % warm-up) or ``constant``.
        validate_every: steps between validations; by default ten validations a run, or fewer where they would cost more than a quarter of
            the training's operations (a forward pass counts as a third of a step).
        select: keep the weights of the ``best`` validation, or the ``last``.
        fabric: a launched Lightning Fabric for several devices or processes; one device by default.
        on_progress: called with the history after every validation.

    Raises:
        ValueError: no budget, or one that is not positive; a batch of no examples.
    """
    spent = _Budget(steps, seconds, flops)
    fabric = fabric or Fabric(devices=1, accelerator="cuda" if torch.cuda.is_available() else "cpu")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if batch_size % fabric.world_size:
        raise ValueError(
            f"batch_size {batch_size} must be a multiple of the {fabric.world_size} processes, so that each has an equal share"
        )
    torch.manual_seed(seed)
    history = History()
    for method in methods:
        method.setup(model, task)
    spent.count(model, next(task.training_batches(batch_size, seed)))
    maker = optimizer or (lambda parameters, rate: torch.optim.AdamW(parameters, lr=rate, weight_decay=0.01))
    wrapped = fabric.setup_module(model)
    driver: Any = fabric.setup_optimizers(maker([p for p in wrapped.parameters() if p.requires_grad], learning_rate))
    gradients, update = _composed(task, methods, fabric)
    rates = [group["lr"] for group in driver.param_groups]
    keeper = _Keeper(select, task.direction)

    wrapped.train()
    for batch in task.training_batches(batch_size, seed):
        flops = spent.count(wrapped, batch)
        started = time.perf_counter()
        factor = SCHEDULES[schedule](spent.share(history))
        for group, rate in zip(driver.param_groups, rates, strict=True):
            group["lr"] = rate * factor
        driver.zero_grad()
        batch = fabric.to_device(task.shard(batch, fabric.global_rank, fabric.world_size))
        try:
            loss = gradients(wrapped, batch).loss
        except FloatingPointError:  # gradients that are not finite, seen by a method before they reach the weights
            history.status = "diverged"
            break
        update(driver)
        history.steps += 1
        history.seconds += time.perf_counter() - started
        history.flops += flops
        spent.examples_a_step = _examples(batch) * fabric.world_size
        finished = _agreed(spent.share(history) >= 1, fabric)
        if finished or history.steps % (validate_every or spent.interval(history)) == 0:
            if not _record(history, loss, wrapped, task, fabric, keeper, spent):
                break
            if on_progress:
                on_progress(history)
        if finished:
            break
    keeper.restore(wrapped, history)
    for method in methods:
        method.finish(model)
    model.eval()
    return history


def predictor(model: nn.Module) -> Predictor:
    """The model as a predictor that brings each batch to where the model is, so that evaluation works on any device."""
    return lambda batch: model(_moved(batch, model))


def _moved(batch: Batch, model: nn.Module) -> Batch:
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    return {key: value.to(device) for key, value in batch.items()}


class _Budget:
    """How much of the steps, seconds or operations that were given is spent."""

    def __init__(self, steps: int | None, seconds: float | None, flops: float | None) -> None:
        given = {"steps": steps, "seconds": seconds, "flops": flops}
        self.limits = {name: float(value) for name, value in given.items() if value is not None}
        self.flops_of: dict[tuple[tuple[int, ...], ...], float] = {}
        self.examples_a_step = 0
        self.examples_a_validation = 0
        if not self.limits:
            raise ValueError("fit needs a budget: steps=, seconds= or flops=")
        for name, limit in self.limits.items():
            if not limit > 0:
                raise ValueError(f"{name} must be positive, got {limit:g}")

    def count(self, model: nn.Module, batch: Batch) -> float:
        """Operations of a step on the batch, forward and backward: counted once a shape, past `SHAPES` in proportion to the first."""
        shape = tuple(tuple(tensor.shape) for tensor in batch.values())
        if shape not in self.flops_of:
            if len(self.flops_of) >= SHAPES:
                first = next(iter(self.flops_of))
                return self.flops_of[first] * sum(map(math.prod, shape)) / sum(map(math.prod, first))
            self.flops_of[shape] = 3 * count_flops(model, _moved(batch, model))
        return self.flops_of[shape]

    def share(self, history: History) -> float:
        return max(getattr(history, name) / limit for name, limit in self.limits.items())

    def interval(self, history: History) -> int:
        """Steps between validations: a tenth of the steps, more where validation is dear; the first one shows what it costs.

        Where the steps are not given they are estimated from the share spent so far.
        """
        steps_a_validation = self.examples_a_validation / max(3 * self.examples_a_step, 1)
        least = math.ceil(steps_a_validation / VALIDATION_SHARE)
        if "steps" in self.limits and len(self.limits) == 1:
            return max(1, least, math.ceil(self.limits["steps"] / VALIDATIONS))
        total = history.steps / max(self.share(history), 1e-9)
        wanted = max(1.0, least, total / VALIDATIONS)
        return 2 ** max(0, round(math.log2(wanted)))  # powers of two: the estimate moves, the grid does not


class _Keeper:
    """Holds the weights of the best validation so far.

    On few validation examples many steps reach the same accuracy: among equals the lower log loss wins, then the later step.
    """

    def __init__(self, select: str, direction: str) -> None:
        self.select = select
        self.sign = 1.0 if direction == "max" else -1.0
        self.best = (-math.inf, -math.inf)
        self.weights: dict[str, Tensor] | None = None

    def offer(self, model: Any, history: History, metric: str, metrics: Mapping[str, float]) -> None:
        value = metrics[metric]
        merit = (self.sign * value, -metrics.get("log_loss", 0.0))
        if self.select == "last" or merit >= self.best:
            self.best = merit
            history.best_step, history.best_validation = history.steps, value
            if self.select == "best":
                self.weights = copy.deepcopy(model.module.state_dict())

    def restore(self, model: Any, history: History) -> None:
        if self.select == "best" and self.weights is not None and history.best_step != history.steps:
            model.module.load_state_dict(self.weights)


def _composed(task: Task, methods: Sequence[Method], fabric: Fabric) -> tuple[Gradients, Update]:
    """The gradient and update functions with every method's wrapper around them, the first method outermost."""

    def task_objective(model: nn.Module, batch: Batch) -> Output:
        output = model(batch)
        loss = task.loss(output, batch)
        output.loss = loss + sum(output.losses.values()) if output.losses else loss
        return output

    def backward(model: nn.Module, batch: Batch) -> Output:
        output = objective(model, batch)
        if output.loss is None:
            raise ValueError("a method's objective returned an output without loss")
        fabric.backward(output.loss)
        return output

    def step(optimizer: torch.optim.Optimizer) -> None:
        optimizer.step()

    objective: Objective = task_objective
    gradients: Gradients = backward
    update: Update = step
    for method in reversed(methods):
        objective = method.objective(objective)
        gradients = method.gradients(gradients)
        update = method.update(update)
    return gradients, update


def _record(history: History, loss: Tensor | None, model: Any, task: Task, fabric: Fabric, keeper: _Keeper, spent: _Budget) -> bool:
    """Validate, extend the curve, offer the weights, count the cost; False when the loss is no longer finite."""
    train_loss = _reduced(loss.detach(), fabric, "mean") if loss is not None else math.nan
    entry = {"step": history.steps, "seconds": history.seconds, "train_loss": train_loss}
    history.curve.append(entry)
    if not math.isfinite(train_loss):
        history.status = "diverged"
        return False
    spent.examples_a_validation = 0

    def counted(batch: Batch) -> Output:
        spent.examples_a_validation += _examples(batch)
        return model(fabric.to_device(batch))

    model.eval()
    evaluation = task.evaluate(counted, "validation")
    model.train()
    entry |= {f"validation_{name}": value for name, value in evaluation.metrics.items()}
    value = evaluation.metrics[task.metric]
    if not math.isfinite(value):
        history.status = "diverged"
        return False
    keeper.offer(model, history, task.metric, evaluation.metrics)
    return True


def _examples(batch: Batch) -> int:
    return len(next(iter(batch.values())))


def _agreed(finished: bool, fabric: Fabric) -> bool:
    """Whether any process has spent its budget: all stop together, or collective calls would wait for ever."""
    if fabric.world_size == 1:
        return finished
    return _reduced(torch.tensor(float(finished), device=fabric.device), fabric, "max") > 0


def _reduced(value: Tensor, fabric: Fabric, operation: str) -> float:
    reduced = fabric.all_reduce(value, reduce_op=operation)
    assert isinstance(reduced, Tensor)  # a tensor goes in, a tensor comes out
    return float(reduced)
