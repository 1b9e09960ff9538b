"""Masks on the weights of a network, and units taken out of it: what the edits ``mask`` and ``keep`` do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from assay.nn.recurrent.masked import MaskedRecurrentCell


class Mask(nn.Module):
    """``w ∘ M``: a parametrisation with a boolean buffer ``mask``, all true at first; masked entries get no gradient."""

    mask: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", torch.ones_like(weight, dtype=torch.bool))

    def forward(self, weight: Tensor) -> Tensor:
        """The weight the layer computes with."""
        return weight * self.mask


def apply_masks(model: nn.Module, names: Iterable[str], fraction: float | None = None) -> nn.Module:
    """Put a mask, all true, on every named weight; masks are in the ``state_dict`` and act at every forward.

    A `MaskedRecurrentCell` has its masks already. Any other weight becomes the product of a parameter (``original``) and a mask
    (`torch.nn.utils.parametrize`), in ``nn.RNN/LSTM/GRU`` too. A weight that is masked already is left alone.

    Args:
        model: changed in place, and returned.
        names: as ``named_parameters`` has them before any mask, for example ``"layers.0.weight_hh"``.
        fraction: the part that was pruned; kept in the edit for people to read, and not used: which entries are gone is in the masks.

    Raises:
        ValueError: a name is not a weight of the model.
    """
    for name in names:
        module, attribute = _owner(model, name)
        if _cell_mask(module, attribute) is None and not parametrize.is_parametrized(module, attribute):
            parametrize.register_parametrization(module, attribute, Mask(getattr(module, attribute)))
            if isinstance(module, nn.RNNBase):
                _read_weights_anew(module)
    return model


def set_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """Set the masks of the named weights, registering them first where needed.

    Raises:
        ValueError: a name is not a weight of the model, or a mask has another shape than its weight.
    """
    apply_masks(model, masks)
    for name, mask in masks.items():
        buffer = mask_of(model, name)
        assert buffer is not None  # registered above
        if buffer.shape != mask.shape:
            raise ValueError(f"the mask of {name} must have shape {tuple(buffer.shape)}, got {tuple(mask.shape)}")
        buffer.copy_(mask)
    return model


def mask_of(model: nn.Module, name: str) -> Tensor | None:
    """The mask buffer of a weight, or None where it has none."""
    module, attribute = _owner(model, name)
    found = _cell_mask(module, attribute)
    if found is None and parametrize.is_parametrized(module, attribute):
        found = next((step.mask for step in _steps(module, attribute) if isinstance(step, Mask)), None)
    return found


def weight_of(model: nn.Module, name: str) -> Tensor:
    """The weight itself, before its mask: the parameter that an optimiser moves."""
    module, attribute = _owner(model, name)
    return _steps(module, attribute).original if parametrize.is_parametrized(module, attribute) else getattr(module, attribute)


def masked_names(model: nn.Module) -> list[str]:
    """Every weight that has a mask, whether or not the mask hides anything."""
    names = []
    for prefix, module in model.named_modules():
        start = f"{prefix}." if prefix else ""
        if isinstance(module, MaskedRecurrentCell):
            names += [f"{start}weight_ih", f"{start}weight_hh"]
        if parametrize.is_parametrized(module):
            names += [f"{start}{attribute}" for attribute in _parametrizations(module) if mask_of(module, attribute) is not None]
    return names


def masks_of(model: nn.Module) -> dict[str, Tensor]:
    """The mask of every masked weight, by name."""
    masks = {name: mask_of(model, name) for name in masked_names(model)}
    return {name: mask for name, mask in masks.items() if mask is not None}


def nonzero_parameters(model: nn.Module) -> int:
    """Numbers a network must keep: all its parameters less the masked entries."""
    return sum(p.numel() for p in model.parameters()) - sum(int((~mask).sum()) for mask in masks_of(model).values())


def fix_masks(model: nn.Module) -> nn.Module:
    """Write the zeros into the weights for good and take the parametrisations away: a plain network, for export.

    The masks of a `MaskedRecurrentCell` are part of it and stay.
    """
    for name in masked_names(model):
        module, attribute = _owner(model, name)
        mask = _cell_mask(module, attribute)
        if mask is not None:
            with torch.no_grad():
                getattr(module, attribute).mul_(mask)
            continue
        parametrize.remove_parametrizations(module, attribute, leave_parametrized=True)
        if isinstance(module, nn.RNNBase):
            _hold_weights_again(module)
    return model


def keep_units(model: nn.Module, layer: int, units: Sequence[int]) -> nn.Module:
    """Keep only the named units of a layer, in place; the model says how, by its own ``keep_units(layer, units)``.

    Raises:
        ValueError: the model cannot, or the layer or a unit does not exist.
    """
    own: Any = getattr(model, "keep_units", None)
    if own is None:
        raise ValueError(f"{type(model).__name__} cannot drop units: it has no method keep_units(layer, units)")
    own(layer, units)
    return model


def _owner(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, attribute = name.rpartition(".")
    try:
        module = model.get_submodule(path)
    except AttributeError as error:
        raise ValueError(f"{type(model).__name__} has no weight {name!r}") from error
    if not isinstance(getattr(module, attribute, None), Tensor):
        raise ValueError(f"{type(model).__name__} has no weight {name!r}")
    return module, attribute


def _cell_mask(module: nn.Module, attribute: str) -> Tensor | None:
    if isinstance(module, MaskedRecurrentCell) and attribute.startswith("weight_"):
        return getattr(module, attribute.replace("weight_", "mask_"))
    return None


def _parametrizations(module: nn.Module) -> Any:
    return module.parametrizations


def _steps(module: nn.Module, attribute: str) -> Any:
    return _parametrizations(module)[attribute]


def _read_weights_anew(module: nn.RNNBase) -> None:
    """Let ``nn.RNN/LSTM/GRU`` look its weights up at every call: it otherwise keeps a list of the unmasked ones."""
    kind: Any = type(module)  # parametrize has given this one instance a class of its own
    kind._flat_weights = property(lambda self: [getattr(self, name) for name in self._flat_weights_names], lambda self, weights: None)
    module.__dict__.pop("_flat_weights", None)


def _hold_weights_again(module: nn.RNNBase) -> None:
    if not parametrize.is_parametrized(module):
        module._flat_weights = [getattr(module, name) for name in module._flat_weights_names]
