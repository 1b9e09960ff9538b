"""Whether signals and gradients can pass a network: its layers' variances against the critical ones, and both against what is measured."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from assay.contracts import Batch, Finding, Task
from assay.models.initialisation import critical_point
from assay.models.layer_roles import LayerRole, layer_roles
from assay.theory.criticality import Criticality, kernel_map, susceptibilities
from assay.theory.finite_width import STRAINED, fluctuation_rate
from assay.theory.gaussian_expectation import ScalarFunction


class CriticalityProbe:
    """Layer by layer: the activation's class, C_W and C_b as they are and as they would be critical, K and gradients against prediction.

    ``K' = C_b + C_W ⟨σ²⟩_K`` from the first layer on, and ``|∂L/∂z^ℓ|² = χ_⊥ |∂L/∂z^{ℓ+1}|²`` from the last layer back, with each layer's
    own variances; and ν Σ 1/n, the relative spread of random networks of that shape. The theory speaks of weights drawn independently: of a
    trained network it says how far training has taken it from there. Of layers with norms, gates, sums, attention or recurrence it says
    nothing, and they are named with the reason.

    Source: Roberts, Yaida, Hanin (2022), The Principles of Deep Learning Theory.

    Args:
        examples: of the first training batch.

    Raises:
        ValueError: fewer than one example; the network runs no linear map or convolution.
    """

    def __init__(self, examples: int = 64) -> None:
        if examples < 1:
            raise ValueError(f"examples must be at least 1, got {examples}")
        self.examples = examples

    def __call__(self, model: nn.Module, task: Task) -> Finding:
        """Look at the network on training data; it is left as it was."""
        batch = next(task.training_batches(self.examples, seed=0))
        roles = layer_roles(model, batch)
        points: dict[str, Criticality] = {}
        found = [critical_point(role, points) for role in roles]
        rows = [_row(role, point) for role, point in zip(roles, found, strict=True)]
        plain = [place for place, point in enumerate(found) if isinstance(point, Criticality)]
        if plain:
            functions = [_function(roles[place]) for place in plain]
            gradients = _gradients(model, [roles[place].layer for place in plain], batch, task)
            _fill([rows[place] for place in plain], [roles[place] for place in plain], functions, gradients)
        sentence = _sentence(roles, found, plain, points, rows)
        return Finding(sentence, rows, _figure([rows[place] for place in plain]) if plain else None)


def _row(role: LayerRole, point: Criticality | str) -> dict[str, Any]:
    """What is known of a layer by itself."""
    bias = role.layer.bias
    row: dict[str, Any] = {
        "layer": role.name,
        "activation": role.activation.name if role.activation else "–",
        "C_W": float(role.layer.weight.detach().double().square().mean()) * role.fan_in,
        "C_b": 0.0 if bias is None else float(bias.detach().double().square().mean()),
        "kernel": role.output_square,
    }
    if isinstance(point, str):
        return row | {"outside the theory": point}
    return row | {"class": point.universality_class, "critical C_W": point.weight_variance, "critical C_b": point.bias_variance}


def _function(role: LayerRole) -> ScalarFunction:
    assert role.activation is not None  # it is plain
    return ScalarFunction(role.activation.function)


def _fill(rows: list[dict[str, Any]], roles: list[LayerRole], functions: list[ScalarFunction], gradients: list[float]) -> None:
    """Predictions, in place: kernels forwards from what the first layer reads, gradients backwards from the last layer's."""
    kernel = rows[0]["C_b"] + rows[0]["C_W"] * roles[0].square
    for place, row in enumerate(rows):
        if place:
            kernel = kernel_map(functions[place - 1], kernel, row["C_W"], row["C_b"]) if row["C_W"] > 0 else row["C_b"]
        row["predicted kernel"], row["gradient"] = kernel, gradients[place]
    expected = gradients[-1]
    rows[-1]["predicted gradient"] = expected
    for place in range(len(rows) - 2, -1, -1):
        row, after = rows[place], max(rows[place + 1]["C_W"], 1e-300)
        growth = susceptibilities(functions[place], row["predicted kernel"], after)
        row["χ_parallel"], row["χ_perpendicular"] = growth
        expected *= math.sqrt(growth.perpendicular)
        row["predicted gradient"] = expected


def _gradients(model: nn.Module, layers: list[nn.Module], batch: Batch, task: Task) -> list[float]:
    """``‖∂L/∂z‖`` at the output of each layer, over the whole batch; 0 where the loss does not feel it."""
    outputs: dict[int, Tensor] = {}

    def keep(place: int) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            outputs[place] = output

        return hook

    handles = [layer.register_forward_hook(keep(place)) for place, layer in enumerate(layers)]
    training = {part: part.training for part in model.modules()}
    wanted = {parameter: parameter.requires_grad for parameter in model.parameters()}
    model.eval().requires_grad_(True)
    try:
        with torch.enable_grad():
            loss = task.loss(model(batch), batch)
            found = torch.autograd.grad(loss, [outputs[place] for place in range(len(layers))], allow_unused=True, materialize_grads=True)
    finally:
        for handle in handles:
            handle.remove()
        for part, mode in training.items():
            part.training = mode
        for parameter, mode in wanted.items():
            parameter.requires_grad_(mode)
    return [float(gradient.double().norm()) for gradient in found]


def _sentence(
    roles: list[LayerRole], found: list[Criticality | str], plain: list[int], points: dict[str, Criticality], rows: list[dict[str, Any]]
) -> str:
    outside = [point for point in found if isinstance(point, str)]
    if not plain:
        return f"The theory speaks of none of its {len(roles)} layers: of {roles[0].name}, for one, {outside[0]}."
    kinds = sorted({f"{rows[place]['activation']} ({rows[place]['class']})" for place in plain})
    words = f"{len(plain)} of {len(roles)} layers are plain, with {', '.join(kinds)}"
    inner = [rows[place] for place in plain[:-1]]
    if inner:
        growth = math.exp(sum(math.log(max(row["χ_perpendicular"], 1e-300)) for row in inner) / len(inner) / 2)
        words += f"; by its variances a gradient is multiplied by {growth:.3g} a layer going back, {growth ** len(inner):.2g} in all"
    widths = [roles[place].layer.weight.shape[0] for place in plain[:-1]]
    known = [point for point in points.values() if not point.heuristic]
    if widths and known:
        name = next(iter(points))
        activation = next(role.activation for role in roles if role.activation and role.activation.name == name)
        spread = fluctuation_rate(activation.function, point=points[name]) * sum(1 / width for width in widths)
        words += f"; random networks of this shape differ by {spread:.2g} in mean square (ν L/n)"
        words += ", too much for first-order theory" if spread >= STRAINED else ""
    return words + (f". The other {len(outside)} are outside the theory: of one, {outside[0]}." if outside else ".")


def _figure(rows: list[dict[str, Any]]) -> dict[str, Any]:
    names = [row["layer"] for row in rows]
    lines = [("kernel", "solid"), ("predicted kernel", "dash"), ("gradient", "solid"), ("predicted gradient", "dash")]
    data = [
        {"type": "scatter", "name": name, "x": names, "y": [row[name] for row in rows], "mode": "lines", "line": {"dash": dash}}
        for name, dash in lines
    ]
    layout = {"xaxis": {"title": {"text": "layer"}}, "yaxis": {"title": {"text": "mean square, gradient norm"}, "type": "log"}}
    return {"data": data, "layout": layout}
