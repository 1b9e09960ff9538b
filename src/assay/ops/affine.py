"""`affine`: one linear map of many rows, by the library that multiplies fastest on this processor.

    y = x Wᵀ + b

PyTorch hands the products of `torch.nn.functional.linear` to MKL and its convolutions to oneDNN. On AMD's processors MKL leaves the widest
vectors unused, and oneDNN does not. A convolution whose kernel is a single position is the same sum of products; with its
channels last it reads and writes the very memory that the rows lie in, so it costs no copy. Backward likewise.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from assay.ops.processor import leaves_vectors_unused

ROWS = 1024
"""Rows from which the convolution gains: below, its set-up takes what it saves."""

_IMAGES = range(16, 65)
"""PyTorch takes a kernel of one position to oneDNN, on one thread, from 16 images on."""


def affine(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x Wᵀ + b``, as `torch.nn.functional.linear`, to rounding.

    Args:
        x: (…, inputs).
        weight: (outputs, inputs).
        bias: (outputs,).

    Returns:
        (…, outputs).
    """
    images = _images(x, weight)
    if not images:
        return F.linear(x, weight, bias)
    rows = x.view(images, -1, 1, x.shape[-1]).permute(0, 3, 1, 2)
    return F.conv2d(rows, weight[:, :, None, None], bias).permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)


def _images(x: Tensor, weight: Tensor) -> int:
    """Into how many images the rows are cut; 0 where the plain product is as fast, or an exporter or compiler should see it."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.is_autocast_enabled("cpu"):
        return 0
    if x.device.type != "cpu" or x.dtype != torch.float32 or weight.dtype != torch.float32 or not leaves_vectors_unused():
        return 0
    rows = x.shape[:-1].numel()
    if rows < ROWS or weight.ndim != 2 or min(weight.shape) < 16 or not x.is_contiguous():
        return 0
    return next((count for count in _IMAGES if rows % count == 0), 0)
