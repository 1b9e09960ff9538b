"""What each linear map and convolution of a network reads and what reads it, seen while an example goes through.

A layer is *plain* where the theory of deep networks at initialisation speaks of it: it reads the input or a pointwise activation, and a
pointwise activation reads it, or nothing does. Of every other layer the roles say what stands in the way: a norm, a gate, a sum, attention.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from assay.contracts import Output
from assay.theory.gaussian_expectation import Pointwise, is_pointwise

LINEAR = (nn.Linear, nn.Conv1d, nn.Conv2d)
_SHAPES = {
    "view", "reshape", "flatten", "unflatten", "transpose", "permute", "movedim", "contiguous", "clone", "to", "float", "double", "squeeze",
    "unsqueeze", "expand", "dropout", "detach", "T", "mT", "swapaxes", "view_as", "reshape_as", "identity",
}  # fmt: skip
_FUNCTIONS: dict[str, Pointwise] = {name: getattr(torch, name) for name in ("relu", "tanh", "sigmoid", "sin", "erf", "selu", "celu")} | {
    name: getattr(F, name)
    for name in ("gelu", "silu", "mish", "elu", "leaky_relu", "softplus", "hardtanh", "hardswish", "relu6", "softsign")
}
_SAME = nn.Identity | nn.modules.dropout._DropoutNd | nn.Flatten
_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._NormBase)


@dataclass(frozen=True)
class Activated:
    """A pointwise function that was applied: its printed name and the function."""

    name: str
    function: Pointwise


@dataclass
class LayerRole:
    """One linear map or convolution of a network.

    Args:
        name: as ``named_modules`` has it.
        layer: the module.
        reads: ``input``, an `Activated`, the word of another operation, or None where it was not seen.
        read_by: every `Activated` or word of an operation that its output went to, in order; empty for an output of the network.
        square: mean square of what it read.
        output_square: mean square of what it gave, over all examples.
        is_output: the network's prediction is what it gave.
    """

    name: str
    layer: nn.Linear | nn.Conv1d | nn.Conv2d
    reads: str | Activated | None = None
    read_by: list[str | Activated] = field(default_factory=list)
    square: float = 0.0
    output_square: float = 0.0
    is_output: bool = False

    @property
    def fan_in(self) -> int:
        """Numbers that each of its outputs sums."""
        return self.layer.weight[0].numel()

    @property
    def activation(self) -> Activated | None:
        """The activation that its recursion is about: the one that reads it, or that it reads where it is the output."""
        if self.is_output and not self.read_by:
            return self.reads if isinstance(self.reads, Activated) else IDENTITY if self.reads == "input" else None
        return self.read_by[0] if self.read_by and isinstance(self.read_by[0], Activated) else None

    @property
    def obstacle(self) -> str | None:
        """Why the theory does not speak of this layer, a clause; None where it does."""
        names = {part.name if isinstance(part, Activated) else part for part in self.read_by}
        words = {part for part in self.read_by if isinstance(part, str)}
        if isinstance(self.reads, str) and self.reads != "input":
            return f"it reads {_said(self.reads)}"
        if self.reads is None:
            return "what it reads was not seen"
        if words:
            return f"its output goes into {_said(sorted(words)[0])}"
        if len(names) > 1:
            return f"several activations read it: {', '.join(sorted(names))}"
        if not names and not self.is_output:
            return "what reads it was not seen"
        if isinstance(self.reads, Activated) and names and self.reads.name not in names:
            return f"the activation before it, {self.reads.name}, is not the one after it, {names.pop()}"
        return None


IDENTITY = Activated("Identity", lambda z: z * 1.0)


def layer_roles(model: nn.Module, *example: Any) -> list[LayerRole]:
    """The roles of every linear map and convolution that an example reaches, in the order in which they run.

    Args:
        model: any network; it is run once, in evaluation mode, and left as it was.
        example: its arguments: a batch (a dictionary of tensors) for a network of Assay's.

    Raises:
        ValueError: the network has no linear map or convolution that runs.
    """
    watch = _Watch(model)
    training = {part: part.training for part in model.modules()}
    model.eval()
    try:
        with torch.no_grad(), watch:
            for value in example:
                for tensor in value.values() if isinstance(value, dict) else [value]:
                    if isinstance(tensor, Tensor) and tensor.is_floating_point():
                        _mark(tensor, "input")
            result = model(*example)
    finally:
        watch.close()
        for part, mode in training.items():
            part.training = mode
    final = result.prediction if isinstance(result, Output) else result
    source = getattr(final, "_assay_source", None)
    if isinstance(source, LayerRole):
        source.is_output = not source.read_by
    if not watch.roles:
        raise ValueError(f"{type(model).__name__} ran no linear map or convolution")
    return list(watch.roles.values())


class _Watch(TorchFunctionMode):
    """Marks tensors with where they come from, and notes at each layer what its output meets.

    A mark is a word, an `Activated`, or the `LayerRole` whose output the tensor is, in another shape perhaps.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.roles: dict[str, LayerRole] = {}
        self.inside = 0
        self.handles = []
        for name, part in model.named_modules():
            if isinstance(part, LINEAR):
                self._hook(part, partial(self._enter_layer, name), self._leave_layer)
            elif isinstance(part, _NORMS) or (not list(part.children()) and type(part).__name__.endswith("Norm")):
                self._hook(part, partial(self._enter, "norm"), partial(self._leave, "norm"))
            elif isinstance(part, nn.RNNBase):
                self._hook(part, partial(self._enter, "recurrence"), partial(self._leave, "recurrence"))
            elif not list(part.children()) and not isinstance(part, _SAME) and is_pointwise(part):
                found = Activated(repr(part).splitlines()[0], part)
                self._hook(part, partial(self._enter, found), partial(self._leave, found))

    def close(self) -> None:
        for handle in self.handles:
            handle.remove()

    def _hook(self, part: nn.Module, enter: Callable[..., None], leave: Callable[..., None]) -> None:
        self.handles += [part.register_forward_pre_hook(enter), part.register_forward_hook(leave)]

    def _enter_layer(self, name: str, layer: Any, inputs: tuple[Any, ...]) -> None:
        self.inside += 1
        source = getattr(inputs[0], "_assay_source", None)
        if isinstance(source, LayerRole):  # two linear maps in a row: the activation between them is the identity
            source.read_by.append(IDENTITY)
            source = IDENTITY
        role = self.roles.setdefault(name, LayerRole(name, layer))
        if role.reads is not None and role.reads is not source:
            source = "different things at different times"
        role.reads, role.square = source, float(inputs[0].detach().double().square().mean())

    def _leave_layer(self, layer: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        self.inside -= 1
        role = next(role for role in self.roles.values() if role.layer is layer)
        role.output_square = float(output.detach().double().square().mean())
        _mark(output, role)

    def _enter(self, met: str | Activated, part: Any, inputs: tuple[Any, ...]) -> None:
        if not self.inside:
            self._meet(inputs, met)
        self.inside += 1

    def _leave(self, met: str | Activated, part: Any, inputs: tuple[Any, ...], output: Any) -> None:
        self.inside -= 1
        if not self.inside:
            for tensor in _tensors(output):
                _mark(tensor, met)

    def _meet(self, arguments: Any, met: str | Activated) -> None:
        for tensor in _tensors(arguments):
            source = getattr(tensor, "_assay_source", None)
            if isinstance(source, LayerRole):
                source.read_by.append(met)

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", str(func)).strip("_").removesuffix("_")
        if self.inside or not any(isinstance(value, Tensor) for value in _tensors(result)):
            return result
        first = args[0] if args else None
        source = getattr(first, "_assay_source", None)
        if name in _SHAPES or (name == "get" and source is not None):
            for tensor in _tensors(result):
                _mark(tensor, source)
        elif name in _FUNCTIONS:
            found = Activated(name, partial(_FUNCTIONS[name], *args[1:], **_options(kwargs)))
            self._meet([first], found)
            _mark(result, found)
        else:
            self._meet([*args, *(kwargs or {}).values()], name)
            for tensor in _tensors(result):
                _mark(tensor, name)
        return result


_WORDS = {
    "a norm": "norm layer_norm batch_norm rms_norm group_norm",
    "a sum": "add iadd radd",
    "a product (a gate or a scale)": "mul imul rmul",
    "a product of matrices": "matmul bmm mm einsum",
    "a gate": "chunk split",
    "a part of it": "getitem unbind",
    "attention": "scaled_dot_product_attention",
    "an average": "mean",
    "a maximum": "amax max",
    "pooling": "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool2d avg_pool1d avg_pool2d max_pool1d max_pool2d",
    "a recurrence": "recurrence",
    "an embedding": "embedding",
    "a join": "cat stack concat",
}
_SAID = {word: said for said, words in _WORDS.items() for word in words.split()}


def _said(word: str) -> str:
    return _SAID.get(word, word.replace("_", " "))


def _mark(tensor: Any, source: Any) -> None:
    if isinstance(tensor, Tensor) and source is not None:
        tensor._assay_source = source  # pyright: ignore[reportAttributeAccessIssue]


def _tensors(values: Any) -> list[Tensor]:
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, tuple | list):
        return [tensor for value in values for tensor in _tensors(value)]
    return []


def _options(kwargs: dict[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (kwargs or {}).items() if name not in ("input", "inplace", "out")}
