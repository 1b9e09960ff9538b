"""Random projection: rows of very many numbers made short, so that inner products of any two of them hardly change.

Feature number a goes, with a random sign s(a), to the place ``h(a) = (a + r_b) mod k`` of the k that are kept: blocks b of k numbers in a
row are turned by a random r_b each and added up. So the projection S is read off, never multiplied by: it costs one pass over the rows,
where a dense one costs k. Two features meet with probability 1 / k at most, and signs are independent, which is all that the bound needs:
inner products are right on average, and

``E (⟨S x, S y⟩ − ⟨x, y⟩)² ≤ (‖x‖² ‖y‖² + ⟨x, y⟩²) / k``,

hence, of the kernel ``K = X Xᵀ`` of all rows, ``E ‖K̃ − K‖² ≤ ((tr K)² + ‖K‖²) / k``; t times the root of either is passed with probability
1 / t² at most (Chebyshev).

Source: Johnson, Lindenstrauss (1984), Extensions of Lipschitz Mappings into a Hilbert Space; projections with one entry a column: Charikar,
Chen, Farach-Colton (2002), Finding Frequent Items in Data Streams; Weinberger, Dasgupta, Langford, Smola, Attenberg (2009), Feature Hashing
for Large Scale Multitask Learning. Turned blocks in place of single places are Assay's own.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

SEED = 0
"""One for all, so that rows projected apart can be compared."""

_PASS = 32
"""Multiply–adds of a large matrix product in the time that the projection takes for one number, with what short rows lose."""


def saves_work(examples: int, numbers: int, width: int) -> bool:
    """Whether to project rows costs less than it saves of their products: ``n² (p − k) > 32 n p``; never without a width.

    Args:
        examples: n, the rows of which all products are taken.
        numbers: p, of each row.
        width: k, the numbers kept of each; 0: none is projected.
    """
    return 0 < width < numbers and examples * (numbers - width) > _PASS * numbers


def project(x: Tensor, width: int) -> Tensor:
    """``S x`` for every row: (..., numbers) → (..., width). The same for the same numbers and width, always.

    Args:
        x: floating point; rows of at most `width` numbers stay as they are.
        width: k, the numbers kept.

    Raises:
        ValueError: a width below one.
    """
    if width < 1:
        raise ValueError(f"width must be at least 1, got {width}")
    numbers = x.shape[-1]
    if numbers <= width:
        return x
    signs, turns = _drawn(numbers, width, x.dtype, x.device)
    kept = x.new_zeros(*x.shape[:-1], width)
    for turn, block, sign in zip(turns, x.split(width, -1), signs.split(width), strict=True):
        split = min(width - turn, block.shape[-1])
        kept[..., turn : turn + split].addcmul_(block[..., :split], sign[:split])
        kept[..., : block.shape[-1] - split].addcmul_(block[..., split:], sign[split:])
    return kept


@lru_cache(maxsize=64)
def _drawn(numbers: int, width: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, list[int]]:
    """The signs (numbers,), and by how much each block is turned."""
    generator = torch.Generator().manual_seed(SEED)
    turns = torch.randint(width, (-(-numbers // width),), generator=generator).tolist()
    signs = 2 * torch.randint(2, (numbers,), generator=generator) - 1
    return signs.to(device, dtype), turns
