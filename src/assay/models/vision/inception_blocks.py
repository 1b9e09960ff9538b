"""The blocks of Inception-v4 and the Inception-ResNets.

A branch is written as the widths it runs through: ``"1:64 3:96 3:96"`` is a 1×1 convolution to 64 channels, then two 3×3 ones to 96.
``1x7:224`` is a factorised kernel; ``/2`` a stride; ``V`` valid padding, which becomes "same" in networks for small pictures.
Every convolution is followed by batch normalisation (ε = 0.001) and ReLU.

Source: Szegedy, Ioffe, Vanhoucke, Alemi, Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning, 2016.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from assay.models.vision.widths import WidthRule
from assay.nn.convolution.unit import CONVOLUTION, MAX_POOL, ConvolutionUnit, Padding
from assay.nn.residual import ScaledResidual

EPSILON = 1e-3


@dataclass
class Builder:
    """What all blocks of one network have in common.

    Args:
        rule: how published widths are scaled.
        padding: ``"valid"`` as published, or ``"same"`` for small pictures.
        dimensions: 2 for pictures, 1 for series.
    """

    rule: WidthRule = field(default_factory=WidthRule)
    padding: Padding = "valid"
    dimensions: int = 2

    def chain(self, inputs: int, steps: str) -> tuple[nn.Sequential, int]:
        """The units of a branch, and the channels it ends with.

        Raises:
            ValueError: a step is not of the form kernel:width.
        """
        units = []
        for step in steps.split():
            unit = self.unit(inputs, step)
            units.append(unit)
            inputs = unit.convolution.out_channels
        return nn.Sequential(*units), inputs

    def unit(self, inputs: int, step: str) -> ConvolutionUnit:
        """One convolution unit, as in ``"3/2V:96"``."""
        try:
            kernel, width = step.split(":")
            valid = kernel.endswith("V")
            sizes, _, stride = kernel.removesuffix("V").partition("/")
            sides = [int(side) for side in sizes.split("x")]
            outputs = self.rule(int(width))
        except ValueError as error:
            raise ValueError(f"{step!r} is not kernel:width, as in '3:64', '1x7:224' or '3/2V:96'") from error
        return ConvolutionUnit(
            inputs,
            outputs,
            sides if len(sides) == 2 else sides[0],
            int(stride or 1),
            self.padding if valid else "same",
            epsilon=EPSILON,
            dimensions=self.dimensions,
        )

    def max_pool(self) -> nn.Module:
        """3×3 maximum with stride 2."""
        return MAX_POOL[self.dimensions](3, 2, 0 if self.padding == "valid" else 1)

    def average_pool(self) -> nn.Module:
        """3×3 mean with stride 1; the border's means leave out the padding."""
        pool = nn.AvgPool1d if self.dimensions == 1 else nn.AvgPool2d
        return pool(3, 1, 1, count_include_pad=False)


class Branches(nn.Module):
    """Several ways from one map, concatenated along channels in the order given; the order is part of the weights."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, inputs, …) to (batch, sum of the branches' channels, …)."""
        return torch.cat([branch(x) for branch in self.branches], 1)


class _Block(Branches):
    """Branches written as chains; ``outputs`` is the number of channels they give together."""

    outputs: int


class InceptionBlock(_Block):
    """Chains side by side, and last a mean-pool with a 1×1 convolution where ``pooled`` is given (blocks A, B, Mixed-5b)."""

    def __init__(self, build: Builder, inputs: int, chains: list[str], pooled: int | None = None) -> None:
        made = [build.chain(inputs, steps) for steps in chains]
        branches: list[nn.Module] = [branch for branch, _ in made]
        outputs = sum(width for _, width in made)
        if pooled is not None:
            unit = build.unit(inputs, f"1:{pooled}")
            branches.append(nn.Sequential(build.average_pool(), unit))
            outputs += unit.convolution.out_channels
        super().__init__(*branches)
        self.outputs = outputs


class InceptionA(InceptionBlock):
    """35×35 block of Inception-v4: 384 → 384 channels."""

    def __init__(self, build: Builder, inputs: int) -> None:
        super().__init__(build, inputs, ["1:96", "1:64 3:96", "1:64 3:96 3:96"], pooled=96)


class InceptionB(InceptionBlock):
    """17×17 block of Inception-v4: 1024 → 1024 channels."""

    def __init__(self, build: Builder, inputs: int) -> None:
        chains = ["1:384", "1:192 1x7:224 7x1:256", "1:192 7x1:192 1x7:224 7x1:224 1x7:256"]
        super().__init__(build, inputs, chains, pooled=128)


class Mixed5b(InceptionBlock):
    """The block that ends the stem of the released Inception-ResNet-v2: 192 → 320 channels."""

    def __init__(self, build: Builder, inputs: int) -> None:
        super().__init__(build, inputs, ["1:96", "1:48 5:64", "1:64 3:96 3:96"], pooled=64)


