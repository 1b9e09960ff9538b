"""SimpleNet: thirteen plain convolutions and one linear map, a strong small baseline that is easy to shrink, fold and export."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor, nn

from assay.contracts import Signature
from assay.models.vision.adapter import VisionModel, hide_padding, map_shape, why_not
from assay.models.vision.simplenet_tables import (
    Entry,
    keep_pools,
    output_size,
    read_table,
    smallest_size,
    with_dropout,
    with_strides,
)
from assay.models.vision.widths import WidthRule
from assay.nn.convolution.unit import CHANNEL_DROPOUT, CONVOLUTION, MAX_POOL, ConvolutionUnit, require_variance
from assay.nn.linear import Linear
from assay.nn.pooling import SAFPool1d, SAFPool2d, global_pool, shrink_mask

LARGEST_WITHOUT_STRIDE = 64
MOST_POOLS = 4


class SimpleNet(nn.Module):
    """A plain convolutional classifier: ``logits = W · max_positions(conv₁₃ ∘ … ∘ conv₁(x)) + b``.

    Each unit is convolution, batch normalisation, ReLU, dropout of channels; pools are SAF-pools (`assay.nn.SAFPool2d`).

    Source: Hasanpour, Rouhani, Fayyaz, Sabokrou, Lets keep it simple, using simple architectures to outperform deeper ones, 2016.

    Args:
        num_classes: numbers predicted.
        in_channels: channels of x.
        stages: a key of `simplenet_tables.TABLES`, or a table written out: widths, P = pool, x1 = a 1×1 kernel.
        width: factor on every width, rounded.
        stride_mode: 0 (none) to 4, or strides by place; for large pictures.
        dropout: one rate after every unit but the last (the authors' preset is 0.2), or rates by place in the table.
        dropout_of: ``"channels"`` drops whole channels, as the authors' later networks do, ``"values"`` single values, as the published
            CIFAR results did; by default values in the ``original`` form, else channels. Either way 0.2 is for networks of about the
            published widths: thirteen times it leaves little of a signal that runs through eight channels.
        head_dropout: rate before the linear map.
        batchnorm_momentum: share of the newest batch in the running statistics.
        pool: ``"max"`` or ``"average"``, between the stages.
        global_pool: ``"max"`` (as published) or ``"average"``.
        original: the first (Caffe) network: the last three convolutions have no normalisation, the seventh pools before it
            normalises, and a fifth pool stands in the place of global pooling.
        pools: keep only the first so many pools of the table; for small pictures.
        dimensions: 2 for pictures, 1 for series.

    Shapes: x (batch, channels, height, width), or (batch, channels, length) with ``mask`` (batch, length); logits (batch, num_classes).

    Raises:
        ValueError: an argument is out of range; the picture is too small (the message says how large it must be).
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        stages: str = "cifar-5m",
        width: float = 1.0,
        stride_mode: int | Mapping[int, int] = 0,
        dropout: float | Mapping[int, float] = 0.0,
        dropout_of: Literal["channels", "values"] | None = None,
        head_dropout: float = 0.0,
        batchnorm_momentum: float = 0.05,
        pool: Literal["max", "average"] = "max",
        global_pool: Literal["max", "average"] = "max",
        original: bool = False,
        pools: int | None = None,
        dimensions: int = 2,
    ) -> None:
        super().__init__()
        if original and dimensions != 2:
            raise ValueError(f"the original SimpleNet reads pictures: dimensions must be 2, got {dimensions}")
        if pool not in ("max", "average") or global_pool not in ("max", "average"):
            raise ValueError(f"pool and global_pool must be 'max' or 'average', got {pool!r} and {global_pool!r}")
        if dropout_of not in ("channels", "values", None):
            raise ValueError(f"dropout_of must be 'channels' or 'values', got {dropout_of!r}")
        entries = read_table(stages)
        entries = entries if pools is None else keep_pools(entries, pools)
        self.entries = with_dropout(with_strides(entries, stride_mode), dropout, everywhere=stages.startswith("imagenet"))
        self.global_pool: Literal["max", "average"] = global_pool
        self.original = original
        self.dimensions = dimensions
        self.smallest = smallest_size(self.entries, 2 if original else 1)
        self.features, last = self._features(in_channels, width, batchnorm_momentum, pool)
        if (dropout_of or ("values" if original else "channels")) == "values":
            _drop_values(self.features)
        self.head_pool = MAX_POOL[dimensions](2) if original else None
        self.head_dropout = nn.Dropout(head_dropout)
        self.classifier = Linear(last, num_classes)
        self._initialise()

    def _features(self, channels: int, width: float, momentum: float, pool: str) -> tuple[nn.Sequential, int]:
        layers: list[nn.Module] = []
        convolutions = sum(not entry.is_pool for entry in self.entries)
        place = 0  # of the convolution, counted without pools
        for entry in self.entries:
            if entry.is_pool:
                layers.append(self._pool(entry, pool))
                continue
            outputs = round(entry.width * width)
            if outputs < 1:
                raise ValueError(f"width {width} leaves no channel of {entry.width}")
            unit = ConvolutionUnit(
                channels,
                outputs,
                entry.kernel,
                entry.stride,
                bias=True,
                normalise=not (self.original and place >= convolutions - 3),
                momentum=momentum,
                dropout=entry.dropout,
                dimensions=self.dimensions,
            )
            layers.append(unit)
            channels = outputs
            place += 1
        if self.original:
            _pool_before_norm(layers, convolution=7)
        return nn.Sequential(*layers), channels

    def _pool(self, entry: Entry, kind: str) -> nn.Module:
        if kind == "max":
            return (SAFPool1d if self.dimensions == 1 else SAFPool2d)(entry.dropout, entry.kernel, entry.stride)
        average = (nn.AvgPool1d if self.dimensions == 1 else nn.AvgPool2d)(entry.kernel, entry.stride)
        return nn.Sequential(average, CHANNEL_DROPOUT[self.dimensions](entry.dropout))

    def _initialise(self) -> None:
        kernels = [module.weight for module in self.modules() if isinstance(module, tuple(CONVOLUTION.values()))]
        for place, kernel in enumerate(kernels):
            if self.original and place in (2, 3, 4):
                nn.init.normal_(kernel, std=0.01)
            elif self.original:  # Caffe's "xavier" looks at the inputs only
                bound = (3 / kernel[0].numel()) ** 0.5
                nn.init.uniform_(kernel, -bound, bound)
            else:
                nn.init.xavier_uniform_(kernel, gain=nn.init.calculate_gain("relu"))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits (batch, num_classes)."""
        x = self.feature_map(x, mask)
        if self.head_pool is None:
            pooled = global_pool(x, self.global_pool, mask)
        else:
            pooled = self.head_pool(x).flatten(1)
        return self.classifier(self.head_dropout(pooled))

    def feature_map(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The last map (batch, channels, …); padded positions of a series are zero in it, as they are before every convolution."""
        self._check(x)
        if mask is None:
            return self.features(x)
        x = hide_padding(x, mask)
        for layer in self.features:
            x = layer(x)
            x = hide_padding(x, shrink_mask(mask, x.shape[2]))
        return x

    def _check(self, x: Tensor) -> None:
        if x.ndim != self.dimensions + 2:
            raise ValueError(f"x must have {self.dimensions + 2} dimensions (batch, channels, …), got shape {tuple(x.shape)}")
        if min(x.shape[2:]) < self.smallest:
            raise ValueError(f"each side must be at least {self.smallest} for this layer table, got {tuple(x.shape[2:])}")
        final = [output_size(self.entries, size) // 2 for size in x.shape[2:]]
        if self.original and max(final) > 1:
            raise ValueError(f"the original SimpleNet has no global pooling: sides must be 32 to 63, got {tuple(x.shape[2:])}")


class PoolThenNorm(nn.Module):
    """Convolution → max-pool → normalisation → ReLU: the odd seventh unit of the original network.

    Not the same function as normalising first: the two agree only where the learned scale is positive. For the same reason the
    normalisation here must not be folded into the convolution.
    """

    def __init__(self, unit: ConvolutionUnit, pool: SAFPool2d) -> None:
        super().__init__()
        self.convolution = unit.convolution
        self.pool = pool.pool
        self.norm = unit.norm
        self.activation = nn.ReLU()
        self.dropout = pool.dropout

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, inputs, height, width) to half the height and width."""
        x = self.pool(self.convolution(x))
        if self.training:
            require_variance(x)
        return self.dropout(self.activation(self.norm(x)))


def _pool_before_norm(layers: list[nn.Module], convolution: int) -> None:
    """Merge the given convolution (counted from 1) with the pool that follows it, in place."""
    places = [place for place, layer in enumerate(layers) if isinstance(layer, ConvolutionUnit)]
    place = places[convolution - 1] if len(places) >= convolution else len(layers)
    unit, pool = [*layers[place : place + 2], None, None][:2]
    if not isinstance(unit, ConvolutionUnit) or not isinstance(pool, SAFPool2d):
        raise ValueError("the original SimpleNet needs a max-pool after its seventh convolution: name a CIFAR table")
    layers[place : place + 2] = [PoolThenNorm(unit, pool)]


def _drop_values(features: nn.Module) -> None:
    """Put dropout of single values in the place of dropout of channels."""
    for module in list(features.modules()):
        for name, child in module.named_children():
            if isinstance(child, tuple(CHANNEL_DROPOUT.values())):
                setattr(module, name, nn.Dropout(child.p))


class SimpleNetFamily:
    """SimpleNet at any width, for pictures and for series as one-dimensional pictures.

    ``coarse`` is the width in 64ths of the table's, ``fine`` a further 64th of that. Up to sides of 64 the table is the slim CIFAR one
    (four times as wide it is the 5M one, but for two layers), with as many of its four pools as leave the last map at least two wide;
    larger pictures get the ImageNet table and stride mode 2. A series has no strides. Options: every argument of `SimpleNet` but
    ``num_classes``, ``in_channels``, ``width`` and ``dimensions``.

    Source: Hasanpour, Rouhani, Fayyaz, Sabokrou, Lets keep it simple, using simple architectures to outperform deeper ones, 2016.
    """

    coarse = range(1, 1025)
    fine = range(64)

    def accepts(self, signature: Signature) -> str | None:
        """None for pictures or series with one answer an example, else the reason."""
        return why_not(signature)

    def network(self, signature: Signature, coarse: int, fine: int, **options: Any) -> nn.Module:
        """A freshly initialised SimpleNet for the signature."""
        shape = map_shape(signature)
        large = shape.dimensions == 2 and shape.smallest > LARGEST_WITHOUT_STRIDE
        options.setdefault("stages", "imagenet-5m" if large else "cifar-310k")
        if large:
            options.setdefault("stride_mode", 2)
        else:
            options.setdefault("pools", _pools(options["stages"], shape.smallest))
        multiplier = (coarse * len(self.fine) + fine) / (64 * len(self.fine))
        # the rates depend on the table's name ("dropout everywhere"), the widths are written into the table
        if isinstance(options.get("dropout"), int | float) and options["stages"].startswith("imagenet"):
            options["dropout"] = dict.fromkeys(range(len(read_table(options["stages"])) - 1), options["dropout"])
        options["stages"] = scaled_table(options["stages"], multiplier)
        network = SimpleNet(shape.outputs, shape.channels, dimensions=shape.dimensions, **options)
        return VisionModel(network, signature)


def _pools(stages: str, side: int) -> int:
    """How many of a table's pools leave a last map of at least two; none is better than a map of one."""
    available = min(MOST_POOLS, sum(entry.is_pool for entry in read_table(stages)))
    return max(count for count in range(available + 1) if count == 0 or side >> count >= 2)


def scaled_table(stages: str, multiplier: float) -> str:
    """A layer table with all widths multiplied, staggered (`WidthRule`) so that a parameter budget can be met closely."""
    rule = WidthRule(multiplier, divisor=None)
    words = ["P" if entry.is_pool else f"{rule(entry.width)}{'x1' if entry.kernel == 1 else ''}" for entry in read_table(stages)]
    return " ".join(words)
