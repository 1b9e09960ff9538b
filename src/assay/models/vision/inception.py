"""Inception-v4, Inception-ResNet-v1 and -v2: multi-branch image networks, at any width and depth, for large and small pictures.

Source: Szegedy, Ioffe, Vanhoucke, Alemi, Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning, 2016.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn

from assay.contracts import Signature
from assay.models.vision.adapter import VisionModel, hide_padding, map_shape, why_not
from assay.models.vision.inception_blocks import (
    RESIDUAL_CHAINS,
    Builder,
    InceptionA,
    InceptionB,
    InceptionC,
    ReductionA,
    ReductionB,
    ResidualInception,
    ResidualReductionB,
)
from assay.models.vision.inception_stems import StemResNetV1, StemSlim, StemV4
from assay.models.vision.widths import WidthRule
from assay.nn.linear import Linear
from assay.nn.pooling import global_pool

StemKind = Literal["imagenet", "small"]
SMALLEST_FOR_IMAGENET = 75
RESIDUAL_SCALES = (0.17, 0.10, 0.20)


class InceptionNetwork(nn.Module):
    """What the three networks share: ``logits = W · dropout(mean_positions(features(stem(x)))) + b``.

    Shapes: x (batch, channels, height, width), or (batch, channels, length) with ``mask`` (batch, length); logits (batch, num_classes).
    """

    def __init__(self, build: Builder, stem: nn.Module, features: nn.Sequential, width: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.dimensions = build.dimensions
        self.smallest = SMALLEST_FOR_IMAGENET if build.padding == "valid" else 2
        self.stem = stem
        self.features = features
        self.dropout = nn.Dropout(dropout)
        self.classifier = Linear(width, num_classes)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits (batch, num_classes)."""
        if x.ndim != self.dimensions + 2:
            raise ValueError(f"x must have {self.dimensions + 2} dimensions (batch, channels, …), got shape {tuple(x.shape)}")
        if min(x.shape[2:]) < self.smallest:
            raise ValueError(f"sides must be at least {self.smallest} with this stem ('small' takes less), got {tuple(x.shape[2:])}")
        x = self.features(self.stem(hide_padding(x, mask)))
        return self.classifier(self.dropout(global_pool(x, "average", mask)))


class InceptionV4(InceptionNetwork):
    """Inception-v4: stem, 4 blocks A, reduction, 7 blocks B, reduction, 3 blocks C, mean, linear.

    Args:
        num_classes: numbers predicted.
        in_channels: channels of x.
        width: factor on every width inside, rounded to multiples of ``divisor``.
        depths: number of blocks A, B, C.
        stem: ``"imagenet"`` (sides from 75) or ``"small"`` (sides from 2; a side shrinks to an eighth).
        dropout: rate before the linear map.
        divisor: see ``width``; None staggers widths one by one (`WidthRule`).
        dimensions: 2 for pictures, 1 for series (small stem only).

    Raises:
        ValueError: an argument is out of range, or a picture is too small.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        width: float = 1.0,
        depths: Sequence[int] = (4, 7, 3),
        stem: StemKind = "imagenet",
        dropout: float = 0.2,
        divisor: int | None = 8,
        dimensions: int = 2,
    ) -> None:
        build = _builder(width, divisor, stem, dimensions)
        _check_depths(depths)
        head = StemV4(build, in_channels, small=stem == "small")
        blocks: list[Any] = []
        channels = head.outputs
        for kind, count, reduction in ((InceptionA, depths[0], "A"), (InceptionB, depths[1], "B"), (InceptionC, depths[2], "")):
            for _ in range(count):
                blocks.append(kind(build, channels))
                channels = blocks[-1].outputs
            if reduction:
                table = ReductionA.TABLE_1["inception-v4"]
                blocks.append(ReductionA(build, channels, table) if reduction == "A" else ReductionB(build, channels))
                channels = blocks[-1].outputs
        super().__init__(build, head, nn.Sequential(*blocks), channels, num_classes, dropout)


class InceptionResNetV1(InceptionNetwork):
    """Inception-ResNet-v1: 5 residual units A, reduction, 10 B, reduction, 5 C, mean, linear.

    Args:
        num_classes: numbers predicted.
        in_channels: channels of x.
        width: factor on every width inside, rounded to multiples of ``divisor``.
        depths: number of residual units A, B, C.
        stem: ``"imagenet"`` (sides from 75) or ``"small"``.
        dropout: rate before the linear map.
        residual_scale: damping of the residual sums in A, B, C.
        residual: False leaves the sums away and keeps everything else, for comparison.
        divisor: see ``width``; None staggers widths one by one.
        dimensions: 2 for pictures, 1 for series (small stem only).

    Raises:
        ValueError: an argument is out of range, or a picture is too small.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        width: float = 1.0,
        depths: Sequence[int] = (5, 10, 5),
        stem: StemKind = "imagenet",
        dropout: float = 0.2,
        residual_scale: Sequence[float] = RESIDUAL_SCALES,
        residual: bool = True,
        divisor: int | None = 8,
        dimensions: int = 2,
    ) -> None:
        build = _builder(width, divisor, stem, dimensions)
        head = StemResNetV1(build, in_channels, small=stem == "small")
        blocks, channels = _residual_stages(build, head.outputs, 1, depths, residual_scale, residual)
        super().__init__(build, head, nn.Sequential(*blocks), channels, num_classes, dropout)


