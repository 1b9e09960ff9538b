"""`SigmoidAttention`: multi-head attention whose weights are sigmoids, each key by itself, without a sum over the row."""

from __future__ import annotations

import logging
import math
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor, nn

from assay.measure import register_flops
from assay.nn.attention.cached import CachedAttention, Scope
from assay.nn.position.alibi import Alibi
from assay.ops.sigmoid_attention import Implementation, sigmoid_attention

LONG = 256  # keys from which a bias of 0 makes outputs so large that training suffers
_log = logging.getLogger(__name__)


class SigmoidAttention(CachedAttention):
    """Attention ``y = W_o concat_heads(P v / c^α) + b_o`` with ``P = sigmoid(e^t (q kᵀ / √head_width + positions) + b)``.

    Positions, grouped queries, windows, normalised queries and keys, masks and the cache are those of
    `assay.nn.attention.cached.CachedAttention`. A drop-in replacement of softmax attention where the outputs start small: with
    ``b = −log n`` every weight starts near 1 / (1 + n), as the mean that softmax starts with. A position that sees nothing gives
    exactly ``b_o``. The state grows with the stream, as softmax's does: a running sum cannot replace the keys.

    Beyond the length that b was made for, outputs grow: ``sigmoid_bias="-log_position"`` or ``positions="alibi"`` is the remedy.

    Source: Ramapuram et al. (2024), Theory, Analysis, and Best Practices for Sigmoid Self-Attention. The published layer's b and t are
    constants; ``learned`` and ``-log_position`` are additions.

    Args:
        width: numbers per position.
        heads: heads; by default the largest of 4, 2, 1 that divides the width.
        head_width: numbers per head; by default ``width / heads``.
        sigmoid_bias: b: a number; ``-log_n`` for n = ``length``; ``-log_position``, −log of the number of keys that a position sees (c);
            or ``learned``, one number a head, from ``-log_n``.
        length: positions of the sequences it is made for; longer ones are taken too.
        temperature: t, which multiplies the scores by e^t.
        normalise: α: ``none`` 0, ``sqrt_count`` ½, ``count`` 1.
        hybrid_norm: ``values`` is a layer norm over ``concat_heads(P v)``, before ``W_o``: it steadies training at long lengths.
        implementation: of `assay.ops.sigmoid_attention.sigmoid_attention`; ``plain`` where second or forward derivatives are wanted.
        options: of `CachedAttention`: causal, bias (of the projections), dropout, key_value_heads, positions, window, query_key_norm.

    Shapes: x (batch, length, width); mask (batch, length), True = real.

    Raises:
        ValueError: an unknown kind of bias or normalisation, or what `CachedAttention` refuses.
    """

    def __init__(
        self,
        width: int,
        heads: int | None = None,
        head_width: int | None = None,
        *,
        sigmoid_bias: float | Literal["-log_n", "-log_position", "learned"] = "-log_n",
        length: int = 1024,
        temperature: float = 0.0,
        normalise: Literal["none", "sqrt_count", "count"] = "none",
        hybrid_norm: Literal["values"] | None = None,
        implementation: Implementation = "auto",
        **options: Any,
    ) -> None:
        if isinstance(sigmoid_bias, str) and sigmoid_bias not in ("-log_n", "-log_position", "learned"):
            raise ValueError(f"sigmoid_bias must be a number, -log_n, -log_position or learned, got {sigmoid_bias!r}")
        if normalise not in _POWERS:
            raise ValueError(f"normalise must be one of {', '.join(_POWERS)}, got {normalise!r}")
        if hybrid_norm not in (None, "values"):
            raise ValueError(f"hybrid_norm must be values or None, got {hybrid_norm!r}")
        super().__init__(width, heads, head_width, length=length, **options)
        self.sigmoid_bias, self.temperature, self.normalise = sigmoid_bias, temperature, normalise
        self.implementation: Implementation = implementation
        if sigmoid_bias == "learned":
            self.learned_bias = nn.Parameter(torch.full((self.heads,), -math.log(length)))
        if hybrid_norm:
            self.value_norm = nn.LayerNorm(self.heads * self.head_width)
        elif sigmoid_bias == 0 and length >= LONG and normalise == "none":
            _warn_of_size(length)

    def make_parameters(self) -> None:
        """Where the learned bias and the norm will stand, if there are any."""
        self.learned_bias: nn.Parameter | None = None
        self.value_norm: nn.Module = nn.Identity()

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, scope: Scope) -> Tensor:
        """Sigmoid-weighted sums of the values."""
        factor, slopes, score_bias = math.exp(self.temperature), None, None
        if isinstance(self.score_bias, Alibi):
            slopes = factor * self.score_bias.slopes
        elif self.score_bias is not None:
            score_bias = (factor * self.score_bias(scope.query_positions, scope.key_positions)).to(queries.dtype)
        mixed = sigmoid_attention(
            queries,
            keys,
            values,
            self._bias(scope),
            scale=factor / math.sqrt(self.head_width),
            causal=scope.causal and scope.visible is None,
            visible=scope.visible,
            query_positions=scope.query_positions,
            key_positions=scope.key_positions,
            slopes=slopes,
            score_bias=score_bias,
            dropout=self.dropout if self.training else 0.0,
            implementation=self.implementation,
        )
        power = _POWERS[self.normalise]
        return mixed if not power else mixed * (self._counts(scope) ** -power).to(mixed.dtype)[:, None, :, None]

    def joined(self, mixed: Tensor) -> Tensor:
        """The output (batch, length, width) of the heads' mixtures (batch, heads, length, head width)."""
        return self.output_projection(self.value_norm(mixed.transpose(1, 2).flatten(2)))

    def weights(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The weights P (batch, heads, length, length) of inputs (batch, length, width), for looking at; rows do not sum to one."""
        scope = self.whole_scope(x, mask)
        queries, keys, _ = self.projected(x, scope.query_positions)
        unit = torch.eye(x.shape[1], dtype=x.dtype, device=x.device).expand(x.shape[0], keys.shape[1], -1, -1)
        return self.attend(queries, keys, unit, scope)

    def _bias(self, scope: Scope) -> float | Tensor:
        if self.learned_bias is not None:
            return self.learned_bias
        if self.sigmoid_bias == "-log_position":
            return -self._counts(scope).log()[:, None]
        return -math.log(self.length) if self.sigmoid_bias == "-log_n" else float(self.sigmoid_bias)

    def _counts(self, scope: Scope) -> Tensor:
        """(batch or 1, queries): the keys that each query sees, at least 1."""
        if self.causal:
            counts = scope.query_positions + 1
            counts = counts if self.window is None else counts.clamp(max=self.window)
        elif scope.visible is not None:
            counts = scope.visible.sum(-1)[:, 0]
        else:
            counts = torch.full_like(scope.query_positions, scope.key_positions.shape[1])
        return counts.clamp(min=1).double()


@cache
def _warn_of_size(length: int) -> None:
    """Once a length: a network has many layers."""
    _log.warning("sigmoid_bias = 0 at length %d: outputs start about %d values large; -log_n starts them at 1", length, length // 2)


_POWERS = {"none": 0.0, "sqrt_count": 0.5, "count": 1.0}


def _flops(module: nn.Module, args: tuple[Any, ...], output: Any) -> int:
    """The projections, and ``2 · heads · length² · 2 · head width`` an example for the scores and the sums, whoever sees whom."""
    assert isinstance(module, SigmoidAttention)
    batch, length, width = args[0].shape
    inner = module.heads * module.head_width
    projections = 2 * batch * length * width * (2 * inner + 2 * module.key_value_heads * module.head_width)
    seen = length if module.window is None else min(length, module.window)
    return projections + 4 * batch * length * seen * inner


register_flops(SigmoidAttention, _flops)
