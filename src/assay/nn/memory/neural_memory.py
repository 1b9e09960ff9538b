"""`NeuralMemory`: a small network per head whose weights are trained by gradient descent while it reads."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TypeAlias, TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from assay.nn.attention.heads import head_shape
from assay.nn.convolution.short import ShortConvolution
from assay.nn.linear import Linear
from assay.nn.mixer import StreamingMixer
from assay.nn.recurrent.head_norm import GatedHeadNorm
from assay.ops.surprise_scan import Gates, Read, SurpriseState, apply_memory, initial_surprise, surprise_scan

MOST_LAYERS = 4


class NeuralMemoryState(TypedDict):
    """``memory``, the weights as they are and what is pending; ``inputs``, the short convolution's last, where there is one."""

    memory: SurpriseState
    inputs: Tensor | None


Projected: TypeAlias = tuple[Tensor, Tensor, Tensor]


class NeuralMemory(StreamingMixer):
    """``S_t = η_t S_{t−1} − θ_t ∇‖M(k_t) − v_t‖²``, ``M_t = (1 − α_t) M_{t−1} + S_t``, ``o_t = M_t(q_t)``, then norm, gate and map out.

    M is linear (``layers=1``) or an MLP with GELU, with weights of its own for every head and every row of a batch; all start from learned
    ones, M_0. The gradient is taken at the weights of the last chunk's end. ``y = W_o(norm_heads(o) ∘ silu(W_g x))``; q, k, v are silu of a
    short convolution of linear maps of x, q and k then of length 1; ``α = σ(W_α x + b)``, ``η = σ(W_η x + b)`` and
    ``θ = rate · σ(W_θ x + b)`` are a number a head. Where the paper is silent (starts of the gates and of M_0, the size of θ) the values
    are ours.

    Source: Behrouz, Zhong, Mirrokni (2024), Titans: Learning to Memorize at Test Time.

    Args:
        width: numbers per position.
        heads: heads, a memory each; by default the largest of 4, 2, 1 that divides the width.
        head_width: numbers per head; by default ``width / heads``.
        layers: of the memory, 1 to 4.
        expansion: hidden numbers of the memory by its head width.
        residual: the memory is ``x + (1 + g) ∘ LayerNorm(M(x))``, with a learned g a head.
        chunk: positions whose gradients are taken at the same weights; 1 is the plain recurrence.
        momentum: past surprise counts.
        forget: the memory fades at a rate the input chooses.
        kernel_size: taps of the short convolution; None for none.
        activated: silu on q, k and v.
        normalised: q and k have length 1; without, long keys make the gradient descent diverge unless ``rate`` is small.
        rate: the largest step θ.
        horizon: positions in which, at the start of training, forgetting leaves 1/e of what was written: α starts at 1 / horizon.
        gates: forget and fade by ``token``, or once a ``chunk``; then ``read`` must be before or after.
        read: the memory of this ``token``, or that of the chunks ``before`` it or ended ``after`` it: `assay.ops.surprise_scan`.
        largest_gradient: a position's gradient is scaled down to this norm; None for no limit. Without one a chunk of like positions can
            overshoot further with every chunk: all its gradients are taken at the same weights.

    Shapes: x (batch, length, width); mask (batch, length), True = real; the state does not grow.

    Raises:
        ValueError: a number out of its range, sizes that do not fit each other; an input of another width.
    """

    positional = False  # forgetting and convolution tell positions apart

    def __init__(
        self,
        width: int,
        heads: int | None = None,
        head_width: int | None = None,
        *,
        layers: int = 2,
        expansion: int = 4,
        residual: bool = False,
        chunk: int = 16,
        momentum: bool = True,
        forget: bool = True,
        kernel_size: int | None = 4,
        activated: bool = True,
        normalised: bool = True,
        rate: float = 0.1,
        horizon: float = 1000,
        gates: Gates = "token",
        read: Read = "token",
        largest_gradient: float | None = 10.0,
    ) -> None:
        super().__init__()
        self.heads, self.head_width = head_shape(width, heads, head_width)
        if not 1 <= layers <= MOST_LAYERS:
            raise ValueError(f"layers must be 1 to {MOST_LAYERS}, got {layers}")
        if min(expansion, chunk) < 1 or not rate > 0 or not horizon > 1:
            numbers = f"{expansion=}, {chunk=}, {rate=} and {horizon=}"
            raise ValueError(f"expansion and chunk must be at least 1, rate above 0 and horizon above 1, got {numbers}")
        if gates == "chunk" and read == "token":
            raise ValueError("gates of a chunk leave no memory of single positions: read must be after or before, got 'token'")
        if largest_gradient is not None and not largest_gradient > 0:
            raise ValueError(f"largest_gradient must be above 0, got {largest_gradient}")
        self.width, self.chunk, self.rate = width, chunk, rate
        self.momentum, self.forget, self.largest_gradient = momentum, forget, largest_gradient
        self.activated, self.normalised = activated, normalised
        self.gates: Gates = gates
        self.read: Read = read
        inner = self.heads * self.head_width
        self.input_projection = Linear(width, 3 * inner, bias=False)
        self.convolution = None if kernel_size is None else ShortConvolution(3 * inner, kernel_size, bias=False)
        self.gate_projection = Linear(width, inner, bias=False)
        self.rates_projection = Linear(width, (1 + forget + momentum) * self.heads)
        sizes = [self.head_width, *[expansion * self.head_width] * (layers - 1), self.head_width]
        self.memory = nn.ParameterList(_xavier(self.heads, *pair) for pair in pairwise(sizes))
        self.gain = nn.Parameter(torch.zeros(self.heads, self.head_width)) if residual else None
        self.norm = GatedHeadNorm(self.head_width)
        self.output_projection = Linear(inner, width, bias=False)  # last: edits find a mixer's last map by its place
        self._start_rates(horizon)

    def initial_state(self, batch_size: int) -> NeuralMemoryState:
        """Every row with a copy of M_0 and no surprise."""
        memory = initial_surprise(list(self.memory), batch_size, self.chunk, self.forget, self.momentum)
        return {"memory": memory, "inputs": None if self.convolution is None else self.convolution.initial_state(batch_size)}

    def scan(self, x: Tensor, state: NeuralMemoryState, mask: Tensor | None = None) -> tuple[Tensor, NeuralMemoryState]:
        """Mix a chunk (batch, length, width), continuing from ``state``."""
        (queries, keys, values), inputs = self._projected(x, state, mask)
        read, memory = surprise_scan(
            queries,
            keys,
            values,
            *self._rates(x),
            SurpriseState(*state["memory"]),
            mask,
            chunk=self.chunk,
            gates=self.gates,
            read=self.read,
            largest_gradient=self.largest_gradient,
            gain=self.gain,
        )
        return self._joined(read, x), {"memory": memory, "inputs": inputs}

    def recall(self, x: Tensor, state: NeuralMemoryState) -> Tensor:
        """What the memory, as it was at the last chunk's end, holds for each position of x (batch, length, width); nothing is written.

        The queries pass no convolution: a position is asked for by itself.
        """
        inner = self.heads * self.head_width
        queries = self._heads(self._active(F.linear(x, self.input_projection.weight[:inner])))
        memory = SurpriseState(*state["memory"])
        read = apply_memory(memory.weights, self._addressed(queries).to(memory.weights[0].dtype), self.gain)
        return self._joined(read.to(x.dtype), x)

    def surprise(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """``‖M(k_t) − v_t‖² / ‖v_t‖²`` before position t is written, (batch, heads, length): 1 for a memory that knows nothing.

        M is that of the last chunk's end, as the gradient sees it. Masked positions have 0.
        """
        found = []
        state = self.initial_state(x.shape[0])
        real = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if mask is None else mask
        for place, shown in zip(x.unbind(1), real.unbind(1), strict=True):
            (_, key, value), _ = self._projected(place[:, None], state, shown[:, None])
            weights = SurpriseState(*state["memory"]).weights
            wrong = (apply_memory(weights, key.to(weights[0].dtype), self.gain) - value).square().sum(-1)
            found.append(torch.where(shown[:, None, None], wrong / value.square().sum(-1).clamp(min=1e-12), 0.0))
            _, state = self.scan(place[:, None], state, shown[:, None])
        return torch.cat(found, 2) if found else x.new_zeros(x.shape[0], self.heads, 0)

    def _projected(self, x: Tensor, state: NeuralMemoryState, mask: Tensor | None) -> tuple[Projected, Tensor | None]:
        """Queries, keys and values (batch, heads, length, head width), and the convolution's last inputs."""
        if x.ndim != 3 or x.shape[-1] != self.width:
            raise ValueError(f"x must have shape (batch, length, {self.width}), got {tuple(x.shape)}")
        projected, inputs = self.input_projection(x), state["inputs"]
        if self.convolution is not None:
            assert inputs is not None  # initial_state made them
            projected, inputs = self.convolution.scan(projected, inputs, mask)
        queries, keys, values = (self._heads(part) for part in self._active(projected).chunk(3, -1))
        return (self._addressed(queries), self._addressed(keys), values), inputs

    def _active(self, x: Tensor) -> Tensor:
        return F.silu(x) if self.activated else x

    def _addressed(self, x: Tensor) -> Tensor:
        return _unit(x) if self.normalised else x

    def _rates(self, x: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """θ and the logits of α and η, each (batch, heads, length)."""
        step, *logits = self.rates_projection(x).transpose(1, 2).split(self.heads, 1)
        forget, momentum = (logits.pop(0) if used else None for used in (self.forget, self.momentum))
        return self.rate * step.sigmoid(), forget, momentum

    def _joined(self, read: Tensor, x: Tensor) -> Tensor:
        return self.output_projection(self.norm(read, self.gate_projection(x)))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _start_rates(self, horizon: float) -> None:
        """Half the largest step, forgetting by the horizon, and a momentum of a half."""
        nn.init.normal_(self.rates_projection.weight, std=0.02)
        nn.init.zeros_(self.rates_projection.bias)
        if self.forget:
            with torch.no_grad():
                self.rates_projection.bias[self.heads : 2 * self.heads] = -math.log(horizon - 1)


def _xavier(heads: int, entering: int, leaving: int) -> nn.Parameter:
    """Xavier-uniform, a head at a time (Glorot, Bengio, 2010)."""
    bound = math.sqrt(6 / (entering + leaving))
    return nn.Parameter(torch.empty(heads, entering, leaving).uniform_(-bound, bound))


def _unit(x: Tensor) -> Tensor:
    """Length 1; zero stays zero, with a gradient."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)
