"""The protocols every room of the house keeps: signature, batch, output, mixer, task, model, method, compressor, probe, claim.

Shapes are written ``(batch, length, width)``. Nothing here computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

# ------------------------------------------------------------------------------------------------ signature


@dataclass(frozen=True)
class Table:
    """Rows of numbers: ``table`` (batch, features), float, standardised by the task."""

    features: int


@dataclass(frozen=True)
class Tokens:
    """Integer symbols: ``tokens`` (batch, length), long; ``mask`` (batch, length), True = real."""

    vocabulary: int
    length: int


@dataclass(frozen=True)
class Series:
    """Regular series: ``series`` (batch, length, channels), float; ``mask`` (batch, length), True = real."""

    channels: int
    length: int


@dataclass(frozen=True)
class Events:
    """Marked events: ``gaps`` (batch, length), time since the event before, > 0; ``marks`` (batch, length), long; ``mask``."""

    marks: int
    length: int


@dataclass(frozen=True)
class Image:
    """Pictures: ``image`` (batch, channels, height, width), float, standardised by the task."""

    channels: int
    height: int
    width: int


@dataclass(frozen=True)
class Video:
    """Clips: ``video`` (batch, frames, channels, height, width), float."""

    channels: int
    frames: int
    height: int
    width: int


@dataclass(frozen=True)
class Graph:
    """One graph in every batch: ``nodes`` (nodes, features), float (dense or sparse CSR); ``edges`` (2, edges), long, both
    directions of an undirected edge; optional ``edge_weight`` (edges,); ``selected`` (batch,), the nodes that are predicted.
    """

    features: int
    nodes: int
    edges: int


@dataclass(frozen=True)
class Pair:
    """Two inputs of one example; each input's tensors carry the prefix ``first_`` or ``second_``."""

    first: Tokens | Series | Image | Table
    second: Tokens | Series | Image | Table


@dataclass(frozen=True)
class Class:
    """One of ``classes``: prediction (batch, classes), logits; ``target`` (batch,), long."""

    classes: int

    @property
    def size(self) -> int:
        """Numbers predicted per example (or per position)."""
        return self.classes


@dataclass(frozen=True)
class Values:
    """Real numbers: prediction (batch, count), or (batch, horizon, count) for a forecast; ``target`` alike, float."""

    count: int

    @property
    def size(self) -> int:
        """Numbers predicted per example (or per position)."""
        return self.count


@dataclass(frozen=True)
class NextTokens:
    """The next symbol at every position: prediction (batch, length, vocabulary), logits; ``target`` (batch, length), long."""

    vocabulary: int

    @property
    def size(self) -> int:
        """Numbers predicted per position."""
        return self.vocabulary


END = 0
"""The symbol that ends a `TokenSequence`, and from which its writing starts."""


@dataclass(frozen=True)
class TokenSequence:
    """Symbols of an own order and length (a translation, a caption): prediction (batch, length, vocabulary), logits.

    Symbol 0 (`END`) ends a sequence and is what its writing starts from. ``target`` (batch, length), long, ends with it and is filled
    with it; ``target_mask`` (batch, length) is True up to the first. A model that is given ``target`` predicts each symbol from the true
    ones before it; without, from its own.
    """

    vocabulary: int
    length: int

    @property
    def size(self) -> int:
        """Numbers predicted per symbol."""
        return self.vocabulary


@dataclass(frozen=True)
class NextEvent:
    """The next event's gap and mark at every position: prediction (batch, length, 3·components + marks).

    The first ``3·components`` numbers are weights (logits), means and log standard deviations of a log-normal mixture of the
    gap; the rest are the mark's logits. Targets: ``target_gaps`` (batch, length), ``target_marks`` (batch, length), ``target_mask``.
    """

    marks: int
    components: int = 8

    @property
    def size(self) -> int:
        """Numbers predicted per position."""
        return 3 * self.components + self.marks