class InceptionC(_Block):
    """8×8 block of Inception-v4: 1536 → 1536 channels; two branches fork at their end."""

    def __init__(self, build: Builder, inputs: int) -> None:
        first, first_width = build.chain(inputs, "1:256")
        short, short_width = self._forked(build, inputs, "1:384", "1x3:256", "3x1:256")
        long, long_width = self._forked(build, inputs, "1:384 3x1:448 1x3:512", "1x3:256", "3x1:256")
        unit = build.unit(inputs, "1:256")
        super().__init__(first, short, long, nn.Sequential(build.average_pool(), unit))
        self.outputs = first_width + short_width + long_width + unit.convolution.out_channels

    @staticmethod
    def _forked(build: Builder, inputs: int, trunk: str, *tines: str) -> tuple[nn.Sequential, int]:
        chain, width = build.chain(inputs, trunk)
        ends = [build.unit(width, tine) for tine in tines]
        return nn.Sequential(*chain, Branches(*ends)), sum(end.convolution.out_channels for end in ends)


class _Reduction(_Block):
    """Chains with stride 2, and last a max-pool."""

    def __init__(self, build: Builder, inputs: int, chains: list[str]) -> None:
        made = [build.chain(inputs, steps) for steps in chains]
        super().__init__(*[branch for branch, _ in made], build.max_pool())
        self.outputs = inputs + sum(width for _, width in made)


class ReductionA(_Reduction):
    """35×35 → 17×17 for all three networks; ``widths`` are (k, l, m, n) of the paper's table 1."""

    TABLE_1 = {
        "inception-v4": (192, 224, 256, 384),
        "inception-resnet-v1": (192, 192, 256, 384),
        "inception-resnet-v2": (256, 256, 384, 384),
    }

    def __init__(self, build: Builder, inputs: int, widths: Sequence[int]) -> None:
        k, middle, m, n = widths
        super().__init__(build, inputs, [f"3/2V:{n}", f"1:{k} 3:{middle} 3/2V:{m}"])


class ReductionB(_Reduction):
    """17×17 → 8×8 of Inception-v4: 1024 → 1536 channels."""

    def __init__(self, build: Builder, inputs: int) -> None:
        super().__init__(build, inputs, ["1:192 3/2V:192", "1:256 1x7:256 7x1:320 3/2V:320"])


class ResidualReductionB(_Reduction):
    """17×17 → 8×8 of the Inception-ResNets: 896 → 1792 (version 1), 1152 → 2144 or 1088 → 2080 (version 2)."""

    def __init__(self, build: Builder, inputs: int, version: int) -> None:
        middle, end = {1: ("3/2V:256", "3:256 3/2V:256"), 2: ("3/2V:288", "3:288 3/2V:320")}[version]
        super().__init__(build, inputs, ["1:256 3/2V:384", f"1:256 {middle}", f"1:256 {end}"])


class ResidualInception(nn.Module):
    """Residual unit: ``y = relu(x + s·(W · concat(branches(x)) + b))``; W is a 1×1 convolution without normalisation.

    Args:
        build: what the network's blocks have in common.
        inputs: channels of x and y.
        chains: the branches.
        scale: s; with ``residual=False`` there is no sum: ``y = relu(norm(W · concat(branches(x))))``.
        activate: whether a ReLU follows the sum.
    """

    def __init__(self, build: Builder, inputs: int, chains: list[str], scale: float, activate: bool = True, residual: bool = True) -> None:
        super().__init__()
        block = InceptionBlock(build, inputs, chains)
        self.outputs = inputs
        if residual:
            expand = CONVOLUTION[build.dimensions](block.outputs, inputs, 1)
            branch = nn.Sequential(block, expand)
            self.unit = ScaledResidual(branch, scale, activation=nn.ReLU if activate else None)
        else:
            expand = ConvolutionUnit(block.outputs, inputs, 1, epsilon=EPSILON, activate=activate, dimensions=build.dimensions)
            self.unit = nn.Sequential(block, expand)

    def forward(self, x: Tensor) -> Tensor:
        """Map x to y of the same shape."""
        return self.unit(x)


RESIDUAL_CHAINS: dict[str, dict[int, list[str]]] = {
    "A": {1: ["1:32", "1:32 3:32", "1:32 3:32 3:32"], 2: ["1:32", "1:32 3:32", "1:32 3:48 3:64"]},
    "B": {1: ["1:128", "1:128 1x7:128 7x1:128"], 2: ["1:192", "1:128 1x7:160 7x1:192"]},
    "C": {1: ["1:192", "1:192 1x3:192 3x1:192"], 2: ["1:192", "1:192 1x3:224 3x1:256"]},
}
