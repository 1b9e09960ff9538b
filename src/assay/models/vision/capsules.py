"""`CapsuleNetwork`: a small convolution, capsules at each place of its map, and one capsule a class."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from assay.contracts import Batch, Class, Image, Output, Signature
from assay.nn.capsules import CapsuleRouting, squash

PLACES = 4
"""Capsules stand on a grid of at most this many places a side, so that the votes' matrices do not grow with the picture."""


class CapsuleNetwork(nn.Module):
    """Two convolutions of 3 × 3, ``types`` capsules at every place of their map, routed to one capsule a class.

    A class's logit is the log-odds of its capsule's length, ``log(‖v‖ / (1 − ‖v‖))``. Published: kernels of 9 on pictures of 28, a margin
    loss and a decoder that draws the picture again; none of these here.

    Source: Sabour, Frosst, Hinton (2017), Dynamic Routing Between Capsules.

    Args:
        signature: Image → one Class.
        types: kinds of capsules at a place.
        channels: of the first convolution.
        width: numbers in a capsule of a place; a class's has twice as many.
        iterations: of routing.

    Raises:
        ValueError: ``types`` or ``channels`` below 1, or what `CapsuleRouting` refuses.
    """

    def __init__(self, signature: Signature, types: int, channels: int = 32, width: int = 8, iterations: int = 3) -> None:
        super().__init__()
        if types < 1 or channels < 1:
            raise ValueError(f"types and channels must be at least 1, got {types} and {channels}")
        assert isinstance(signature.input, Image)  # what `CapsuleFamily.accepts` lets through
        kind = signature.input
        self.width = width
        self.stem = nn.Sequential(nn.Conv2d(kind.channels, channels, 3, padding=1), nn.ReLU())
        self.primary = nn.Conv2d(channels, types * width, 3, stride=2, padding=1)
        grid = min(PLACES, (kind.height + 1) // 2), min(PLACES, (kind.width + 1) // 2)
        self.pool = nn.AdaptiveAvgPool2d(grid)
        self.routing = CapsuleRouting(types * grid[0] * grid[1], signature.output.size, width, 2 * width, iterations)

    def forward(self, batch: Batch) -> Output:
        """Predict a batch."""
        return Output(self.predict(batch["image"]))

    def predict(self, x: Tensor) -> Tensor:
        """Logits (batch, classes) of pictures (batch, channels, height, width)."""
        maps = self.pool(self.primary(self.stem(x)))
        capsules = maps.unflatten(1, (-1, self.width)).movedim(2, -1).flatten(1, 3)
        lengths = torch.linalg.vector_norm(self.routing(squash(capsules)), dim=-1)
        return torch.logit(lengths, eps=1e-6)


class CapsuleFamily:
    """Capsule networks; ``coarse`` is the kinds of capsules at a place, ``fine`` the channels of the first convolution beyond eight."""

    coarse = range(1, 257)
    fine = range(1025)

    def accepts(self, signature: Signature) -> str | None:
        """Pictures to one class."""
        if not isinstance(signature.input, Image):
            return f"capsules stand on the places of a picture, and {type(signature.input).__name__} has none"
        if not isinstance(signature.output, Class) or signature.per_position or signature.multi_label:
            return "it has a capsule for each class, of which one is there"
        return None

    def network(self, signature: Signature, coarse: int, fine: int, **options: Any) -> nn.Module:
        """A freshly initialised capsule network."""
        return CapsuleNetwork(signature, coarse, 8 + fine, **options)
