"""`ConnectionistNetwork`: labels a sequence of frames with a shorter sequence of symbols, whose places among the frames nobody knows."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from assay import registry
from assay.contracts import END, Batch, Class, Output, Series, Signature, State, Tokens, TokenSequence
from assay.models.sequence import SequenceFamily

BLANK = END
"""The class that writes nothing: a sequence's end is none of its symbols, so that the classes of a frame are those of a symbol."""
IMPOSSIBLE = -1e6
"""The log probability of what cannot be; finite, for gradients pass through it."""


class ConnectionistNetwork(nn.Module):
    """Frames are classified one by one, and all ways to spell a sequence over them count together (connectionist temporal classification).

    A path over the frames spells a sequence when its repetitions are merged and then its blanks (class 0) dropped:
    ``p(y | x) = Σ_{paths that spell y} Π_t p_t(path_t)``. What is predicted after a prefix g is exact too:
    ``p(c | g, x) = p(g c … | x) / p(g … | x)`` for a symbol c, ``p(g | x) / p(g … | x)`` for the end. So the cross-entropies of a target's
    symbols and its end add up to −log p(y | x), the loss of ``torch.nn.CTCLoss``, and beam search over symbols is prefix search.

    With α_t(g) and β_t(g) the probabilities that the frames up to t spell g and end in its last symbol or in a blank, and C_t the sum of a
    class's log p_s over s ≤ t, ``log α_t(g c) = C_t + log Σ_{s≤t} exp(log φ_{s−1} − C_{s−1})``, φ = β(g) + α(g) (β(g) alone if c repeats
    g's last symbol), and β follows from α in the same way: two cumulative sums a symbol, all frames at once, in float64.

    Source: Graves et al. (2006), Connectionist temporal classification; prefix search as in Graves (2012), Supervised sequence labelling
    with recurrent neural networks, section 7.5.

    Args:
        signature: Tokens or Series → TokenSequence.
        frames: ``batch -> Output`` with logits of the symbols at every position, class 0 the blank.

    Shapes: as the signature declares; prediction (batch, length, vocabulary), log probabilities. A masked frame is a blank for certain. A
    target with more symbols than frames can spell has a probability of nearly 0, and a large but finite loss.
    """

    def __init__(self, signature: Signature, frames: nn.Module) -> None:
        super().__init__()
        assert isinstance(signature.output, TokenSequence)  # what `ConnectionistFamily.accepts` lets through
        self.signature, self.frames = signature, frames
        self.length = signature.output.length

    def forward(self, batch: Batch) -> Output:
        """Predict a batch: each symbol after the true ones where it has ``target``, else after its own."""
        state, target = self.begin(batch), batch.get("target")
        token = torch.full((len(state["last"]),), END, device=state["last"].device)
        predictions = []
        for position in range(self.length):
            logits, state = self.step(token, state)
            predictions.append(logits)
            token = logits.argmax(-1) if target is None else target[:, position]
        return Output(torch.stack(predictions, 1))

    def emissions(self, batch: Batch) -> Tensor:
        """Log probabilities of the classes of every frame, (batch, frames, vocabulary)."""
        found = self.frames(batch).prediction.log_softmax(-1)
        mask = batch.get("mask")
        if mask is None:
            return found
        silent = torch.full_like(found[0, 0], IMPOSSIBLE)
        silent[BLANK] = 0.0
        return torch.where(mask[..., None], found, silent)

    def begin(self, batch: Batch) -> State:
        """The state before the first symbol: what the frames say, and how likely they are to have spelled nothing so far."""
        emitted = self.emissions(batch)
        blanks = _before(emitted[..., BLANK].double().cumsum(1), 0.0)
        return {
            "emitted": emitted,
            "blank": blanks,
            "symbol": torch.full_like(blanks, IMPOSSIBLE),
            "last": torch.full((len(emitted),), END, device=emitted.device),
        }

    def step(self, token: Tensor, state: State) -> tuple[Tensor, State]:
        """Log probabilities (batch, vocabulary) of the symbol after ``token`` (batch,), and the state behind it."""
        after = self._extended(token, state)
        state = {name: torch.where(_wide(token == END, old), old, after[name]) for name, old in state.items()}
        ready = torch.logaddexp(state["blank"], state["symbol"])
        arriving = ready[:, :-1, None].expand_as(state["emitted"])
        repeated = nn.functional.one_hot(state["last"], arriving.shape[-1]).bool()[:, None]
        arriving = torch.where(repeated, state["blank"][:, :-1, None], arriving)
        found = (arriving + state["emitted"]).logsumexp(1)
        ended = nn.functional.one_hot(torch.zeros_like(token), found.shape[-1]).bool()
        scores = torch.where(ended, ready[:, -1:], found)
        return scores.log_softmax(-1).to(state["emitted"].dtype), state

    def _extended(self, token: Tensor, state: State) -> State:
        """The state when ``token`` is written behind what was."""
        emitted = state["emitted"]
        ready = torch.where((token == state["last"])[:, None], state["blank"], torch.logaddexp(state["blank"], state["symbol"]))
        of_token = emitted.gather(2, token[:, None, None].expand(-1, emitted.shape[1], 1))[..., 0]
        symbol = _carried(ready, of_token)
        return {"emitted": emitted, "symbol": symbol, "blank": _carried(symbol, emitted[..., BLANK]), "last": token}


def _carried(entering: Tensor, emitted: Tensor) -> Tensor:
    """log Σ_{s≤t} exp(entering_{s−1}) Π_{s≤r≤t} p_r, (batch, frames + 1): entered before some frame, stayed in one class since."""
    emitted = emitted.double()
    total = emitted.cumsum(1)
    found = total + (entering[:, :-1] - (total - emitted)).logcumsumexp(1)
    return _before(found.clamp(min=IMPOSSIBLE), IMPOSSIBLE)


def _before(x: Tensor, first: float) -> Tensor:
    return nn.functional.pad(x, (1, 0), value=first)


def _wide(where: Tensor, like: Tensor) -> Tensor:
    return where.view(-1, *[1] * (like.ndim - 1))


class ConnectionistFamily:
    """Connectionist temporal classification over any mixer: both dials are those of `assay.models.sequence.SequenceFamily`.

    Options: ``mixer`` (bilstm; any by name) and those of sequence models.
    """

    coarse = SequenceFamily.coarse
    fine = SequenceFamily.fine

    def accepts(self, signature: Signature) -> str | None:
        """Tokens or a series to a sequence of symbols."""
        if not isinstance(signature.output, TokenSequence):
            return f"it writes symbol sequences, not {type(signature.output).__name__}"
        if not isinstance(signature.input, Tokens | Series):
            return f"it reads tokens or series, not {type(signature.input).__name__}"
        if signature.input.length < signature.output.length - 1:
            return f"{signature.input.length} frames cannot spell {signature.output.length - 1} symbols"
        return None

    def network(self, signature: Signature, coarse: int, fine: int, *, mixer: str = "bilstm", **options: Any) -> nn.Module:
        """A `ConnectionistNetwork` whose frames are classified by a sequence model of that mixer and these dials."""
        assert isinstance(signature.output, TokenSequence)  # what `accepts` lets through
        by_frame = dataclasses.replace(signature, output=Class(signature.output.vocabulary), per_position=True)
        family = SequenceFamily(registry.resolve("mixer", mixer))
        reason = family.accepts(by_frame)
        if reason is not None:
            raise ValueError(f"mixer {mixer!r} cannot classify frames: {reason}")
        return ConnectionistNetwork(signature, family.network(by_frame, coarse, fine, **options))
