"""A second network beside the one in hand: a trained run's, or a fresh one of a registered family."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from assay import registry
from assay.contracts import Signature
from assay.errors import UserError
from assay.models.build import build, is_pattern, load_predictor


def referred(reference: str, signature: Signature, parameters: int, seed: int = 0) -> nn.Module:
    """The network behind a name, frozen and in evaluation mode; the caller's random state stays as it was.

    Args:
        reference: a registered model, mixer, pattern of mixers or ``file.py:Class``: a fresh network, untrained; or a run's folder: the
            trained one. A registered name goes before a folder of the same name.
        signature: what the network must read; a fresh one also predicts it.
        parameters: size of a fresh network.
        seed: of its initialisation.

    Raises:
        UserError: there is no such thing, it holds no network, or it reads other data.
    """
    with torch.random.fork_rng():
        if referred_folder(reference):
            network = load_predictor(reference)
        else:
            torch.manual_seed(seed)
            network = build(reference, signature, parameters)
    if not isinstance(network, nn.Module):
        raise UserError(f"{reference} holds {type(network).__name__}, a classical baseline: name a network's run.")
    reads = getattr(network, "signature", signature).input
    if reads != signature.input:
        raise UserError(f"{reference} reads {reads}, but here {signature.input} comes in: name one trained on such data.")
    return network.requires_grad_(False).eval()


def referred_folder(reference: str) -> bool:
    """Whether a reference means a folder: it is one, and nothing registered, no pattern and no user's class has that name."""
    registered = registry.known("model", reference) or registry.known("mixer", reference)
    return not registered and not registry.is_file_reference(reference) and not is_pattern(reference) and Path(reference).is_dir()
