"""A penalty that keeps errors from vanishing or growing on their way back through a simple recurrent network.

Pascanu, Mikolov & Bengio, On the difficulty of training recurrent neural networks, 2013.

What it does: adds ``λ Ω``, the squared deviation from one of the factor by which each step back changes an error's length. When to use it:
simple recurrent networks (`Elman`) that must bridge long delays; gated ones need it less, and have no such part here. What it
costs: a second backward pass through the network's read-out, and one walk back through time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from assay.contracts import Batch, Method, Objective, Output
from assay.nn.recurrent.reference import Elman

SMALL = 1e-12
SLOPES: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": lambda a: 1 - torch.tanh(a).square(),
    "relu": lambda a: (a > 0).to(a),
    "sigmoid": lambda a: torch.sigmoid(a) * torch.sigmoid(-a),
}
"""φ' of each nonlinearity of `Elman`."""


def vanishing_gradient_penalty(layer: nn.RNN, x: Tensor, h: Tensor, direct: Tensor) -> Tensor:
    """``Ω = mean_t (‖g_{t+1} ∂h_{t+1}/∂h_t‖ / ‖g_{t+1}‖ − 1)²``, g_t = ∂L/∂h_t over all paths, and held constant.

    ``∂h_{t+1}/∂h_t = diag(φ'(a_{t+1})) U``; only this local factor is differentiated, with h_t held too. Positions that no error reaches do
    not count.

    Args:
        layer: one layer of ``torch.nn.RNN``, or of the `RNN` that stands in for it, batch first.
        x: (batch, length, inputs) of the layer.
        h: (batch, length, units), its outputs.
        direct: ∂L/∂h_t through the outputs alone, not through later states.

    Returns:
        A scalar; its gradient reaches the layer's weights and nothing else.
    """
    weights = [layer.weight_ih_l0, layer.weight_hh_l0, *((layer.bias_ih_l0, layer.bias_hh_l0) if layer.bias else (None, None))]
    input_weight, recurrent, input_bias, recurrent_bias = weights
    assert isinstance(recurrent, Tensor)
    assert isinstance(input_weight, Tensor)
    before = F.pad(h[:, :-1], (0, 0, 1, 0)).detach()
    sums = F.linear(x.detach(), input_weight, input_bias) + F.linear(before, recurrent, recurrent_bias)  # pyright: ignore[reportArgumentType]
    slope = SLOPES[layer.nonlinearity](sums)
    with torch.no_grad():
        error, errors = torch.zeros_like(direct[:, 0]), []
        for position in reversed(range(h.shape[1])):
            error = error + direct[:, position]
            errors.append(error)
            error = (error * slope[:, position]) @ recurrent
        total = torch.stack(errors[::-1], 1)
    size = total.norm(dim=-1)
    carried = ((total * slope) @ recurrent).norm(dim=-1)
    felt = size > SMALL
    felt[:, 0] = False  # nothing stands before the first position
    ratio = torch.where(felt, carried / size.clamp(min=SMALL), 1.0)
    return (ratio - 1).square().sum() / felt.sum().clamp(min=1)


class VanishingGradientPenalty(Method):
    """Add ``λ Ω`` of every `Elman` layer in the model to its loss; see `vanishing_gradient_penalty`.

    A model without such a layer trains as without it; of stacked layers (``layers`` above 1) the inner states are out of reach, so they are
    left out.

    Args:
        strength: λ.

    Raises:
        ValueError: λ is negative.
    """

    def __init__(self, strength: float = 1.0) -> None:
        if strength < 0:
            raise ValueError(f"strength must be at least 0, got {strength}")
        self.strength = strength

    def objective(self, next: Objective) -> Objective:
        """Watch the layers while the loss is computed, then add the penalty."""

        def penalised(model: nn.Module, batch: Batch) -> Output:
            seen: list[Any] = []
            hooks = [
                part.recurrence.register_forward_hook(lambda *call: seen.append((call[0], call[1][0], call[2][0])))
                for part in model.modules()
                if isinstance(part, Elman) and part.recurrence.num_layers == 1
            ]
            try:
                output = next(model, batch)
            finally:
                for hook in hooks:
                    hook.remove()
            watched = [call for call in seen if isinstance(call[2], Tensor)]  # packed sequences, of masks with holes, are not looked into
            if watched and output.loss is not None and output.loss.requires_grad:
                direct = torch.autograd.grad(output.loss, [h for _, _, h in watched], retain_graph=True)
                penalties = [vanishing_gradient_penalty(layer, x, h, felt) for (layer, x, h), felt in zip(watched, direct, strict=True)]
                penalty = self.strength * torch.stack(penalties).sum()
                output.losses = {**output.losses, "vanishing_gradient": penalty}
                output.loss = output.loss + penalty
            return output

        return penalised
