"""`CapsuleRouting`: vectors that vote for vectors, and are routed to those that agree with them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def squash(s: Tensor) -> Tensor:
    """Shrink vectors, (..., width), to lengths below 1 with their directions: ``v = ‖s‖² / (1 + ‖s‖²) · s / ‖s‖``; 0 stays 0."""
    length = torch.linalg.vector_norm(s, dim=-1, keepdim=True)
    return s * (length / (1 + length.square()))


class CapsuleRouting(nn.Module):
    """Every input capsule votes for every output capsule, ``û_ij = W_ij u_i``; agreement weighs the votes.

    From ``b = 0``, some times: ``c_ij = softmax over j of b_ij``, ``s_j = Σ_i c_ij û_ij``, ``v_j = squash(s_j)``,
    ``b_ij ← b_ij + û_ij · v_j``. The length of v_j says whether what capsule j stands for is there, its direction how it looks.

    Source: Sabour, Frosst, Hinton (2017), Dynamic Routing Between Capsules.

    Args:
        in_capsules: capsules that vote.
        out_capsules: capsules voted for.
        in_width: numbers in an input capsule.
        out_width: numbers in an output capsule.
        iterations: times that the votes are weighed; 1 weighs all alike.

    Shapes: u (batch, in_capsules, in_width), v (batch, out_capsules, out_width).

    Raises:
        ValueError: a number below 1; an input of another shape.
    """

    def __init__(self, in_capsules: int, out_capsules: int, in_width: int = 8, out_width: int = 16, iterations: int = 3) -> None:
        super().__init__()
        if min(in_capsules, out_capsules, in_width, out_width, iterations) < 1:
            numbers = f"{in_capsules=}, {out_capsules=}, {in_width=}, {out_width=}, {iterations=}"
            raise ValueError(f"all numbers must be at least 1, got {numbers}")
        self.iterations = iterations
        self.weight = nn.Parameter(torch.randn(in_capsules, out_capsules, out_width, in_width) / math.sqrt(in_width))

    def forward(self, u: Tensor) -> Tensor:
        """Route (batch, in_capsules, in_width) to (batch, out_capsules, out_width); every length is below 1."""
        in_capsules, out_capsules, out_width, in_width = self.weight.shape
        if u.ndim != 3 or u.shape[1:] != (in_capsules, in_width):
            raise ValueError(f"u must be (batch, {in_capsules}, {in_width}), got {tuple(u.shape)}")
        maps = self.weight.flatten(1, 2).transpose(1, 2)  # one matrix product an input capsule
        votes = torch.bmm(u.transpose(0, 1), maps).transpose(0, 1).unflatten(2, (out_capsules, out_width))
        agreement = votes.new_zeros(votes.shape[:3])
        v = squash(torch.einsum("bij,bijd->bjd", agreement.softmax(2), votes))
        for _ in range(self.iterations - 1):
            agreement = agreement + torch.einsum("bijd,bjd->bij", votes, v)
            v = squash(torch.einsum("bij,bijd->bjd", agreement.softmax(2), votes))
        return v
