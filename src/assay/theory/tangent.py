"""The tangent kernel of a network of finite width, from its gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Function = Callable[[dict[str, Tensor], Tensor], Tensor]
"""``function(parameters, x) -> (batch, outputs)``, such as a module by `torch.func.functional_call`."""


def empirical_tangent_kernel(function: Function, parameters: Mapping[str, Tensor], x: Tensor, y: Tensor | None = None) -> Tensor:
    """``K(x, y) = mean over outputs o of ∇f_o(x) · ∇f_o(y)``, the gradients over all parameters: (n, m), in the parameters' type.

    Takes memory for n + m gradients of every output.

    Args:
        function: the network, whose answer to an input must not depend on the batch it comes in.
        parameters: by name.
        x: inputs (n, …).
        y: inputs (m, …); None: x.

    Raises:
        ValueError: an answer that is not (batch, outputs).

    Source: Jacot, Gabriel, Hongler (2018), Neural Tangent Kernel.
    """
    left = _gradients(function, dict(parameters), x)
    right = left if y is None else _gradients(function, dict(parameters), y)
    return torch.einsum("nop,mop->nm", left, right) / left.shape[1]


def _gradients(function: Function, parameters: dict[str, Tensor], x: Tensor) -> Tensor:
    """(n, outputs, parameters)."""
    answer = function(parameters, x[:1])
    if answer.ndim != 2:
        raise ValueError(f"a network's answer must be (batch, outputs), got {tuple(answer.shape)}")

    def one(weights: dict[str, Tensor], example: Tensor) -> Tensor:
        return function(weights, example[None])[0]

    detached = {name: value.detach() for name, value in parameters.items()}
    found = torch.func.vmap(torch.func.jacrev(one), in_dims=(None, 0))(detached, x)
    return torch.cat([part.flatten(2) for part in found.values()], 2)
