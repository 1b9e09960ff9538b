"""`SequenceModel`: any mixer in a stack of residual blocks, between an encoder of the input kind and a head of the output kind."""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from assay.contracts import (
    Ahead,
    Batch,
    Class,
    Embedding,
    Events,
    Image,
    Output,
    Pair,
    Series,
    Signature,
    State,
    Tokens,
    Values,
)
from assay.nn.block import ResidualBlock, own_losses
from assay.nn.linear import Linear
from assay.nn.norm import norm as make_norm
from assay.nn.position.sinusoidal import sinusoidal_positions
from assay.options import refuse_mistyped

SEQUENCES = (Tokens, Series, Events, Image)
POSITIONS = ("sinusoidal", "learned", "none")
NETWORK_OPTIONS = ("depth", "width", "hidden", "dropout", "positions", "norm", "ngrams", "total_heads")
BLOCK_OPTIONS = ("activation", "experts", "active", "layer_scale", "hybrid_norm")


class SequenceModel(nn.Module):
    """Encoder → residual blocks → norm → head.

    Read-out: at every position (``signature.per_position``, next tokens, next events); from the running mean over real positions
    (a class or values for the whole sequence); from the last real position (a forecast, predicted as the difference to the last
    observed value where the forecast has the input's channels). All three are functions of the prefix, so the model streams
    whenever its mixers do. Blocks are handed the tokens beside their embedding; losses that parts left (`own_losses`) are in the output's.

    Args:
        signature: input Tokens, Series, Events, Image (as a sequence of rows) or a Pair of Tokens or of Series.
        blocks: `ResidualBlock`s of that width, in order.
        width: numbers per position.
        positions: added to the encoded input: ``sinusoidal``, ``learned`` (a vector for each, up to the signature's length) or ``none``.
        norm: before the head, ``layer`` or ``rms``.

    Raises:
        ValueError: an argument has none of the values named; a sequence is longer than learned positions reach.
    """

    def __init__(
        self, signature: Signature, blocks: Iterable[nn.Module], width: int, positions: str = "sinusoidal", norm: str = "layer"
    ) -> None:
        super().__init__()
        if positions not in POSITIONS:
            raise ValueError(f"positions must be one of auto, {', '.join(POSITIONS)}, got {positions!r}")
        self.signature = signature
        self.kind = signature.input.first if isinstance(signature.input, Pair) else signature.input
        self.encoder = InputEncoder(self.kind, width)
        self.position_table = nn.Embedding(sequence_length(signature), width) if positions == "learned" else None
        self.blocks = nn.ModuleList(blocks)
        self.norm = make_norm(norm, width)
        self.head = Linear(4 * width if isinstance(signature.input, Pair) else width, signature.output.size * (signature.horizon or 1))
        self.positions = positions
        self.width = width
        self.readout = _readout(signature)

    def forward(self, batch: Batch) -> Output:
        """Predict a batch."""
        if isinstance(self.signature.input, Pair):
            return self._predict_pair(batch)
        if isinstance(self.kind, Events):
            prediction = self.head(self._hidden(self.encoder(batch["gaps"], batch["marks"]), batch.get("mask")))
        else:
            prediction = self.predict(_raw(batch), batch.get("mask"))
        return Output(prediction, own_losses(self))

    def predict(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The prediction for raw inputs ``x``: tokens (batch, length), series (batch, length, channels) or images."""
        hidden = self._hidden(self.encoder(x), mask, **self._inputs(x))
        if self.readout == "position":
            return self.head(hidden)
        if self.readout == "mean":
            return self.head(_masked_mean(hidden, mask))
        last = _last_index(x, mask)
        return self._shaped(self.head(_take(hidden, last))) + self._last_value(_take(x, last))

    def pooled(self, batch: Batch) -> Tensor:
        """The mean over real positions of the last hidden layer, (batch, width)."""
        mask, x = batch.get("mask"), _raw(batch)
        return _masked_mean(self._hidden(self.encoder(x), mask, **self._inputs(x)), mask)

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
        counts = state["count"][:, None] + real.cumsum(1)
        h = self._placed(self.encoder(x), counts - 1, int(counts.max()) if self.position_table is not None and counts.numel() else 0)
        blocks = []
        for block, before in zip(self.blocks, state["blocks"], strict=True):
            h, after = block.scan(h, before, mask, **self._inputs(x))  # pyright: ignore[reportCallIssue]
            blocks.append(after)
        h = self.norm(h)
        sums = state["sum"][:, None] + torch.where(real[..., None], h, 0.0).cumsum(1)
        if self.readout == "mean":
            h = sums / counts.clamp(min=1)[..., None]
        prediction = self.head(h)
        if self.readout == "last":
            prediction = self._shaped(prediction) + self._last_value(x)
        if x.shape[1]:
            state = {**state, "count": counts[:, -1], "sum": sums[:, -1]}
        return prediction, {**state, "blocks": blocks}

    def step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        """One position of raw input, (batch,) tokens or (batch, channels); the prediction of the prefix that ends there."""
        prediction, state = self.scan(x_t[:, None], state)
        return prediction[:, 0], state

    # -------------------------------------------------------------------------------------------- inside

    def _predict_pair(self, batch: Batch) -> Output:
        pooled, losses = [], []
        for prefix in ("first_", "second_"):
            pooled.append(self.pooled({key.removeprefix(prefix): value for key, value in batch.items() if key.startswith(prefix)}))
            losses.append(own_losses(self))
        first, second = pooled
        prediction = self._shaped(self.head(torch.cat([first, second, (first - second).abs(), first * second], -1)))
        return Output(prediction, {name: losses[0][name] + losses[1][name] for name in losses[0]})

    def _hidden(self, h: Tensor, mask: Tensor | None, **inputs: Tensor) -> Tensor:
        real = torch.ones(h.shape[:2], dtype=torch.long, device=h.device) if mask is None else mask.long()
        h = self._placed(h, real.cumsum(1) - 1, h.shape[1])
        for block in self.blocks:
            h = block(h, mask, **inputs)
        return self.norm(h)

    def _placed(self, h: Tensor, positions: Tensor, last: int) -> Tensor:
        """h with its positions added; ``last`` of them are there at most."""
        if self.positions == "sinusoidal":
            return h + sinusoidal_positions(positions, self.width).to(h.dtype)
        if self.position_table is None:
            return h
        if last > self.position_table.num_embeddings:
            raise ValueError(f"learned positions reach {self.position_table.num_embeddings}, the sequence has {last}")
        return h + self.position_table(positions.clamp(min=0))

    def _inputs(self, x: Tensor) -> dict[str, Tensor]:
        """What blocks are handed beside the hidden numbers."""
        return {"tokens": x} if isinstance(self.kind, Tokens) else {}

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
            self.gap = Linear(1, width)
        else:
            self.linear = Linear(kind.channels * (kind.width if isinstance(kind, Image) else 1), width)

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
    """Sequence models of one mixer, or of a pattern of mixers repeated over the blocks.

    The coarse dial is the width in eights (or in the least multiple of 8 that the heads divide), the fine dial widens the feed-forward
    nets. Where an option fixes one of the two, both dials turn the other.
    """

    coarse = range(1, 513)
    fine = range(0, 1025)

    def __init__(self, *pattern: type[nn.Module]) -> None:
        self.pattern = pattern

    def accepts(self, signature: Signature) -> str | None:
        """Ordered inputs only; next tokens and events need causal mixers; what a mixer reads beside its input must be there."""
        kinds = (signature.input.first, signature.input.second) if isinstance(signature.input, Pair) else (signature.input,)
        if not all(isinstance(kind, SEQUENCES) for kind in kinds):
            return f"a mixer reads ordered positions, and {' + '.join(type(kind).__name__ for kind in kinds)} has none"
        if len({type(kind) for kind in kinds}) > 1 or (isinstance(kinds[0], Events) and len(kinds) > 1):
            return "both inputs of a pair must be of one kind"
        if not isinstance(signature.output, Class | Values | Ahead | Embedding):
            return f"no head for {type(signature.output).__name__}"
        for mixer in self.pattern:
            if isinstance(signature.output, Ahead) and not getattr(mixer, "causal", False):
                return f"{mixer.__name__} is not causal, so it would see what it must predict"
            for name in getattr(mixer, "inputs", ()):
                if name != "tokens" or not isinstance(kinds[0], Tokens):
                    return f"{mixer.__name__} needs {name}, and {type(kinds[0]).__name__} has none"
        return None

    def network(
        self,
        signature: Signature,
        coarse: int,
        fine: int,
        *,
        depth: int | None = None,
        width: int | None = None,
        hidden: int | Literal["none"] | None = None,
        dropout: float = 0.0,
        positions: str = "auto",
        norm: str = "layer",
        ngrams: int = 0,
        total_heads: int | None = None,
        **options: Any,
    ) -> nn.Module:
        """A sequence model of width 8·coarse and feed-forward size 2·width + fine.

        Args:
            signature: what goes in and out.
            coarse: first dial.
            fine: second dial.
            depth: number of blocks; by default two, or one of each element of a longer pattern.
            width: fixed; the dials then turn ``hidden``.
            hidden: feed-forward size, fixed (0 or ``none``: no channel mixing); the dials then turn ``width``.
            dropout: on the residual branches.
            positions: see `SequenceModel`; ``auto`` is sinusoidal unless every mixer has positions of its own (``positional = False``).
                Any other value (``rotary``, ``alibi`` …) is handed to the mixers that take ``positions``.
            norm: of blocks and model, ``layer`` or ``rms``.
            ngrams: layers of n-gram attention of orders 1 to this, after the second block.
            total_heads: heads of all blocks together, ``depth`` must divide them; in place of ``heads``.
            options: of `ResidualBlock` (``activation``, ``experts``, ``active``, ``layer_scale``, ``hybrid_norm="output"``), or of the
                mixers (``heads``, ``head_width`` …): each is handed to those that take it.

        Raises:
            ValueError: an option that no mixer takes, or a value that does not go with the others.
        """
        if depth is None:
            depth = max(2, len(self.pattern))
        if depth < len(self.pattern):
            raise ValueError(f"depth must be at least {len(self.pattern)} to hold one of each mixer of the pattern, got {depth}")
        if total_heads is not None:
            options["heads"] = _heads_a_block(total_heads, depth, options)
        # hybrid_norm="values" stands inside the mixer: it is the mixer's affair.
        for_block = {name: options.pop(name) for name in BLOCK_OPTIONS if name in options and options[name] != "values"}
        if positions not in ("auto", *POSITIONS):
            options["positions"], positions = positions, "auto"
        self._check_options(signature, options)
        refuse_mistyped(ResidualBlock, for_block)
        heads = (options.get("heads") or 1) if options.get("head_width") is None else 1
        width, hidden = _sizes(coarse, fine, width, 0 if hidden == "none" else hidden, heads)

        def block(mixer: Callable[..., nn.Module], hidden: int, **mixer_options: Any) -> ResidualBlock:
            return ResidualBlock(mixer(width, **mixer_options), width, hidden, dropout, norm=norm, **for_block)

        blocks = []
        for mixer in itertools.islice(itertools.cycle(self.pattern), depth):
            taken = _parameters(mixer)
            own = {name: value for name, value in options.items() if taken is None or name in taken}
            if taken is not None and "length" in taken:
                own = {"length": sequence_length(signature), **own}
            blocks.append(block(mixer, hidden, **own))
        if ngrams:
            blocks[2:2] = [block(_ngram_attention(signature), 0, order=order) for order in range(1, ngrams + 1)]
        if positions == "auto":
            positions = "sinusoidal" if any(getattr(made.mixer, "positional", True) for made in blocks) else "none"
        return SequenceModel(signature, blocks, width, positions, norm)

    def _check_options(self, signature: Signature, options: dict[str, Any]) -> None:
        names = " and ".join(dict.fromkeys(mixer.__name__ for mixer in self.pattern))
        if isinstance(signature.output, Ahead) and options.get("causal") is False:
            raise ValueError(f"{names} with causal=False would see what it must predict")
        accepted = [_parameters(mixer) for mixer in self.pattern]
        for name in options:
            if not any(taken is None or name in taken for taken in accepted):
                known = [own for taken in accepted if taken is not None for own in list(taken)[1:]]
                words = ", ".join(dict.fromkeys([*known, *NETWORK_OPTIONS, *BLOCK_OPTIONS]))
                raise ValueError(f"{names} has no option {name!r}: it takes {words}")
        for mixer in self.pattern:
            refuse_mistyped(mixer, options)


def sequence_length(signature: Signature) -> int:
    """The most positions a sequence of this signature has; a picture is a sequence of its rows."""
    kinds = (signature.input.first, signature.input.second) if isinstance(signature.input, Pair) else (signature.input,)
    return max(kind.height if isinstance(kind, Image) else getattr(kind, "length", 0) for kind in kinds)


def _parameters(mixer: Callable[..., nn.Module]) -> Mapping[str, inspect.Parameter] | None:
    """The arguments of a mixer's constructor, with those that it hands on to its base classes; None if it takes any."""
    parameters = inspect.signature(mixer).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return parameters
    bases = [base for base in getattr(mixer, "__mro__", ())[1:] if "__init__" in vars(base) and base not in (nn.Module, object)]
    if not bases:
        return None
    handed = _parameters(bases[0])
    return None if handed is None else {**handed, **{name: value for name, value in parameters.items() if value.kind != value.VAR_KEYWORD}}


def _heads_a_block(total: int, depth: int, options: Mapping[str, Any]) -> int:
    if options.get("heads") is not None:
        raise ValueError(f"total_heads={total} and heads={options['heads']} say the same thing twice: give one of them")
    if total % depth:
        raise ValueError(f"total_heads must be a multiple of depth, got total_heads={total} and depth={depth}")
    return total // depth


def _sizes(coarse: int, fine: int, width: int | None, hidden: int | None, heads: int) -> tuple[int, int]:
    """Width, a multiple of the heads, and hidden size at two dials; where one is fixed the other takes both dials."""
    if width is not None:
        return width, 8 * coarse + fine if hidden is None else hidden
    width = math.lcm(8, heads) * coarse
    return (width, 2 * width + fine) if hidden is None else (width + math.lcm(4, heads) * fine, hidden)


def _ngram_attention(signature: Signature) -> Callable[..., nn.Module]:
    kind = signature.input.first if isinstance(signature.input, Pair) else signature.input
    if not isinstance(kind, Tokens):
        raise ValueError(f"ngrams need tokens, and {type(kind).__name__} has none")
    from assay.nn.attention.ngram import NGramAttention

    return NGramAttention


def _raw(batch: Batch) -> Tensor:
    """The one input of a batch that is neither events nor a pair."""
    return next(batch[key] for key in ("tokens", "series", "image") if key in batch)


def _readout(signature: Signature) -> str:
    if signature.per_position or isinstance(signature.output, Ahead):
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
