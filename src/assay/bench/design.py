"""SimpleNet's eight design principles: a plan of widths and pools for a budget, and lint messages on any convolutional network.

Source of the principles: Hasanpour, Rouhani, Fayyaz, Sabokrou (2016 and 2018); the checks and their limits are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from assay.contracts import Class, Finding, Image, Signature
from assay.measure import count_flops, parameter_count
from assay.models import build

WIDTH_UNIT = 32
LARGEST_STEP = 4
LARGEST_SPREAD = 2


@dataclass(frozen=True)
class Layer:
    """A convolution as it was run: widths, kernel and stride (largest of the two), side of its output map, parameters."""

    name: str
    inputs: int
    outputs: int
    kernel: int
    stride: int
    side: int
    parameters: int


@dataclass(frozen=True)
class Plan:
    """A SimpleNet for a budget: its layers, its cost, and the smaller budgets to try before it (principle 1)."""

    layers: list[Layer]
    parameters: int
    multiply_adds: int
    smaller: list[int]
    dials: dict[str, Any]


def simplenet_plan(input_size: int, budget_params: int, classes: int, channels: int = 3) -> Plan:
    """The SimpleNet that fits square pictures and a parameter budget.

    Args:
        input_size: side of the pictures.
        budget_params: number of parameters wanted.
        classes: number of classes.
        channels: of the pictures.

    Raises:
        ValueError: a number is below 1, or the size below 2.
    """
    if input_size < 2 or budget_params < 1 or classes < 1:
        raise ValueError(f"a plan needs a size from 2, a budget and classes from 1, got {input_size}, {budget_params}, {classes}")
    signature = Signature(Image(channels, input_size, input_size), Class(classes))
    model: Any = build("simplenet", signature, parameters=budget_params).eval()
    x = torch.zeros(1, channels, input_size, input_size)
    with torch.no_grad():
        operations = count_flops(model.network, x)
    recipe = model.config["build"]
    return Plan(
        layers=trace(model.network, x),
        parameters=parameter_count(model),
        multiply_adds=operations // 2,
        smaller=[budget_params // 8, budget_params // 4, budget_params // 2],
        dials={"coarse": recipe["coarse"], "fine": recipe["fine"], **recipe["options"]},
    )


def trace(network: nn.Module, x: Tensor) -> list[Layer]:
    """Every convolution of a network in the order in which it is run on x."""
    layers: list[Layer] = []

    def note(name: str) -> Callable[..., None]:
        def hook(module: Any, _: Any, output: Tensor) -> None:
            size, step = max(module.kernel_size), max(module.stride)
            layers.append(Layer(name, module.in_channels, module.out_channels, size, step, output.shape[-1], parameter_count(module)))

        return hook

    convolutions = [(name, module) for name, module in network.named_modules() if isinstance(module, nn.Conv1d | nn.Conv2d)]
    handles = [module.register_forward_hook(note(name)) for name, module in convolutions]
    training = network.training
    try:
        with torch.no_grad():
            network.eval()(x)
    finally:
        network.train(training)
        for handle in handles:
            handle.remove()
    return layers


def lint(network: nn.Module, x: Tensor) -> list[Finding]:
    """What each principle has to say against a network; an empty list if nothing.

    Args:
        network: any convolutional network on tensors.
        x: an example input (batch, channels, …).
    """
    layers = trace(network, x)
    if not layers:
        return [Finding("The network has no convolution, so these principles do not apply.")]
    findings = [check(layers) for check in CHECKS]
    findings.append(regulation(network))
    return [finding for finding in findings if finding is not None]


def gradual_expansion(layers: Sequence[Layer]) -> Finding | None:
    """Principle 1: start narrow, and widen step by step."""
    steps = [(a, b) for a, b in pairwise(layers) if b.kernel > 1 and b.outputs > LARGEST_STEP * a.outputs]
    return _finding("The width jumps by more than a factor of four: widen step by step, and start narrow", [b for _, b in steps])


def homogeneous_groups(layers: Sequence[Layer]) -> Finding | None:
    """Principle 2: layers of one resolution have like widths."""
    bad = []
    for side in dict.fromkeys(layer.side for layer in layers):
        group = [layer for layer in layers if layer.side == side and layer.kernel > 1]
        widths = [layer.outputs for layer in group]
        if widths and max(widths) > LARGEST_SPREAD * min(widths):
            bad += group
    return _finding("Layers of one resolution differ in width by more than a factor of two: make groups of equal layers", bad)


def local_correlation(layers: Sequence[Layer]) -> Finding | None:
    """Principle 3: 3×3 kernels early; 1×1 only near the end."""
    early = layers[: max(1, len(layers) // 3)]
    return _finding(
        "1×1 kernels among the first third of the layers lose local structure: use 3×3 there", [x for x in early if x.kernel == 1]
    )


def information_utilisation(layers: Sequence[Layer]) -> Finding | None:
    """Principle 4: keep the resolution through the first layers."""
    early = layers[:3]
    shrunk = [layer for layer in early if layer.stride > 1 or layer.side < early[0].side]
    return _finding("The map shrinks within the first three layers: keep its resolution as long as the budget allows", shrunk)


def performance_utilisation(layers: Sequence[Layer]) -> Finding | None:
    """Principle 5: 3×3 kernels, and widths that are multiples of 32, run fastest."""
    return _finding(
        "Kernels other than 3×3 and 1×1, or widths that are no multiples of 32, run slower than they need",
        [layer for layer in layers if layer.kernel not in (1, 3) or layer.outputs % WIDTH_UNIT],
    )


def balanced_distribution(layers: Sequence[Layer]) -> Finding | None:
    """Principle 6: no starved layer: no width that falls and rises again, but for a pair of 1×1 kernels."""
    plain = [layer for layer in layers if layer.kernel > 1]
    starved = [b for a, b, c in zip(plain, plain[1:], plain[2:], strict=False) if LARGEST_SPREAD * b.outputs < min(a.outputs, c.outputs)]
    return _finding("A layer is less than half as wide as both its neighbours: it starves what comes after it", starved)


def isolation(first: nn.Module, second: nn.Module) -> Finding | None:
    """Principle 7: two networks that are compared should differ in one thing, at equal parameters (2 %)."""
    a, b = parameter_count(first), parameter_count(second)
    if abs(a - b) <= 0.02 * max(a, b):
        return None
    return Finding(f"The networks have {a:,} and {b:,} parameters: compare one change at a time, at equal size.")


def regulation(network: nn.Module) -> Finding | None:
    """Principle 8: dropout, decay and schedules come last, when the structure stands."""
    dropouts = [module for module in network.modules() if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0]
    if not dropouts:
        return None
    return Finding(f"{len(dropouts)} dropout layers are set: settle widths and depths without them first, and tune them last.")


CHECKS = (
    gradual_expansion,
    homogeneous_groups,
    local_correlation,
    information_utilisation,
    performance_utilisation,
    balanced_distribution,
)


def _finding(sentence: str, layers: Sequence[Layer]) -> Finding | None:
    if not layers:
        return None
    table = [{"layer": layer.name, "width": layer.outputs, "kernel": layer.kernel, "side": layer.side} for layer in layers]
    return Finding(f"{sentence} ({len(layers)} of the layers).", table)
