"""`MixtureDensityHead`: a density over vectors in place of one vector, where what comes next can be one of several things."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from assay.nn.linear import Linear


@dataclass(frozen=True)
class MixtureDensity:
    """``p(y) = Σ_k π_k N(y; μ_k, (L_k L_kᵀ)⁻¹)``, read off a row of numbers: π by its logits, L's diagonal by its logarithm.

    L is triangular: of two numbers, as the offsets of a pen, each component has a correlation, as Graves' has.

    Source: Bishop (1994), Mixture density networks; Graves (2013), Generating sequences with recurrent neural networks (strokes; ``bias``).

    Args:
        count: numbers of y.
        components: k.

    Shapes: numbers (…, ``size``), ``size`` = components · (1 + count + count (count + 1) / 2); y (…, count).

    Raises:
        ValueError: a size below 1.
    """

    count: int
    components: int = 5

    def __post_init__(self) -> None:
        """Check the sizes."""
        if min(self.count, self.components) < 1:
            raise ValueError(f"count and components must be at least 1, got {self.count} and {self.components}")

    @property
    def size(self) -> int:
        """Numbers that make one density."""
        return self.components * sum(self._sizes)

    @property
    def _sizes(self) -> tuple[int, int, int, int]:
        return 1, self.count, self.count, self.count * (self.count - 1) // 2

    def log_density(self, numbers: Tensor, y: Tensor) -> Tensor:
        """log p(y), (…), differentiable; its negative mean is the loss."""
        weights, means, scales = self._read(numbers)
        away = torch.einsum("...kij,...ki->...kj", scales, y[..., None, :] - means)  # Lᵀ (y − μ)
        size = scales.diagonal(dim1=-2, dim2=-1).log().sum(-1) - self.count / 2 * math.log(2 * math.pi)
        return (weights.log_softmax(-1) + size - away.square().sum(-1) / 2).logsumexp(-1)

    def mean(self, numbers: Tensor) -> Tensor:
        """E[y], (…, count)."""
        weights, means, _ = self._read(numbers)
        return (weights.softmax(-1)[..., None] * means).sum(-2)

    def sample(self, numbers: Tensor, bias: float = 0.0, generator: torch.Generator | None = None) -> Tensor:
        """Draw y, (…, count): the larger ``bias``, the surer: π's logits are multiplied by 1 + bias, deviations divided by exp(bias).

        Raises:
            ValueError: ``bias`` is negative.
        """
        if bias < 0:
            raise ValueError(f"bias must be at least 0, got {bias}")
        weights, means, scales = self._read(numbers)
        chance = ((1 + bias) * weights).softmax(-1).flatten(0, -2)
        chosen = torch.multinomial(chance, 1, generator=generator).view(*weights.shape[:-1], 1, 1)
        mean = means.gather(-2, chosen.expand(*chosen.shape[:-1], self.count))[..., 0, :]
        scale = scales.gather(-3, chosen[..., None].expand(*chosen.shape[:-2], 1, self.count, self.count))[..., 0, :, :]
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
        return mean + math.exp(-bias) * torch.linalg.solve_triangular(scale.mT, noise[..., None], upper=True)[..., 0]

    def _read(self, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (…, components), means (…, components, count), and L (…, components, count, count)."""
        weights, means, logarithms, below = numbers.unflatten(-1, (self.components, -1)).split(self._sizes, -1)
        scales = torch.diag_embed(logarithms.exp())
        if self.count > 1:
            row, column = torch.tril_indices(self.count, self.count, -1, device=numbers.device)
            place = F.one_hot(row * self.count + column, self.count**2).to(below)
            scales = scales + (below @ place).unflatten(-1, (self.count, self.count))
        return weights[..., 0], means, scales


class MixtureDensityHead(nn.Module):
    """The numbers of a `MixtureDensity`, linear in h: ``p(y | h) = Σ_k π_k(h) N(y; μ_k(h), (L_k(h) L_k(h)ᵀ)⁻¹)``.

    A network that is trained on squared error gives the mean of all that may follow, which may never follow: the middle between a turn to
    the left and one to the right. Trained on ``−head.density.log_density(head(h), y)`` it gives all of them.

    Args:
        width: numbers of h.
        count: numbers of y.
        components: k.

    Shapes: h (…, width) → (…, ``density.size``).

    Raises:
        ValueError: a size below 1.
    """

    def __init__(self, width: int, count: int, components: int = 5) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width must be at least 1, got {width}")
        self.density = MixtureDensity(count, components)
        self.linear = Linear(width, self.density.size)

    def forward(self, h: Tensor) -> Tensor:
        """The numbers of the density at every position."""
        return self.linear(h)
