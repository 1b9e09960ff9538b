"""Residual networks to compare with: ResNet-18 and -50 as published, and the three-stage network for small pictures.

Source: He, Zhang, Ren, Sun, Deep residual learning for image recognition, 2015.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn

from assay.contracts import Signature
from assay.models.vision.adapter import VisionModel, hide_padding, map_shape, why_not
from assay.models.vision.widths import WidthRule
from assay.nn.convolution.unit import MAX_POOL, ConvolutionUnit
from assay.nn.linear import Linear
from assay.nn.pooling import global_pool


class ResidualUnit(nn.Module):
    """``y = relu(branch(x) + shortcut(x))``: two 3×3 convolutions, or 1×1, 3×3, 1×1 with a narrow middle; plain: ``y = relu(branch(x))``.

    Args:
        inputs: channels of x.
        outputs: channels of y.
        inner: channels between the convolutions.
        stride: of the first 3×3 convolution, and of the shortcut.
        bottleneck: 1×1, 3×3, 1×1 in place of two 3×3.
        dimensions: 1 or 2.
        shortcuts: without, the unit is a plain stack of its convolutions.
    """

    def __init__(
        self, inputs: int, outputs: int, inner: int, stride: int, bottleneck: bool, dimensions: int, shortcuts: bool = True
    ) -> None:
        super().__init__()
        if bottleneck:
            self.branch = nn.Sequential(
                ConvolutionUnit(inputs, inner, 1, dimensions=dimensions),
                ConvolutionUnit(inner, inner, 3, stride, dimensions=dimensions),
                ConvolutionUnit(inner, outputs, 1, activate=False, dimensions=dimensions),
            )
        else:
            self.branch = nn.Sequential(
                ConvolutionUnit(inputs, inner, 3, stride, dimensions=dimensions),
                ConvolutionUnit(inner, outputs, 3, activate=False, dimensions=dimensions),
            )
        same = inputs == outputs and stride == 1
        self.shortcut = None
        if shortcuts:
            self.shortcut = nn.Identity() if same else ConvolutionUnit(inputs, outputs, 1, stride, activate=False, dimensions=dimensions)
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, inputs, …) to (batch, outputs, …), smaller by the stride."""
        return self.activation(self.branch(x) if self.shortcut is None else self.branch(x) + self.shortcut(x))


class ResNet(nn.Module):
    """A residual network: stem, stages of residual units (each stage after the first halves the map), mean, linear.

    Args:
        num_classes: numbers predicted.
        in_channels: channels of x.
        depths: residual units in each stage.
        widths: channels of each stage's output; four times as many with bottlenecks.
        bottleneck: 1×1, 3×3, 1×1 units in place of two 3×3.
        stem: ``"imagenet"`` (7×7 with stride 2, then a max-pool) or ``"small"`` (3×3).
        inner: gives the width inside each unit from the stage's; by default the same.
        dimensions: 2 for pictures, 1 for series.
        shortcuts: without, a plain convolutional network of the same layers.

    Shapes: x (batch, channels, height, width), or (batch, channels, length) with ``mask`` (batch, length); logits (batch, num_classes).

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        depths: Sequence[int] = (3, 3, 3),
        widths: Sequence[int] = (16, 32, 64),
        bottleneck: bool = False,
        stem: Literal["imagenet", "small"] = "small",
        inner: WidthRule | None = None,
        dimensions: int = 2,
        shortcuts: bool = True,
    ) -> None:
        super().__init__()
        if len(depths) != len(widths) or min(depths) < 1 or min(widths) < 1:
            raise ValueError(f"depths and widths need one number of at least 1 a stage, got {depths!r} and {widths!r}")
        if stem not in ("imagenet", "small"):
            raise ValueError(f"stem must be 'imagenet' or 'small', got {stem!r}")
        large = stem == "imagenet"
        first = ConvolutionUnit(in_channels, widths[0], 7 if large else 3, 2 if large else 1, dimensions=dimensions)
        self.stem = nn.Sequential(first, MAX_POOL[dimensions](3, 2, 1)) if large else nn.Sequential(first)
        units = []
        channels = widths[0]
        for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            outputs = 4 * width if bottleneck else width
            for place in range(depth):
                stride = 2 if stage and not place else 1
                units.append(ResidualUnit(channels, outputs, inner(width) if inner else width, stride, bottleneck, dimensions, shortcuts))
                channels = outputs
        self.features = nn.Sequential(*units)
        self.classifier = Linear(channels, num_classes)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits (batch, num_classes)."""
        x = self.features(self.stem(hide_padding(x, mask)))
        return self.classifier(global_pool(x, "average", mask))


def resnet18(num_classes: int = 1000, in_channels: int = 3) -> ResNet:
    """ResNet-18: 11,689,512 parameters at 1000 classes."""
    return ResNet(num_classes, in_channels, (2, 2, 2, 2), (64, 128, 256, 512), stem="imagenet")


def resnet50(num_classes: int = 1000, in_channels: int = 3) -> ResNet:
    """ResNet-50: 25,557,032 parameters at 1000 classes."""
    return ResNet(num_classes, in_channels, (3, 4, 6, 3), (64, 128, 256, 512), bottleneck=True, stem="imagenet")


def resnet20(num_classes: int = 10, in_channels: int = 3) -> ResNet:
    """The 20-layer network for 32×32 pictures."""
    return ResNet(num_classes, in_channels)


class ResNetFamily:
    """The three-stage residual network at any width, for pictures and for series as one-dimensional pictures.

    ``coarse`` is the first stage's width, ``fine`` widens the units inside by 64ths of a step. Options: ``depths`` (default 3, 3, 3)
    and ``shortcuts`` (True; without, the plain network of the same layers).
    """

    coarse = range(1, 513)
    fine = range(64)

    def accepts(self, signature: Signature) -> str | None:
        """None for pictures or series with one answer an example, else the reason."""
        return why_not(signature)

    def network(self, signature: Signature, coarse: int, fine: int, **options: Any) -> nn.Module:
        """A freshly initialised residual network for the signature."""
        shape = map_shape(signature)
        # the widths of residual sums must agree within a stage; those inside the units are free to differ, and are staggered
        inner = WidthRule(1 + fine / (len(self.fine) * coarse) * 3, divisor=None)
        network = ResNet(
            shape.outputs, shape.channels, widths=(coarse, 2 * coarse, 4 * coarse), inner=inner, dimensions=shape.dimensions, **options
        )
        return VisionModel(network, signature)
