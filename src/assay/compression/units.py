"""Whole hidden units: dropping those that nothing reads (exact), and the weakest ones (not exact), as ``keep`` edits."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from assay.contracts import Edit
from assay.models import surgery


@runtime_checkable
class HasUnits(Protocol):
    """A network whose hidden units can be taken out: `assay.models.recurrent.RecurrentClassifier` is one."""

    layers: nn.ModuleList

    def outgoing_weights(self, layer: int) -> Tensor:
        """(readers, units): the layer's own state-to-state weights first, then the weights of what comes after."""
        ...

    def keep_units(self, layer: int, units: Any) -> None:
        """Keep only the named units."""
        ...


def dead_units(model: HasUnits, layer: int) -> list[int]:
    """Units of a layer that reach nothing: whatever reads them is dead itself.

    The largest set D with no non-zero weight from D to a unit outside D nor to what comes after the layer.
    """
    outgoing = model.outgoing_weights(layer) != 0
    units = outgoing.shape[1]
    gates = _own_rows(model, layer) // units
    own = outgoing[: gates * units].view(gates, units, units).any(0)  # own[i, j]: unit j feeds unit i, in some gate
    dead = ~outgoing[gates * units :].any(0)
    while True:
        fed = own[~dead].any(0)
        if not bool((dead & fed).any()):
            return torch.nonzero(dead).flatten().tolist()
        dead &= ~fed


def compile_sparse(model: nn.Module) -> nn.Module:
    """Drop every dead unit of a masked network, in place: a smaller dense network that predicts the same.

    One unit a layer always stays. What was dropped is added to the network's edits, so that it reloads.

    Raises:
        ValueError: the network has no units to take out.
    """
    parts = _with_units(model)
    for layer in reversed(range(len(parts.layers))):  # a dropped unit no longer reads the layer below
        dead = set(dead_units(parts, layer))
        units = parts.outgoing_weights(layer).shape[1]
        kept = [unit for unit in range(units) if unit not in dead] or [0]
        if len(kept) < units:
            model = surgery.apply(model, {"edit": "keep", "layer": layer, "units": kept})
    return model


def weakest_units(model: nn.Module, count: int) -> list[Edit]:
    """The ``keep`` edits that take out the ``count`` hidden units whose outgoing weights are smallest, each layer keeping one at least.

    The strength of a unit is the root mean square of the weights that read it, so that layers of different width compare.

    Raises:
        ValueError: the network has no units to take out, or fewer than asked for.
    """
    parts = _with_units(model)
    strengths = [parts.outgoing_weights(layer).square().mean(0).sqrt() for layer in range(len(parts.layers))]
    ranked = sorted((float(value), layer, unit) for layer, values in enumerate(strengths) for unit, value in enumerate(values))
    kept = [set(range(len(values))) for values in strengths]
    for _, layer, unit in ranked:
        if count == 0:
            break
        if len(kept[layer]) > 1:
            kept[layer].remove(unit)
            count -= 1
    if count:
        raise ValueError(f"{count} more units were to be dropped than can be: every layer keeps one")
    return [
        {"edit": "keep", "layer": layer, "units": sorted(units)} for layer, units in enumerate(kept) if len(units) < len(strengths[layer])
    ]


def unit_count(model: nn.Module) -> int:
    """Hidden units over all layers.

    Raises:
        ValueError: the network has no units to take out.
    """
    parts = _with_units(model)
    return sum(parts.outgoing_weights(layer).shape[1] for layer in range(len(parts.layers)))


def _own_rows(model: HasUnits, layer: int) -> int:
    cell: Any = model.layers[layer]
    return len(cell.weight_hh)


def _with_units(model: nn.Module) -> HasUnits:
    if not isinstance(model, HasUnits):
        raise ValueError(f"{type(model).__name__} has no hidden units that can be taken out: it lacks keep_units and outgoing_weights")
    return model
