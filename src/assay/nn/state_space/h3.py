"""`H3`: a comparison of the present with the past by two state spaces and two products."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from assay.nn.convolution.short import ShortConvolution
from assay.nn.linear import Linear
from assay.nn.mixer import StreamingMixer
from assay.nn.state_space.diagonal import DiagonalStateSpace


class H3State(NamedTuple):
    """The last keys (batch, state − 1, width), and the system's state (batch, head_width², heads, state / 2, 2)."""

    keys: Tensor
    system: Tensor


class H3(StreamingMixer):
    """``y = W_o(q ∘ SSM_diag(SSM_shift(k) ∘ v))`` with q, k, v linear in x.

    SSM_shift is a filter of the last ``state`` keys (its direct path is the filter's first tap), SSM_diag a `DiagonalStateSpace`. With
    heads of more than one number the inner product is an outer one, k_tᵀ v_t, and q multiplies it as a matrix.

    Source: Fu et al. (2023), Hungry Hungry Hippos: Towards Language Modeling with State Space Models.

    Args:
        width: numbers per position.
        state: taps of the shift, and real numbers of a diagonal system's state, even.
        head_width: numbers per head; must divide the width.
        bias: of the projections.

    Shapes: x (batch, length, width); mask (batch, length), True = real.

    Raises:
        ValueError: an argument out of its range; an input of another width.
    """

    positional = False  # shift and decay tell positions apart
    bfloat16_bound = DiagonalStateSpace.bfloat16_bound

    def __init__(self, width: int, state: int = 64, head_width: int = 1, *, bias: bool = True) -> None:
        super().__init__()
        if width < 1 or head_width < 1 or width % head_width:
            raise ValueError(f"head_width must divide width {width}, got {head_width}")
        self.width, self.head_width = width, head_width
        self.input_projection = Linear(width, 3 * width, bias)
        self.shift = ShortConvolution(width, state, bias=False)
        self.system = DiagonalStateSpace(width // head_width, state)
        self.output_projection = Linear(width, width, bias)

    def initial_state(self, batch_size: int) -> H3State:
        """Nothing was read."""
        system = self.system.initial_state(batch_size * self.head_width**2)
        return H3State(self.shift.initial_state(batch_size), system.unflatten(0, (batch_size, self.head_width**2)))

    def scan(self, x: Tensor, state: H3State, mask: Tensor | None = None) -> tuple[Tensor, H3State]:
        """Mix a chunk (batch, length, width), continuing from ``state``."""
        if x.ndim != 3 or x.shape[-1] != self.width:
            raise ValueError(f"x must have shape (batch, length, {self.width}), got {tuple(x.shape)}")
        state = H3State(*state)
        queries, keys, values = self.input_projection(x).chunk(3, -1)
        keys, last = self.shift.scan(keys, state.keys, mask)
        queries, keys, values = (part.unflatten(-1, (-1, self.head_width)) for part in (queries, keys, values))
        products = keys[..., :, None] * values[..., None, :]  # (batch, length, heads, head_width, head_width)
        each = products.flatten(3).permute(0, 3, 1, 2)  # a row of the batch for every pair of numbers of a head
        pairs = self.head_width**2
        rows = None if mask is None else mask.repeat_interleave(pairs, 0)
        summed, system = self.system.scan(each.flatten(0, 1), state.system.flatten(0, 1), rows)
        summed = summed.unflatten(0, (x.shape[0], pairs)).permute(0, 2, 3, 1).unflatten(3, (self.head_width, self.head_width))
        mixed = (queries[..., None, :] @ summed)[..., 0, :].flatten(2)
        return self.output_projection(mixed), H3State(last, system.unflatten(0, (x.shape[0], pairs)))
