"""What the gates of recurrent networks do: how many stand shut or open whatever is read, and how long a state lasts."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import nn

from assay.contracts import Batch, Finding, Task
from assay.errors import UserError
from assay.nn.recurrent.gates import Gate

SHUT, OPEN = 0.1, 0.9
"""A gate outside of these is saturated: its slope is below 0.09, a third of the largest."""


class GateActivity(NamedTuple):
    """One gate of a layer over all real positions that were read.

    Args:
        layer: its name in the network.
        gate: its name in the layer.
        mean: how far it stands open, over positions and units.
        shut: share of values below 0.1.
        open: share above 0.9.
        memory: ``1 / (1 − f̄)``, with f̄ the mean share of the old state that this gate keeps: the positions after which a state that
            lost as much at each would be down to 1/e. None where the gate does not decide that.
        longest: the memory of the unit that has the longest.
    """

    layer: str
    gate: str
    mean: float
    shut: float
    open: float
    memory: float | None
    longest: float | None


class Gates:
    """Probe of gated recurrent layers: the share of saturated values of every gate, and the effective memory ``1 / (1 − f̄)``.

    A gate that is shut or open at every position passes no gradient and chooses nothing; a memory that is much shorter than what the task
    asks for is a forget bias that is too small. `assay.inspection.gradient_flow` measures how far errors travel, this says what lets them.

    Source: Karpathy, Johnson, Fei-Fei (2015), Visualizing and Understanding Recurrent Networks (saturation); Tallec, Ollivier (2018), Can
    recurrent neural networks warp time? (the memory of a forget gate).

    Args:
        examples: of the test split that are read.

    Raises:
        ValueError: fewer than one example.
    """

    def __init__(self, examples: int = 16) -> None:
        if examples < 1:
            raise ValueError(f"examples must be at least 1, got {examples}")
        self.examples = examples

    def __call__(self, model: nn.Module, task: Task) -> Finding:
        """Read the first examples; the model is left as it was.

        Raises:
            UserError: the network has no layer with gates.
        """
        found = gate_activity(model, next(iter(task.batches("test", self.examples))))
        rows = [{key: value for key, value in activity._asdict().items() if value is not None} for activity in found]
        return Finding(_sentence(found, self.examples), rows, _figure(found))


def gate_activity(model: nn.Module, batch: Batch) -> list[GateActivity]:
    """Every gate of every layer that can show its gates, as the network reads a batch, in the network's order.

    Args:
        model: any network; its layers are found by their method ``gate_values`` (`assay.nn.recurrent.gates.Gate`). Cells that another
            layer runs as one (narrow ones of a `GraphRecurrentNetwork`) are not heard.
        batch: of its task; positions that a layer's mask leaves out do not count.

    Raises:
        UserError: no layer has gates.
    """
    read = _calls(model, batch)
    found: list[GateActivity] = []
    for name, module in model.named_modules():
        values: dict[str, list[Gate]] = {}
        for gate in itertools.chain.from_iterable(_gates(module, call) for call in read.get(name, ())):
            values.setdefault(gate.name, []).append(gate)
        found += [_activity(name, gates) for gates in values.values()]
    if not found:
        raise UserError(f"{type(model).__name__} has no recurrent layer with gates: name a model such as lstm, gru, slstm or min-gru.")
    return found


Call: TypeAlias = dict[str, Any]
"""The arguments of a layer's ``scan``; without a state it read from the first position on."""


def _gates(layer: Any, call: Call) -> list[Gate]:
    """The gates, each (positions, units), at the real positions of a call."""
    x, mask = call["x"], call.get("mask")
    if not x.shape[1]:
        return []
    real = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if mask is None else mask
    with torch.no_grad():
        gates = layer.gate_values(**({"state": layer.initial_state(len(x))} | call))
    return [Gate(name, values[real], None if kept is None else kept[real]) for name, values, kept in gates]


def _calls(model: nn.Module, batch: Batch) -> dict[str, list[Call]]:
    """What every layer with gates reads while the network reads a batch, by the layer's name."""
    layers = {name: module for name, module in model.named_modules() if callable(getattr(module, "gate_values", None))}
    read: dict[str, list[Call]] = {name: [] for name in layers}
    training = model.training
    try:
        for name, layer in layers.items():
            _watch(layer, read[name])
        with torch.no_grad():
            model.eval()(batch)
    finally:
        for layer in layers.values():
            for method in ("forward", "scan"):
                layer.__dict__.pop(method, None)
        model.train(training)
    return read


def _watch(layer: Any, calls: list[Call]) -> None:
    """Note what a layer's ``forward`` and ``scan`` are called with; of a call within a call the outer one alone."""
    depth = [0]

    def noted(method: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(method)

        def call(*args: Any, **options: Any) -> Any:
            if not depth[0]:
                arguments = dict(signature.bind(*args, **options).arguments)
                calls.append(arguments | arguments.pop("inputs", {}))
            depth[0] += 1
            try:
                return method(*args, **options)
            finally:
                depth[0] -= 1

        return call

    layer.forward, layer.scan = noted(layer.forward), noted(layer.scan)


def _activity(layer: str, gates: list[Gate]) -> GateActivity:
    values = torch.cat([gate.values for gate in gates]).double()
    memory = longest = None
    if gates[0].kept is not None:
        forgotten = 1 - torch.cat([gate.kept for gate in gates if gate.kept is not None]).double()
        memory, longest = float(1 / forgotten.mean()), float(1 / forgotten.mean(0).min())
    shut, opened = float((values < SHUT).double().mean()), float((values > OPEN).double().mean())
    return GateActivity(layer, gates[0].name, float(values.mean()), shut, opened, memory, longest)


def _sentence(found: list[GateActivity], examples: int) -> str:
    shut, opened = (100 * sum(shares) / len(found) for shares in zip(*((gate.shut, gate.open) for gate in found), strict=True))
    words = f"Over {examples} examples {shut:.0f} % of the gates' values are below {SHUT} and {opened:.0f} % above {OPEN}"
    lasting = [gate for gate in found if gate.memory is not None]
    if not lasting:
        return f"{words}; no gate forgets."
    far, near = max(lasting, key=_memory), min(lasting, key=_memory)
    words += f"; the {far.gate} gate of {far.layer} keeps a state for {far.memory:.1f} positions (its slowest unit {far.longest:.1f})"
    return f"{words}." if far is near else f"{words}, that of {near.layer} for {near.memory:.1f}."


def _memory(gate: GateActivity) -> float:
    assert gate.memory is not None  # gates without one are left out
    return gate.memory


def _figure(found: list[GateActivity]) -> dict[str, Any]:
    names = [f"{gate.layer} {gate.gate}" for gate in found]
    shares = {f"below {SHUT}": [gate.shut for gate in found], f"above {OPEN}": [gate.open for gate in found]}
    data = [{"type": "bar", "name": name, "x": names, "y": values} for name, values in shares.items()]
    return {"data": data, "layout": {"yaxis": {"title": {"text": "share of values"}}}}
