"""The fully convolutional network for series: the plain network that is hard to beat on outlines and sensor readings.

Source: Wang, Yan, Oates (2017), Time Series Classification from Scratch with Deep Neural Networks: A Strong Baseline.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from assay.contracts import Series, Signature
from assay.models.vision.adapter import VisionModel, hide_padding, map_shape, why_not
from assay.nn.convolution.unit import ConvolutionUnit
from assay.nn.linear import Linear
from assay.nn.pooling import global_pool

KERNELS = (8, 5, 3)


class FullyConvolutional(nn.Module):
    """Three convolutions of lengths 8, 5 and 3 with batch normalisation and ReLU, the mean over time, a linear map.

    Nothing shortens the series before the mean, so that every position speaks for the class with the same 14 neighbours.

    Args:
        num_classes: numbers predicted.
        in_channels: channels of x.
        width: channels of the first and the last convolution, half of those between (128 as published).

    Shapes: x (batch, in_channels, length), ``mask`` (batch, length); logits (batch, num_classes).

    Raises:
        ValueError: a width below 1.
    """

    def __init__(self, num_classes: int, in_channels: int = 1, width: int = 128) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width must be at least 1, got {width}")
        widths = (in_channels, width, 2 * width, width)
        self.features = nn.Sequential()
        for inputs, outputs, kernel in zip(widths, widths[1:], KERNELS, strict=False):
            self.features.append(nn.ZeroPad1d(((kernel - 1) // 2, kernel // 2)))  # an even kernel has no middle
            self.features.append(ConvolutionUnit(inputs, outputs, kernel, padding="valid", dimensions=1))
        self.classifier = Linear(width, num_classes)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits (batch, num_classes)."""
        return self.classifier(global_pool(self.features(hide_padding(x, mask)), "average", mask))


class FullyConvolutionalFamily:
    """The fully convolutional network at any width, for series; one dial."""

    coarse = range(1, 2049)
    fine = range(0, 1)

    def accepts(self, signature: Signature) -> str | None:
        """None for series with one answer an example, else the reason."""
        if not isinstance(signature.input, Series):
            return f"it reads series, not {type(signature.input).__name__}"
        return why_not(signature)

    def network(self, signature: Signature, coarse: int, fine: int, **options: Any) -> nn.Module:
        """A freshly initialised network for the signature."""
        shape = map_shape(signature)
        return VisionModel(FullyConvolutional(shape.outputs, shape.channels, coarse, **options), signature)
