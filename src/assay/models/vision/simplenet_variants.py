"""Every SimpleNet by the name its authors gave it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from assay.models.vision.simplenet import SimpleNet

VARIANTS: dict[str, dict[str, Any]] = {
    "simplenet_cifar_310k": {"stages": "cifar-310k"},
    "simplenet_cifar_460k": {"stages": "cifar-460k"},
    "simplenet_cifar_5m": {"stages": "cifar-5m"},
    "simplenet_cifar_5m_extra_pool": {"stages": "cifar-5m-extra-pool"},
    "simplenet_tiny": {"stages": "tiny"},
    "simplenetv1_small_m1_05": {"stages": "imagenet-5m", "width": 0.5, "stride_mode": 1},
    "simplenetv1_small_m2_05": {"stages": "imagenet-5m", "width": 0.5, "stride_mode": 2},
    "simplenetv1_small_m1_075": {"stages": "imagenet-5m", "width": 0.75, "stride_mode": 1},
    "simplenetv1_small_m2_075": {"stages": "imagenet-5m", "width": 0.75, "stride_mode": 2},
    "simplenetv1_5m_m1": {"stages": "imagenet-5m", "stride_mode": 1},
    "simplenetv1_5m_m2": {"stages": "imagenet-5m", "stride_mode": 2},
    "simplenetv1_9m_m1": {"stages": "imagenet-9m", "stride_mode": 1},
    "simplenetv1_9m_m2": {"stages": "imagenet-9m", "stride_mode": 2},
}


def simplenet(
    name: str, num_classes: int | None = None, in_channels: int | None = None, original: bool = False, **options: Any
) -> SimpleNet:
    """A network of `VARIANTS` by name.

    Args:
        name: a key of `VARIANTS`.
        num_classes: by default 10 for the CIFAR networks and the tiny one, 1000 for the ImageNet ones.
        in_channels: channels of the pictures, by default 3, for the tiny network 1.
        original: the first (Caffe) form; for ``simplenet_cifar_460k`` it also has the three kernels that the port swapped.
        options: further arguments of `SimpleNet`.

    Raises:
        ValueError: there is no such variant.
    """
    if name not in VARIANTS:
        raise ValueError(f"there is no SimpleNet variant {name!r}; there are {', '.join(VARIANTS)}")
    settings = VARIANTS[name] | options
    if original and name == "simplenet_cifar_460k":
        settings["stages"] = "cifar-460k-original"
    classes = num_classes or (1000 if name.startswith("simplenetv1") else 10)
    channels = in_channels or (1 if name == "simplenet_tiny" else 3)
    return SimpleNet(classes, channels, original=original, **settings)


def simplenet_cifar_310k(num_classes: int = 10, in_channels: int = 3, original: bool = False, **options: Any) -> SimpleNet:
    """The slim network: 312,362 parameters at ten classes."""
    return simplenet("simplenet_cifar_310k", num_classes, in_channels, original, **options)


def simplenet_cifar_460k(num_classes: int = 10, in_channels: int = 3, original: bool = False, **options: Any) -> SimpleNet:
    """The PyTorch port's 385,790 parameters, or with ``original`` the paper's 460 thousand (455,862)."""
    return simplenet("simplenet_cifar_460k", num_classes, in_channels, original, **options)


def simplenet_cifar_5m(num_classes: int = 10, in_channels: int = 3, original: bool = False, **options: Any) -> SimpleNet:
    """The base network of the paper: 5,498,378 parameters at ten classes."""
    return simplenet("simplenet_cifar_5m", num_classes, in_channels, original, **options)


def simplenet_cifar_5m_extra_pool(num_classes: int = 10, in_channels: int = 3, **options: Any) -> SimpleNet:
    """The early port with a pool too many, which the published CIFAR checkpoints were trained with; pictures of at least 32."""
    return simplenet("simplenet_cifar_5m_extra_pool", num_classes, in_channels, **options)


def simplenet_tiny(num_classes: int = 10, in_channels: int = 1, **options: Any) -> SimpleNet:
    """A slim network with three pools, for pictures from 8×8."""
    return simplenet("simplenet_tiny", num_classes, in_channels, **options)


def simplenetv1_small_m1_05(num_classes: int = 1000, **options: Any) -> SimpleNet:
    """ImageNet network, half width, stride mode 1: 1,506,792 parameters."""
    return simplenet("simplenetv1_small_m1_05", num_classes, **options)


def simplenetv1_small_m2_05(num_classes: int = 1000, **options: Any) -> SimpleNet:
    """ImageNet network, half width, stride mode 2: 1,506,792 parameters."""
    return simplenet("simplenetv1_small_m2_05", num_classes, **options)


def simplenetv1_small_m1_075(num_classes: int = 1000, **options: Any) -> SimpleNet:
    """ImageNet network, three quarters of the width, stride mode 1: 3,287,272 parameters."""
    return simplenet("simplenetv1_small_m1_075", num_classes, **options)


def simplenetv1_small_m2_075(num_classes: int = 1000, **options: Any) -> SimpleNet:
    """ImageNet network, three quarters of the width, stride mode 2: 3,287,272 parameters."""
    return simplenet("simplenetv1_small_m2_075", num_classes, **options)


def simplenetv1_5m_m1(num_classes: int = 1000, **options: Any) -> SimpleNet:
    """ImageNet network, stride mode 1: 5,752,808 parameters."""
    return simplenet("simplenetv1_5m_m1", num_classes, **options)


def simplenetv1_5m_m2(num_classes: int = 1000, **options: Any) -> SimpleNet:
    """ImageNet network, stride mode 2: 5,752,808 parameters."""
    return simplenet("simplenetv1_5m_m2", num_classes, **options)


def simplenetv1_9m_m1(num_classes: int = 1000, **options: Any) -> SimpleNet:
    """Wider ImageNet network, stride mode 1: 9,508,968 parameters."""
    return simplenet("simplenetv1_9m_m1", num_classes, **options)


def simplenetv1_9m_m2(num_classes: int = 1000, **options: Any) -> SimpleNet:
    """Wider ImageNet network, stride mode 2: 9,508,968 parameters."""
    return simplenet("simplenetv1_9m_m2", num_classes, **options)


def load_published(network: SimpleNet, weights: dict[str, Tensor] | Sequence[tuple[str, Tensor]]) -> None:
    """Load a published checkpoint, whose layers have other names but the same order: convolution, normalisation, unit after unit.

    Args:
        network: the same variant, not the original form.
        weights: the checkpoint's state dict, in its own order.

    Raises:
        ValueError: another number of tensors, or a tensor of another shape.
    """
    own, theirs = network.state_dict(), list(dict(weights).items())
    if len(own) != len(theirs):
        raise ValueError(f"the checkpoint has {len(theirs)} tensors, this network {len(own)}: not the same variant")
    for (name, tensor), (their_name, their_tensor) in zip(own.items(), theirs, strict=True):
        if tensor.shape != their_tensor.shape:
            raise ValueError(f"{their_name} has shape {tuple(their_tensor.shape)}, {name} needs {tuple(tensor.shape)}")
        with torch.no_grad():
            tensor.copy_(their_tensor)
