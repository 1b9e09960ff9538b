"""`SequenceModel`: any mixer in a stack of residual blocks, between an encoder of the input kind and a head of the output kind."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from assay.contracts import (
    Batch,
    Class,
    Embedding,
    Events,
    Image,
    NextEvent,
    NextTokens,
    Output,
    Pair,
    Series,
    Signature,
    State,
    Tokens,
    Values,
)
from assay.nn.block import ResidualBlock
from assay.nn.position.sinusoidal import sinusoidal_positions

SEQUENCES = (Tokens, Series, Events, Image)


class SequenceModel(nn.Module):
    """Encoder → ``depth`` residual blocks → norm → head.

    Read-out: at every position (``signature.per_position``, next tokens, next events); from the running mean over real positions
    (a class or values for the whole sequence); from the last real position (a forecast, predicted as the difference to the last
    observed value where the forecast has the input's channels). All three are functions of the prefix, so the model streams
    whenever its mixers do.

    Args:
        signature: input Tokens, Series, Events, Image (as a sequence of rows) or a Pair of Tokens or of Series.
        mixer: ``mixer(width) -> module`` with the mixer contract, called once a block.
        width: numbers per position.
        hidden: hidden size of each block's feed-forward net.
        depth: number of blocks.
        dropout: on the residual branches.
        positions: add sinusoidal positions to the encoded input.
    """

    def __init__(
        self,
        signature: Signature,
        mixer: Callable[[int], nn.Module],
        width: int,
        hidden: int,
        depth: int = 2,
        dropout: float = 0.0,
        positions: bool = True,
    ) -> None:
        super().__init__()
        self.signature = signature
        single = signature.input.first if isinstance(signature.input, Pair) else signature.input
        self.encoder = InputEncoder(single, width)
        self.blocks = nn.ModuleList(ResidualBlock(mixer(width), width, hidden, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(4 * width if isinstance(signature.input, Pair) else width, signature.output.size * (signature.horizon or 1))
        self.positions = positions
        self.width = width
        self.readout = _readout(signature)

    def forward(self, batch: Batch) -> Output:
        """Predict a batch."""
        if isinstance(self.signature.input, Pair):
            first, second = (self.pooled({k[len(p) :]: v for k, v in batch.items() if k.startswith(p)}) for p in ("first_", "second_"))
            return Output(self._shaped(self.head(torch.cat([first, second, (first - second).abs(), first * second], -1))))
        inputs = {key: value for key, value in batch.items() if key in ("tokens", "series", "gaps", "marks", "image")}
        prediction = self.predict(*inputs.values(), mask=batch.get("mask")) if len(inputs) == 1 else self._predict_events(batch)
        return Output(prediction)

    def predict(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The prediction for raw inputs ``x``: tokens (batch, length), series (batch, length, channels) or images."""
        hidden = self._hidden(self.encoder(x), mask)
        if self.readout == "position":
            return self.head(hidden)
        if self.readout == "mean":
            return self.head(_masked_mean(hidden, mask))
        last = _last_index(x, mask)
        return self._shaped(self.head(_take(hidden, last))) + self._last_value(_take(x, last))

    def pooled(self, batch: Batch) -> Tensor:
        """The mean over real positions of the last hidden layer, (batch, width)."""
        mask = batch.get("mask")
        x = next(value for key, value in batch.items() if key in ("tokens", "series", "image"))
        return _masked_mean(self._hidden(self.encoder(x), mask), mask)

    # -------------------------------------------------------------------------------------------- streaming

    @property
    def causal(self) -> bool:
        """Whether every mixer streams, and with them the model."""
        return all(getattr(block.mixer, "causal", False) for block in self.blocks)

    def initial_state(self, batch_size: int) -> State:
        """Positions read so far, the running sum of hidden states, the last output's inputs, and each block's state."""
        reference = self.head.weight
        return {
            "count": torch.zeros(batch_size, dtype=torch.long, device=reference.device),
            "sum": reference.new_zeros(batch_size, self.width),
            "blocks": [block.initial_state(batch_size) for block in self.blocks],  # pyright: ignore[reportCallIssue]
        }

    def scan(self, x: Tensor, state: State, mask: Tensor | None = None) -> tuple[Tensor, State]:
        """The prediction after every position of a chunk of raw inputs, and the state behind it.

        A masked position leaves the state unchanged; its own prediction is meaningless.
        """
        real = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if mask is None else mask
        h = self.encoder(x)
        counts = state["count"][:, None] + real.cumsum(1)
        if self.positions:
            h = h + sinusoidal_positions(counts - 1, self.width).to(h.dtype)
        blocks = []
        for block, before in zip(self.blocks, state["blocks"], strict=True):
            h, after = block.scan(h, before, mask)  # pyright: ignore[reportCallIssue]
            blocks.append(after)
        h = self.norm(h)
        sums = state["sum"][:, None] + torch.where(real[..., None], h, 0.0).cumsum(1)
        if self.readout == "mean":
            h = sums / counts.clamp(min=1)[..., None]
        prediction = self.head(h)
        if self.readout == "last":
            prediction = self._shaped(prediction) + self._last_value(x)
        return prediction, {"count": counts[:, -1], "sum": sums[:, -1], "blocks": blocks}

    def step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        """One position of raw input, (batch,) tokens or (batch, channels); the prediction of the prefix that ends there."""
        prediction, state = self.scan(x_t[:, None], state)
        return prediction[:, 0], state

    # -------------------------------------------------------------------------------------------- inside

    def _hidden(self, h: Tensor, mask: Tensor | None) -> Tensor:
        if self.positions:
            real = torch.ones(h.shape[:2], dtype=torch.long, device=h.device) if mask is None else mask.long()
            h = h + sinusoidal_positions(real.cumsum(1) - 1, self.width).to(h.dtype)
        for block in self.blocks:
            h = block(h, mask)
        return self.norm(h)

    def _predict_events(self, batch: Batch) -> Tensor:
        return self.head(self._hidden(self.encoder(batch["gaps"], batch["marks"]), batch.get("mask")))

    def _shaped(self, prediction: Tensor) -> Tensor:
        """(…, horizon · count) as (…, horizon, count) for a forecast."""
        if self.signature.horizon is None:
            return prediction
        return prediction.unflatten(-1, (self.signature.horizon, self.signature.output.size))

    def _last_value(self, last: Tensor) -> Tensor | float:
        same = isinstance(self.signature.input, Series) and self.signature.input.channels == self.signature.output.size
        return last.unsqueeze(-2) if same else 0.0


class InputEncoder(nn.Module):
    """Turns a raw input into (batch, length, width): an embedding of tokens or marks, a linear map of channels or of image rows."""

    def __init__(self, kind: Any, width: int) -> None:
        super().__init__()
        self.kind = kind
        if isinstance(kind, Tokens):
            self.embedding = nn.Embedding(kind.vocabulary, width)
        elif isinstance(kind, Events):
            self.embedding = nn.Embedding(kind.marks, width)
            self.gap = nn.Linear(1, width)
        else:
            self.linear = nn.Linear(kind.channels * (kind.width if isinstance(kind, Image) else 1), width)

    def forward(self, x: Tensor, marks: Tensor | None = None) -> Tensor:
        """Tokens (batch, length), series (batch, length, channels), images, or gaps with marks."""
        if isinstance(self.kind, Tokens):
            return self.embedding(x)
        if isinstance(self.kind, Events):
            assert marks is not None  # the signature promises marks beside gaps
            return self.embedding(marks) + self.gap(x.clamp(min=1e-6).log()[..., None])
        if isinstance(self.kind, Image):
            x = x.transpose(1, 2).flatten(2)  # a row of pixels, all channels, is one position
        return self.linear(x)


class SequenceFamily:
    """Sequence models of one mixer: the coarse dial is the width in eights, the fine dial widens the feed-forward nets."""

    coarse = range(1, 513)
    fine = range(0, 385)

    def __init__(self, mixer: type[nn.Module]) -> None:
        self.mixer = mixer

    def accepts(self, signature: Signature) -> str | None:
        """Ordered inputs only; next tokens and events need a causal mixer."""
        kinds = (signature.input.first, signature.input.second) if isinstance(signature.input, Pair) else (signature.input,)
        if not all(isinstance(kind, SEQUENCES) for kind in kinds):
            return f"a mixer reads ordered positions, and {' + '.join(type(kind).__name__ for kind in kinds)} has none"
        if len({type(kind) for kind in kinds}) > 1 or (isinstance(kinds[0], Events) and len(kinds) > 1):
            return "both inputs of a pair must be of one kind"
        if isinstance(signature.output, NextTokens | NextEvent) and not getattr(self.mixer, "causal", False):
            return f"{self.mixer.__name__} is not causal, so it would see the tokens it must predict"
        if not isinstance(signature.output, Class | Values | NextTokens | NextEvent | Embedding):
            return f"no head for {type(signature.output).__name__}"
        return None

    def network(self, signature: Signature, coarse: int, fine: int, *, depth: int = 2, dropout: float = 0.0, **options: Any) -> nn.Module:
        """A sequence model of width 8·coarse and feed-forward size 2·width + fine."""
        if isinstance(signature.output, NextTokens | NextEvent) and options.get("causal") is False:
            raise ValueError(f"{self.mixer.__name__} with causal=False would see the tokens it must predict")
        width = 8 * coarse
        _check_options(self.mixer, options)
        positions = getattr(self.mixer, "positional", True)
        return SequenceModel(signature, lambda size: self.mixer(size, **options), width, 2 * width + fine, depth, dropout, positions)


def _check_options(mixer: type[nn.Module], options: dict[str, Any]) -> None:
    accepted = inspect.signature(mixer.__init__).parameters
    for name in options:
        if name not in accepted and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values()):
            raise ValueError(f"{mixer.__name__} has no option {name!r}: it takes {', '.join(list(accepted)[1:])}")


def _readout(signature: Signature) -> str:
    if signature.per_position or isinstance(signature.output, NextTokens | NextEvent):
        return "position"
    return "last" if signature.horizon else "mean"


def _masked_mean(h: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return h.mean(1)
    return torch.where(mask[..., None], h, 0.0).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)


def _last_index(x: Tensor, mask: Tensor | None) -> Tensor:
    """The index of the last real position, (batch,)."""
    length = x.shape[1]
    if mask is None:
        return torch.full((x.shape[0],), length - 1, device=x.device)
    return (mask * torch.arange(1, length + 1, device=x.device)).amax(1).clamp(min=1) - 1


def _take(x: Tensor, index: Tensor) -> Tensor:
    """``x[b, index[b]]`` for every b."""
    return x[torch.arange(x.shape[0], device=x.device), index]
