"""A file for masked networks: of a masked weight only the open entries and one bit an entry are written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn.utils import parametrize

from assay.models.masking import mask_of, masked_names, weight_of


def sparse_bytes(model: nn.Module) -> int:
    """Bytes of the file `save_sparse` would write."""
    return len(_serialised(model))


def dense_bytes(model: nn.Module) -> int:
    """Bytes of the network as an ordinary safetensors file without masks: every parameter and buffer that is no mask."""
    masks = {mask.data_ptr() for mask in (mask_of(model, name) for name in masked_names(model)) if mask is not None}
    state = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items() if tensor.data_ptr() not in masks}
    return len(save(state))


def save_sparse(model: nn.Module, path: str | Path) -> int:
    """Write a network's state: each masked weight as its open values and a bit map, everything else as it is.

    Returns:
        The bytes of the file. A weight with fraction f open takes ``4·f + 1/8`` bytes an entry instead of 4.
    """
    path = Path(path)
    content = _serialised(model)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)
    return len(content)


def load_sparse(model: nn.Module, path: str | Path) -> nn.Module:
    """Read what `save_sparse` wrote into a network with the same masks registered (built, edits replayed); masked entries become 0.

    Raises:
        ValueError: the file holds other weights than the network has.
    """
    packed = load_file(path)
    state: dict[str, Tensor] = {}
    keys = {name: _keys(model, name) for name in masked_names(model)}
    names = {weight: (name, mask) for name, (weight, mask) in keys.items()}
    for key, tensor in packed.items():
        if key.endswith(".values"):
            weight = key.removesuffix(".values")
            if weight not in names:
                raise ValueError(f"{path} has a masked weight {weight!r} that the network has not: replay its edits first")
            shape = weight_of(model, names[weight][0]).shape
            mask = _unpacked(packed[f"{weight}.bits"], shape)
            dense = torch.zeros(shape, dtype=tensor.dtype)
            dense[mask] = tensor
            state |= {weight: dense, names[weight][1]: mask}
        elif not key.endswith(".bits"):
            state[key] = tensor
    for weight, (name, mask) in names.items():
        state.setdefault(mask, torch.ones(weight_of(model, name).shape, dtype=torch.bool))
        if weight not in state:
            raise ValueError(f"{path} lacks the weight {weight!r} that the network has")
    model.load_state_dict(state)
    return model


def _serialised(model: nn.Module) -> bytes:
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    packed: dict[str, Tensor] = {}
    for name in masked_names(model):
        weight, mask = _keys(model, name)
        dense, open_ = state[weight], state.pop(mask)
        if not bool(open_.all()):  # a mask that hides nothing is not worth its bits
            del state[weight]
            packed[f"{weight}.values"] = dense[open_]
            packed[f"{weight}.bits"] = _packed(open_)
    everything = {name: tensor.clone().contiguous() for name, tensor in {**state, **packed}.items()}
    return save(everything, metadata={"format": json.dumps("assay-sparse-1")})


def _keys(model: nn.Module, name: str) -> tuple[str, str]:
    """The keys of a masked weight and of its mask in the ``state_dict``."""
    path, _, attribute = name.rpartition(".")
    start = f"{path}." if path else ""
    if parametrize.is_parametrized(model.get_submodule(path), attribute):
        return f"{start}parametrizations.{attribute}.original", f"{start}parametrizations.{attribute}.0.mask"
    return name, f"{start}{attribute.replace('weight_', 'mask_')}"


def _packed(mask: Tensor) -> Tensor:
    return torch.from_numpy(np.packbits(mask.flatten().numpy()))


def _unpacked(bits: Tensor, shape: torch.Size) -> Tensor:
    return torch.from_numpy(np.unpackbits(bits.numpy(), count=shape.numel()).astype(bool)).view(shape)
