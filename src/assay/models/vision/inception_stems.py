"""The stems of the Inception networks: as published for 299×299 pictures, and with two halvings fewer for small ones."""

from __future__ import annotations

from torch import nn

from assay.models.vision.inception_blocks import Branches, Builder, Mixed5b


class _Stem(nn.Sequential):
    """``outputs`` is the number of channels."""

    outputs: int


class StemV4(_Stem):
    """Stem of Inception-v4 and of the paper's Inception-ResNet-v2: 299 → 35×35×384; small: 32 → 16×16×384."""

    def __init__(self, build: Builder, channels: int, small: bool = False) -> None:
        begin, width = build.chain(channels, "3:32 3:32 3:64" if small else "3/2V:32 3V:32 3:64")
        strided = build.unit(width, "3/2V:96")
        first = Branches(build.max_pool(), strided)
        width += strided.convolution.out_channels
        short, short_width = build.chain(width, "1:64 3V:96")
        long, long_width = build.chain(width, "1:64 1x7:64 7x1:64 3V:96")
        width = short_width + long_width
        last = build.unit(width, "3:192" if small else "3/2V:192")
        halving = Branches(last, nn.Identity() if small else build.max_pool())
        super().__init__(begin, first, Branches(short, long), halving)
        self.outputs = width + last.convolution.out_channels


class StemResNetV1(_Stem):
    """Stem of Inception-ResNet-v1: 299 → 35×35×256; small: 32 → 16×16×256."""

    def __init__(self, build: Builder, channels: int, small: bool = False) -> None:
        begin, width = build.chain(channels, "3:32 3:32 3:64" if small else "3/2V:32 3V:32 3:64")
        end, width = build.chain(width, "1:80 3:192 3:256" if small else "1:80 3V:192 3/2V:256")
        super().__init__(begin, build.max_pool(), end)
        self.outputs = width


class StemSlim(_Stem):
    """Stem of the released Inception-ResNet-v2: 299 → 35×35×320; small: 32 → 16×16×320."""

    def __init__(self, build: Builder, channels: int, small: bool = False) -> None:
        begin, width = build.chain(channels, "3:32 3:32 3:64" if small else "3/2V:32 3V:32 3:64")
        middle, width = build.chain(width, "1:80 3:192" if small else "1:80 3V:192")
        mixed = Mixed5b(build, width)
        halving = [] if small else [build.max_pool()]
        super().__init__(begin, build.max_pool(), middle, *halving, mixed)
        self.outputs = mixed.outputs
