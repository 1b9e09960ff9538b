"""Real-time recurrent learning: the gradient of a recurrent cell carried forwards, so that no past needs to be kept.

``P_t = ∂h_t/∂θ = D_t P_{t−1} + ∂⁺h_t/∂θ`` with ``D_t = ∂h_t/∂h_{t−1}`` and ∂⁺ the immediate derivative; ``∂L_t/∂θ = (∂L_t/∂h_t) P_t``.

Source: Williams, Zipser (1989), A learning algorithm for continually running fully recurrent neural networks. The diagonal form: Menick
et al. (2021), Practical real time recurrent learning with a sparse approximation (SnAp-1).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.func import jacrev, vmap
from torch.utils import _pytree as pytree

from assay.contracts import State

Step = Callable[[Mapping[str, Tensor], State, Tensor], State]
"""``(parameters, state, x_t) -> state`` of one example, without batch."""


class RealTimeRecurrentLearning:
    """Carries state and influence ``P`` from one position to the next, and gives the exact gradient of every position's loss at once.

    For n state numbers and p parameters it keeps n · p numbers an example and takes n² p operations a position: with p of the order of
    n², n⁴. With ``diagonal`` an entry of P is kept only where a parameter moves that state number within one position: n times cheaper to
    keep and no longer exact, for the ways through other units are lost.

    Args:
        step: the cell.
        parameters: by name; not changed.
        state: before the first position, each tensor (batch, …).
        diagonal: as above.

    Raises:
        ValueError: a state without tensors, or tensors of different batch sizes.
    """

    def __init__(self, step: Step, parameters: Mapping[str, Tensor], state: State, diagonal: bool = False) -> None:
        leaves, self._structure = pytree.tree_flatten(state)
        if not leaves or len({len(leaf) for leaf in leaves}) != 1:
            raise ValueError(f"a state must be tensors of one batch size, got shapes {[tuple(leaf.shape) for leaf in leaves]}")
        self.parameters = {name: value.detach() for name, value in parameters.items()}
        self._shapes = [leaf.shape[1:] for leaf in leaves]
        self._step, self.diagonal = step, diagonal
        self.flat = torch.cat([leaf.detach().flatten(1) for leaf in leaves], 1)
        self.influence = {name: value.new_zeros(*self.flat.shape, *value.shape) for name, value in self.parameters.items()}

    @property
    def state(self) -> State:
        """The state now, as it was given."""
        return self._unflattened(self.flat)

    def advance(self, x_t: Tensor) -> State:
        """Read one position (batch, width); the new state."""

        def cell(parameters: dict[str, Tensor], flat: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
            after = pytree.tree_leaves(self._step(parameters, self._unflattened(flat), x))
            joined = torch.cat([leaf.flatten() for leaf in after])
            return joined, joined

        derivatives = vmap(jacrev(cell, argnums=(0, 1), has_aux=True), in_dims=(None, 0, 0))
        (immediate, transition), self.flat = derivatives(self.parameters, self.flat, x_t)
        for name, own in immediate.items():
            carried = torch.einsum("bij,bj...->bi...", transition, self.influence[name])
            self.influence[name] = own + (torch.where(own != 0, carried, 0.0) if self.diagonal else carried)
        return self.state

    def gradient(self, loss: Callable[[State], Tensor]) -> dict[str, Tensor]:
        """The gradient, with respect to the parameters, of a loss of the state now."""
        leaves: list[Any] = [leaf.detach().requires_grad_() for leaf in pytree.tree_leaves(self.state)]
        felt = torch.autograd.grad(loss(pytree.tree_unflatten(leaves, self._structure)), leaves, allow_unused=True, materialize_grads=True)
        flat = torch.cat([part.flatten(1) for part in felt], 1)
        return {name: torch.einsum("bi,bi...->...", flat, influence) for name, influence in self.influence.items()}

    def _unflattened(self, flat: Tensor) -> State:
        """A flat state, (…, numbers), in its own shapes."""
        parts = flat.split([shape.numel() for shape in self._shapes], -1)
        shaped = [part.reshape(*flat.shape[:-1], *shape) for part, shape in zip(parts, self._shapes, strict=True)]
        return pytree.tree_unflatten(shaped, self._structure)
