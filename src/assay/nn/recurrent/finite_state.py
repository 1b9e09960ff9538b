"""`FiniteStateNetwork`: any finite automaton as a simple recurrent network whose weights are written down, not learned."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FiniteStateNetwork(nn.Module):
    """``h_t = max(0, W x_t + U h_{t−1} + b)`` that is in exactly one transition of an automaton at each position, without error.

    One unit stands for "state q was left by symbol σ". With ``s_q`` the sum of the units whose transition ends in q, the unit (q, σ) is
    ``max(0, s_q + x_σ − 1)``, and for the start state, which no unit announces at first, ``max(0, x_σ − Σ_{q ≠ start} s_q)``: 1 for the
    transition that is taken, 0 for all others. It shows what such networks can express (any regular language), and what training may miss.

    Source: Kleene (1956), Representation of events in nerve nets and finite automata; Minsky (1967), Computation: finite and infinite
    machines.

    Args:
        transitions: the next state by state and symbol; state 0 is the start.

    Shapes: tokens (batch, length) → states (batch, length), the state after each symbol.

    Raises:
        ValueError: no state or symbol, rows of different lengths, or a next state that does not exist.
    """

    ends: Tensor

    def __init__(self, transitions: Sequence[Sequence[int]]) -> None:
        super().__init__()
        count = len(transitions)
        symbols = len(transitions[0]) if count else 0
        if not symbols or any(len(row) != symbols for row in transitions):
            raise ValueError(f"transitions must be a row of next states for each state, all of one length above 0, got {transitions}")
        if not all(0 <= to < count for row in transitions for to in row):
            raise ValueError(f"a next state must be one of 0 … {count - 1}, got {transitions}")
        self.symbols = symbols
        target = torch.tensor(transitions).flatten()  # by unit: where its transition ends
        self.register_buffer("ends", F.one_hot(target, count).float())
        self.network = nn.RNN(symbols, count * symbols, nonlinearity="relu", batch_first=True)
        leaves = torch.arange(count).repeat_interleave(symbols)  # by unit: the state it leaves
        into = self.ends.T[leaves]  # s_q of each unit, as weights on all units
        into[leaves == 0] = -self.ends[:, 1:].sum(1)
        weights = {
            "weight_ih_l0": torch.eye(symbols).repeat(count, 1),
            "weight_hh_l0": into,
            "bias_ih_l0": -(leaves != 0).float(),
            "bias_hh_l0": torch.zeros(count * symbols),
        }
        self.network.load_state_dict(weights)

    @torch.no_grad()
    def forward(self, tokens: Tensor) -> Tensor:
        """The state after every symbol."""
        h, _ = self.network(F.one_hot(tokens, self.symbols).to(self.ends))
        return (h @ self.ends).argmax(-1)


def parity() -> FiniteStateNetwork:
    """Whether the ones so far are odd in number: the network of four units that computes XOR along a string."""
    return FiniteStateNetwork([[0, 1], [1, 0]])


def ring_counter(states: int) -> FiniteStateNetwork:
    """The number of ones so far, modulo ``states``."""
    return FiniteStateNetwork([[state, (state + 1) % states] for state in range(states)])
