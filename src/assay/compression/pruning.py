"""Which weights magnitude pruning may take, and the masks it draws: one threshold on |w|, over the network, a layer or a tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from assay.models.masking import mask_of, masks_of, set_masks, weight_of
from assay.nn.recurrent.masked import GATES, MaskedRecurrentCell

Scope = Literal["global", "layer", "tensor"]


@dataclass(frozen=True)
class RecurrentWeight:
    """A weight of a recurrent layer: its name, whether it reads the input (i2h) or the state (h2h), and its gates, a row block each."""

    name: str
    kind: Literal["i2h", "h2h"]
    gates: tuple[str, ...]


def recurrent_weights(model: nn.Module) -> list[RecurrentWeight]:
    """Every weight matrix of every recurrent layer: `MaskedRecurrentCell` and ``nn.RNN/LSTM/GRU``, all layers and directions."""
    found = []
    for path, module in model.named_modules():
        start = f"{path}." if path else ""
        if isinstance(module, MaskedRecurrentCell):
            attributes, mode = ["weight_ih", "weight_hh"], module.mode
        elif isinstance(module, nn.RNNBase):
            attributes, mode = (
                [name for name in module._flat_weights_names if name.startswith(("weight_ih", "weight_hh"))],
                module.mode.lower(),
            )
        else:
            continue
        found += [RecurrentWeight(start + name, "i2h" if "_ih" in name else "h2h", GATES[mode]) for name in attributes]
    return found


def prunable_weights(model: nn.Module) -> list[str]:
    """Every weight matrix or kernel of linear, convolutional, attention and recurrent layers.

    Embeddings (and weights shared with one), biases, normalisations and loose parameters are left whole.
    """
    names = [weight.name for weight in recurrent_weights(model)]
    embedded = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    for path, module in model.named_modules():
        start = f"{path}." if path else ""
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d) and id(module.weight) not in embedded:
            names.append(f"{start}weight")
        elif isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
            names.append(f"{start}in_proj_weight")
    return names


def prune_recurrent(
    model: nn.Module,
    fraction: float,
    i2h: bool = True,
    h2h: bool = True,
    scope: Scope = "global",
    gates: Sequence[str] | None = None,
) -> dict[str, Tensor]:
    """Mask the smallest weights of the recurrent layers, in place.

    ``threshold = percentile(|w|, 100·fraction)`` with linear interpolation; an entry stays if ``|w| >= threshold``. ``fraction = 1``
    drops everything (by the formula the largest weight alone would stay). Entries that are masked already do not count.

    Args:
        model: any network with `MaskedRecurrentCell` or ``nn.RNN/LSTM/GRU`` layers.
        fraction: part of the open weights to drop, 0 … 1.
        i2h: prune input-to-hidden weights.
        h2h: prune hidden-to-hidden weights.
        scope: one threshold for all (``global``), for each ``layer``, or for each ``tensor``.
        gates: only these gates (see `assay.nn.recurrent.masked.GATES`); None is all.

    Returns:
        The masks by weight name.

    Raises:
        ValueError: fraction outside [0, 1], neither i2h nor h2h, unknown scope or gate, or no recurrent layer.

    Source: Darji 2024, Investigating Sparsity in Recurrent Neural Networks; Han et al. 2015, Learning both Weights and Connections.
    """
    return prune_weights(model, eligible_recurrent(model, i2h, h2h, gates), fraction, scope)


def eligible_recurrent(model: nn.Module, i2h: bool = True, h2h: bool = True, gates: Sequence[str] | None = None) -> dict[str, Tensor]:
    """The entries (bool, the weight's shape) of the recurrent weights of the chosen kinds and gates, by weight name.

    Raises:
        ValueError: neither kind is chosen, a gate is unknown, or there is no recurrent layer.
    """
    if not (i2h or h2h):
        raise ValueError("neither i2h nor h2h was chosen: there is nothing to prune")
    weights = [weight for weight in recurrent_weights(model) if (i2h if weight.kind == "i2h" else h2h)]
    if not weights:
        raise ValueError(f"{type(model).__name__} has no recurrent layer to prune")
    known = {gate for weight in weights for gate in weight.gates}
    if gates is not None and not set(gates) <= known:
        raise ValueError(f"gates must be some of {', '.join(sorted(known))}, got {list(gates)}")
    return {weight.name: _rows_of(weight, weight_of(model, weight.name), gates) for weight in weights}


def open_entries(model: nn.Module, eligible: Mapping[str, Tensor]) -> int:
    """How many of the eligible entries are not masked yet."""
    return sum(int((_open(model, name) & entries).sum()) for name, entries in eligible.items())


def prune_weights(
    model: nn.Module, weights: Sequence[str] | Mapping[str, Tensor], fraction: float, scope: Scope = "global"
) -> dict[str, Tensor]:
    """Mask the smallest entries of the named weights, in place; see `prune_recurrent` for the rule.

    Args:
        model: any network.
        weights: names, or names with the entries (bool, the weight's shape) that may be pruned.
        fraction: part of the eligible open entries to drop.
        scope: ``global``, ``layer`` or ``tensor``.

    Returns:
        The masks by weight name.

    Raises:
        ValueError: fraction outside [0, 1], unknown scope, or a name that is no weight.
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction must lie between 0 and 1, got {fraction}")
    if scope not in ("global", "layer", "tensor"):
        raise ValueError(f"scope must be global, layer or tensor, got {scope!r}")
    group_of = {"global": lambda name: "", "layer": lambda name: name.rpartition(".")[0], "tensor": lambda name: name}[scope]
    groups: dict[str, list[str]] = {}
    for name in weights:
        groups.setdefault(group_of(name), []).append(name)
    masks: dict[str, Tensor] = {}
    for members in groups.values():
        magnitudes = {name: weight_of(model, name).detach().abs() for name in members}
        open_ = {name: _open(model, name) for name in members}
        may = {name: open_[name] & weights[name] if isinstance(weights, Mapping) else open_[name] for name in members}
        limit = threshold(torch.cat([magnitudes[name][may[name]] for name in members]), fraction)
        masks |= {name: open_[name] & ~(may[name] & (magnitudes[name] < limit)) for name in members}
    set_masks(model, masks)
    return masks


def prune_smallest(model: nn.Module, eligible: Mapping[str, Tensor], count: int) -> None:
    """Mask exactly ``count`` open eligible entries, the smallest of all, in place; of equal ones the first.

    A threshold cannot part weights of equal size; this can.
    """
    masks = {name: _open(model, name) for name in eligible}
    places = {name: (masks[name] & entries).flatten().nonzero().flatten() for name, entries in eligible.items()}
    magnitudes = torch.cat([weight_of(model, name).detach().abs().flatten()[index] for name, index in places.items()])
    dropped = torch.zeros(len(magnitudes), dtype=torch.bool, device=magnitudes.device)
    dropped[magnitudes.argsort(stable=True)[:count]] = True
    for (name, index), part in zip(places.items(), dropped.split([len(index) for index in places.values()]), strict=True):
        masks[name].view(-1)[index[part]] = False
    set_masks(model, masks)


def threshold(magnitudes: Tensor, fraction: float) -> float:
    """``percentile(magnitudes, 100·fraction)``, linearly interpolated; infinity for ``fraction = 1``, which keeps nothing."""
    if fraction == 1:
        return float("inf")
    if magnitudes.numel() == 0:
        return 0.0
    rank = fraction * (magnitudes.numel() - 1)
    below = int(rank)
    flat = magnitudes.flatten().double()
    low = float(flat.kthvalue(below + 1).values)
    high = float(flat.kthvalue(min(below + 2, len(flat))).values)
    return low + (rank - below) * (high - low)


def sparsity(model: nn.Module) -> float:
    """The part of the maskable entries that is masked, 0 where nothing has a mask."""
    masks = list(masks_of(model).values())
    total = sum(mask.numel() for mask in masks)
    return sum(int((~mask).sum()) for mask in masks) / total if total else 0.0


def _open(model: nn.Module, name: str) -> Tensor:
    mask = mask_of(model, name)
    return torch.ones_like(weight_of(model, name), dtype=torch.bool) if mask is None else mask.clone()


def _rows_of(weight: RecurrentWeight, values: Tensor, gates: Sequence[str] | None) -> Tensor:
    """True in the row blocks of the chosen gates."""
    chosen = torch.tensor([gates is None or gate in gates for gate in weight.gates], device=values.device)
    return chosen.repeat_interleave(len(values) // len(weight.gates))[:, None].expand_as(values)
