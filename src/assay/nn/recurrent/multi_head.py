"""`MultiHeadRNN`: many small nonlinear recurrent networks side by side, mixed by linear maps before and after; and one class a cell."""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from assay.nn.attention.heads import head_shape
from assay.nn.linear import Linear
from assay.nn.mixer import StreamingMixer
from assay.nn.recurrent.cost import register_recurrence
from assay.nn.recurrent.gates import Gate, shifted
from assay.ops.recurrent_cells import CELLS
from assay.ops.recurrent_scan import Conditions, Loop, scan_states

Heads: TypeAlias = tuple[Tensor, ...]
"""The hidden state first, then the cell's others; each (batch, heads, head width)."""
_FORGET = {"lstm": 1, "slstm": 1}
"""Where the forget gate stands among the biases of the cells that have one."""
_SHOWN = {"lstm": {"input": 0, "forget": 1, "output": 3}, "gru": {"reset": 1, "update": 2}, "slstm": {"forget": 4, "output": 3}}
"""Where gates stand among the activations that the cells keep; sLSTM keeps 1 − f, and its input gate, an exponential, is none of them."""


class MultiHeadRNN(StreamingMixer):
    """``s_t = cell(W x_t, R_head s_{t−1}, b)`` for each head by itself, then ``y_t = W_o concat_heads(h_t)``.

    Unlike a linear recurrence it cannot be computed in parallel over positions; in return it can track a state, such as the parity of what
    it read. Heads make R block-diagonal: a head of size D has D² weights a gate, and the heads mix in W and W_o alone. The cells are those
    of `assay.ops.recurrent_cells`, and the whole sequence is one call of `assay.ops.recurrent_scan`.

    Source: Pöppel, Beck, Hochreiter (2024), FlashRNN: Optimizing Traditional RNNs on Modern Hardware; heads as in Beck et al. (2024),
    xLSTM: Extended Long Short-Term Memory.

    Args:
        width: numbers per position.
        heads: heads; by default the largest of 4, 2, 1 that divides the width.
        function: the cell: ``lstm``, ``gru``, ``slstm``, ``elman``, ``elman-relu`` or ``elman-sigmoid``.
        head_width: numbers per head; by default ``width / heads``.
        bias: of gates and of the map out.
        norm: each head's output is divided by its root mean square.
        forget_bias: where the forget gates of ``lstm`` and ``slstm`` begin: open, so that gradients pass through a long sequence.

    Shapes: x (batch, length, width); mask and reset (batch, length): mask True = real, reset True = a new sequence begins here; decay
    (batch, length, heads, head width), what the hidden state is multiplied with before a position is read, for time that has passed since
    the one before (GRU-D: Che et al., 2018); the state is a tuple of (batch, heads, head width).

    Raises:
        ValueError: an unknown cell; sizes that do not fit each other; an input of another width, a state of another shape.
    """

    positional = False  # the order of positions decides what is read into which state
    function = "lstm"

    def __init__(
        self,
        width: int,
        heads: int | None = None,
        function: str = "lstm",
        *,
        head_width: int | None = None,
        bias: bool = True,
        norm: bool = False,
        forget_bias: float = 1.0,
    ) -> None:
        super().__init__()
        if function not in CELLS:
            raise ValueError(f"function must be one of {', '.join(CELLS)}, got {function!r}")
        self.heads, self.head_width = head_shape(width, heads, head_width)
        self.width, self.function, self.forget_bias = width, function, forget_bias
        cell, inner = CELLS[function], self.heads * self.head_width
        self.input_projection = Linear(width, cell.inputs * inner, bias=False)
        self.weights = nn.Parameter(torch.empty(cell.recurrent, self.heads, self.head_width, self.head_width))
        gates = torch.zeros(cell.biases, self.heads, self.head_width)
        self.bias = nn.Parameter(gates) if bias else None
        self.norm = nn.RMSNorm(self.head_width, eps=1e-6) if norm else None
        self.output_projection = Linear(inner, width, bias)  # last: edits find a mixer's last map by its place
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw R from U(−1/√D, 1/√D), put biases to zero and forget gates to ``forget_bias``; the maps keep PyTorch's start."""
        bound = self.head_width**-0.5
        nn.init.uniform_(self.weights, -bound, bound)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
            if self.function in _FORGET:
                nn.init.constant_(self.bias[_FORGET[self.function]], self.forget_bias)

    def initial_state(self, batch_size: int) -> Heads:
        """Zeros: nothing was read."""
        dtype = torch.promote_types(self.weights.dtype, torch.float32)
        shape = (batch_size, self.heads, self.head_width)
        return tuple(self.weights.new_zeros(shape, dtype=dtype) for _ in range(CELLS[self.function].states))

    def scan(
        self, x: Tensor, state: Heads, mask: Tensor | None = None, reset: Tensor | None = None, decay: Tensor | None = None
    ) -> tuple[Tensor, Heads]:
        """Mix a chunk (batch, length, width), continuing from ``state``; a masked position repeats the output before it."""
        inputs, bias = self._gated(x)
        if x.shape[1] == 0:
            return x, state
        before = torch.stack(state)[:, :, None]
        hidden, last, *_ = scan_states(inputs, self.weights, bias, before, self.function, mask=mask, reset=reset, decay=decay)
        hidden = hidden if self.norm is None else self.norm(hidden)
        return self.output_projection(hidden.flatten(2)), tuple(last[:, :, 0])

    def forward(self, x: Tensor, mask: Tensor | None = None, reset: Tensor | None = None, decay: Tensor | None = None) -> Tensor:
        """Mix the whole sequence (batch, length, width); with ``reset`` several lie end to end in a row."""
        return self.scan(x, self.initial_state(x.shape[0]), mask, reset, decay)[0]

    def gate_values(
        self, x: Tensor, state: Heads, mask: Tensor | None = None, reset: Tensor | None = None, decay: Tensor | None = None
    ) -> list[Gate]:
        """The gates over a chunk, heads side by side; Elman's cells have none.

        What sLSTM keeps is a share of its normalised cell: ``c'/n' = F n/n' · c/n + I/n' · tanh(z)``.
        """
        inputs, bias = self._gated(x)
        if self.function not in _SHOWN:
            return []
        initial, wide = torch.stack(state), state[0].dtype
        fresh = reset if reset is None or mask is None else reset & mask
        tensors = (inputs.to(wide), self.weights.to(wide), bias.to(wide), initial, decay)
        states, activations = Loop().forward(self.function, *tensors, Conditions(mask, fresh), keep=True)
        gates = {name: activations[:, :, place].flatten(2) for name, place in _SHOWN[self.function].items()}
        kept = gates.get("update", gates.get("forget"))
        if self.function == "slstm":
            gates["forget"] = 1 - gates["forget"]
            normaliser = shifted(states[2], initial[2])
            normaliser = normaliser if fresh is None else torch.where(fresh[..., None, None], 0.0, normaliser)
            kept = (activations[:, :, 1] * normaliser / states[2]).flatten(2)
        return [Gate(name, values, kept if name in ("update", "forget") else None) for name, values in gates.items()]

    def _gated(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The inputs of the gates (batch, length, gates, heads, head width), and their bias."""
        if x.ndim != 3 or x.shape[-1] != self.width:
            raise ValueError(f"x must have shape (batch, length, {self.width}), got {tuple(x.shape)}")
        cell, shape = CELLS[self.function], (self.heads, self.head_width)
        bias = self.bias if self.bias is not None else x.new_zeros(cell.biases, *shape)
        return self.input_projection(x).unflatten(-1, (cell.inputs, *shape)), bias


class MultiHeadLSTM(MultiHeadRNN):
    """`MultiHeadRNN` of long short-term memories; arguments as there, but for the cell."""

    def __init__(self, width: int, heads: int | None = None, **options: Any) -> None:
        super().__init__(width, heads, "lstm", **options)


class MultiHeadGRU(MultiHeadRNN):
    """`MultiHeadRNN` of gated recurrent units; arguments as there, but for the cell."""

    def __init__(self, width: int, heads: int | None = None, **options: Any) -> None:
        super().__init__(width, heads, "gru", **options)


class MultiHeadElman(MultiHeadRNN):
    """`MultiHeadRNN` of simple recurrent networks, ``h_t = tanh(W x_t + R h_{t−1} + b)``; arguments as there, but for the cell."""

    def __init__(self, width: int, heads: int | None = None, **options: Any) -> None:
        super().__init__(width, heads, "elman", **options)


class SLSTM(MultiHeadRNN):
    """`MultiHeadRNN` with exponential input gates, a normaliser and a stabiliser; arguments as there, but for the cell.

    Its output is the cell over the normaliser, and each head is divided by its root mean square unless ``norm`` is False.
    """

    def __init__(self, width: int, heads: int | None = None, *, norm: bool = True, **options: Any) -> None:
        super().__init__(width, heads, "slstm", norm=norm, **options)


register_recurrence(MultiHeadRNN, lambda mixer: 2 * mixer.weights.numel())
