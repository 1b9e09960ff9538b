"""Critical initialisation of any network: what the theory of depth and width gives for its activations, where the theory speaks of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from assay.contracts import Signature
from assay.errors import UserError
from assay.models.example import example_batch
from assay.models.layer_roles import Activated, LayerRole, layer_roles
from assay.theory.criticality import Criticality, critical_initialization

INITIALISATIONS = ("default", "critical")
"""What ``init=`` of `assay.models.build` may be."""


@dataclass(frozen=True)
class InitialisedLayer:
    """What was done to a layer.

    Args:
        name: of the layer.
        activation: its activation's name, or None.
        weight_variance: C_W as set (variance times fan-in), or None where the layer was left as it was.
        bias_variance: C_b as set.
        reason: why it was left, a clause; None where it was set.
    """

    name: str
    activation: str | None
    weight_variance: float | None
    bias_variance: float | None
    reason: str | None = None


@torch.no_grad()
def initialise_critical_(
    model: nn.Module, *example: Any, input_square: float | None = None, generator: torch.Generator | None = None
) -> list[InitialisedLayer]:
    """Draw the weights and biases of every plain layer from the critical Gaussians of its activation, in place.

    ``W ~ N(0, C_W / fan-in)``, ``b ~ N(0, C_b)``; see `assay.theory.criticality`. A layer is plain if it reads the input or a pointwise
    activation, and the same activation reads it, or it is the output. In the half-stable class the layer that reads the input gets
    ``C_W = (K* − C_b) / x²``, so that K is K* from the first layer on. Layers in normalised branches, gates, sums, attention and recurrent
    cells stay as they are, each with the reason: outside the theory nothing is guessed.

    Args:
        model: any network.
        example: its arguments: a batch for a network of Assay's, made or real.
        input_square: mean square of the inputs, x²; by default the example's.
        generator: of the draws.

    Returns:
        What was done to each layer, in the order in which they run.

    Raises:
        ValueError: the network runs no linear map or convolution.
    """
    points: dict[str, Criticality] = {}
    return [_initialise(role, points, input_square, generator) for role in layer_roles(model, *example)]


def critical_point(role: LayerRole, points: dict[str, Criticality]) -> Criticality | str:
    """The critical point of a layer's activation, or why there is none for it; ``points`` keeps what was computed, by name."""
    if role.obstacle is not None:
        return role.obstacle
    activation = role.activation
    assert isinstance(activation, Activated)  # where there is no obstacle there is one
    if activation.name not in points:
        try:
            points[activation.name] = critical_initialization(activation.function)
        except ValueError as error:
            return str(error)
    point = points[activation.name]
    if point.heuristic:
        return f"{activation.name} has no critical initialisation"
    if role.layer.bias is None and point.bias_variance > 0:
        return f"{activation.name} needs biases of variance {point.bias_variance:.3g}, and it has none"
    return point


def layer_variances(role: LayerRole, point: Criticality, input_square: float | None = None) -> tuple[float, float]:
    """C_W and C_b of a layer: those of the critical point, but ``(K* − C_b) / x²`` where it reads the input and K* > 0."""
    square = role.square if input_square is None else input_square
    if role.reads == "input" and point.kernel and square > 0 and not role.is_output:
        return (point.kernel - point.bias_variance) / square, point.bias_variance
    return point.weight_variance, point.bias_variance


def apply_initialisation(model: nn.Module, signature: Signature, init: str, name: str) -> None:
    """What ``init=`` of `assay.models.build` does to a fresh network.

    Raises:
        UserError: an unknown word, or no layer of the network is one that the theory speaks of.
    """
    if init not in INITIALISATIONS:
        raise UserError(f"init must be {' or '.join(INITIALISATIONS)}, not {init!r}.")
    if init == "default" or any(parameter.is_meta for parameter in model.parameters()):
        return
    done = initialise_critical_(model, example_batch(signature), input_square=1.0)
    if all(layer.reason is not None for layer in done):
        raise UserError(
            f"{name} cannot have init=critical: the theory speaks of none of its {len(done)} layers ({done[0].name}: {done[0].reason}); "
            "leave init at default."
        )


def _initialise(
    role: LayerRole, points: dict[str, Criticality], input_square: float | None, generator: torch.Generator | None
) -> InitialisedLayer:
    activation = role.activation.name if role.activation else None
    point = critical_point(role, points)
    if isinstance(point, str):
        return InitialisedLayer(role.name, activation, None, None, point)
    weight_variance, bias_variance = layer_variances(role, point, input_square)
    role.layer.weight.normal_(0, math.sqrt(weight_variance / role.fan_in), generator=generator)
    if role.layer.bias is not None:
        role.layer.bias.normal_(0, math.sqrt(bias_variance), generator=generator)
    return InitialisedLayer(role.name, activation, weight_variance, bias_variance)
