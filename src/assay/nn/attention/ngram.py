"""`NGramAttention`: attention whose weights are hard-wired to what followed earlier occurrences of the present n-gram."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from assay.measure import register_flops
from assay.nn.linear import Linear
from assay.nn.mixer import StreamingMixer
from assay.ops.suffix_matches import successor_average
from assay.ops.suffix_table import SuffixTable, extend, initial_suffix_table


class NGramAttention(StreamingMixer):
    """An n-gram head: ``y = W₀ (A_n x) + b₀ + W₁ x + b₁``, with nothing to learn in the weights A_n.

    ``A_n[i, j] = 1 / |{j}|`` for every j < i whose predecessor ends the same n tokens as i does, else 0; a row without such j is zero.
    Order 1 is an induction head: it looks at what followed the same token before. A successor must lie before i itself, so in "a a"
    the second a learns nothing from the first. A separator is a token like any other.

    Forward costs O(length · width) beside the two linear maps, a step of a stream a constant amount. The state is a log of running
    sums, so its bytes grow linearly with the position.

    Source: Akyürek, Wang, Kim, Andreas (2024), In-Context Language Learning: Architectures and Algorithms.

    Args:
        width: numbers per position.
        order: n, how many tokens must agree.
        bias: of the two linear maps.

    Shapes: x (batch, length, width); tokens (batch, length), integers ≥ 0; mask (batch, length), True = real, a masked position being
    skipped as if it were not there; in `step`, x_t (batch, width) and tokens (batch,).

    Raises:
        ValueError: a width or an order below 1, tokens that are missing or do not fit x.
    """

    inputs = ("tokens",)
    positional = False

    def __init__(self, width: int, order: int = 1, bias: bool = True) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width must be at least 1, got {width}")
        if order < 1:
            raise ValueError(f"order must be at least 1, got {order}")
        self.width, self.order, self.bias = width, order, bias
        self.input_projection = Linear(width, width, bias)
        self.output_projection = Linear(width, width, bias)

    def forward(self, x: Tensor, mask: Tensor | None = None, *, tokens: Tensor | None = None) -> Tensor:
        """Mix the whole sequence (batch, length, width)."""
        average = successor_average(x, self._checked(x, tokens), self.order, mask)
        return self.output_projection(average) + self.input_projection(x)

    def initial_state(self, batch_size: int) -> SuffixTable:
        """The table before the first token; running sums are kept in float32 or wider."""
        weight = self.output_projection.weight
        return initial_suffix_table(batch_size, self.width, torch.promote_types(weight.dtype, torch.float32), weight.device)

    def scan(
        self, x: Tensor, state: SuffixTable, mask: Tensor | None = None, *, tokens: Tensor | None = None
    ) -> tuple[Tensor, SuffixTable]:
        """Mix a chunk (batch, length, width), continuing from ``state``."""
        average, state = extend(SuffixTable(*state), x, self._checked(x, tokens), self.order, mask)
        return self.output_projection(average) + self.input_projection(x), state

    def step(self, x_t: Tensor, state: SuffixTable, *, tokens: Tensor | None = None) -> tuple[Tensor, SuffixTable]:
        """Mix one position (batch, width), whose tokens are (batch,)."""
        y, state = self.scan(x_t[:, None], state, tokens=None if tokens is None else tokens[:, None])
        return y[:, 0], state

    def _checked(self, x: Tensor, tokens: Tensor | None) -> Tensor:
        if tokens is None:
            raise ValueError("NGramAttention matches tokens, so it must be called with tokens=, integers of shape (batch, length)")
        if x.ndim != 3 or x.shape[-1] != self.width:
            raise ValueError(f"x must have shape (batch, length, {self.width}), got {tuple(x.shape)}")
        if tokens.shape != x.shape[:2]:
            raise ValueError(f"tokens must have shape {tuple(x.shape[:2])}, as x has, got {tuple(tokens.shape)}")
        return tokens


def _flops(module: nn.Module, _args: tuple[object, ...], output: Tensor) -> int:
    """Two linear maps; and for A_n x a cumulative sum, a difference and a division of every number."""
    return output.numel() * (4 * output.shape[-1] + 3)


register_flops(NGramAttention, _flops)
