"""`Activations`: what layers of a network give out while it runs, in the order in which they run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from assay.nn.linear import Linear
from assay.nn.recurrent import drop_in
from assay.nn.recurrent.masked import MaskedRecurrentCell
from assay.nn.recurrent.multi_head import MultiHeadRNN

RECURRENT = (nn.RNN, nn.LSTM, nn.GRU, drop_in.RNN, drop_in.LSTM, drop_in.GRU)
KINDS: tuple[type[nn.Module], ...] = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Linear,
    Linear,
    nn.LayerNorm,
    nn.AdaptiveAvgPool2d,
    nn.MultiheadAttention,
    nn.TransformerDecoderLayer,
    MaskedRecurrentCell,
    *RECURRENT,
)
"""The layers that are recorded when none are named: exactly these classes, and the multi-head recurrences."""


@dataclass(frozen=True)
class Layer:
    """What one call of a layer gave: its name in the network, and its output (examples, ...)."""

    name: str
    output: Tensor


class Activations:
    """Records the outputs of a network's layers in its latest forward pass, as long as the context is open.

        with Activations(model) as activations:
            model(batch)
        layers = activations.layers(examples)

    A layer that gives several tensors counts once for each; of a recurrent layer the whole sequence is taken and not its final state, and
    packed sequences are padded. Nothing is computed twice, and nothing stays in the network when the context closes.

    Args:
        model: any network.
        names: of the modules to record, as ``named_modules`` has them; by default every module of one of the `KINDS`.

    Raises:
        ValueError: the network has no module of that name, or none of those kinds.
    """

    def __init__(self, model: nn.Module, names: Sequence[str] | None = None) -> None:
        modules = dict(model.named_modules())
        if names is None:
            names = [name for name, module in modules.items() if type(module) in KINDS or isinstance(module, MultiHeadRNN)]
            if not names:
                raise ValueError(f"{type(model).__name__} has no layer of a kind that is recorded: name modules of it")
        missing = [name for name in names if name not in modules]
        if missing:
            raise ValueError(f"{type(model).__name__} has no module {missing[0]!r}: it has {', '.join(name for name in modules if name)}")
        self._model = model
        self._modules = {name: modules[name] for name in names}
        self._calls: list[Layer] = []
        self._handles: list[Any] = []

    def __enter__(self) -> Activations:
        """Begin to record."""
        self._handles = [self._model.register_forward_pre_hook(lambda *_: self._calls.clear())]
        self._handles += [module.register_forward_hook(self._hook(name)) for name, module in self._modules.items()]
        return self

    def __exit__(self, *_: object) -> None:
        """Take every hook out of the network; what was recorded stays."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def layers(self, examples: int) -> list[Layer]:
        """What was recorded, in order, each (examples, ...).

        Where the first dimension is not that of the examples but exactly one other has their number, the two change places; where none or
        several have, the output is left out.
        """
        return _placed(self._calls, examples)

    def hidden(self, examples: int) -> list[Layer]:
        """The same without the last call, which gives the prediction."""
        return _placed(self._calls[:-1], examples)

    def _hook(self, name: str) -> Any:
        def record(module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(module, RECURRENT) and isinstance(output, tuple):
                output = output[0]
            self._calls.extend(Layer(name, tensor) for tensor in _tensors(output))

        return record


def example_count(batch: Any) -> int:
    """Examples in a batch: the first dimension of its first tensor; of a graph's batch, its nodes."""
    if isinstance(batch, dict):
        return len(batch["nodes"] if "nodes" in batch else next(iter(batch.values())))
    return len(batch)


def record(model: nn.Module, batch: Any, names: Sequence[str] | None = None) -> list[Layer]:
    """The hidden layers of a network in evaluation mode on one batch, without gradient; all that are named, where names are given."""
    training = model.training
    try:
        with torch.no_grad(), Activations(model, names) as activations:
            model.eval()(batch)
    finally:
        model.train(training)
    count = example_count(batch)
    return activations.hidden(count) if names is None else activations.layers(count)


def _placed(calls: Sequence[Layer], examples: int) -> list[Layer]:
    return [Layer(call.name, output) for call in calls if (output := _examples_first(call.output, examples)) is not None]


def _tensors(output: Any) -> list[Tensor]:
    if isinstance(output, PackedSequence):
        return [pad_packed_sequence(output, batch_first=True)[0]]
    if isinstance(output, Tensor):
        return [output]
    return [tensor for part in output for tensor in _tensors(part)] if isinstance(output, tuple | list) else []


def _examples_first(output: Tensor, examples: int) -> Tensor | None:
    if output.ndim < 2:
        return None
    if output.shape[0] == examples:
        return output
    places = [place for place, size in enumerate(output.shape) if size == examples]
    return output.transpose(0, places[0]) if len(places) == 1 else None
