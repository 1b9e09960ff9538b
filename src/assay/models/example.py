"""Example inputs of a signature, for whatever must see a network run before there are data."""

from __future__ import annotations

from typing import Any

import torch

from assay.contracts import Batch, Events, Graph, Image, Pair, Series, Signature, Table, Tokens
from assay.errors import UserError


def example_batch(signature: Signature, batch_size: int = 2, seed: int = 0) -> Batch:
    """Random inputs of the signature's kind, without targets; numbers are standard normal, as tasks standardise them.

    Raises:
        UserError: the kind has no example of fixed size (video).
    """
    return _example(signature.input, batch_size, torch.Generator().manual_seed(seed))


def _example(kind: Any, batch_size: int, generator: torch.Generator) -> Batch:
    if isinstance(kind, Table):
        return {"table": torch.randn(batch_size, kind.features, generator=generator)}
    if isinstance(kind, Image):
        return {"image": torch.randn(batch_size, kind.channels, kind.height, kind.width, generator=generator)}
    if isinstance(kind, Series):
        return {"series": torch.randn(batch_size, kind.length, kind.channels, generator=generator)}
    if isinstance(kind, Tokens):
        return {"tokens": torch.randint(kind.vocabulary, (batch_size, kind.length), generator=generator)}
    if isinstance(kind, Events):
        gaps = torch.rand(batch_size, kind.length, generator=generator) + 0.1
        return {"gaps": gaps, "marks": torch.randint(kind.marks, (batch_size, kind.length), generator=generator)}
    if isinstance(kind, Graph):
        ring = torch.arange(kind.nodes)
        edges = torch.stack([torch.cat([ring, ring.roll(-1)]), torch.cat([ring.roll(-1), ring])])
        nodes = torch.randn(kind.nodes, kind.features, generator=generator)
        return {"nodes": nodes, "edges": edges, "selected": ring[:batch_size]}
    if isinstance(kind, Pair):
        sides = {"first_": kind.first, "second_": kind.second}
        return {prefix + key: value for prefix, side in sides.items() for key, value in _example(side, batch_size, generator).items()}
    raise UserError(f"A model of {type(kind).__name__} input has no example of fixed size.")
