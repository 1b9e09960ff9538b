"""`LSTM`, `GRU` and `Elman`: PyTorch's recurrent layers as streaming mixers; GRU and Elman run compiled where that is faster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from assay.nn.mixer import StreamingMixer, padded_right
from assay.nn.recurrent import drop_in
from assay.nn.recurrent.gates import Gate
from assay.nn.recurrent.masked import recurrent_gates


class _Reference(StreamingMixer):
    """A recurrent layer with PyTorch's parameters, width → width, that skips masked positions."""

    def __init__(
        self, width: int, layer: Callable[..., nn.RNNBase], parts: int, layers: int, bias: bool, dropout: float, **options: Any
    ) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width must be at least 1, got {width}")
        if layers < 1:
            raise ValueError(f"layers must be at least 1, got {layers}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {dropout}")
        if dropout and layers == 1:
            raise ValueError(f"dropout acts between layers: with one layer it must be 0, got {dropout}")
        self.width, self.parts = width, parts
        self.recurrence = layer(width, width, num_layers=layers, bias=bias, batch_first=True, dropout=dropout, **options)

    def initial_state(self, batch_size: int) -> tuple[Tensor, ...]:
        """Zeros: the hidden state, and the cell state of an LSTM, each (batch, layers, width)."""
        weight = self.recurrence.weight_ih_l0
        assert isinstance(weight, Tensor)  # recurrent layers register their weights by name
        return tuple(weight.new_zeros(batch_size, self.recurrence.num_layers, self.width) for _ in range(self.parts))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mix the whole sequence (batch, length, width)."""
        _check_input(x, self.width)
        if x.shape[1] == 0:
            return x
        # Padding after the end changes nothing before it. A graph for export cannot look at its mask and takes it to be such padding.
        if mask is None or torch.compiler.is_exporting() or padded_right(mask):
            return self._run(x)[0]
        return self.scan(x, self.initial_state(x.shape[0]), mask)[0]

    def scan(self, x: Tensor, state: tuple[Tensor, ...], mask: Tensor | None = None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Mix a chunk (batch, length, width), continuing from ``state``; the output at a masked position is zero."""
        _check_input(x, self.width)
        if x.shape[0] == 0 or x.shape[1] == 0:
            return x, tuple(state)
        if mask is None:
            y, after = self._run(x, self._inwards(state))
            return y, self._outwards(after)
        order = (~mask).to(torch.uint8).argsort(dim=1, stable=True)  # real positions first, in their order
        y, after = self._packed(x.gather(1, _wide(order, x)), state, mask.sum(1))
        return torch.zeros_like(y).scatter(1, _wide(order, y), y), after

    def _run(self, x: Any, state: Any = None) -> Any:
        with drop_in.with_gradients(self.recurrence):
            return self.recurrence(x, state)

    def _packed(self, x: Tensor, state: tuple[Tensor, ...], lengths: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Right-padded sequences; a row without any real position is run for one and its state put back."""
        packed = pack_padded_sequence(x, lengths.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False)
        y, after = self._run(packed, self._inwards(state))
        y, _ = pad_packed_sequence(y, batch_first=True, total_length=x.shape[1])
        read = lengths > 0
        after = tuple(torch.where(read[:, None, None], new, old) for new, old in zip(self._outwards(after), state, strict=True))
        return torch.where(read[:, None, None], y, 0.0), after

    def _inwards(self, state: tuple[Tensor, ...]) -> Any:
        parts = tuple(part.transpose(0, 1).contiguous() for part in state)
        return parts if self.parts == 2 else parts[0]

    def _outwards(self, state: Any) -> tuple[Tensor, ...]:
        return tuple(part.transpose(0, 1) for part in (state if self.parts == 2 else (state,)))


class _Gated(_Reference):
    """A `_Reference` whose layer has gates."""

    def gate_values(self, x: Tensor, state: tuple[Tensor, ...], mask: Tensor | None = None) -> list[Gate]:
        """The gates of every layer over a chunk (batch, length, width); of stacked layers each is named with its own."""
        _check_input(x, self.width)
        gates: list[Gate] = []
        for layer in range(self.recurrence.num_layers):
            parts = tuple(part[:, layer] for part in state)
            found, x = recurrent_gates(self.recurrence.mode.lower(), x, parts if self.parts == 2 else parts[0], self._weights(layer), mask)
            stacked = self.recurrence.num_layers > 1
            gates += [gate._replace(name=f"{gate.name} of layer {layer + 1}") if stacked else gate for gate in found]
        return gates

    def _weights(self, layer: int) -> list[Tensor]:
        weights: list[Tensor] = [getattr(self.recurrence, f"weight_{kind}_l{layer}") for kind in ("ih", "hh")]
        if not self.recurrence.bias:
            return [*weights, *[weights[0].new_zeros(len(weights[0]))] * 2]
        return [*weights, *(getattr(self.recurrence, f"bias_{kind}_l{layer}") for kind in ("ih", "hh"))]


class LSTM(_Gated):
    """`torch.nn.LSTM` of width → width as a mixer.

    Source: Hochreiter and Schmidhuber (1997), Long short-term memory; equations in PyTorch's documentation.

    Args:
        width: numbers per position, and hidden units.
        layers: stacked layers.
        bias: of the gates.
        dropout: between layers, in training.

    Shapes: x (batch, length, width); state: hidden and cell state, each (batch, layers, width).

    Raises:
        ValueError: an argument out of its range.
    """

    def __init__(self, width: int, layers: int = 1, bias: bool = True, dropout: float = 0.0) -> None:
        super().__init__(width, nn.LSTM, 2, layers, bias, dropout)


class GRU(_Gated):
    """`torch.nn.GRU` of width → width as a mixer; arguments, shapes and errors as `LSTM`, its state is the hidden state alone.

    In float32 on a CPU `assay.nn.recurrent.drop_in.GRU` runs it compiled (`benchmarks/recurrent_scan.py` prints the gain).

    Source: Cho et al. (2014), Learning phrase representations using RNN encoder–decoder; equations in PyTorch's documentation.
    """

    def __init__(self, width: int, layers: int = 1, bias: bool = True, dropout: float = 0.0) -> None:
        super().__init__(width, drop_in.GRU, 1, layers, bias, dropout)


class Elman(_Reference):
    """`torch.nn.RNN` of width → width as a mixer: ``h_t = φ(W x_t + b + U h_{t−1} + c)``, the simple recurrent network.

    Elman's context units, copies of the hidden units with fixed weight 1, are the ``h_{t−1}`` of this equation. PyTorch has no layer with
    the logistic function, which the first such networks had; `assay.nn.recurrent.drop_in.RNN` has all three, compiled in float32 on a CPU.

    Source: Elman (1990), Finding structure in time.

    Args:
        width: numbers per position, and hidden units.
        layers: stacked layers.
        nonlinearity: φ, ``tanh``, ``relu`` or ``sigmoid`` (the logistic function).
        bias: of the sums.
        dropout: between layers, in training.

    Shapes: x (batch, length, width); state: the hidden state (batch, layers, width), alone in a tuple.

    Raises:
        ValueError: an argument out of its range.
    """

    def __init__(self, width: int, layers: int = 1, nonlinearity: str = "tanh", bias: bool = True, dropout: float = 0.0) -> None:
        if nonlinearity not in ("tanh", "relu", "sigmoid"):
            raise ValueError(f"nonlinearity must be tanh, relu or sigmoid, got {nonlinearity!r}")
        super().__init__(width, drop_in.RNN, 1, layers, bias, dropout, nonlinearity=nonlinearity)


def _wide(order: Tensor, x: Tensor) -> Tensor:
    return order[..., None].expand(-1, -1, x.shape[2])


def _check_input(x: Tensor, width: int) -> None:
    if x.ndim != 3 or x.shape[-1] != width:
        raise ValueError(f"x must have shape (batch, length, {width}), got {tuple(x.shape)}")
