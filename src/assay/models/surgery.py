"""Edits: named, JSON-serialisable changes of architecture, replayed on load before the weights.

An edit is ``{"edit": name, …arguments}``. `apply` makes the change on a live model, keeping its function where the edit is exact, and
records it; `replay` makes it on a freshly built model, whose weights are read afterwards.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from torch import nn

from assay.contracts import Edit

EDITS: dict[str, str] = {
    "fold": "assay.models.vision.folding:fold_batchnorm",
    "fold-queries": "assay.models.surgery:fold_queries",
    "mask": "assay.models.masking:apply_masks",
    "keep": "assay.models.masking:keep_units",
    "deepen": "assay.models.surgery:deepen",
    "truncate": "assay.models.surgery:truncate",
}


def apply(model: nn.Module, edit: Edit) -> nn.Module:
    """Make an edit on a live model and add it to ``model.config``.

    Raises:
        ValueError: the edit's name is unknown, or it does not fit the model.
    """
    config = getattr(model, "config", {"build": None, "edits": []})
    edited: Any = replay(model, edit)
    edited.config = {**config, "edits": [*config["edits"], edit]}
    return edited


def replay(model: nn.Module, edit: Edit) -> nn.Module:
    """Make an edit on a model; returns the edited model (the same object where that is possible)."""
    arguments = dict(edit)
    name = arguments.pop("edit", None)
    config = getattr(model, "config", None)
    edited: Any = _function(name)(model, **arguments)
    if config is not None:
        edited.config = {**config, "edits": [*config["edits"]]}
    return edited


def _function(name: Any) -> Callable[..., nn.Module]:
    if name not in EDITS:
        raise ValueError(f"unknown edit {name!r}: it must be one of {', '.join(EDITS)}")
    module, attribute = EDITS[name].split(":")
    return getattr(importlib.import_module(module), attribute)


def fold_queries(model: nn.Module) -> nn.Module:
    """Fold the constant query of every Aaren into one score vector a head; exact, and half of the attention's parameters go."""
    from assay.nn.attention.aaren import Aaren

    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Aaren):
                setattr(parent, name, child.fold())
    return model


def deepen(model: nn.Module, block: int) -> nn.Module:
    """Insert, after block ``block`` of a sequence model, a copy that starts as the identity: a learned scale of 0 on each of its branches.

    Source of the scale: Bachlechner et al. (2020), ReZero is All You Need: Fast Convergence at Large Depth.

    Raises:
        ValueError: the model has no list of blocks, or none of that number; no copy of that block can be the identity.
    """
    import copy

    from assay.nn.norm import LayerScale

    blocks = _blocks(model, block)
    twin: Any = copy.deepcopy(blocks[block])
    if twin.post_norm:
        raise ValueError("a block that normalises after its sums changes what passes through it: no copy of it can be the identity")
    width: Any = model.width
    for branch in ("mixer", "feed_forward"):
        if getattr(twin, branch) is not None:
            scale = LayerScale(width).to(next(twin.parameters()).device)
            nn.init.zeros_(scale.scale)
            setattr(twin, f"{branch}_scale", scale)
    blocks.insert(block + 1, twin)
    return model


def truncate(model: nn.Module, blocks: int) -> nn.Module:
    """Keep the first ``blocks`` blocks of a sequence model.

    Raises:
        ValueError: the model has no list of blocks, or fewer.
    """
    kept = _blocks(model, blocks - 1)
    del kept[blocks:]
    return model


def _blocks(model: nn.Module, index: int) -> nn.ModuleList:
    blocks = getattr(model, "blocks", None)
    if not isinstance(blocks, nn.ModuleList):
        raise ValueError(f"{type(model).__name__} has no list of blocks to edit")
    if not 0 <= index < len(blocks):
        raise ValueError(f"block {index} does not exist: {type(model).__name__} has {len(blocks)}")
    return blocks
