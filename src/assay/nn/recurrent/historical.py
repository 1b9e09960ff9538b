"""`HistoricalLSTM`: the long short-term memory as it was in 1997, with forget gate, with peepholes, with coupled gates."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from assay.measure import register_flops
from assay.nn.mixer import StreamingMixer
from assay.nn.recurrent.gates import Gate, states_around
from assay.nn.recurrent.masked import recurrent_scan
from assay.ops.affine import affine
from assay.ops.loop import Tensors, walk

Variant = Literal["original", "forget", "peephole", "coupled"]
State = tuple[Tensor, Tensor]

GATES: dict[str, tuple[str, ...]] = {
    "original": ("input", "cell", "output"),
    "forget": ("input", "forget", "cell", "output"),
    "peephole": ("input", "forget", "cell", "output"),
    "coupled": ("input", "cell", "output"),
}
"""The row blocks of the weights of each variant, in their order; that of ``forget`` is torch's."""

SQUASHINGS = ("tanh", "logistic", "identity")
ALWAYS_OPEN = 1e4
"""A bias whose logistic is exactly 1 in every float type."""


class HistoricalLSTM(StreamingMixer):
    """A long short-term memory in one of four forms.

    With ``i, f, o = σ(W x_t + U h_{t−1} + b)`` each, ``g = γ(W_g x_t + U_g h_{t−1} + b_g)`` and ``h_t = φ(s_t) ∘ o``:

    - ``original`` (1997): ``s_t = s_{t−1} + g ∘ i``, the constant error carousel: nothing is ever forgotten
    - ``forget`` (2000): ``s_t = f ∘ s_{t−1} + g ∘ i``, `torch.nn.LSTM`
    - ``peephole`` (2002): as ``forget``, and inside σ, i and f see ``p ∘ s_{t−1}``, o sees ``p_o ∘ s_t``
    - ``coupled``: as ``forget`` with ``f = 1 − i``

    With ``truncated_gradient`` (1997) gates and g take h_{t−1}, and through peepholes s_{t−1}, as constants: errors flow back in time
    through s alone, never through a gate. Without it, ``original`` and ``forget`` of plain tanh run in torch's kernel; the others compute
    the whole sequence's input products first and then walk it.

    Source: Hochreiter, Schmidhuber (1997), Long short-term memory; Gers, Schmidhuber, Cummins (2000), Learning to forget; Gers,
    Schraudolph, Schmidhuber (2002), Learning precise timing with LSTM recurrent networks; Greff et al. (2017), LSTM: A search space odyssey
    (coupled).

    Args:
        width: numbers per position, and cells.
        variant: ``original``, ``forget``, ``peephole`` or ``coupled``.
        input_squashing: γ, ``tanh``, ``logistic`` (1997's 4σ(x) − 2) or ``identity``.
        output_squashing: φ, ``tanh``, ``logistic`` (1997's 2σ(x) − 1) or ``identity``.
        forget_bias: initial bias of the forget gate; of ``coupled``, of 1 − i.
        truncated_gradient: as above.

    Shapes: x (batch, length, width); mask (batch, length), True = real, elsewhere the output is zero; state: h and s, each (batch, width).

    Raises:
        ValueError: an unknown variant or squashing, a width below 1, an input of another width.
    """

    def __init__(
        self,
        width: int,
        variant: Variant = "forget",
        *,
        input_squashing: str = "tanh",
        output_squashing: str = "tanh",
        forget_bias: float = 1.0,
        truncated_gradient: bool = False,
    ) -> None:
        super().__init__()
        if variant not in GATES:
            raise ValueError(f"variant must be one of {', '.join(GATES)}, got {variant!r}")
        if width < 1:
            raise ValueError(f"width must be at least 1, got {width}")
        for name in (input_squashing, output_squashing):
            if name not in SQUASHINGS:
                raise ValueError(f"a squashing must be one of {', '.join(SQUASHINGS)}, got {name!r}")
        self.width, self.variant = width, variant
        self.input_squashing, self.output_squashing = input_squashing, output_squashing
        self.forget_bias, self.truncated_gradient = forget_bias, truncated_gradient
        rows = len(GATES[variant]) * width
        self.weight_ih = nn.Parameter(torch.empty(rows, width))
        self.weight_hh = nn.Parameter(torch.empty(rows, width))
        self.bias = nn.Parameter(torch.empty(rows))
        self.peepholes = nn.Parameter(torch.empty(3, width)) if variant == "peephole" else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weights and biases from U(−1/√n, 1/√n), set the forget gate's bias, and close the peepholes (zero)."""
        bound = self.width**-0.5
        for parameter in (self.weight_ih, self.weight_hh, self.bias):
            nn.init.uniform_(parameter, -bound, bound)
        with torch.no_grad():
            if self.peepholes is not None:
                self.peepholes.zero_()
            if "forget" in GATES[self.variant]:
                self.bias[self.width : 2 * self.width] = self.forget_bias
            elif self.variant == "coupled":
                self.bias[: self.width] = -self.forget_bias

    def extra_repr(self) -> str:
        """Width and variant, as ``print`` shows them."""
        return f"{self.width}, {self.variant!r}"

    def initial_state(self, batch_size: int) -> State:
        """Zeros: h and s, each (batch, width)."""
        zeros = self.weight_hh.new_zeros(batch_size, self.width)
        return zeros, zeros

    def scan(self, x: Tensor, state: State, mask: Tensor | None = None) -> tuple[Tensor, State]:
        """Mix a chunk (batch, length, width), continuing from ``state``; the output at a masked position is zero."""
        if x.ndim != 3 or x.shape[-1] != self.width:
            raise ValueError(f"x must have shape (batch, length, {self.width}), got {tuple(x.shape)}")
        if self._in_kernel():
            y, state = recurrent_scan("lstm", x, state, self._kernel_weights(), mask)
            return y if mask is None else torch.where(mask[..., None], y, 0.0), state
        if x.shape[1] == 0:
            return x, state

        def step(state: Tensors, now: tuple[Any, ...]) -> tuple[Tensors, Tensors]:
            y, after = self._step(now[0], (state[0], state[1]), now[1])
            return after, (y,)

        (h, s), (y,) = walk(step, state, (affine(x, self.weight_ih, self.bias), None if mask is None else mask[..., None]))
        return y, (h, s)

    def gate_values(self, x: Tensor, state: State, mask: Tensor | None = None) -> list[Gate]:
        """The gates over a chunk; of ``original`` none keeps anything, for nothing is forgotten, and of ``coupled`` the input gate does."""
        (h, s), (_, after) = states_around(self, x, state, mask)
        sums = nn.functional.linear(x, self.weight_ih, self.bias) + h @ self.weight_hh.T
        gates = dict(zip(GATES[self.variant], sums.chunk(len(GATES[self.variant]), -1), strict=True))
        if self.peepholes is not None:
            for peephole, name, seen in zip(self.peepholes, ("input", "forget", "output"), (s, s, after), strict=True):
                gates[name] = gates[name] + peephole * seen
        opened = {name: torch.sigmoid(gate) for name, gate in gates.items() if name != "cell"}
        kept = {"input": 1 - opened["input"]} if self.variant == "coupled" else {"forget": opened.get("forget")}
        return [Gate(name, values, kept.get(name)) for name, values in opened.items()]

    def _step(self, inputs: Tensor, state: State, real: Tensor | None) -> tuple[Tensor, State]:
        """One position from its input products (batch, gates · width)."""
        h, s = state
        seen = h.detach() if self.truncated_gradient else h
        gates = dict(zip(GATES[self.variant], (inputs + seen @ self.weight_hh.T).chunk(len(GATES[self.variant]), -1), strict=True))
        if self.peepholes is not None:
            peeped = s.detach() if self.truncated_gradient else s
            gates["input"] = gates["input"] + self.peepholes[0] * peeped
            gates["forget"] = gates["forget"] + self.peepholes[1] * peeped
        written = torch.sigmoid(gates["input"])
        candidate = _squashed(gates["cell"], self.input_squashing, 2.0)
        if self.variant == "original":
            after = s + written * candidate
        elif self.variant == "coupled":
            after = s + written * (candidate - s)
        else:
            after = torch.sigmoid(gates["forget"]) * s + written * candidate
        if self.peepholes is not None:
            gates["output"] = gates["output"] + self.peepholes[2] * (after.detach() if self.truncated_gradient else after)
        y = torch.sigmoid(gates["output"]) * _squashed(after, self.output_squashing, 1.0)
        if real is None:
            return y, (y, after)
        return torch.where(real, y, 0.0), (torch.where(real, y, h), torch.where(real, after, s))

    def _in_kernel(self) -> bool:
        plain = self.input_squashing == self.output_squashing == "tanh" and not self.truncated_gradient
        return plain and self.variant in ("original", "forget") and not torch.compiler.is_exporting()

    def _kernel_weights(self) -> list[Tensor]:
        """The weights as torch's kernel reads them; 1997's cell is one whose forget gate always stands open."""
        weights = [self.weight_ih, self.weight_hh, self.bias]
        if self.variant == "original":
            weights = [torch.cat([w[: self.width], torch.zeros_like(w[: self.width]), w[self.width :]]) for w in weights]
            opened = torch.zeros_like(weights[2])
            opened[self.width : 2 * self.width] = ALWAYS_OPEN
            return [*weights, opened]
        return [*weights, torch.zeros_like(self.bias)]


