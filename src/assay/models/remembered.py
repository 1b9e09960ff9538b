"""`RememberedLayers`: a frozen network's layers, run once for each example."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from assay.models.activations import Layer, example_count

GIBIBYTE = 2**30


class RememberedLayers:
    """What a frozen network's layers gave for an example, kept, so that a batch of examples it has met does not run it again.

    Examples are told apart by the bytes of their inputs. A batch runs as a whole as soon as one of its examples is new; one whose tensors
    are not all by example, as a graph's, always runs. Right for networks whose output for an example depends on nothing else: in evaluation
    mode, without noise of their own. What a sequence is padded with counts, so that batches of many lengths gain little.

    Args:
        run: from a batch to layers, each (examples, ...).
        limit: GiB; what comes when they are full is not kept.

    Raises:
        ValueError: a limit that is not above 0.
    """

    def __init__(self, run: Callable[[Any], list[Layer]], limit: float) -> None:
        if not limit > 0:
            raise ValueError(f"limit must be above 0 GiB, got {limit}")
        self.run, self.limit = run, limit
        self.size = 0
        self._names: list[str] = []
        self._kept: dict[bytes, list[Tensor]] = {}
        self._full = False

    def __call__(self, batch: Any) -> list[Layer]:
        """The layers for a batch, from memory where all of it is there."""
        keys = _keys(batch)
        if keys and all(key in self._kept for key in keys):
            rows = zip(*(self._kept[key] for key in keys), strict=True)
            return [Layer(name, torch.stack(outputs)) for name, outputs in zip(self._names, rows, strict=True)]
        layers = self.run(batch)
        self._names = [layer.name for layer in layers]
        for place, key in enumerate(keys):
            if key not in self._kept:
                self._keep(key, [layer.output[place] for layer in layers])
        return layers

    def _keep(self, key: bytes, outputs: list[Tensor]) -> None:
        size = sum(output.numel() * output.element_size() for output in outputs)
        if self.size + size > self.limit * GIBIBYTE:
            if not self._full:
                logging.getLogger(__name__).warning("%g GiB hold the layers of %d examples: no more are kept", self.limit, len(self._kept))
            self._full = True
            return
        self.size += size
        self._kept[key] = [output.clone() for output in outputs]


def _keys(batch: Any) -> list[bytes]:
    """A digest of each example's inputs; none where a tensor is not by example."""
    count = example_count(batch)
    inputs = [tensor for name, tensor in batch.items() if "target" not in name] if isinstance(batch, dict) else [batch]
    if any(tensor.ndim < 1 or len(tensor) != count for tensor in inputs):
        return []
    raw = [tensor.detach().reshape(count, -1).contiguous().view(torch.uint8).cpu().numpy() for tensor in inputs]
    return [hashlib.blake2b(b"|".join(rows[place].tobytes() for rows in raw), digest_size=16).digest() for place in range(count)]
