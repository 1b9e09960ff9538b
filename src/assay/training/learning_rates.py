"""Learning rates by layer, with which every layer of a deep network adds as much to what it learns."""

from __future__ import annotations

from typing import Any

from torch import nn

from assay.models.initialisation import critical_point
from assay.models.layer_roles import LayerRole, layer_roles
from assay.theory.criticality import Criticality
from assay.theory.finite_width import equal_rates


def learning_rate_groups(
    model: nn.Module, *example: Any, learning_rate: float, weight_rate: float = 1.0, bias_rate: float = 1.0
) -> list[dict[str, Any]]:
    """Parameter groups for plain gradient descent: ``η λ_b^ℓ`` for the biases of layer ℓ, ``η λ_W^ℓ / fan-in`` for its weights.

    λ are those of `assay.theory.finite_width.equal_rates`: ``λ̃ / L`` in the classes scale-invariant and half-stable, ``λ̃_b ℓ^{−p} L^{p−1}``
    and ``λ̃_W (L/ℓ)^{p−1}`` in the class K*=0; L counts the plain layers. Parameters outside them form a last group of rate η.

        optimizer = torch.optim.SGD(learning_rate_groups(model, batch, learning_rate=0.1))

    In `assay.training.fit` this goes into ``optimizer``; schedules keep the ratios. An adaptive optimiser scales gradients away and needs
    none of this.

    Args:
        model: any network.
        example: its arguments: a batch for a network of Assay's.
        learning_rate: η.
        weight_rate: λ̃_W.
        bias_rate: λ̃_b.

    Raises:
        ValueError: η is not positive; no layer is one that the theory speaks of; its angles follow no power of the depth.
    """
    if not learning_rate > 0:
        raise ValueError(f"learning_rate must be positive, got {learning_rate}")
    points: dict[str, Criticality] = {}
    found = [(role, critical_point(role, points)) for role in layer_roles(model, *example)]
    plain = [role for role, point in found if isinstance(point, Criticality)]
    if not plain:
        raise ValueError(f"the theory speaks of none of the {len(found)} layers ({found[0][0].name}: {found[0][1]})")
    exponent = max(point.perpendicular_exponent for point in points.values() if not point.heuristic)
    biases, weights = equal_rates(len(plain), exponent, weight_rate, bias_rate)
    groups = [
        group for role, bias, weight in zip(plain, biases, weights, strict=True) for group in _of_layer(role, learning_rate, bias, weight)
    ]
    grouped = {id(parameter) for group in groups for parameter in group["params"]}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in grouped and parameter.requires_grad]
    return [*groups, *([{"params": rest, "lr": learning_rate}] if rest else [])]


def _of_layer(role: LayerRole, learning_rate: float, bias: float, weight: float) -> list[dict[str, Any]]:
    groups = [{"params": [role.layer.weight], "lr": learning_rate * float(weight) / role.fan_in}]
    if role.layer.bias is not None:
        groups.append({"params": [role.layer.bias], "lr": learning_rate * float(bias)})
    return groups