class InceptionResNetV2(InceptionNetwork):
    """Inception-ResNet-v2, as released (``flavor="slim"``) or as the paper's figures have it (``flavor="paper"``).

    Slim: its own stem, 10 / 20 / 9 residual units, one more unit C without damping or ReLU, a 1×1 convolution to 1536 channels.
    Paper: the stem of Inception-v4, 5 / 10 / 5 units; the printed expansion widths 1154 and 2048 cannot be added to the 1152 and 2144
    channels that there are, so the arithmetic is followed.

    Args:
        num_classes: numbers predicted.
        in_channels: channels of x.
        width: factor on every width inside, rounded to multiples of ``divisor``.
        depths: number of residual units A, B, C (for slim with the last, undamped one); by default those above.
        flavor: ``"slim"`` or ``"paper"``.
        stem: ``"imagenet"`` (sides from 75) or ``"small"``.
        dropout: rate before the linear map.
        residual_scale: damping of the residual sums in A, B, C.
        residual: False leaves the sums away and keeps everything else, for comparison.
        divisor: see ``width``; None staggers widths one by one.
        dimensions: 2 for pictures, 1 for series (small stem only).

    Raises:
        ValueError: an argument is out of range, or a picture is too small.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        width: float = 1.0,
        depths: Sequence[int] | None = None,
        flavor: Literal["slim", "paper"] = "slim",
        stem: StemKind = "imagenet",
        dropout: float = 0.2,
        residual_scale: Sequence[float] = RESIDUAL_SCALES,
        residual: bool = True,
        divisor: int | None = 8,
        dimensions: int = 2,
    ) -> None:
        if flavor not in ("slim", "paper"):
            raise ValueError(f"flavor must be 'slim' or 'paper', got {flavor!r}")
        build = _builder(width, divisor, stem, dimensions)
        depths = depths or {"slim": (10, 20, 10), "paper": (5, 10, 5)}[flavor]
        head = (StemSlim if flavor == "slim" else StemV4)(build, in_channels, small=stem == "small")
        blocks, channels = _residual_stages(build, head.outputs, 2, depths, residual_scale, residual, undamped_end=flavor == "slim")
        if flavor == "slim":
            blocks.append(build.unit(channels, "1:1536"))
            channels = blocks[-1].convolution.out_channels
        super().__init__(build, head, nn.Sequential(*blocks), channels, num_classes, dropout)


def _residual_stages(
    build: Builder,
    channels: int,
    version: int,
    depths: Sequence[int],
    scales: Sequence[float],
    residual: bool,
    undamped_end: bool = False,
) -> tuple[list[Any], int]:
    """Units A, reduction, units B, reduction, units C; and the channels at the end."""
    _check_depths(depths)
    if len(scales) != 3:
        raise ValueError(f"residual_scale needs three numbers, for A, B and C, got {scales!r}")
    blocks: list[Any] = []
    for stage, letter in enumerate("ABC"):
        for place in range(depths[stage]):
            last = undamped_end and letter == "C" and place == depths[stage] - 1
            scale = 1.0 if last else scales[stage]
            chains = RESIDUAL_CHAINS[letter][version]
            blocks.append(ResidualInception(build, channels, chains, scale, activate=not last, residual=residual))
        if letter == "A":
            blocks.append(ReductionA(build, channels, ReductionA.TABLE_1[f"inception-resnet-v{version}"]))
            channels = blocks[-1].outputs
        elif letter == "B":
            blocks.append(ResidualReductionB(build, channels, version))
            channels = blocks[-1].outputs
    return blocks, channels


def _builder(width: float, divisor: int | None, stem: str, dimensions: int) -> Builder:
    if stem not in ("imagenet", "small"):
        raise ValueError(f"stem must be 'imagenet' or 'small', got {stem!r}")
    if stem == "imagenet" and dimensions == 1:
        raise ValueError("a series needs stem='small'")
    return Builder(WidthRule(width, divisor), "valid" if stem == "imagenet" else "same", dimensions)


def _check_depths(depths: Sequence[int]) -> None:
    if len(depths) != 3 or min(depths) < 0:
        raise ValueError(f"depths needs three counts, for A, B and C, none negative, got {depths!r}")


class _InceptionFamily:
    """The dials: ``coarse`` is the width in 64ths of the published one, ``fine`` a further 64th of that.

    Sides below 75, and series, get the small stem and fewer blocks unless ``depths`` says otherwise. Options: the arguments of the
    network but ``num_classes``, ``in_channels``, ``width``, ``divisor`` and ``dimensions``.
    """

    coarse = range(1, 129)
    fine = range(64)
    maker: type[InceptionNetwork]
    small_depths: tuple[int, int, int]

    def accepts(self, signature: Signature) -> str | None:
        """None for pictures or series with one answer an example, else the reason."""
        return why_not(signature)

    def network(self, signature: Signature, coarse: int, fine: int, **options: Any) -> nn.Module:
        """A freshly initialised network for the signature."""
        shape = map_shape(signature)
        small = shape.dimensions == 1 or shape.smallest < SMALLEST_FOR_IMAGENET
        options.setdefault("stem", "small" if small else "imagenet")
        if options["stem"] == "small":
            options.setdefault("depths", self.small_depths)
        width = (coarse * len(self.fine) + fine) / (64 * len(self.fine))
        maker: Any = self.maker
        network = maker(shape.outputs, shape.channels, width=width, divisor=None, dimensions=shape.dimensions, **options)
        return VisionModel(network, signature)


class InceptionV4Family(_InceptionFamily):
    """`InceptionV4` at any width, for pictures from 2×2 and for series."""

    maker = InceptionV4
    small_depths = (1, 2, 1)


class InceptionResNetV1Family(_InceptionFamily):
    """`InceptionResNetV1` at any width, for pictures from 2×2 and for series."""

    maker = InceptionResNetV1
    small_depths = (2, 3, 2)


class InceptionResNetV2Family(_InceptionFamily):
    """`InceptionResNetV2` at any width, for pictures from 2×2 and for series."""

    maker = InceptionResNetV2
    small_depths = (2, 3, 2)
