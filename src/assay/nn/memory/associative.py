"""`HopfieldNetwork`: binary patterns stored as fixed points of a network that falls into the nearest."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class HopfieldNetwork(nn.Module):
    """Auto-associative memory: ``W = Σ_μ ξ^μ ξ^μᵀ / n`` with zero diagonal, ``s_i ← sign(Σ_j W_ij s_j)`` one unit after the other.

    An update never raises the energy ``E(s) = −½ sᵀ W s``, so that recall ends at a fixed point. Orthogonal patterns are fixed points;
    of random ones about 0.138 n can be kept (Amit, Gutfreund, Sompolinsky 1985). A unit whose input is zero stays as it is. Nothing is
    trained: the weights are a buffer.

    Source: Hopfield (1982), Neural networks and physical systems with emergent collective computational abilities.

    Args:
        units: n.

    Shapes: patterns and states (…, n), of −1 and 1.

    Raises:
        ValueError: fewer than 2 units; a pattern of another size or with other values; fewer than one sweep.
    """

    weight: Tensor

    def __init__(self, units: int) -> None:
        super().__init__()
        if units < 2:
            raise ValueError(f"units must be at least 2, got {units}")
        self.units = units
        self.register_buffer("weight", torch.zeros(units, units))

    @torch.no_grad()
    def store(self, patterns: Tensor) -> None:
        """Add patterns (count, n) to those stored."""
        self._check(patterns)
        patterns = patterns.to(self.weight).reshape(-1, self.units)
        self.weight += (patterns.T @ patterns / self.units).fill_diagonal_(0.0)

    def energy(self, state: Tensor) -> Tensor:
        """``−½ sᵀ W s`` of states (…, n)."""
        self._check(state)
        state = state.to(self.weight)
        return -0.5 * ((state @ self.weight) * state).sum(-1)

    @torch.no_grad()
    def forward(self, state: Tensor, sweeps: int = 20, seed: int = 0) -> Tensor:
        """Recall: update every unit once a sweep, in random order, until nothing changes or ``sweeps`` are done; states (…, n)."""
        self._check(state)
        if sweeps < 1:
            raise ValueError(f"sweeps must be at least 1, got {sweeps}")
        generator = torch.Generator().manual_seed(seed)
        state = state.to(self.weight).clone()
        for _ in range(sweeps):
            before = state.clone()
            for unit in torch.randperm(self.units, generator=generator).tolist():
                pull = state @ self.weight[:, unit]
                state[..., unit] = torch.where(pull == 0, state[..., unit], pull.sign())
            if torch.equal(state, before):
                break
        return state

    def _check(self, state: Tensor) -> None:
        if state.ndim < 1 or state.shape[-1] != self.units:
            raise ValueError(f"a state must have shape (…, {self.units}), got {tuple(state.shape)}")
        if bool((state.abs() != 1).any()):
            raise ValueError("a state must be of −1 and 1 alone")
