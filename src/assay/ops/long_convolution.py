"""`long_convolution`: a causal depthwise convolution with as many taps as there are positions, whole or as a stream.

Whole, ``y_t = Σ_{s≤t} h_s ∘ x_{t−s}`` is one product of Fourier transforms, O(n log n). A stream cannot wait for the sequence's end; its
sum is cut into tiles instead. When n positions were read and u is the largest power of two that divides n, the block of the last u inputs
is added to the next u outputs, by one transform of 2u points. Every pair of an input and a later output lies in exactly one such tile,
and a position costs O(log² n) amortised.

Sources: Cooley, Tukey (1965), An Algorithm for the Machine Calculation of Complex Fourier Series, for the transform; van der Hoeven (2002),
Relax, but Don't Be Too Lazy, for the tiles.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from assay.ops.compaction import Compaction

Implementation = Literal["auto", "direct", "fft"]
IMPLEMENTATIONS: tuple[Implementation, ...] = ("auto", "direct", "fft")
SMALLEST_CAPACITY = 16


class ConvolutionState(NamedTuple):
    """Everything read so far, for a convolution that forgets nothing; ``lengths`` (batch,) positions of a row are filled.

    ``inputs`` (batch, capacity, width), and ``ahead`` (batch, capacity, width): what finished tiles add to outputs still to come.
    ``written`` (batch,) counts what was ever written into these buffers and is shared by all states on them: a state that finds another
    number than its own is not the newest (or its buffers were made while a gradient was recorded), and continues on a copy.
    """

    inputs: Tensor
    ahead: Tensor
    lengths: Tensor
    written: Tensor


def long_convolution(x: Tensor, taps: Tensor, implementation: Implementation = "auto") -> Tensor:
    """``y_t = Σ_s taps_s ∘ x_{t−s}`` over 0 ≤ s ≤ t, each channel with its own taps.

    Args:
        x: (batch, length, width).
        taps: (width, count), the present input's tap first; those beyond the length are not used, those missing are zero.
        implementation: ``direct``, a grouped `torch.nn.functional.conv1d`, O(length · count); ``fft``, O(length log length), in float32 or
            wider whatever the types of x and taps; ``auto``, the transform unless a model is being exported.

    Returns:
        (batch, length, width) in x's type.

    Raises:
        ValueError: shapes that do not fit, or an unknown implementation.
    """
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"implementation must be one of {', '.join(IMPLEMENTATIONS)}, got {implementation!r}")
    _check(x, taps)
    if implementation == "auto":
        implementation = "direct" if torch.compiler.is_exporting() else "fft"
    if not torch.compiler.is_exporting() and (x.numel() == 0 or taps.shape[1] == 0):
        return torch.zeros_like(x)
    taps = taps[:, : x.shape[1]]
    return _direct(x, taps) if implementation == "direct" else _fft(x, taps)


def initial_convolution_state(batch_size: int, width: int, dtype: torch.dtype = torch.float32, device: Any = None) -> ConvolutionState:
    """The state before the first position."""
    empty = torch.zeros(batch_size, 0, width, dtype=torch.promote_types(dtype, torch.float32), device=device)
    lengths = torch.zeros(batch_size, dtype=torch.long, device=device)
    return ConvolutionState(empty, empty, lengths, lengths.clone())


def long_convolution_scan(x: Tensor, state: ConvolutionState, taps: Tensor, mask: Tensor | None = None) -> tuple[Tensor, ConvolutionState]:
    """`long_convolution` of a chunk that continues a stream; any chunking gives the same outputs, to rounding.

    While a gradient is recorded, a call convolves all that was read so far; otherwise a position costs O(log² n) amortised.

    Args:
        x: (batch, length, width).
        state: `initial_convolution_state`, or what the call before returned. It may be continued more than once.
        taps: (width, count), the same at every call.
        mask: (batch, length), True = real. A masked position is skipped as if it were not there; its output is zero.

    Raises:
        ValueError: shapes that do not fit, or more real positions altogether than taps.
    """
    _check(x, taps)
    state = ConvolutionState(*state)
    compaction = None if mask is None else Compaction(mask)
    counts = torch.full_like(state.lengths, x.shape[1]) if compaction is None else compaction.counts
    lengths = state.lengths + counts
    longest = int(lengths.max()) if len(lengths) else 0
    if longest > taps.shape[1]:
        raise ValueError(f"the stream reached position {longest}, but the filter has only {taps.shape[1]} taps")
    packed = (x if compaction is None else compaction.pack(x)).to(state.inputs.dtype)
    taps = taps.to(state.inputs.dtype)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (packed, taps, state.inputs)):
        y, state = _recorded(packed, state, lengths, longest, taps)
    else:
        y, state = _streamed(packed, counts, state, lengths, longest, taps)
    y = y.to(x.dtype)
    return (y if compaction is None else compaction.unpack(y)), state


def _check(x: Tensor, taps: Tensor) -> None:
    if x.ndim != 3 or taps.ndim != 2 or x.shape[-1] != taps.shape[0]:
        raise ValueError(
            f"x must be (batch, length, width) and taps (width, count) of the same width, got {tuple(x.shape)} and {tuple(taps.shape)}"
        )


# ------------------------------------------------------------------------------------------------ whole sequences


def _direct(x: Tensor, taps: Tensor) -> Tensor:
    padded = F.pad(x.transpose(1, 2), (taps.shape[1] - 1, 0))
    return F.conv1d(padded, taps.to(x.dtype).flip(1)[:, None], groups=x.shape[2]).transpose(1, 2)


def _fft(x: Tensor, taps: Tensor) -> Tensor:
    """Padded with zeros to length + count − 1 points or more, so that the circle of the transform does not close."""
    dtype = torch.promote_types(torch.promote_types(x.dtype, taps.dtype), torch.float32)
    length = x.shape[1]
    points = _smooth(length + taps.shape[1] - 1)
    # transforms along the last, contiguous axis: half the time of transforms along the middle one
    transform = torch.fft.rfft(x.transpose(1, 2).to(dtype), points) * torch.fft.rfft(taps.to(dtype), points)
    return torch.fft.irfft(transform, points)[..., :length].transpose(1, 2).to(x.dtype)


def toeplitz(taps: Tensor) -> Tensor:
    """(..., count) as the matrices (..., count, count) that convolve a row from the right: entry (j, i) is the tap i − j, 0 below."""
    place = torch.arange(taps.shape[-1], device=taps.device)
    age = place - place[:, None]
    return taps[..., age.clamp(min=0)] * (age >= 0)


def _smooth(points: int) -> int:
    """The least number of points, at least as many, that is 1, 3 or 5 times a power of two: sizes at which transforms are fast."""
    return min(factor << max(0, (-(-points // factor) - 1).bit_length()) for factor in (1, 3, 5))


# ------------------------------------------------------------------------------------------------ streams


def _recorded(x: Tensor, state: ConvolutionState, lengths: Tensor, longest: int, taps: Tensor) -> tuple[Tensor, ConvolutionState]:
    """All that was read, convolved again: differentiable in everything."""
    batch, length, width = x.shape
    places = (state.lengths[:, None] + torch.arange(length, device=x.device))[..., None].expand_as(x)
    before = F.pad(state.inputs, (0, 0, 0, max(0, longest + length - state.inputs.shape[1])))
    # what is beyond a row's own length is older rubbish of a shared buffer
    filled = torch.arange(before.shape[1], device=x.device) < state.lengths[:, None]
    inputs = torch.where(filled[..., None], before, 0.0).scatter(1, places, x)
    y = long_convolution(inputs, taps).gather(1, places)
    return y, ConvolutionState(inputs[:, :longest], x.new_zeros(batch, 0, width), lengths, torch.full_like(lengths, -1))


def _streamed(
    x: Tensor, counts: Tensor, state: ConvolutionState, lengths: Tensor, longest: int, taps: Tensor
) -> tuple[Tensor, ConvolutionState]:
    inputs, ahead, before, written = _with_room(state, longest, taps)
    y = torch.zeros_like(x)
    # rows that have read equally many positions go together; without masks, those are all
    for read, count in set(zip(before.tolist(), counts.tolist(), strict=True)):
        rows = ((before == read) & (counts == count)).nonzero()[:, 0]
        group = slice(None) if len(rows) == len(x) else rows
        y[group, :count] = _advance(inputs, ahead, group, x[group, :count], read, taps)
    written.copy_(lengths)
    return y, ConvolutionState(inputs, ahead, lengths, written)


def _with_room(state: ConvolutionState, longest: int, taps: Tensor) -> ConvolutionState:
    """The state on buffers that hold ``longest`` positions and are its own to write on."""
    capacity = max(SMALLEST_CAPACITY, 1 << longest.bit_length())  # a tile never reaches beyond the next power of two
    newest = torch.equal(state.written, state.lengths)
    if newest and capacity <= state.inputs.shape[1]:
        return state
    inputs = _grown(state.inputs, capacity)
    if newest:
        return ConvolutionState(inputs, _grown(state.ahead, capacity), state.lengths, state.lengths.clone())
    ahead = torch.zeros_like(inputs)
    for read in state.lengths.unique().tolist():
        rows = (state.lengths == read).nonzero()[:, 0]
        _advance(inputs, ahead, rows, inputs[rows, :read], 0, taps)
    return ConvolutionState(inputs, ahead, state.lengths, state.lengths.clone())


def _grown(old: Tensor, capacity: int) -> Tensor:
    kept = old.detach()[:, :capacity]
    return F.pad(kept, (0, 0, 0, capacity - kept.shape[1])) if kept.shape[1] < capacity else kept.clone()


def _advance(inputs: Tensor, ahead: Tensor, rows: slice | Tensor, x: Tensor, read: int, taps: Tensor) -> Tensor:
    """Outputs of a chunk for rows that have read equally many positions; the buffers are written.

    The chunk is read in pieces that start at a multiple of their own power of two: what lies inside a piece is one convolution, and
    the tiles that end inside it reach no further than it does.
    """
    parts, remaining = [x.new_zeros(x.shape[0], 0, x.shape[2])], x
    while remaining.shape[1]:
        size = 1 << (remaining.shape[1].bit_length() - 1)
        size = min(size, read & -read) if read else size
        piece, remaining = remaining[:, :size], remaining[:, size:]
        inputs[rows, read : read + size] = piece
        inside = piece * taps[:, 0] if size == 1 else long_convolution(piece, taps)
        parts.append(ahead[rows, read : read + size] + inside)
        read += size
        block = read & -read
        ahead[rows, read : read + block] += _tile(inputs[rows, read - block : read], taps)
    return torch.cat(parts, 1)


def _tile(block: Tensor, taps: Tensor) -> Tensor:
    """What u inputs add to the u outputs after them. On a circle of 2u points only the u outputs before those are spoilt."""
    size, points = block.shape[1], 2 * block.shape[1]
    if size == 1 < taps.shape[1]:
        return block * taps[:, 1]
    transform = torch.fft.rfft(block.transpose(1, 2), points) * torch.fft.rfft(taps[:, :points], points)
    return torch.fft.irfft(transform, points)[..., size:].transpose(1, 2)
