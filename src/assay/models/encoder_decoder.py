"""`EncoderDecoder`: reads a sequence or a picture, then writes a sequence of symbols: translation, transduction, captions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from assay import registry
from assay.contracts import END, Batch, Image, Output, Series, Signature, State, Tokens, TokenSequence
from assay.models.sequence import InputEncoder
from assay.nn.linear import Linear
from assay.nn.recurrent.bidirectional import reversal

INJECT = ("first", "every")
GRID = 4
"""A picture becomes at most so many rows and columns of regions."""


class EncoderDecoder(nn.Module):
    """An encoder whose last state starts a decoder; with ``attention`` the decoder also looks back at every encoded position.

    The decoder reads the symbol before, ``x_t = E y_{t−1}``, through its layers to h_t, and writes
    ``y_t ~ softmax(W tanh(V [h_t, c_t] + b) + d)``. With attention ``c_t = Σ_i a_ti m_i``, ``a_t = softmax_i(h_tᵀ A m_i)``, m the encoder's
    outputs or a picture's regions. It writes from symbol 0 to symbol 0 (`assay.contracts.TokenSequence`). Given ``target`` it is teacher
    forced: it reads the true symbols, all positions at once; without, it reads what it wrote. Any streaming mixer can be its cell, for
    the state that an encoder hands over is whatever its mixer carries.

    Source: Sutskever, Vinyals, Le (2014), Sequence to sequence learning with neural networks (``reverse_source``); Cho et al. (2014);
    Luong, Pham, Manning (2015), Effective approaches to attention-based neural machine translation (``attention``); Vinyals et al.
    (2015), Show and tell (``inject="first"``); Karpathy, Fei-Fei (2015), Deep visual-semantic alignments; Bengio et al. (2015), Scheduled
    sampling (``teacher_forcing``).

    Args:
        signature: Tokens, Series or Image → TokenSequence.
        cell: ``width -> causal mixer``; each layer of encoder and decoder is one.
        width: numbers per position, and of the embeddings.
        readout: size of the tanh layer before the symbols.
        layers: of the encoder (of a sequence) and of the decoder.
        reverse_source: read a sequence backwards, so that its beginning is near the beginning of what is written.
        attention: look back while writing.
        inject: a picture's features go in as the ``first`` input, or are added to ``every`` one.
        teacher_forcing: chance, while training, that a symbol is read from the target and not from what was written.
        dropout: between layers and before the read-out.

    Shapes: as the signature declares; prediction (batch, length, vocabulary).

    Raises:
        ValueError: a cell that does not stream, or an argument out of its range.
    """

    def __init__(
        self,
        signature: Signature,
        cell: Callable[[int], nn.Module],
        width: int,
        readout: int,
        *,
        layers: int = 1,
        reverse_source: bool = True,
        attention: bool = False,
        inject: str = "first",
        teacher_forcing: float = 1.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if min(width, readout, layers) < 1:
            raise ValueError(f"width, readout and layers must be at least 1, got {width}, {readout} and {layers}")
        if inject not in INJECT:
            raise ValueError(f"inject must be one of {', '.join(INJECT)}, got {inject!r}")
        if not 0 <= teacher_forcing <= 1 or not 0 <= dropout < 1:
            raise ValueError(f"teacher_forcing must be in [0, 1] and dropout in [0, 1), got {teacher_forcing} and {dropout}")
        assert isinstance(signature.output, TokenSequence)  # what `EncoderDecoderFamily.accepts` lets through
        self.signature, self.inject, self.teacher_forcing = signature, inject, teacher_forcing
        self.vocabulary, self.length = signature.output.vocabulary, signature.output.length
        self.encoder = (
            PictureEncoder(signature.input, width)
            if isinstance(signature.input, Image)
            else SequenceEncoder(signature.input, RecurrentStack(cell, width, layers, dropout), width, reverse_source)
        )
        self.embedding = nn.Embedding(self.vocabulary, width)
        self.decoder = RecurrentStack(cell, width, layers, dropout)
        self.match = Linear(width, width, bias=False) if attention else None
        self.combine = Linear(2 * width if attention else width, readout)
        self.dropout = nn.Dropout(dropout)
        self.head = Linear(readout, self.vocabulary)

    def forward(self, batch: Batch) -> Output:
        """Predict a batch: teacher forced where it has ``target``, else freely."""
        state = self.begin(batch)
        target = batch.get("target")
        if target is None or (self.training and self.teacher_forcing < 1):
            return Output(self._written(state, target))
        return Output(self._predict(_after(target), state)[0])

    def begin(self, batch: Batch) -> State:
        """The state from which writing starts: the cells', and what they look back at."""
        cells, seen = self.encoder(batch)
        if cells is None:
            cells = self.decoder.initial_state(len(next(iter(batch.values()))))
            if self.inject == "first":
                _, cells = self.decoder(seen["feature"][:, None], cells)
        return {"cells": cells, **seen}

    def step(self, token: Tensor, state: State) -> tuple[Tensor, State]:
        """The logits (batch, vocabulary) of the symbol after ``token`` (batch,), and the state behind them."""
        logits, state = self._predict(token[:, None], state)
        return logits[:, 0], state

    def alignment(self, batch: Batch) -> Tensor:
        """Where each written symbol of ``batch["target"]`` looks: (batch, length, encoded positions), in the order that was read.

        Raises:
            ValueError: the network has no attention.
        """
        if self.match is None:
            raise ValueError("this network has no attention: build it with attention=True")
        state = self.begin(batch)
        hidden, _ = self.decoder(self._inputs(_after(batch["target"]), state), state["cells"])
        return self._weights(hidden, state)

    def _predict(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Logits after every one of ``tokens`` (batch, length), read from ``state`` on."""
        hidden, cells = self.decoder(self._inputs(tokens, state), state["cells"])
        if self.match is not None:
            hidden = torch.cat([hidden, self._weights(hidden, state) @ state["memory"]], -1)
        return self.head(self.dropout(torch.tanh(self.combine(hidden)))), {**state, "cells": cells}

    def _inputs(self, tokens: Tensor, state: State) -> Tensor:
        embedded = self.embedding(tokens)
        return embedded + state["feature"][:, None] if self.inject == "every" and "feature" in state else embedded

    def _weights(self, hidden: Tensor, state: State) -> Tensor:
        assert self.match is not None  # the callers have looked
        scores = self.match(hidden) @ state["memory"].transpose(1, 2)
        if "mask" in state:
            scores = scores.masked_fill(~state["mask"][:, None], torch.finfo(scores.dtype).min)
        return scores.softmax(-1)

    def _written(self, state: State, target: Tensor | None) -> Tensor:
        """Logits of a free run, or of one that reads each true symbol by the chance of ``teacher_forcing``."""
        device = self.embedding.weight.device
        token = torch.full((len(state["memory"]),), END, device=device)
        predictions = []
        for position in range(self.length):
            logits, state = self.step(token, state)
            predictions.append(logits)
            token = logits.argmax(-1)
            if target is not None:
                token = torch.where(torch.rand(token.shape, device=device) < self.teacher_forcing, target[:, position], token)
        return torch.stack(predictions, 1)


class RecurrentStack(nn.Module):
    """Streaming mixers, one after the other, with dropout between them (never along time: Zaremba et al. 2014)."""

    def __init__(self, cell: Callable[[int], nn.Module], width: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.cells = nn.ModuleList(cell(width) for _ in range(layers))
        if not getattr(self.cells[0], "causal", False):
            raise ValueError(f"a cell must stream, and {type(self.cells[0]).__name__} is not causal")
        self.dropout = nn.Dropout(dropout)

    def initial_state(self, batch_size: int) -> list[State]:
        """Each cell's."""
        return [cell.initial_state(batch_size) for cell in self.cells]  # pyright: ignore[reportCallIssue]

    def forward(self, x: Tensor, states: list[State], mask: Tensor | None = None) -> tuple[Tensor, list[State]]:
        """The last layer's outputs (batch, length, width) and every layer's state behind the chunk."""
        after = []
        for cell, before in zip(self.cells, states, strict=True):
            x, state = cell.scan(self.dropout(x) if after else x, before, mask)  # pyright: ignore[reportCallIssue]
            after.append(state)
        return x, after


class SequenceEncoder(nn.Module):
    """Tokens or a series through a stack of cells, from either end."""

    def __init__(self, kind: Any, stack: RecurrentStack, width: int, reverse: bool) -> None:
        super().__init__()
        self.embed, self.stack, self.reverse = InputEncoder(kind, width), stack, reverse
        self.key = "tokens" if isinstance(kind, Tokens) else "series"

    def forward(self, batch: Batch) -> tuple[list[State] | None, dict[str, Tensor]]:
        """The cells' last states, and the outputs at every position with their mask."""
        x, mask = self.embed(batch[self.key]), batch.get("mask")
        if self.reverse:
            x = x.flip(1) if mask is None else x.gather(1, reversal(mask)[..., None].expand_as(x))
        memory, states = self.stack(x, self.stack.initial_state(x.shape[0]), mask)
        return states, {"memory": memory} | ({} if mask is None else {"mask": mask})


class PictureEncoder(nn.Module):
    """Three normalised convolutions of 3 × 3, two with stride 2, pooled to a grid of regions; the regions together are the features.

    Features are standardised: as a first input they stand beside embeddings of that size, and smaller ones are hardly remembered.
    """

    def __init__(self, kind: Image, width: int) -> None:
        super().__init__()
        rows, columns = min(GRID, -(-kind.height // 4)), min(GRID, -(-kind.width // 4))
        layers: list[nn.Module] = []
        for channels, stride in ((kind.channels, 1), (width, 2), (width, 2)):
            layers += [nn.Conv2d(channels, width, 3, stride, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        self.convolutions = nn.Sequential(*layers, nn.AdaptiveAvgPool2d((rows, columns)))
        self.feature = nn.Sequential(Linear(rows * columns * width, width), nn.LayerNorm(width))

    def forward(self, batch: Batch) -> tuple[list[State] | None, dict[str, Tensor]]:
        """No state, but the regions (batch, regions, width) and the features (batch, width)."""
        regions = self.convolutions(batch["image"]).flatten(2).transpose(1, 2)
        return None, {"memory": regions, "feature": self.feature(regions.flatten(1))}


class EncoderDecoderFamily:
    """Encoder–decoders: the coarse dial is the width in eights, the fine dial widens the read-out.

    Options: ``cell`` (lstm; any streaming mixer by name), ``layers`` (1), ``reverse_source`` (True), ``attention`` (False), ``inject``
    (first), ``teacher_forcing`` (1), ``dropout`` (0).
    """

    coarse = range(1, 257)
    fine = range(0, 2049)

    def accepts(self, signature: Signature) -> str | None:
        """Tokens, series or pictures to a sequence of symbols."""
        if not isinstance(signature.output, TokenSequence):
            return f"it writes symbol sequences, not {type(signature.output).__name__}"
        if not isinstance(signature.input, Tokens | Series | Image):
            return f"it reads tokens, series or pictures, not {type(signature.input).__name__}"
        return None

    def network(self, signature: Signature, coarse: int, fine: int, *, cell: str = "lstm", **options: Any) -> nn.Module:
        """An `EncoderDecoder` of width 8·coarse with a read-out of that width + fine."""
        return EncoderDecoder(signature, registry.resolve("mixer", cell), 8 * coarse, 8 * coarse + fine, **options)


def _after(target: Tensor) -> Tensor:
    """What is read when each symbol of the target is written: the symbol before it, at first the end."""
    return F.pad(target[:, :-1], (1, 0), value=END)
