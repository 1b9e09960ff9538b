"""VGG-16, to compare sizes with.

Source: Simonyan, Zisserman, Very deep convolutional networks for large-scale image recognition, 2014.
"""

from __future__ import annotations

from torch import Tensor, nn

from assay.nn.convolution.unit import ConvolutionUnit
from assay.nn.linear import Linear


class VGG16(nn.Module):
    """Thirteen 3×3 convolutions in five groups, each followed by a max-pool, then three linear maps: 138,357,544 parameters.

    Args:
        num_classes: numbers predicted.
        in_channels: channels of x.

    Shapes: x (batch, channels, 224, 224); logits (batch, num_classes).

    Raises:
        ValueError: x is not 224×224: the first linear map has no other size.
    """

    GROUPS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
    SIDE = 224

    def __init__(self, num_classes: int = 1000, in_channels: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = in_channels
        for group in self.GROUPS:
            for width in group:
                layers.append(ConvolutionUnit(channels, width, 3, bias=True, normalise=False))
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        side = self.SIDE // 2 ** len(self.GROUPS)
        hidden = 4096
        self.classifier = nn.Sequential(
            Linear(channels * side * side, hidden),
            nn.ReLU(),
            nn.Dropout(0.5),
            Linear(hidden, hidden),
            nn.ReLU(),
            nn.Dropout(0.5),
            Linear(hidden, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, num_classes)."""
        if x.shape[2:] != (self.SIDE, self.SIDE):
            raise ValueError(f"VGG-16 reads pictures of {self.SIDE}×{self.SIDE}, got {tuple(x.shape[2:])}")
        return self.classifier(self.features(x).flatten(1))
