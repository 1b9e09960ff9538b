"""`running_maximum`: the largest number so far at every position, also where only plain operators can be exported."""

from __future__ import annotations

import torch
from torch import Tensor


def running_maximum(x: Tensor) -> Tensor:
    """``m_t = max_{i≤t} x_i`` along the second dimension, without a gradient.

    Args:
        x: (batch, length, …), finite or integer.
    """
    x = x.detach()
    if not torch.compiler.is_exporting():
        return x.cummax(1).values
    place = torch.arange(x.shape[1], device=x.device)
    later = (place > place[:, None]).view(1, x.shape[1], x.shape[1], *(1,) * (x.ndim - 2))
    lowest = torch.finfo(x.dtype).min if x.is_floating_point() else torch.iinfo(x.dtype).min
    return x[:, None].masked_fill(later, lowest).amax(2)
