"""`MaskedRecurrentCell`: the four classic recurrent layers with a mask on every weight, and the mixers made of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from assay.contracts import State
from assay.measure import register_flops
from assay.nn.mixer import StreamingMixer, padded_right
from assay.nn.recurrent.gates import Gate, affine_gates, shifted

GATES: dict[str, tuple[str, ...]] = {
    "rnn_tanh": ("state",),
    "rnn_relu": ("state",),
    "gru": ("reset", "update", "new"),
    "lstm": ("input", "forget", "cell", "output"),
}
"""The gates of each mode, in the order of their row blocks in the weights."""

_KERNELS: dict[str, Any] = {"rnn_tanh": torch.rnn_tanh, "rnn_relu": torch.rnn_relu, "gru": torch.gru, "lstm": torch.lstm}


class MaskedRecurrentCell(StreamingMixer):
    """A recurrent layer whose weights pass through masks.

    ``a = x (W_ih ∘ M_ih)ᵀ + b_ih`` and ``r = h (W_hh ∘ M_hh)ᵀ + b_hh``; then

    - ``rnn_tanh``: ``h' = tanh(a + r)``;  ``rnn_relu``: ``h' = max(0, a + r)``
    - ``gru`` (reset, update, new): ``R = σ(a_r + r_r)``, ``Z = σ(a_z + r_z)``, ``N = tanh(a_n + R ∘ r_n)``, ``h' = N + Z ∘ (h − N)``
    - ``lstm`` (input, forget, cell, output): ``c' = σ(f) ∘ c + σ(i) ∘ tanh(g)``, ``h' = σ(o) ∘ tanh(c')`` with ``(i, f, g, o) = a + r``.

    Equations, gate order and initialisation (every parameter U(−1/√h, 1/√h)) are those of ``torch.nn.RNN/GRU/LSTM``. The masks are
    boolean buffers, all true at first, and travel in the ``state_dict``; a masked weight has zero gradient. Biases are never masked.
    ``step`` is the equations as written; whole sequences run in torch's own kernels, padded ones packed.

    Args:
        input_size: size of x_t.
        hidden_size: size h of the state and of the output.
        mode: ``rnn_tanh``, ``rnn_relu``, ``gru`` or ``lstm``.

    Shapes: x (batch, length, input_size) → y (batch, length, hidden_size); the state is h (batch, hidden_size), for ``lstm`` the pair
    (h, c). A position that ``mask`` (batch, length; True = real) excludes leaves the state unchanged and repeats the output before it.

    Raises:
        ValueError: unknown mode, or a size below 1.

    Source: Elman 1990, Finding Structure in Time; Cho et al. 2014, Learning Phrase Representations using RNN Encoder–Decoder;
    Hochreiter and Schmidhuber 1997, Long Short-Term Memory; masked as in Darji 2024, Investigating Sparsity in Recurrent Neural
    Networks.
    """

    mask_ih: Tensor
    mask_hh: Tensor

    def __init__(self, input_size: int, hidden_size: int, mode: str = "gru") -> None:
        super().__init__()
        if mode not in GATES:
            raise ValueError(f"mode must be one of {', '.join(GATES)}, got {mode!r}")
        if input_size < 1 or hidden_size < 1:
            raise ValueError(f"input_size and hidden_size must be at least 1, got {input_size} and {hidden_size}")
        self.input_size, self.hidden_size, self.mode = input_size, hidden_size, mode
        rows = len(GATES[mode]) * hidden_size
        self.weight_ih = nn.Parameter(torch.empty(rows, input_size))
        self.weight_hh = nn.Parameter(torch.empty(rows, hidden_size))
        self.bias_ih = nn.Parameter(torch.empty(rows))
        self.bias_hh = nn.Parameter(torch.empty(rows))
        self.register_buffer("mask_ih", torch.ones(rows, input_size, dtype=torch.bool))
        self.register_buffer("mask_hh", torch.ones(rows, hidden_size, dtype=torch.bool))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw every parameter from U(−1/√h, 1/√h); the masks stay."""
        bound = self.hidden_size**-0.5
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def extra_repr(self) -> str:
        """Sizes and mode, as ``print`` shows them."""
        return f"{self.input_size}, {self.hidden_size}, mode={self.mode!r}"

    def effective_weights(self) -> tuple[Tensor, Tensor]:
        """``W_ih ∘ M_ih`` (gates·h, input_size) and ``W_hh ∘ M_hh`` (gates·h, h): what the layer computes with."""
        return self.weight_ih * self.mask_ih, self.weight_hh * self.mask_hh

    def step_flops(self) -> int:
        """Operations a position: ``2 · gates · h · (input_size + h)``; masked weights are multiplied like the others."""
        return 2 * self.weight_hh.shape[0] * (self.input_size + self.hidden_size)

    def initial_state(self, batch_size: int) -> State:
        """Zeros: h (batch, hidden_size), for ``lstm`` the pair (h, c)."""
        h = self.weight_hh.new_zeros(batch_size, self.hidden_size)
        return (h, torch.zeros_like(h)) if self.mode == "lstm" else h

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The whole sequence (batch, length, input_size), from the zero state.

        Padding on the right runs with the rest and is overwritten: nothing before it depends on it. A graph for export cannot look
        at its mask and takes it to be such padding.
        """
        self._check(x, mask)
        if mask is None or not (torch.compiler.is_exporting() or padded_right(mask)):
            return self.scan(x, self.initial_state(x.shape[0]), mask)[0]
        y = self.scan(torch.where(mask[..., None], x, 0.0), self.initial_state(x.shape[0]))[0]
        last_read = mask.cumsum(1)[..., None].expand_as(y) - 1
        return torch.where(last_read < 0, 0.0, y.gather(1, last_read.clamp(min=0)))

    def step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        """One position (batch, input_size), by the equations as written."""
        weight_ih, weight_hh = self.effective_weights()
        h = state[0] if self.mode == "lstm" else state
        a = x_t @ weight_ih.T + self.bias_ih
        r = h @ weight_hh.T + self.bias_hh
        if self.mode == "rnn_tanh":
            h = torch.tanh(a + r)
        elif self.mode == "rnn_relu":
            h = torch.relu(a + r)
        elif self.mode == "gru":
            a_r, a_z, a_n = a.chunk(3, -1)
            r_r, r_z, r_n = r.chunk(3, -1)
            reset, update = torch.sigmoid(a_r + r_r), torch.sigmoid(a_z + r_z)
            new = torch.tanh(a_n + reset * r_n)
            h = new + update * (h - new)
        else:
            i, f, g, o = (a + r).chunk(4, -1)
            c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            return h, (h, c)
        return h, h

    def scan(self, x: Tensor, state: State, mask: Tensor | None = None) -> tuple[Tensor, State]:
        """A chunk (batch, length, input_size), continuing from ``state``.

        Raises:
            ValueError: x or mask has another shape.
        """
        self._check(x, mask)
        return recurrent_scan(self.mode, x, state, self._weights(), mask)

    def gate_values(self, x: Tensor, state: State, mask: Tensor | None = None) -> list[Gate]:
        """The gates of ``lstm`` and ``gru`` over a chunk; a layer without gates has none."""
        self._check(x, mask)
        if self.mode not in ("lstm", "gru"):
            return []
        return recurrent_gates(self.mode, x, state, self._weights(), mask)[0]

    def _weights(self) -> list[Tensor]:
        return [*self.effective_weights(), self.bias_ih, self.bias_hh]

    def _check(self, x: Tensor, mask: Tensor | None) -> None:
        if x.ndim != 3 or x.shape[-1] != self.input_size:
            raise ValueError(f"x must have shape (batch, length, {self.input_size}), got {tuple(x.shape)}")
        if mask is not None and mask.shape != x.shape[:2]:
            raise ValueError(f"mask must have shape {tuple(x.shape[:2])}, got {tuple(mask.shape)}")


def recurrent_scan(mode: str, x: Tensor, state: State, weights: list[Tensor], mask: Tensor | None = None) -> tuple[Tensor, State]:
    """Run torch's recurrent kernel over a chunk, with weights given as tensors.

    Args:
        mode: a key of `GATES`.
        x: (batch, length, input).
        state: (batch, hidden), for ``lstm`` the pair (h, c).
        weights: W_ih (gates·hidden, input), W_hh (gates·hidden, hidden), b_ih and b_hh (gates·hidden).
        mask: (batch, length), True = real; elsewhere the state stays and the output repeats.

    Returns:
        y (batch, length, hidden) and the state after the chunk.
    """
    if x.shape[0] == 0 or x.shape[1] == 0:
        return x.new_zeros(*x.shape[:2], weights[1].shape[1]), state
    if mask is not None and not bool(mask.all()):
        return _scan_masked(mode, x, state, weights, mask)
    y, *final = _KERNELS[mode](x, _to_kernel(mode, state), weights, True, 1, 0.0, _trains(x), False, True)
    return y, _from_kernel(mode, final)


def recurrent_gates(mode: str, x: Tensor, state: State, weights: list[Tensor], mask: Tensor | None = None) -> tuple[list[Gate], Tensor]:
    """The gates of ``lstm`` or ``gru`` as `recurrent_scan` runs them, and its output; arguments as there."""
    y, _ = recurrent_scan(mode, x, state, weights, mask)
    return affine_gates(mode, x, shifted(y, state[0] if mode == "lstm" else state), weights), y


def _trains(x: Tensor) -> bool:
    """Whether a kernel is to keep what backward needs: cuDNN does so only where it is told, the others always."""
    return x.is_cuda and torch.is_grad_enabled()


def _scan_masked(mode: str, x: Tensor, state: State, weights: list[Tensor], mask: Tensor) -> tuple[Tensor, State]:
    """Move each row's real positions to the front, run them packed, and put each output where its position was."""
    lengths = mask.sum(1)
    front = torch.sort(mask.to(torch.uint8), dim=1, descending=True, stable=True).indices
    x = x.masked_fill(~mask[..., None], 0.0).gather(1, front[..., None].expand_as(x))
    # Packing wants a real position in every row: an empty row runs one on zeros, and its result is dropped below.
    packed = pack_padded_sequence(x, lengths.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False)
    assert packed.sorted_indices is not None
    assert packed.unsorted_indices is not None
    ordered = _each(mode, state, lambda part: part[packed.sorted_indices])
    data, *final = _KERNELS[mode](packed.data, packed.batch_sizes, _to_kernel(mode, ordered), weights, True, 1, 0.0, _trains(x), False)
    outputs = PackedSequence(data, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices)
    y, _ = pad_packed_sequence(outputs, batch_first=True, total_length=x.shape[1])
    h = state[0] if mode == "lstm" else state
    seen = mask.cumsum(1)[..., None].expand(*mask.shape, h.shape[-1])  # 0 before the first real position: the incoming h
    y = torch.cat([h[:, None], y], 1).gather(1, seen)
    final = _each(mode, _from_kernel(mode, final), lambda part: part[packed.unsorted_indices])
    some = (lengths > 0)[:, None]
    if mode == "lstm":
        return y, (torch.where(some, final[0], state[0]), torch.where(some, final[1], state[1]))
    return y, torch.where(some, final, state)


def _each(mode: str, state: State, function: Any) -> State:
    return (function(state[0]), function(state[1])) if mode == "lstm" else function(state)


def _to_kernel(mode: str, state: State) -> Any:
    return [part[None] for part in state] if mode == "lstm" else state[None]


def _from_kernel(mode: str, final: list[Tensor]) -> State:
    return (final[0][0], final[1][0]) if mode == "lstm" else final[0][0]


def _flops(cell: nn.Module, args: tuple[Any, ...], _output: Any) -> int:
    assert isinstance(cell, MaskedRecurrentCell)  # what it is registered for
    return args[0].shape[0] * args[0].shape[1] * cell.step_flops()


register_flops(MaskedRecurrentCell, _flops)


class MaskedTanh(MaskedRecurrentCell):
    """The tanh recurrent layer as a mixer: (batch, length, width) → the same; see `MaskedRecurrentCell`."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width, "rnn_tanh")


class MaskedReLU(MaskedRecurrentCell):
    """The ReLU recurrent layer as a mixer: (batch, length, width) → the same; see `MaskedRecurrentCell`."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width, "rnn_relu")


class MaskedGRU(MaskedRecurrentCell):
    """The gated recurrent unit as a mixer: (batch, length, width) → the same; see `MaskedRecurrentCell`."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width, "gru")


class MaskedLSTM(MaskedRecurrentCell):
    """The long short-term memory as a mixer: (batch, length, width) → the same; see `MaskedRecurrentCell`."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width, "lstm")
