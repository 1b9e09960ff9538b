"""How far errors travel back through time: the length of ``∂L_T/∂state_t`` for every t, and what it changes by at each step."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from assay.contracts import Batch, Finding, Output, Task
from assay.training.methods.truncated_backpropagation import asked_positions


class GradientFlow:
    """The gradient of the last answer's loss with respect to the state at every earlier position.

    A network whose lengths shrink by a factor of ρ a step learns nothing from further back than a few ``1 / −log ρ`` positions; one whose
    lengths grow does not learn at all without clipping. For the scalar linear network ``h_t = w h_{t−1} + x_t`` they are ``|w|^{T−t}``.

    Source: Hochreiter (1991); Bengio, Simard, Frasconi (1994), Learning long-term dependencies with gradient descent is difficult.

    Args:
        examples: of the first training batch that are looked at.

    Raises:
        ValueError: fewer than one example; the model does not stream.
    """

    def __init__(self, examples: int = 32) -> None:
        if examples < 1:
            raise ValueError(f"examples must be at least 1, got {examples}")
        self.examples = examples

    def __call__(self, model: nn.Module, task: Task) -> Finding:
        """Measure on the first training batch; the model is left as it was."""
        lengths = gradient_flow(model, next(task.training_batches(self.examples, seed=0)), task).tolist()
        table = [{"position": position, "gradient": length} for position, length in enumerate(lengths)]
        rate = decay_rate(torch.tensor(lengths))
        if not math.isfinite(rate):
            sentence = "No error of the last answer reaches the states before it."
        else:
            reach = "never halves" if rate >= 0 else f"halves every {math.log(0.5) / rate:.1f} positions"
            sentence = f"Going back through time an error is multiplied by {math.exp(rate):.3f} a position: it {reach}."
        return Finding(sentence, table, _figure(lengths))


def gradient_flow(model: Any, batch: Batch, task: Task) -> Tensor:
    """The mean over examples of ``‖∂L_T/∂state_t‖``, t = 0 … T − 1: (T,); the state at t is the one after t positions.

    T counts the positions up to the last that any example of the batch is asked at; the loss is that of this position alone, or of the
    whole sequence where it has one answer.

    Args:
        model: a streaming sequence model.
        batch: Tokens or Series.
        task: gives the loss.

    Raises:
        ValueError: the model does not stream, or the batch has neither tokens nor a series.
    """
    if not getattr(model, "causal", False) or not any(key in batch for key in ("tokens", "series")):
        raise ValueError(f"{type(model).__name__} does not read a stream of tokens or of a series, so it has no states in time")
    x, target = batch["tokens" if "tokens" in batch else "series"], batch["target"]
    by_position = target.ndim > 1 and target.shape[1] == x.shape[1]
    asked = asked_positions(batch) if by_position else torch.ones(x.shape[:2], dtype=torch.bool)
    last = int(asked.any(0).nonzero().max())
    training = model.training
    model.eval()
    states, prediction = [], x.new_zeros(0)
    with torch.enable_grad():
        state = _tracked(model.initial_state(len(x)))
        for position in range(last + 1):
            states.append(_floats(state))
            mask = batch["mask"][:, position : position + 1] if "mask" in batch else None
            prediction, state = model.scan(x[:, position : position + 1], state, mask)
            state = _tracked(state)
        loss = _last_loss(task, prediction, batch, last, by_position)
        flat = [leaf for leaves in states for leaf in leaves]
        gradients = iter(torch.autograd.grad(loss, flat, allow_unused=True, materialize_grads=True))
    model.train(training)
    return torch.stack([torch.cat([next(gradients).flatten(1) for _ in leaves], 1).norm(dim=1).mean() for leaves in states])


def decay_rate(lengths: Tensor) -> float:
    """The slope of ``log ‖∂L_T/∂state_t‖`` over distance T − t by least squares; NaN where fewer than two lengths are positive."""
    distance = torch.arange(len(lengths), 0, -1, dtype=torch.float64)
    felt = lengths > 0
    if int(felt.sum()) < 2:
        return math.nan
    x, y = distance[felt], lengths[felt].double().log()
    return float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())


def _last_loss(task: Task, prediction: Tensor, batch: Batch, last: int, by_position: bool) -> Tensor:
    if not by_position:
        return task.loss(Output(prediction[:, -1]), batch)
    keys = ("tokens", "series", "mask", "target", "target_mask")
    return task.loss(Output(prediction), {key: value[:, last : last + 1] for key, value in batch.items() if key in keys})


def _figure(lengths: list[float]) -> dict[str, Any]:
    data = [{"type": "scatter", "name": "gradient", "x": list(range(len(lengths))), "y": lengths, "mode": "lines"}]
    layout = {"xaxis": {"title": {"text": "position"}}, "yaxis": {"title": {"text": "length of the state's gradient"}, "type": "log"}}
    return {"data": data, "layout": layout}


def _tracked(state: Any) -> Any:
    """The state with every float tensor a point that gradients can be asked for."""

    def track(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        return tensor if tensor.requires_grad else tensor.clone().requires_grad_()

    return pytree.tree_map_only(Tensor, track, state)


def _floats(state: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(state) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
