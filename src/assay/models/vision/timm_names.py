"""Reading Inception weights that carry the names of pytorch-image-models (timm), without that library."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from assay.models.vision.inception import InceptionNetwork, InceptionResNetV2, InceptionV4

# names of the convolution units of each block, in the order in which ours are built
_A = ["branch0", "branch1.0", "branch1.1", "branch2.0", "branch2.1", "branch2.2", "branch3.1"]
_B = ["branch0", *(f"branch1.{step}" for step in range(3)), *(f"branch2.{step}" for step in range(5)), "branch3.1"]
_C = ["branch0", "branch1_0", "branch1_1a", "branch1_1b", "branch2_0", "branch2_1", "branch2_2", "branch2_3a", "branch2_3b", "branch3.1"]
_REDUCTION_A = ["branch0", "branch1.0", "branch1.1", "branch1.2"]
_REDUCTION_B = ["branch0.0", "branch0.1", "branch1.0", "branch1.1", "branch1.2", "branch1.3"]
_RESIDUAL_REDUCTION_B = ["branch0.0", "branch0.1", "branch1.0", "branch1.1", "branch2.0", "branch2.1", "branch2.2"]
_STEM_LONG = [f"branch0.{step}" for step in range(2)] + [f"branch1.{step}" for step in range(4)]
_RESIDUAL_A = ["branch0", "branch1.0", "branch1.1", "branch2.0", "branch2.1", "branch2.2"]
_RESIDUAL_BC = ["branch0", "branch1.0", "branch1.1", "branch1.2"]


def timm_names(network: InceptionNetwork, depths: tuple[int, int, int] | None = None) -> dict[str, str]:
    """Which tensor of a timm checkpoint belongs in which of ours.

    Args:
        network: `InceptionV4`, or `InceptionResNetV2` of the slim flavour.
        depths: number of blocks A, B, C if they are not the published ones.

    Returns:
        Our name of each tensor → timm's.

    Raises:
        ValueError: timm has no such network, or the depths are not this network's.
    """
    if isinstance(network, InceptionV4):
        theirs = list(_tensors(_v4_units(depths or (4, 7, 3)), classifier="last_linear"))
    elif isinstance(network, InceptionResNetV2):
        theirs = list(_tensors(_slim_units(depths or (10, 20, 10)), classifier="classif"))
    else:
        raise ValueError(f"there is no timm checkpoint of {type(network).__name__}")
    ours = list(network.state_dict())
    if len(ours) != len(theirs):
        raise ValueError(f"timm's network has {len(theirs)} tensors, this one {len(ours)}: not the same flavour or depths")
    return dict(zip(ours, theirs, strict=True))


def load_timm(network: InceptionNetwork, weights: Mapping[str, Tensor], depths: tuple[int, int, int] | None = None) -> None:
    """Load a state dict with timm's names, in any order.

    Raises:
        ValueError: a tensor is missing or has another shape.
    """
    own = network.state_dict()
    for name, their_name in timm_names(network, depths).items():
        if their_name not in weights:
            raise ValueError(f"the checkpoint has no tensor {their_name!r}")
        if weights[their_name].shape != own[name].shape:
            raise ValueError(f"{their_name} has shape {tuple(weights[their_name].shape)}, {name} needs {tuple(own[name].shape)}")
        with torch.no_grad():
            own[name].copy_(weights[their_name])


def _v4_units(depths: tuple[int, int, int]) -> Iterator[str]:
    stem = [[""], [""], [""], ["conv"], _STEM_LONG, ["conv"]]
    blocks = [*stem, *[_A] * depths[0], _REDUCTION_A, *[_B] * depths[1], _REDUCTION_B, *[_C] * depths[2]]
    for place, block in enumerate(blocks):
        for unit in block:
            yield f"features.{place}.{unit}".removesuffix(".")


def _slim_units(depths: tuple[int, int, int]) -> Iterator[str]:
    yield from ("conv2d_1a", "conv2d_2a", "conv2d_2b", "conv2d_3b", "conv2d_4a")
    yield from (f"mixed_5b.{unit}" for unit in _A)
    stages = [("repeat", _RESIDUAL_A, depths[0]), ("repeat_1", _RESIDUAL_BC, depths[1]), ("repeat_2", _RESIDUAL_BC, depths[2] - 1)]
    reductions = [("mixed_6a", _REDUCTION_A), ("mixed_7a", _RESIDUAL_REDUCTION_B)]
    for stage, (name, units, count) in enumerate(stages):
        for place in range(count):
            yield from (f"{name}.{place}.{unit}" for unit in [*units, "conv2d"])
        if stage < len(reductions):
            yield from (f"{reductions[stage][0]}.{unit}" for unit in reductions[stage][1])
    yield from (f"block8.{unit}" for unit in [*_RESIDUAL_BC, "conv2d"])
    yield "conv2d_7b"


def _tensors(units: Iterator[str], classifier: str) -> Iterator[str]:
    for unit in units:
        if unit.endswith(".conv2d"):  # the expansion: a bias, no normalisation
            yield from (f"{unit}.weight", f"{unit}.bias")
            continue
        yield f"{unit}.conv.weight"
        yield from (f"{unit}.bn.{tensor}" for tensor in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"))
    yield from (f"{classifier}.weight", f"{classifier}.bias")