@dataclass(frozen=True)
class NextStroke:
    """Where a pen goes next, and whether it lifts there, at every position: prediction (batch, length, 1 + 6·components).

    The first number is the logit of lifting; the rest are those of a `assay.nn.mixture_density.MixtureDensity` of the offset. ``target``
    (batch, length, 3) is (dx, dy, lift).
    """

    components: int = 5

    @property
    def size(self) -> int:
        """Numbers predicted per position."""
        return 1 + 6 * self.components


@dataclass(frozen=True)
class Embedding:
    """A vector: prediction (batch, width)."""

    width: int

    @property
    def size(self) -> int:
        """Numbers predicted per example."""
        return self.width


InputKind: TypeAlias = Table | Tokens | Series | Events | Image | Video | Graph | Pair
OutputKind: TypeAlias = Class | Values | NextTokens | TokenSequence | NextEvent | NextStroke | Embedding
Ahead: TypeAlias = NextTokens | NextEvent | NextStroke
"""What comes next, at every position: a network that is not causal would see it."""
_SIMPLE_KINDS = (
    Table,
    Tokens,
    Series,
    Events,
    Image,
    Video,
    Graph,
    Class,
    Values,
    NextTokens,
    TokenSequence,
    NextEvent,
    NextStroke,
    Embedding,
)
_KINDS = {kind.__name__: kind for kind in _SIMPLE_KINDS}


