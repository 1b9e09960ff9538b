"""`MixtureOfExperts`: many channel mixers, of which each position uses a few."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from assay.nn.linear import Linear


class MixtureOfExperts(nn.Module):
    """A router sends each position to its ``active`` most probable experts.

    ``p = softmax(W_r x)``, ``y = Σ_{e ∈ top} p_e E_e(x) / Σ_{e ∈ top} p_e``. Dropless: an expert takes every position that chose it.

    In training two losses keep the router in order, and are left in ``losses`` (`assay.nn.block.own_losses` collects them):
    ``balance · E Σ_e f_e P_e``, f_e the share of choices that fell on e, P_e its mean probability, least (1 · ``balance``) when even; and
    ``router_z · mean(logsumexp(W_r x)²)``. Padding counts as positions there.

    Source: Shazeer et al. (2017), Outrageously Large Neural Networks; Fedus, Zoph, Shazeer (2022), Switch Transformers; Zoph et al.
    (2022), ST-MoE (the second loss).

    Args:
        width: numbers per position.
        expert: makes one expert, a module from (..., width) to (..., width); called ``experts`` times.
        experts: E.
        active: experts a position uses; with all of them the mixture is dense.
        balance: weight of the first loss.
        router_z: weight of the second.

    Raises:
        ValueError: ``active`` is not from 1 to ``experts``, or a loss's weight is negative.
    """

    losses: dict[str, Tensor]

    def __init__(
        self,
        width: int,
        expert: Callable[[], nn.Module],
        experts: int = 8,
        active: int = 2,
        balance: float = 0.01,
        router_z: float = 1e-3,
    ) -> None:
        super().__init__()
        if not 1 <= active <= experts:
            raise ValueError(f"active must be from 1 to the {experts} experts, got {active}")
        if balance < 0 or router_z < 0:
            raise ValueError(f"the losses' weights must be at least 0, got balance {balance} and router_z {router_z}")
        self.width, self.active, self.balance, self.router_z = width, active, balance, router_z
        self.router = Linear(width, experts, bias=False)
        self.experts = nn.ModuleList(expert() for _ in range(experts))
        self.losses = {}

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., width) to (..., width)."""
        if torch.compiler.is_exporting():  # an exported graph has no data-dependent sizes
            return self.dense(x)
        rows = x.reshape(-1, self.width)
        weights, chosen = self._routed(rows)
        y = torch.zeros_like(rows)
        for number, expert in enumerate(self.experts):
            row, place = (chosen == number).nonzero(as_tuple=True)
            # An expert that nobody chose still gets a gradient, of zeros: processes that train together must agree on who has one.
            y.index_add_(0, row, weights[row, place, None] * expert(rows[row]))
        return y.view_as(x)

    def dense(self, x: Tensor) -> Tensor:
        """The same by computing every expert at every position: the definition, and what exporters see."""
        weights, chosen = self._routed(x)
        share = torch.zeros_like(x[..., :1]).expand(*x.shape[:-1], len(self.experts)).scatter(-1, chosen, weights)
        return torch.stack([expert(x) for expert in self.experts], -1).mul(share[..., None, :]).sum(-1)

    def _routed(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Weights, which add up to one, and numbers of the chosen experts, both (..., active)."""
        logits = self.router(rows)
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        probability = wide.softmax(-1)
        weights, chosen = probability.topk(self.active, -1)
        if self.training and rows.numel():
            self.losses = self._losses(wide, probability, chosen)
        return (weights / weights.sum(-1, keepdim=True)).to(rows.dtype), chosen

    def _losses(self, logits: Tensor, probability: Tensor, chosen: Tensor) -> dict[str, Tensor]:
        count = len(self.experts)
        share = torch.bincount(chosen.flatten(), minlength=count).to(probability.dtype) / chosen.numel()
        balance = count * (share * probability.flatten(0, -2).mean(0)).sum()
        return {"balance": self.balance * balance, "router-z": self.router_z * logits.logsumexp(-1).square().mean()}
