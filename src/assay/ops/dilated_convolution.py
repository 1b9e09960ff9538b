"""`dilated_convolution`: a few taps on every channel, equally far apart, over rows of channels.

    y_t = b + Σ_k w_k ∘ x_{t + k · dilation − before},   inputs before the first and behind the last are zero

and where it is wanted ``silu(y)``, and a residual added to that, in the same pass: over a long sequence it is memory that takes the time.
On a CPU PyTorch's grouped convolution computes one channel at a time, along a stride, and so reads its input many times over. Here all
channels of a position lie side by side and are worked on together. Backward, with g = ∂L/∂y:

    ∂x = the convolution of g with the taps in reverse;   ∂w_k = Σ_t g_t ∘ x_{t + k · dilation − before};   ∂b = Σ_t g_t

Source: van den Oord et al. (2016), WaveNet: A Generative Model for Raw Audio; Yu, Koltun (2016), Multi-Scale Context Aggregation by
Dilated Convolutions.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from assay.ops import dilated_convolution_compiled as compiled

Implementation = Literal["auto", "shifted", "direct", "compiled"]
IMPLEMENTATIONS: tuple[Implementation, ...] = ("auto", "shifted", "direct", "compiled")
SMALL = 4096
"""Multiplications up to which preparing a call of the compiled form costs more than the call."""


def dilated_convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    dilation: int = 1,
    padding: tuple[int, int] | None = None,
    *,
    activated: bool = False,
    residual: Tensor | None = None,
    implementation: Implementation = "auto",
) -> Tensor:
    """Each channel's convolution with its own taps, ``dilation`` positions apart.

    Args:
        x: (batch, length, width).
        weight: (taps, width), the oldest input's tap first, as `torch.nn.Conv1d` has.
        bias: (width,), or none.
        dilation: positions between two taps.
        padding: zeros before and after x; by default all reach = (taps − 1) · dilation before it: causal, and as long as x.
        activated: return silu(y) instead of y.
        residual: of the result's shape, added to silu(y).
        implementation: ``shifted`` adds up shifted inputs; ``direct`` is `torch.nn.functional.conv1d`; ``compiled`` C++ for this processor,
            float32 inside, differentiable once; ``auto`` chooses. Where nothing can be compiled, ``shifted`` runs and the log says so once.

    Returns:
        (batch, length + padding − reach, width) in x's type.

    Raises:
        ValueError: shapes that do not fit, a dilation below 1, a padding below 0 or above the reach, an input shorter than the taps reach,
            a residual without ``activated``, or an unknown implementation.
    """
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"implementation must be one of {', '.join(IMPLEMENTATIONS)}, got {implementation!r}")
    if residual is not None and not activated:
        raise ValueError("a residual is added to silu(y) alone: give activated=True with it")
    padding = _checked(x, weight, bias, dilation, padding)
    chosen = _chosen(implementation, x, weight)
    if chosen == "compiled":
        return compiled.convolution(x, weight, bias, residual, compiled.Place(dilation, padding, activated))
    weight, bias = weight.to(x.dtype), None if bias is None else bias.to(x.dtype)
    y = (_direct if chosen == "direct" else _shifted)(x, weight, bias, dilation, padding)
    y = F.silu(y) if activated else y
    return y if residual is None else residual + y


def _shifted(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int, padding: tuple[int, int]) -> Tensor:
    x = F.pad(x, (0, 0, *padding)) if any(padding) else x
    length = x.shape[1] - (len(weight) - 1) * dilation
    if length == 1:  # a step of a stream: all taps at once
        y = (x[:, ::dilation] * weight).sum(1, keepdim=True)
        return y if bias is None else y + bias
    y = x[:, :length] * weight[0]
    y = y if bias is None else y + bias
    for k in range(1, len(weight)):
        y = torch.addcmul(y, x[:, k * dilation : k * dilation + length], weight[k])
    return y


def _direct(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int, padding: tuple[int, int]) -> Tensor:
    padded = F.pad(x.transpose(1, 2), padding)
    return F.conv1d(padded, weight.T[:, None], bias, dilation=dilation, groups=x.shape[2]).transpose(1, 2)


def _chosen(implementation: Implementation, x: Tensor, weight: Tensor) -> Implementation:
    if implementation == "auto":
        if torch.compiler.is_exporting() or x.is_cuda:
            return "direct"
        small = x.shape[0] * x.shape[1] * weight.numel() <= SMALL
        implementation = "shifted" if small or x.dtype == torch.float64 else "compiled"
    if implementation == "compiled" and (x.device.type != "cpu" or not compiled.available()):
        return "shifted"
    return implementation


def _checked(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int, padding: tuple[int, int] | None) -> tuple[int, int]:
    if x.ndim != 3 or weight.ndim != 2 or x.shape[-1] != weight.shape[1] or not len(weight):
        raise ValueError(
            f"x must be (batch, length, width) and weight (taps, width) of the same width, got {tuple(x.shape)} and {tuple(weight.shape)}"
        )
    if bias is not None and bias.shape != weight.shape[1:]:
        raise ValueError(f"bias must have shape {tuple(weight.shape[1:])}, got {tuple(bias.shape)}")
    if dilation < 1:
        raise ValueError(f"dilation must be at least 1, got {dilation}")
    reach = (len(weight) - 1) * dilation
    padding = (reach, 0) if padding is None else padding
    if min(padding) < 0 or max(padding) > reach:
        raise ValueError(f"padding must be between 0 and the reach of {reach} positions, got {padding}")
    if not torch.compiler.is_exporting() and x.shape[1] + sum(padding) < reach:
        raise ValueError(f"the taps reach {reach} positions back, the input and its padding have {x.shape[1] + sum(padding)}")
    return padding