class OriginalLSTM(HistoricalLSTM):
    """The long short-term memory of 1997, without forget gate; see `HistoricalLSTM`."""

    def __init__(
        self, width: int, *, truncated_gradient: bool = False, input_squashing: str = "tanh", output_squashing: str = "tanh"
    ) -> None:
        super().__init__(
            width,
            "original",
            truncated_gradient=truncated_gradient,
            input_squashing=input_squashing,
            output_squashing=output_squashing,
        )


class PeepholeLSTM(HistoricalLSTM):
    """The long short-term memory whose gates see its cells; see `HistoricalLSTM`."""

    def __init__(self, width: int, *, forget_bias: float = 1.0) -> None:
        super().__init__(width, "peephole", forget_bias=forget_bias)


class CoupledLSTM(HistoricalLSTM):
    """The long short-term memory that forgets as much as it writes; see `HistoricalLSTM`."""

    def __init__(self, width: int, *, forget_bias: float = 1.0) -> None:
        super().__init__(width, "coupled", forget_bias=forget_bias)


def _squashed(x: Tensor, name: str, reach: float) -> Tensor:
    """``tanh x``, the logistic function between ``−reach`` and ``reach``, or x."""
    if name == "logistic":
        return 2 * reach * torch.sigmoid(x) - reach
    return torch.tanh(x) if name == "tanh" else x


def _flops(module: nn.Module, args: tuple[Any, ...], _output: Any) -> int:
    assert isinstance(module, HistoricalLSTM)  # what it is registered for
    return 2 * args[0].shape[0] * args[0].shape[1] * (module.weight_ih.numel() + module.weight_hh.numel())


register_flops(HistoricalLSTM, _flops)
