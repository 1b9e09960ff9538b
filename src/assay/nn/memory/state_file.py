"""A stream's state as a file, to read on another day what was read today; and several neural memories made one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils import _pytree as pytree

from assay.contracts import State
from assay.errors import UserError
from assay.ops.surprise_scan import SurpriseState


def save_state(state: State, file: str | Path) -> None:
    """Write the state of any mixer or model that streams as safetensors, complete or not at all.

    Args:
        state: a pytree of tensors, as ``scan`` and ``step`` give it.
        file: where; by custom it ends in ``.safetensors``.
    """
    path = Path(file)
    partial = path.with_name(path.name + ".partial")
    # A tensor may be a view of weights that all rows share: a file holds numbers of its own.
    save_file({name: tensor.detach().contiguous().clone() for name, tensor in _named(state).items()}, partial)
    partial.replace(path)


def load_state(file: str | Path, like: State) -> State:
    """Read what `save_state` wrote.

    Args:
        file: as written.
        like: a state of the same mixer or model, ``initial_state(batch size)`` say: it gives the structure, the types and the device.

    Raises:
        UserError: the file is not there, or is of a state of another structure.
    """
    if not Path(file).is_file():
        raise UserError(f"{file} does not exist: name a file that save_state wrote.")
    found, wanted = load_file(file), _named(like)
    if found.keys() != wanted.keys():
        differing = ", ".join(sorted(found.keys() ^ wanted.keys()))
        raise UserError(f"{file} holds the state of another network: they differ in {differing}; load it into the one that wrote it.")
    leaves, structure = pytree.tree_flatten(like)
    read = iter(found[name].to(leaf.dtype).to(leaf.device) for name, leaf in wanted.items())
    return pytree.tree_unflatten([next(read) if isinstance(leaf, Tensor) else leaf for leaf in leaves], structure)


def merge_memories(states: Sequence[SurpriseState], start: SurpriseState) -> SurpriseState:
    """One memory that holds what several learned from the same start: ``M = M_0 + Σ_i (M_i − M_0)``, and surprise alike.

    For linear memories and keys at right angles it is the memory that read everything; for others it is near that as long as what was
    written is small. In the manner of Ilharco et al. (2022), Editing Models with Task Arithmetic.

    Args:
        states: at least one, of the same shapes, none with positions pending: ends of whole chunks.
        start: what all began with.

    Raises:
        ValueError: no state, positions are pending, or shapes differ.
    """
    if not states:
        raise ValueError("there must be at least one memory to merge")
    shapes = {tuple(tuple(layer.shape) for layer in (*state.weights, *state.surprise)) for state in (*states, start)}
    if len(shapes) > 1:
        raise ValueError(f"memories must have the same shapes, got {len(shapes)} different ones")
    if any(bool(state.count.any()) for state in states):
        raise ValueError("memories can be merged at the end of a chunk only, and some have positions pending")

    def summed(first: Sequence[Tensor], others: Sequence[Sequence[Tensor]]) -> tuple[Tensor, ...]:
        return tuple(old + sum(new[layer] - old for new in others) for layer, old in enumerate(first))

    return start._replace(
        weights=summed(start.weights, [state.weights for state in states]),
        surprise=summed(start.surprise, [state.surprise for state in states]),
        pending=torch.zeros_like(start.pending),
        count=torch.zeros_like(start.count),
    )


def _named(state: State) -> dict[str, Tensor]:
    """Every tensor by its path, in the order of the leaves."""
    return {pytree.keystr(path): leaf for path, leaf in pytree.tree_leaves_with_path(state) if isinstance(leaf, Tensor)}
