"""Which positions of the input a network's answer looks at, by its attention weights: head by head, and through all layers."""

from __future__ import annotations

from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from assay.contracts import Batch, Finding, Pair, Task
from assay.errors import UserError

Call = tuple[Any, Tensor, Tensor | None]
"""A layer that can show its weights, and the input (batch, length, width) and mask it was called with."""


def attention_calls(model: nn.Module, batch: Batch) -> list[Call]:
    """Every layer with a method ``weights(x, mask) -> (batch, heads, length, length)``, in the order of computation, and its input.

    Raises:
        UserError: no layer can show its weights.
    """
    shown = [module for module in model.modules() if callable(getattr(module, "weights", None))]
    if not shown:
        raise UserError(f"No layer of {type(model).__name__} can show attention weights: name a model whose mixer is attention.")
    calls: list[Call] = []

    def keep(module: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        calls.append((module, args[0].detach(), args[1] if len(args) > 1 else options.get("mask")))

    handles = [module.register_forward_pre_hook(keep, with_kwargs=True) for module in shown]
    training = model.training
    try:
        with torch.no_grad():
            model.eval()(batch)
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return calls


def pooled_attention(model: nn.Module, batch: Batch) -> list[Tensor]:
    """What the answer looks at in each layer, head by head: weights averaged over the positions that the answer is read from.

    ``p_hj = mean_i A_hij`` over real positions i, for a network that averages its last layer over positions.

    Args:
        model: a network whose mixers can show their weights.
        batch: of its task.

    Returns:
        (batch, heads, length) a layer; each sums to one over the positions, where every position sees something.

    Raises:
        UserError: no layer can show its weights.
    """
    return [_over_queries(weights, mask) for weights, mask in _weights(model, batch)]


def attention_rollout(model: nn.Module, batch: Batch) -> Tensor:
    """What the answer looks at through all layers, (batch, length): ``p = mean_i (Â_L ⋯ Â_1)_i``, ``Â = ½ mean_h A_h + ½ I``.

    The half of the identity stands for the residual branch. With one layer it is the mean over heads of `pooled_attention`, half mixed
    with equal weights.

    Args:
        model: a network whose mixers can show their weights.
        batch: of its task.

    Raises:
        UserError: no layer can show its weights.

    Source: Abnar, Zuidema (2020), Quantifying Attention Flow in Transformers.
    """
    layers = _weights(model, batch)
    identity = torch.eye(layers[0][0].shape[-1], dtype=layers[0][0].dtype, device=layers[0][0].device)
    steps = [(weights.mean(1) + identity) / 2 for weights, _ in layers]
    product = reduce(lambda before, step: step @ before, steps)
    return _over_queries(product[:, None], layers[-1][1])[:, 0]


class AttentionView:
    """Probe that shows which positions decide: the most attended ones of some test examples, head by head and by rollout.

    Args:
        examples: of the test split.
        most: positions named of each head.
    """

    def __init__(self, examples: int = 4, most: int = 5) -> None:
        if min(examples, most) < 1:
            raise ValueError(f"examples and most must be at least 1, got {examples} and {most}")
        self.examples, self.most = examples, most

    def __call__(self, model: nn.Module, task: Task) -> Finding:
        """Attention on some test examples; nothing is changed.

        Raises:
            UserError: the task has two inputs, or no layer can show its weights.
        """
        if isinstance(task.signature.input, Pair):
            raise UserError(f"Attention is shown over one input, and {task.name} has two: choose another probe.")
        batch = next(iter(task.batches("test", self.examples)))
        layers, rollout = pooled_attention(model, batch), attention_rollout(model, batch)
        table = [
            {"example": example, "layer": layer, "head": head, **self._row(weights[example, head - 1], batch, example)}
            for layer, weights in enumerate(layers, 1)
            for example in range(len(weights))
            for head in range(1, weights.shape[1] + 1)
        ]
        table += [
            {"example": example, "layer": "all", "head": "all", **self._row(row, batch, example)} for example, row in enumerate(rollout)
        ]
        return Finding(_sentence(table, layers), table, _figure(layers[-1], rollout))

    def _row(self, weights: Tensor, batch: Batch, example: int) -> dict[str, Any]:
        """The most attended positions, their weight together, and on how many positions the weight is spread (exponential of entropy)."""
        largest = weights.topk(min(self.most, len(weights)))
        positions = largest.indices.sort().values.tolist()
        row: dict[str, Any] = {"positions": positions}
        if "tokens" in batch:
            row["tokens"] = batch["tokens"][example, positions].tolist()
        entropy = -torch.special.xlogy(weights, weights).sum()
        return {**row, "weight": float(largest.values.sum()), "spread": float(entropy.exp())}


def _weights(model: nn.Module, batch: Batch) -> list[tuple[Tensor, Tensor | None]]:
    with torch.no_grad():
        return [(module.weights(x, mask).expand(len(x), -1, -1, -1), mask) for module, x, mask in attention_calls(model, batch)]


def _over_queries(weights: Tensor, mask: Tensor | None) -> Tensor:
    """The mean over real rows of (batch, heads, rows, columns)."""
    if mask is None:
        return weights.mean(2)
    real = mask[:, None, :, None]
    return torch.where(real, weights, 0.0).sum(2) / mask.sum(1).clamp(min=1)[:, None, None]


def _sentence(table: list[dict[str, Any]], layers: list[Tensor]) -> str:
    heads = [row for row in table if row["head"] != "all"]
    sharpest = min(heads, key=lambda row: row["spread"])
    spread = sum(row["spread"] for row in heads) / len(heads)
    kind = "layer" if len(layers) == 1 else "layers"
    return (
        f"Over {len(layers)} {kind} of {layers[0].shape[1]} heads the answer's attention is spread over {spread:.1f} of "
        f"{layers[0].shape[2]} positions on average; the sharpest is head {sharpest['head']} of layer {sharpest['layer']} "
        f"({sharpest['spread']:.1f} positions, most at {', '.join(map(str, sharpest['positions']))} of example {sharpest['example']})."
    )


def _figure(last: Tensor, rollout: Tensor) -> dict[str, Any]:
    """The first example: heads of the last layer by position, and the rollout."""
    heads = {
        "type": "heatmap",
        "name": "heads of the last layer",
        "z": last[0].tolist(),
        "y": [f"head {h + 1}" for h in range(last.shape[1])],
    }
    through = {"type": "bar", "name": "through all layers", "x": list(range(rollout.shape[1])), "y": rollout[0].tolist()}
    layout = {"grid": {"rows": 2, "columns": 1, "pattern": "independent"}, "xaxis2": {"title": {"text": "position"}}}
    return {"data": [heads, {**through, "xaxis": "x2", "yaxis": "y2"}], "layout": layout}
