"""Starting points of recurrent weights: orthogonal, identity, sparse."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

INCOMING = 15


@torch.no_grad()
def initialise_recurrent_(module: nn.Module, kind: str, scale: float = 1.0, incoming: int = INCOMING) -> int:
    """Set every recurrent weight of a module in place, gate by gate; biases and input weights stay.

    - ``orthogonal``: a random rotation times ``scale``; a linear network then neither shrinks nor grows what it keeps
      (Saxe, McClelland, Ganguli 2014, Exact solutions to the nonlinear dynamics of learning in deep linear neural networks)
    - ``identity``: the identity times ``scale``, for rectified units
      (Le, Jaitly, Hinton 2015, A simple way to initialize recurrent networks of rectified linear units)
    - ``sparse``: ``incoming`` weights N(0, scale²) a unit, the others zero
      (Martens 2010, Deep learning via Hessian-free optimization)

    Args:
        module: its parameters named ``weight_hh…`` with units as columns are recurrent weights (``torch.nn.RNN/LSTM/GRU``, their cells, and
            the recurrent parts of `assay.nn`).
        kind: as above.
        scale: as above.
        incoming: of ``sparse``; all of them where there are fewer units.

    Returns:
        The number of weights (matrices, all gates together one) that were set.

    Raises:
        ValueError: an unknown kind, fewer than one incoming weight, or a module without recurrent weights.
    """
    if kind not in ("orthogonal", "identity", "sparse"):
        raise ValueError(f"kind must be orthogonal, identity or sparse, got {kind!r}")
    if incoming < 1:
        raise ValueError(f"incoming must be at least 1, got {incoming}")
    found = list(recurrent_weights(module))
    if not found:
        raise ValueError(f"{type(module).__name__} has no recurrent weights (parameters named weight_hh)")
    for weight in found:
        for gate in weight.split(weight.shape[1]):
            _set(gate, kind, scale, incoming)
    return len(found)


def recurrent_weights(module: nn.Module) -> Iterator[nn.Parameter]:
    """The parameters (gates · units, units) that carry the state to the next position."""
    for name, parameter in module.named_parameters():
        if name.rpartition(".")[2].startswith("weight_hh") and parameter.ndim == 2 and parameter.shape[0] % parameter.shape[1] == 0:
            yield parameter


def _set(gate: Tensor, kind: str, scale: float, incoming: int) -> None:
    if kind == "orthogonal":
        nn.init.orthogonal_(gate, scale)
    elif kind == "identity":
        nn.init.eye_(gate).mul_(scale)
    else:
        units = gate.shape[1]
        chosen = torch.rand_like(gate).topk(min(incoming, units), 1).indices
        gate.copy_(torch.zeros_like(gate).scatter_(1, chosen, scale * torch.randn_like(gate).gather(1, chosen)))
