"""`LinearStateSpace`: a full linear system on every channel, with HiPPO's memory, as a recurrence and as a convolution."""

from __future__ import annotations

import math
import warnings
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from assay.nn.kept import Kept
from assay.nn.mixer import StreamingMixer
from assay.nn.state_space.discretisation import Rule, check_rule, discretise
from assay.nn.state_space.step_size import log_uniform
from assay.ops.compaction import Compaction
from assay.ops.krylov import doubled, krylov, squarings
from assay.ops.long_convolution import long_convolution, toeplitz
from assay.ops.matrix_recurrence import matrix_recurrence
from assay.ops.tridiagonal import Quasiseparable, pivots
from assay.theory.hippo import MEASURES, STRUCTURED, hippo, structured_hippo

Learned = Literal["none", "shared", "each"]
LEARNED: tuple[Learned, ...] = ("none", "shared", "each")
CHUNK = 64
"""Positions a chunk, a power of two: the kernel is made for one chunk and serves all."""
SLOWNESS = 0.1
"""A and B are kept divided by it, so that an optimiser like Adam, whose steps are as large as its rate, moves them ten times as slowly."""
SMALLEST_PIVOT = 1e-6


class LinearStateSpace(StreamingMixer):
    """``x' = A x + B u``, ``y = C x + D u`` on every channel alone, discretised with a step Δ a channel: ``x_t = Ā x_{t−1} + B̄ u_t``.

    A and B are a HiPPO system at the start and may be learned within its form ``−P (T⁻¹ + diag c) Q``; Δ is log-uniform, C and D are
    Gaussian. `forward` convolves u with the kernel ``C Ā^l B̄`` by Fourier transform, `step` is the recurrence, and `scan` is both: over a
    chunk of positions a convolution as a triangular matrix, plus what the state before it still gives, ``C Ā^{l+1} x``, with a
    `matrix_recurrence` from chunk to chunk. Kernels and powers are made in float64 and rounded once, for powers multiply the rounding.

    `rate` other than 1 multiplies every Δ: 2 reads a signal that is sampled half as often as in training (see `set_rate`). A learned A may
    leave the stable systems: `spectral_radius` tells, and with ``stabilise`` a channel's Ā is divided by its spectral radius wherever that
    is above 1. A shorter Δ would not do: under every α ≥ ½ what grows in continuous time grows at every step.

    Source: Gu, Johnson, Goel, Saab, Dao, Rudra, Ré (2021), Combining Recurrent, Convolutional, and Continuous-time Models with Linear
    State-Space Layers.

    Args:
        channels: numbers per position, H.
        state: numbers of a channel's state, N.
        outputs: rows of C, M: numbers that each channel gives.
        measure: of `assay.theory.hippo.MEASURES`.
        learned: A and B: ``none``, ``shared`` by all channels, or one of ``each`` channel.
        learned_step: whether Δ is.
        shortest: least Δ at the start.
        longest: largest Δ at the start.
        alpha: of the generalised bilinear transform, in [0, 1], or ``zoh``.
        even: the steps are evenly spaced in their logarithm from channel to channel, not drawn.
        stabilise: keep every Ā from growing; takes the eigenvalues at every discretisation.

    Shapes: x (batch, length, H); y (batch, length, H · M), a channel's numbers side by side; mask (batch, length), True = real; state
    (batch, H, N). The output at a masked position is ``D u``.

    Raises:
        ValueError: an argument out of its range; a T with a pivot near zero; an input of another width.
    """

    positional = False  # what was read longer ago has left other coefficients

    def __init__(
        self,
        channels: int,
        state: int = 64,
        outputs: int = 1,
        measure: str = "legs",
        learned: Learned = "shared",
        learned_step: bool = True,
        shortest: float = 1e-3,
        longest: float = 1e-1,
        alpha: Rule = 0.5,
        *,
        even: bool = False,
        stabilise: bool = False,
    ) -> None:
        super().__init__()
        if min(channels, state, outputs) < 1:
            raise ValueError(f"channels, state and outputs must be at least 1, got {channels}, {state} and {outputs}")
        if learned not in LEARNED:
            raise ValueError(f"learned must be one of {', '.join(LEARNED)}, got {learned!r}")
        if measure not in MEASURES:
            raise ValueError(f"measure must be one of {', '.join(MEASURES)}, got {measure!r}")
        check_rule(alpha)
        self.channels, self.size, self.outputs = channels, state, outputs
        self.alpha: Rule = alpha
        self.stabilise = stabilise
        copies, trained = (channels,) if learned == "each" else (), learned != "none"
        make = _StructuredSystem if measure in STRUCTURED else _DenseSystem
        self.system = make(measure, state, copies, trained)
        steps = log_uniform((channels,), shortest, longest).log()
        steps = torch.linspace(math.log(shortest), math.log(longest), channels) if even else steps
        self.log_step = nn.Parameter(steps, requires_grad=learned_step)
        self.output = nn.Parameter(torch.randn(channels, outputs, state))  # C
        self.skip = nn.Parameter(torch.randn(channels, outputs))  # D
        self._rate = 1.0
        self._as_published = False
        self._kept = Kept()

    @property
    def rate(self) -> float:
        """What every Δ is multiplied by; not saved with the weights."""
        return self._rate

    @rate.setter
    def rate(self, rate: float) -> None:
        if not rate > 0 or not math.isfinite(rate):
            raise ValueError(f"rate must be above 0, got {rate}")
        self._rate, self._as_published = float(rate), False

    def rate_as_published(self, rate: float) -> None:
        """Set the rate as the authors' code reads it: rounded to a whole number and for Ā alone; B̄ is that of training."""
        self.rate = max(1, round(rate))
        self._as_published = True

    def discretised(self) -> tuple[Tensor, Tensor]:
        """Ā (H, N, N) and B̄ (H, N), float64."""
        step = self.log_step.double().exp()
        matrix, inputs = self._discretised(self._rate * step)
        if self._as_published:
            inputs = self._discretised(step)[1]
        if not self.stabilise:
            return matrix, inputs
        with torch.no_grad():
            growth = torch.linalg.eigvals(matrix).abs().amax(-1).clamp(min=1.0)
        return matrix / growth[:, None, None], inputs

    def _discretised(self, step: Tensor) -> tuple[Tensor, Tensor]:
        return discretise(*self.system.continuous(), step, self.alpha, self.system.solver())

    def kernel(self, length: int) -> Tensor:
        """The impulse response without D, ``C Ā^l B̄``, (H · M, length), float64."""
        return krylov(*self.discretised(), length, self.output.double()).flatten(0, 1)

    def spectral_radius(self) -> float:
        """The largest absolute eigenvalue of any channel's Ā: above 1 the state grows without bound."""
        with torch.no_grad():
            return float(torch.linalg.eigvals(self.discretised()[0]).abs().max())

    def initial_state(self, batch_size: int) -> Tensor:
        """Zeros."""
        return torch.zeros(batch_size, self.channels, self.size, dtype=self._dtype(), device=self.skip.device)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Convolve the whole sequence (batch, length, channels)."""
        self._check(x)
        compaction = None if mask is None else Compaction(mask)
        packed = x if compaction is None else compaction.pack(x)
        length = x.shape[1]
        taps = self._kept.get("taps", self, lambda: self.kernel(length).to(self._dtype()), length, self._rate, self._as_published)
        y = long_convolution(packed.repeat_interleave(self.outputs, -1), taps)
        return (y if compaction is None else compaction.unpack(y)) + (x[..., None] * self.skip).flatten(2)

    def scan(self, x: Tensor, state: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Read a chunk (batch, length, channels), continuing from ``state``."""
        self._check(x)
        if x.shape[1] == 0:
            return x.new_zeros(*x.shape[:2], self.channels * self.outputs), state
        compaction = None if mask is None else Compaction(mask)
        packed = (x if compaction is None else compaction.pack(x)).to(self._dtype())
        counts = torch.full((x.shape[0],), x.shape[1], device=x.device) if compaction is None else compaction.counts
        y, state = self._run(packed, state, counts)
        y = y.to(x.dtype)
        return (y if compaction is None else compaction.unpack(y)) + (x[..., None] * self.skip).flatten(2), state

    def step(self, x_t: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Read one position (batch, channels): ``x ← Ā x + B̄ u``."""
        self._check(x_t[:, None])
        chunk = self._chunk()
        state = torch.einsum("hnm,bhm->bhn", chunk.squared[0], state) + x_t.to(state.dtype)[..., None] * chunk.columns[..., 0]
        y = torch.einsum("hmn,bhn->bhm", self.output.to(state.dtype), state).to(x_t.dtype)
        return (y + x_t[..., None] * self.skip).flatten(1), state

    def irregular(self, x: Tensor, gaps: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Read positions that are not equally far apart: position t with the step ``gaps_t · Δ``.

        A loop over positions, each a solve with A in O(N) where A has its structured form.

        Args:
            x: (batch, length, channels).
            gaps: (batch, length), above 0; 1 everywhere is `scan`.
            state: before the first position, by default at rest.

        Raises:
            ValueError: shapes that do not fit, a gap that is not above 0, ``zoh``, which would need an exponential a position, or
                ``stabilise``, which would need eigenvalues.
        """
        self._check(x)
        if gaps.shape != x.shape[:2]:
            raise ValueError(f"gaps must have shape {tuple(x.shape[:2])}, got {tuple(gaps.shape)}")
        if bool((gaps <= 0).any()):
            raise ValueError(f"gaps must be above 0, got {float(gaps.min()):g}")
        if isinstance(self.alpha, str):
            raise ValueError("alpha must be a number for irregular steps, got 'zoh'")
        if self.stabilise:
            raise ValueError("irregular steps go without stabilise: it would take the eigenvalues at every position")
        matrix, inputs = self.system.continuous()
        solve = self.system.solver() or _dense_solver(matrix)
        h = (self.initial_state(x.shape[0]) if state is None else state).double()
        steps = gaps.double()[..., None] * (self._rate * self.log_step.double().exp())
        read, states = x.double(), []
        for t in range(x.shape[1]):
            step = steps[:, t]
            driven = h + step[..., None] * ((1 - self.alpha) * (matrix @ h[..., None])[..., 0] + inputs * read[:, t, :, None])
            h = solve(self.alpha * step, driven[..., None])[..., 0]
            states.append(torch.einsum("hmn,bhn->bhm", self.output.double(), h))
        y = torch.stack(states, 1) if states else read.new_zeros(*x.shape, self.outputs)
        return (y.to(x.dtype) + x[..., None] * self.skip).flatten(2), h.to(self._dtype())

    def _run(self, x: Tensor, state: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of which the first ``counts`` (batch,) positions are real and the rest zero."""
        batch, length = x.shape[:2]
        chunk = self._chunk()
        # one chunk more: the last real position may be the last of a chunk
        parts = F.pad(x, (0, 0, 0, CHUNK - length % CHUNK)).unflatten(1, (-1, CHUNK))
        count = parts.shape[1]
        rows = parts.permute(3, 1, 0, 2).contiguous()  # (channels, chunks, batch, CHUNK)
        added = rows.flatten(1, 2) @ chunk.columns.flip(-1).mT
        start = state.to(x.dtype).transpose(0, 1)
        ends = matrix_recurrence(chunk.squared[-1], added.unflatten(1, (count, batch)), start)
        starts = torch.cat([start[:, None], ends[:, :-1]], 1)
        y = rows.flatten(1, 2)[:, None] @ chunk.triangle + starts.flatten(1, 2)[:, None] @ chunk.left
        y = y.unflatten(2, (count, batch)).permute(3, 2, 4, 0, 1).reshape(batch, count * CHUNK, -1)[:, :length]
        last = (counts // CHUNK, torch.arange(batch, device=x.device))
        return y, _after(rows[:, last[0], last[1]], starts[:, last[0], last[1]], counts % CHUNK, chunk).transpose(0, 1)

    def _chunk(self) -> _Chunk:
        return self._kept.get("chunk", self, self._made, self._rate, self._as_published)

    def _made(self) -> _Chunk:
        matrix, inputs = self.discretised()
        output, dtype = self.output.double(), self._dtype()
        squared = squarings(matrix, CHUNK.bit_length() - 1)
        columns = doubled(matrix, inputs[..., None], CHUNK)
        left = doubled(matrix.mT, (output @ matrix).mT, CHUNK).unflatten(-1, (CHUNK, -1)).permute(0, 3, 1, 2)
        triangle = toeplitz(output @ columns)
        return _Chunk([part.to(dtype) for part in squared], columns.to(dtype), triangle.to(dtype), left.to(dtype))

    def _check(self, x: Tensor) -> None:
        if x.ndim != 3 or x.shape[-1] != self.channels:
            raise ValueError(f"x must have shape (batch, length, {self.channels}), got {tuple(x.shape)}")

    def _dtype(self) -> torch.dtype:
        return torch.promote_types(self.skip.dtype, torch.float32)


class _Chunk(NamedTuple):
    """``squared`` Ā, Ā², … Ā^CHUNK, each (H, N, N); ``columns`` Ā^l B̄, (H, N, CHUNK); ``triangle`` (H, M, CHUNK, CHUNK), which convolves a
    row; ``left`` (H, M, N, CHUNK), what a state gives to the outputs of a chunk, ``C Ā^{l+1}``.
    """

    squared: list[Tensor]
    columns: Tensor
    triangle: Tensor
    left: Tensor


def set_rate(model: nn.Module, rate: float, as_published: bool = False) -> None:
    """Let every `LinearStateSpace` inside a model read at another sampling rate than it was trained at, without training.

    Args:
        model: any module.
        rate: length of a position in time over that in training: 2 for a signal sampled half as often, 1 as trained. Kept until set
            again; not saved with the weights.
        as_published: round it and leave B̄ as it was, as the authors' code does: `LinearStateSpace.rate_as_published`.

    Raises:
        ValueError: a rate that is not above 0, or a model without such a part.
    """
    parts = [part for part in model.modules() if isinstance(part, LinearStateSpace)]
    if not parts:
        raise ValueError(f"{type(model).__name__} has no LinearStateSpace, whose steps a rate could change")
    for part in parts:
        part.rate = rate  # refused here if it is none
        if as_published:
            part.rate_as_published(rate)


def state_space_groups(
    model: nn.Module, learning_rate: float, weight_decay: float = 0.01, *, system_rate: float = 1e-4, step_rate: float = 1e-3
) -> list[dict[str, Any]]:
    """Groups for an optimiser in which A, B and Δ of every `LinearStateSpace` learn slowly and do not decay, as published.

    Args:
        model: any module.
        learning_rate: of everything else.
        weight_decay: likewise.
        system_rate: of A and B at most; in the units of A and B, not of the numbers kept for them (see `SLOWNESS`).
        step_rate: of log Δ at most.

    Returns:
        Three groups: the rest, log Δ, A and B; without those that have no learned parameter.

    Raises:
        ValueError: a rate that is not above 0, a decay below 0, or a model without such a part.
    """
    if not min(learning_rate, system_rate, step_rate) > 0 or weight_decay < 0:
        raise ValueError(
            f"rates must be above 0 and the decay not below, got {learning_rate}, {system_rate}, {step_rate} and {weight_decay}"
        )
    parts = [part for part in model.modules() if isinstance(part, LinearStateSpace)]
    if not parts:
        raise ValueError(f"{type(model).__name__} has no LinearStateSpace, whose parameters would learn at rates of their own")
    steps = {id(part.log_step): part.log_step for part in parts}
    systems = {id(parameter): parameter for part in parts for parameter in part.system.parameters()}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in steps | systems]
    groups: list[dict[str, Any]] = [
        {"params": rest, "lr": learning_rate, "weight_decay": weight_decay},
        {"params": list(steps.values()), "lr": min(learning_rate, step_rate), "weight_decay": 0.0},
        {"params": list(systems.values()), "lr": min(learning_rate, system_rate) / SLOWNESS, "weight_decay": 0.0},
    ]
    learned = [group | {"params": [one for one in group["params"] if one.requires_grad]} for group in groups]
    return [group for group in learned if group["params"]]


def _after(x: Tensor, state: Tensor, counts: Tensor, chunk: _Chunk) -> Tensor:
    """``Ā^n s + Σ_i Ā^{n−1−i} B̄ u_i`` of rows (channels, batch, CHUNK) with n real positions in front, (channels, batch, state)."""
    age = counts[:, None] - 1 - torch.arange(CHUNK, device=x.device)  # of position i at the last real one
    # reversed, so that a position stands where its age is; those that are not real have none
    aged = x.gather(-1, age.clamp(min=0).expand_as(x)) * (age >= 0)
    for place, power in enumerate(chunk.squared[:-1]):
        wanted = (counts >> place) & 1 == 1
        state = torch.where(wanted[:, None], state @ power.mT, state)
    return state + aged @ chunk.columns.mT


# ------------------------------------------------------------------------------------------------ A and B


class _StructuredSystem(nn.Module):
    """A and B by their diagonals, one system or one a channel."""

    def __init__(self, measure: str, state: int, copies: tuple[int, ...], learned: bool) -> None:
        super().__init__()
        parts = structured_hippo(measure, state)
        if not parts.diagonal.is_meta:
            _refuse_singular(parts, measure)
        for name, part in parts._asdict().items():
            value = (part / SLOWNESS).to(torch.get_default_dtype()).expand(*copies, state).clone()
            self.register_parameter(name, nn.Parameter(value, requires_grad=learned))

    def form(self) -> Quasiseparable:
        return Quasiseparable(*(SLOWNESS * getattr(self, name).double() for name in Quasiseparable._fields))

    def continuous(self) -> tuple[Tensor, Tensor]:
        form = self.form()
        if self.training and torch.is_grad_enabled() and form.diagonal.requires_grad and not torch.compiler.is_compiling():
            _warn_if_nearly_singular(form)
        return form.matrix(), form.inputs()

    def solver(self) -> Any:
        return self.form().solve


class _DenseSystem(nn.Module):
    """A and B as they are, one system or one a channel."""

    def __init__(self, measure: str, state: int, copies: tuple[int, ...], learned: bool) -> None:
        super().__init__()
        for name, part in zip(("matrix", "vector"), hippo(measure, state), strict=True):
            value = (part / SLOWNESS).to(torch.get_default_dtype()).expand(*copies, *part.shape).clone()
            self.register_parameter(name, nn.Parameter(value, requires_grad=learned))

    def continuous(self) -> tuple[Tensor, Tensor]:
        matrix, vector = (SLOWNESS * getattr(self, name).double() for name in ("matrix", "vector"))
        return matrix, vector

    def solver(self) -> Any:
        return None


def _dense_solver(matrix: Tensor) -> Any:
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    return lambda scale, right: torch.linalg.solve(identity - scale[..., None, None] * matrix, right)


def _warn_if_nearly_singular(parts: Quasiseparable) -> None:
    if _smallest_pivot(parts) < SMALLEST_PIVOT:
        warnings.warn(f"training has brought a pivot of A's tridiagonal matrix below {SMALLEST_PIVOT:g}: learn A more slowly", stacklevel=4)


def _smallest_pivot(parts: Quasiseparable) -> float:
    with torch.no_grad():
        return float(pivots(parts.lower, parts.diagonal, parts.upper).abs().min())


def _refuse_singular(parts: Quasiseparable, measure: str) -> None:
    smallest = _smallest_pivot(parts)
    if smallest < SMALLEST_PIVOT:
        raise ValueError(f"the tridiagonal matrix of {measure} has a pivot of {smallest:.1e}: draw it again or choose another measure")