@dataclass(frozen=True)
class Signature:
    """What goes in and what must come out.

    Args:
        input: the kind of input, with its sizes.
        output: the kind of output; ``output.size`` numbers are predicted per example, or per position.
        per_position: the output is wanted at every position of a sequence input.
        horizon: number of future steps of a forecast, else None.
        multi_label: each class is a yes/no of its own; ``target`` is then (batch, classes), float.
        grouped: examples come in groups (ranking); ``group`` (batch,), long.
    """

    input: InputKind
    output: OutputKind
    per_position: bool = False
    horizon: int | None = None
    multi_label: bool = False
    grouped: bool = False

    def to_json(self) -> dict[str, Any]:
        """The signature as JSON-serialisable values; `from_json` gives it back."""
        return {
            "input": _kind_to_json(self.input),
            "output": _kind_to_json(self.output),
            "per_position": self.per_position,
            "horizon": self.horizon,
            "multi_label": self.multi_label,
            "grouped": self.grouped,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Signature:
        """Rebuild a signature from `to_json`'s values."""
        plain = dict(values)
        return cls(input=_kind_from_json(plain.pop("input")), output=_kind_from_json(plain.pop("output")), **plain)


def _kind_to_json(kind: InputKind | OutputKind) -> dict[str, Any]:
    if isinstance(kind, Pair):
        return {"kind": "Pair", "first": _kind_to_json(kind.first), "second": _kind_to_json(kind.second)}
    return {"kind": type(kind).__name__, **asdict(kind)}


def _kind_from_json(values: Mapping[str, Any]) -> Any:
    plain = dict(values)
    name = plain.pop("kind")
    if name == "Pair":
        return Pair(_kind_from_json(plain["first"]), _kind_from_json(plain["second"]))
    return _KINDS[name](**plain)


# ------------------------------------------------------------------------------------------------ batch, output

Batch: TypeAlias = dict[str, Tensor]
"""Named tensors, as the signature's input and output kinds declare them."""


@dataclass
class Output:
    """What a model returns: ``prediction`` as the signature's output declares, the model's own ``losses``, optionally ``hidden``."""

    prediction: Tensor
    losses: dict[str, Tensor] = field(default_factory=dict)
    hidden: Tensor | None = None
    loss: Tensor | None = None  # filled by the training objective: task loss + own losses + what methods add


Predictor: TypeAlias = Callable[[Batch], Output]
State: TypeAlias = Any
"""A pytree of tensors: what a streaming mixer carries from one position to the next."""

# ------------------------------------------------------------------------------------------------ mixer


@runtime_checkable
class Mixer(Protocol):
    """Mixes information along positions; ``x`` is (batch, length, width), ``mask`` (batch, length), True = real.

    Every mixer has ``forward``. A causal one also streams: ``forward(x) == scan(x, initial_state)[0]``, any chunking gives the
    same, and so does ``step`` in a loop. A masked position leaves the state unchanged. `assay.nn.StreamingMixer` supplies the rest
    from ``initial_state`` and ``scan``.
    """

    causal: bool

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The whole sequence at once."""
        ...


@runtime_checkable
class Streaming(Protocol):
    """A mixer, or a whole sequence model, that reads a stream in constant calls."""

    def initial_state(self, batch_size: int) -> State:
        """The state before the first position."""
        ...

    def scan(self, x: Tensor, state: State, mask: Tensor | None = None) -> tuple[Tensor, State]:
        """A chunk (batch, length, width), continuing from ``state``."""
        ...

    def step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        """One position (batch, width)."""
        ...


# ------------------------------------------------------------------------------------------------ task

SplitName: TypeAlias = Literal["train", "validation", "test"]


@dataclass
class Evaluation:
    """What a task says of a predictor on a split.

    Args:
        metrics: every measure by name; the primary one is ``metrics[task.metric]``.
        scores: (examples,), one number an example whose mean is the primary metric; what the bootstrap resamples.
        predictions: per example: class index, values or forecast; for the report.
        groups: (examples,), examples of one group are resampled together, or None.
    """

    metrics: dict[str, float]
    scores: np.ndarray
    predictions: np.ndarray
    groups: np.ndarray | None = None


@runtime_checkable
class Task(Protocol):
    """Data with splits, a signature, a loss and an evaluation."""

    name: str
    description: str  # what was recognised, in one line: "1,797 images, 8×8 grey, 10 classes"
    notes: list[str]  # what was imputed or is warned of, a sentence each
    signature: Signature
    metric: str
    direction: Literal["max", "min"]
    encoding: dict[str, Any]  # JSON: all that is needed to read further files the same way (labels, statistics, columns)

    def size(self, split: SplitName) -> int:
        """Number of examples."""
        ...

    def training_batches(self, batch_size: int, seed: int) -> Iterator[Batch]:
        """Endless training batches in the task's own order; the same seed gives the same batches."""
        ...

    def batches(self, split: SplitName, batch_size: int) -> Iterator[Batch]:
        """One pass over a split, in order."""
        ...

    def shard(self, batch: Batch, rank: int, world: int) -> Batch:
        """The part of a global training batch that process ``rank`` of ``world`` works on."""
        ...

    def loss(self, output: Output, batch: Batch) -> Tensor:
        """The training loss, a scalar."""
        ...

    def evaluate(self, predictor: Predictor, split: SplitName, batch_size: int = 256) -> Evaluation:
        """All metrics and per-example scores on a split."""
        ...


# ------------------------------------------------------------------------------------------------ model


@runtime_checkable
class Family(Protocol):
    """A way to build networks of any size for a signature.

    ``coarse`` and ``fine`` are two integer dials; the parameter count grows with each. `assay.models.build` turns them until the
    budget is met.
    """

    coarse: range
    fine: range

    def accepts(self, signature: Signature) -> str | None:
        """None, or the reason (one clause) why this family cannot serve the signature."""
        ...

    def network(self, signature: Signature, coarse: int, fine: int, **options: Any) -> nn.Module:
        """A freshly initialised network; ``forward(batch) -> Output``."""
        ...


@runtime_checkable
class Estimator(Protocol):
    """A model with its own ``fit`` (scikit-learn manner), outside the parameter budget; calling it predicts."""

    name: str

    def accepts(self, signature: Signature) -> str | None:
        """None, or the reason why it cannot serve the signature."""
        ...

    def fit(self, task: Task, seed: int = 0) -> Estimator:
        """Learn from the training split; choose settings on the validation split."""
        ...

    def __call__(self, batch: Batch) -> Output:
        """Predict a batch; the prediction has the signature's shape."""
        ...

    def parameter_count(self) -> int:
        """Numbers the fitted estimator holds."""
        ...

    def save(self, folder: Any) -> None:
        """Write the fitted estimator; nothing is pickled."""
        ...

    @classmethod
    def load(cls, folder: Any) -> Estimator:
        """Read what `save` wrote."""
        ...


# ------------------------------------------------------------------------------------------------ method

Objective: TypeAlias = Callable[[nn.Module, Batch], Output]
Gradients: TypeAlias = Callable[[nn.Module, Batch], Output]
Update: TypeAlias = Callable[[torch.optim.Optimizer], None]


class Method:
    """Changes how training goes; each wrapper is the identity unless overridden, and methods compose in the order given.

    ``objective`` wraps the computation of the loss, ``gradients`` the backward pass, ``update`` the optimiser's step.
    """

    def setup(self, model: nn.Module, task: Task) -> None:
        """Called once before training."""

    def objective(self, next: Objective) -> Objective:
        """Wrap ``(model, batch) -> Output`` with ``loss`` filled."""
        return next

    def gradients(self, next: Gradients) -> Gradients:
        """Wrap objective + backward."""
        return next

    def update(self, next: Update) -> Update:
        """Wrap ``optimizer.step()``."""
        return next

    def finish(self, model: nn.Module) -> None:
        """Called once after training."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold for training to go on identically."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`'s values."""


# ------------------------------------------------------------------------------------------------ compressor, probe

Edit: TypeAlias = dict[str, Any]
"""A JSON-serialisable change of architecture, ``{"edit": name, …}``; `assay.models.surgery` replays it before weights load."""


@dataclass
class TrailPoint:
    """One point a compressor visited: the edits that rebuild it, its weights, and what was measured."""

    edits: list[Edit]
    measures: dict[str, float]
    weights: dict[str, Tensor]


class Compressor(Protocol):
    """Makes a trained model smaller: ``(model, task, target) -> (best, trail)``.

    ``target`` maps a measure (``parameters``, ``flops``, ``latency``, ``bytes``) to the fraction that may remain.
    """

    def __call__(self, model: nn.Module, task: Task, target: Mapping[str, float]) -> tuple[nn.Module, list[TrailPoint]]:
        """Return the smallest model that meets the target, and every point on the way."""
        ...


@dataclass
class Finding:
    """What a probe found: one sentence in plain words, rows for a table, optionally a figure's data (JSON)."""

    sentence: str
    table: list[dict[str, Any]] = field(default_factory=list)
    figure: dict[str, Any] | None = None


class Probe(Protocol):
    """Takes a trained model and finds something.

    One that trains networks of its own for it says so (``trains = True``), and is used only when it is named.
    """

    def __call__(self, model: nn.Module, task: Task) -> Finding:
        """Look at the model; change nothing."""
        ...


# ------------------------------------------------------------------------------------------------ claim

Scale: TypeAlias = Literal["smoke", "laptop", "paper"]
Verdict: TypeAlias = Literal["holds", "fails", "undecided", "not-run"]


@dataclass
class Measured:
    """What an experiment found: named numbers, their spread over seeds, and the verdict with its reason."""

    values: dict[str, float]
    verdict: Verdict
    reason: str
    spread: dict[str, float] = field(default_factory=dict)
    seeds: int = 1


@dataclass(frozen=True)
class Claim:
    """A statement of a paper that can be run.

    Args:
        name: short, unique within the paper; used on the command line and in file names.
        text: the statement in one sentence.
        paper: the paper's figure, as published, with its unit ("84.4 ± 0.5 % on Cora").
        source: where in the paper or repository the figure is from ("abstract", "table 2", "repository README").
        experiment: measures at a scale and judges by a predicate that can fail.
    """

    name: str
    text: str
    paper: str
    source: str
    experiment: Callable[[Scale], Measured]


@dataclass(frozen=True)
class Paper:
    """A paper's claims: ``papers/<slug>.py`` has one ``PAPER``."""

    slug: str
    title: str
    authors: str
    year: int
    claims: Sequence[Claim]
    official: str | None = None
