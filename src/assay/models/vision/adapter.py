"""From a network on maps (channels first) to a model of a signature: pictures, or series as one-dimensional pictures."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from assay.contracts import Batch, Class, Image, Output, Series, Signature, Values


@dataclass(frozen=True)
class MapShape:
    """What a network on maps must know of a signature: channels, spatial sizes (one for a series), numbers to predict."""

    channels: int
    sizes: tuple[int, ...]
    outputs: int

    @property
    def dimensions(self) -> int:
        """1 for a series, 2 for a picture."""
        return len(self.sizes)

    @property
    def smallest(self) -> int:
        """The smaller side."""
        return min(self.sizes)


def why_not(signature: Signature, smallest: int = 2) -> str | None:
    """None if pictures or series go in and one answer an example comes out, else the reason.

    Args:
        signature: what is asked for.
        smallest: the least side of a picture, or length of a series, that the family can take.
    """
    if not isinstance(signature.input, Image | Series):
        return f"it reads pictures or series, not {type(signature.input).__name__}"
    if not isinstance(signature.output, Class | Values):
        return f"it gives classes or values, not {type(signature.output).__name__}"
    if signature.per_position:
        return "it gives one answer an example, not one a position"
    if min(map_shape(signature).sizes) < smallest:
        return f"it needs at least {smallest} positions along each side, not {min(map_shape(signature).sizes)}"
    return None


def map_shape(signature: Signature) -> MapShape:
    """The shape of a signature's input as a map.

    Raises:
        ValueError: the input is neither pictures nor series.
    """
    outputs = signature.output.size * (signature.horizon or 1)
    if isinstance(signature.input, Image):
        return MapShape(signature.input.channels, (signature.input.height, signature.input.width), outputs)
    if isinstance(signature.input, Series):
        return MapShape(signature.input.channels, (signature.input.length,), outputs)
    raise ValueError(f"a vision model reads pictures or series, not {type(signature.input).__name__}")


class VisionModel(nn.Module):
    """A network on maps, with the batch and output of its signature.

    Args:
        network: ``(x, mask=None) -> (batch, outputs)`` with x (batch, channels, height, width) or (batch, channels, length).
        signature: pictures or series in, classes or values out; a forecast comes out as (batch, horizon, count).
    """

    def __init__(self, network: nn.Module, signature: Signature) -> None:
        super().__init__()
        self.network = network
        self.signature = signature

    def forward(self, batch: Batch) -> Output:
        """Predict a batch with ``image``, or ``series`` and perhaps ``mask``."""
        if isinstance(self.signature.input, Image):
            return Output(self.logits(batch["image"]))
        return Output(self.logits(batch["series"].transpose(1, 2), batch.get("mask")))

    def logits(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The prediction from the map itself; ``mask`` (batch, length), True = real."""
        prediction = self.network(x, mask)
        if self.signature.horizon is None:
            return prediction
        return prediction.unflatten(1, (self.signature.horizon, self.signature.output.size))


def hide_padding(x: Tensor, mask: Tensor | None) -> Tensor:
    """Zero the padded positions of a series map (batch, channels, length)."""
    return x if mask is None else x * mask.unsqueeze(1).to(x.dtype)
