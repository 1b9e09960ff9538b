"""Example inputs of a signature, and the tensor-level views of a model that the exporters trace."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from assay.contracts import Batch, Graph, Series, Signature, Tokens, Video
from assay.errors import UserError
from assay.models.example import example_batch as any_example
from assay.nn.kept import as_constants

TRACED_SIZE = 5
"""Size of a growing dimension in a trace: any that is none of a small model's own."""


def example_batch(signature: Signature, batch_size: int = 2, seed: int = 0) -> Batch:
    """Random inputs of the signature's kind, without targets.

    Raises:
        UserError: the kind has no fixed-size example (graphs, video).
    """
    if isinstance(signature.input, Graph | Video):
        kind = type(signature.input).__name__
        raise UserError(f"A model of {kind} input cannot be exported: it has no example of fixed size; use --to safetensors.")
    return any_example(signature, batch_size, seed)


class TensorView(nn.Module):
    """A model as a function of tensors in a fixed order of names: ``forward(*tensors) -> prediction``."""

    def __init__(self, model: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *tensors: Tensor) -> Tensor:
        """The prediction."""
        return self.model(dict(zip(self.names, tensors, strict=True))).prediction


class StepView(nn.Module):
    """A streaming model's step as a function of tensors: ``forward(x_t, *state) -> (prediction, *state)``."""

    def __init__(self, model: Any, structure: pytree.TreeSpec) -> None:
        super().__init__()
        self.model = model
        self.structure = structure

    def forward(self, x_t: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """The prediction of the prefix that ends at ``x_t``, and the state behind it."""
        prediction, after = self.model.step(x_t, pytree.tree_unflatten(list(state), self.structure))
        return (prediction, *pytree.tree_leaves(after))


@dataclass(frozen=True)
class StepExample:
    """What an exporter needs to trace a step.

    Args:
        view: the step as a function of tensors.
        initial: a first input and the state before it.
        arguments: the same, with room in what grows with the stream, so that a trace does not take its size for fixed.
        dynamic: which dimensions grow, as ``torch.export`` wants to be told; None where the state has one size for ever.
    """

    view: StepView
    initial: tuple[Tensor, ...]
    arguments: tuple[Tensor, ...]
    dynamic: Any


def step_example(model: Any, signature: Signature, batch_size: int = 1) -> StepExample:
    """The step view of a model and example arguments for it, the initial state among them.

    Raises:
        UserError: the model does not stream, or its step cannot be traced.
    """
    if not getattr(model, "causal", False) or not isinstance(signature.input, Tokens | Series):
        raise UserError(f"{type(model).__name__} has no step function to export: only causal sequence models stream.")
    leaves, structure = pytree.tree_flatten(model.initial_state(batch_size))
    leaves = [leaf.clone() for leaf in leaves]  # a trace takes one tensor that stands for two states for one input
    x = next(iter(example_batch(signature, batch_size).values()))[:, 0]
    view, initial = StepView(model, structure), (x, *leaves)
    with as_constants(view.eval(), *initial), tracing("The step of this model"), torch.no_grad():
        after = torch.export.export(view, initial).module()(*initial)[1:]
    sizes = [
        [before if before == then else None for before, then in zip(old.shape, new.shape, strict=True)]
        for old, new in zip(leaves, after, strict=True)
    ]
    if all(None not in size for size in sizes):
        return StepExample(view, initial, initial, None)
    filled = (old.new_zeros([TRACED_SIZE if n is None else n for n in size]) for old, size in zip(leaves, sizes, strict=True))
    dynamic = tuple({place: torch.export.Dim.AUTO for place, n in enumerate(size) if n is None} for size in sizes)
    return StepExample(view, initial, (x, *filled), (None, dynamic))


@contextlib.contextmanager
def tracing(what: str) -> Iterator[None]:
    """Quiet while the tracer works; whatever it raises is said in one line.

    Raises:
        UserError: with the tracer's reason.
    """
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "torch.export", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        # Without gradients: a loop's graph would keep for them what it computes on the way, and sizes among it, which ONNX cannot hold.
        with torch.no_grad(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    except Exception as error:  # the tracer raises many kinds; each means the same to a person
        raise UserError(f"{what} cannot be traced: {_reason(error)}; use --to safetensors.") from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _reason(error: BaseException) -> str:
    """The first sentence of the exception at the bottom: those above it say only that something failed."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
