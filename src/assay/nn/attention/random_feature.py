"""`RandomFeatureAttention`: softmax attention approximated by positive random features (Performer)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from assay.nn.attention.kernelised import KernelisedAttention, KernelisedState
from assay.ops.kernelised_attention import causal_kernelised_attention, kernelised_attention
from assay.ops.running_maximum import running_maximum

Kernel = Literal["softmax", "relu"]
SOFTMAX_EPSILON, RELU_EPSILON = 1e-6, 1e-3


class RandomFeatureAttention(KernelisedAttention):
    """``softmax``: ``φ(x) = m^−½ (exp(W x̂ − ‖x̂‖²/2 − c) + 1e-6)`` with ``x̂ = x / d^¼`` and random W, so that ``E φ(q)·φ(k) ∝ e^{q·k/√d}``;
    ``relu``: ``φ(x) = relu(W x̂) + 1e-3``. Then as `LinearAttention`.

    The stabiliser c cancels: for a query it is its largest exponent; for keys the largest of all, or where the layer is causal the largest
    so far: when it rises by δ, the sums are lowered by e^−δ, which is a decay like any other. So no exponential overflows, nothing of
    the future is used, and a stream gives what the whole sequence gives.

    Source: Choromanski et al. (2021), Rethinking Attention with Performers.

    Args:
        width: numbers per position.
        heads: heads; by default the largest of 4, 2, 1 that divides the width.
        head_width: numbers per head, d; by default ``width / heads``.
        causal: a position sees itself and what is before it, and the layer streams; else everything.
        bias: of the projections.
        features: rows m of W; the error of the softmax kernel falls as m^−½.
        kernel: ``softmax`` or ``relu``.
        orthogonal: rows of W orthogonal within blocks of d, which lowers the error; their lengths are those of Gaussian rows.

    Shapes: x (batch, length, width); mask (batch, length), True = real; state ``features · (head_width + 1)`` numbers a head and a maximum.
    W is the buffer ``projection`` (features, head_width): drawn once, kept in the state dict, drawn anew by `redraw`.

    Raises:
        ValueError: sizes that do not fit each other, an unknown kernel; an input of another width.
    """

    projection: Tensor

    def __init__(
        self,
        width: int,
        heads: int | None = None,
        head_width: int | None = None,
        *,
        causal: bool = True,
        bias: bool = True,
        features: int = 256,
        kernel: Kernel = "softmax",
        orthogonal: bool = True,
    ) -> None:
        if kernel not in ("softmax", "relu"):
            raise ValueError(f"kernel must be softmax or relu, got {kernel!r}")
        super().__init__(width, heads, head_width, causal=causal, bias=bias, feature_width=features)
        self.kernel, self.orthogonal = kernel, orthogonal
        self.register_buffer("projection", torch.empty(features, self.key_width))
        self.redraw()

    def redraw(self) -> None:
        """Draw the random matrix anew."""
        rows, columns = self.projection.shape
        drawn = _orthogonal_rows(rows, columns) if self.orthogonal else torch.randn(rows, columns)
        self.projection.copy_(drawn)

    def features(self, x: Tensor) -> Tensor:
        """The ReLU kernel's features."""
        return self._projected_on_rows(x).relu() + RELU_EPSILON

    def mix(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Attention over all positions."""
        if self.kernel == "relu":
            return super().mix(queries, keys, values, mask)
        exponents = self._exponents(keys)
        maximum = _visible(exponents, mask).detach().amax((-2, -1), keepdim=True) if keys.shape[2] else 0.0
        features = self._exponentials((exponents - maximum).clamp(max=0.0))  # above 0 only where masked
        return kernelised_attention(self._query_features(queries), features, values, mask)

    def mix_causally(
        self, queries: Tensor, keys: Tensor, values: Tensor, state: KernelisedState, mask: Tensor | None
    ) -> tuple[Tensor, KernelisedState]:
        """Attention over the past, continuing from the state's sums, which hold exponentials lowered by its maximum."""
        if self.kernel == "relu" or keys.shape[2] == 0:
            return super().mix_causally(queries, keys, values, state, mask)
        exponents = self._exponents(keys)
        largest = _visible(exponents, mask).detach().amax(-1)
        read = torch.cat([state["maximum"][..., None].to(largest.dtype), largest], -1)
        maximum = running_maximum(read.transpose(1, 2)).transpose(1, 2)
        features = self._exponentials((exponents - maximum[..., 1:, None]).clamp(max=0.0))  # above 0 only where masked
        lowered = maximum[..., :-1] - maximum[..., 1:]
        mixed, sums = causal_kernelised_attention(self._query_features(queries), features, values, state["sums"], mask, lowered)
        return mixed, state | {"sums": sums, "maximum": maximum[..., -1]}

    def initial_state(self, batch_size: int) -> KernelisedState:
        """Sums of nothing."""
        state = super().initial_state(batch_size)
        if self.kernel == "relu":
            return state
        # finite, so that no difference is undefined, and below any exponent
        lowest = torch.finfo(state["sums"].dtype).min / 2
        return state | {"maximum": torch.full_like(state["sums"][:, :, 0, 0], lowest)}

    def _projected_on_rows(self, x: Tensor) -> Tensor:
        x = x.to(torch.promote_types(x.dtype, torch.float32)) / self.key_width**0.25
        return x @ self.projection.to(x.dtype).T

    def _exponents(self, x: Tensor) -> Tensor:
        """``W x̂ − ‖x̂‖²/2``, in float32 or wider."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return self._projected_on_rows(wide) - wide.square().sum(-1, keepdim=True) / (2 * math.sqrt(self.key_width))

    def _exponentials(self, exponents: Tensor) -> Tensor:
        return (exponents.exp() + SOFTMAX_EPSILON) / math.sqrt(self.feature_width)

    def _query_features(self, queries: Tensor) -> Tensor:
        exponents = self._exponents(queries)
        return self._exponentials(exponents - exponents.detach().amax(-1, keepdim=True))


def _visible(exponents: Tensor, mask: Tensor | None) -> Tensor:
    """The exponents with the lowest finite number at masked positions: they must not raise the maximum."""
    return exponents if mask is None else exponents.masked_fill(~mask[:, None, :, None], torch.finfo(exponents.dtype).min / 2)


def _orthogonal_rows(rows: int, columns: int) -> Tensor:
    """Rows of uniform orthogonal matrices, at the lengths of Gaussian rows."""
    orthogonal, triangular = torch.linalg.qr(torch.randn(-(-rows // columns), columns, columns))
    # without these signs the decomposition's last rows lean to one side, and attention is biased
    signs = triangular.diagonal(dim1=-2, dim2=-1).sign()
    directions = (orthogonal * signs[:, None]).transpose(-1, -2).flatten(0, 1)[:rows]
    return directions * torch.randn(rows, columns).norm(dim=1, keepdim=True)
