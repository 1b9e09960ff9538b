"""`Jordan`: a recurrent network whose context is its own past output."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from assay.nn.linear import Linear
from assay.nn.mixer import StreamingMixer
from assay.ops.linear_recurrence import linear_recurrence
from assay.ops.loop import Tensors, walk

OUTPUTS = ("identity", "sigmoid", "softmax")


class Jordan(StreamingMixer):
    """``h_t = tanh(W_x x_t + W_s s_{t−1} + b)``, ``y_t = ψ(W_y h_t + c)``, ``s_t = μ s_{t−1} + y_t``.

    The context s is a trace of what the network put out; μ is the weight of the context units on themselves. Where the right outputs are
    known, `teacher_forced` puts them in place of y_t in the context: no position then depends on another, and the whole sequence is
    computed at once. Running freely (`forward`, `scan`, `step`) the network hears itself.

    Source: Jordan (1986), Serial order: a parallel distributed processing approach.

    Args:
        width: numbers per position, of input and output.
        hidden: hidden units; by default as many as the width.
        trace: μ.
        output: ψ, ``identity``, ``sigmoid`` or ``softmax``.

    Shapes: x (batch, length, width); mask (batch, length), True = real, elsewhere the output is zero; state: s (batch, width).

    Raises:
        ValueError: a size below 1, μ outside [0, 1), an unknown output, an input or targets of another shape.
    """

    def __init__(self, width: int, hidden: int | None = None, *, trace: float = 0.0, output: str = "identity") -> None:
        super().__init__()
        if width < 1 or (hidden is not None and hidden < 1):
            raise ValueError(f"width and hidden must be at least 1, got {width} and {hidden}")
        if not 0 <= trace < 1:
            raise ValueError(f"trace must be at least 0 and below 1, got {trace}")
        if output not in OUTPUTS:
            raise ValueError(f"output must be one of {', '.join(OUTPUTS)}, got {output!r}")
        self.width, self.hidden, self.trace, self.output = width, hidden or width, trace, output
        self.input_weight = Linear(width, self.hidden)
        self.context_weight = Linear(width, self.hidden, bias=False)
        self.output_weight = Linear(self.hidden, width)

    def initial_state(self, batch_size: int) -> Tensor:
        """Zeros, (batch, width)."""
        return self.output_weight.weight.new_zeros(batch_size, self.width)

    def scan(self, x: Tensor, state: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mix a chunk (batch, length, width), continuing from ``state``."""
        self._check(x, x)
        if x.shape[1] == 0:
            return x, state

        def step(state: Tensors, now: tuple[Any, ...]) -> tuple[Tensors, Tensors]:
            (traces,), (inputs, real) = state, now
            y = self._answer(inputs, traces)
            after = self.trace * traces + y
            if real is not None:
                y, after = torch.where(real, y, 0.0), torch.where(real, after, traces)
            return (after,), (y,)

        (state,), (y,) = walk(step, (state,), (self.input_weight(x), None if mask is None else mask[..., None]))
        return y, state

    def teacher_forced(self, x: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """The outputs (batch, length, width) when the context holds ``target`` (batch, length, width) instead of the outputs before."""
        self._check(x, target)
        if x.shape[1] == 0:
            return x
        traces, _ = linear_recurrence(torch.full_like(target, self.trace), target, mask=mask)
        context = torch.cat([torch.zeros_like(traces[:, :1]), traces[:, :-1]], 1)
        y = self._answer(self.input_weight(x), context)
        return y if mask is None else torch.where(mask[..., None], y, 0.0)

    def _answer(self, inputs: Tensor, context: Tensor) -> Tensor:
        y = self.output_weight(torch.tanh(inputs + self.context_weight(context)))
        if self.output == "softmax":
            return y.softmax(-1)
        return y.sigmoid() if self.output == "sigmoid" else y

    def _check(self, x: Tensor, target: Tensor) -> None:
        if x.ndim != 3 or x.shape[-1] != self.width:
            raise ValueError(f"x must have shape (batch, length, {self.width}), got {tuple(x.shape)}")
        if target.shape != x.shape:
            raise ValueError(f"target must have shape {tuple(x.shape)}, got {tuple(target.shape)}")
