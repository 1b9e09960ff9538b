"""`StreamingMixer`: a causal mixer from ``initial_state`` and ``scan`` alone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from assay.contracts import State


class StreamingMixer(nn.Module):
    """Supplies ``forward`` and ``step`` of a causal mixer from its ``initial_state`` and ``scan``.

    ``forward(x) = scan(x, initial_state)[0]`` and ``step(x_t) = scan`` of a chunk of one. A subclass with a faster way for either
    overrides it; `assay.testing.check_mixer` holds the two against each other.

    Whatever a subclass writes, its ``scan`` and ``step`` refuse a state that is not built as that of ``initial_state`` or holds other
    than x's examples, and an x of integers: arithmetic would broadcast over both, and answer.

    Shapes: ``x`` (batch, length, width), ``mask`` (batch, length) with True = real, ``x_t`` (batch, width).
    """

    causal = True

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name in ("scan", "step"):
            if name in vars(cls):
                setattr(cls, name, _refusing_misfits(vars(cls)[name]))

    def initial_state(self, batch_size: int) -> State:
        """The state before the first position: a pytree of tensors, each with the batch as its first size."""
        raise NotImplementedError(f"{type(self).__name__} must define initial_state(batch_size)")

    def scan(self, x: Tensor, state: State, mask: Tensor | None = None) -> tuple[Tensor, State]:
        """Mix a chunk, continuing from ``state``; a masked position leaves the state unchanged."""
        raise NotImplementedError(f"{type(self).__name__} must define scan(x, state, mask)")

    def forward(self, x: Tensor, mask: Tensor | None = None, **inputs: Tensor) -> Tensor:
        """Mix the whole sequence; ``inputs`` are what the mixer names in its attribute of that name."""
        return self.scan(x, self.initial_state(x.shape[0]), mask, **inputs)[0]

    def step(self, x_t: Tensor, state: State, **inputs: Tensor) -> tuple[Tensor, State]:
        """Mix one position (batch, width)."""
        y, state = self.scan(x_t[:, None], state, **{name: value[:, None] for name, value in inputs.items()})
        return y[:, 0], state


def padded_right(mask: Tensor) -> bool:
    """Whether padding only ends rows of ``mask`` (batch, length): what a causal mixer makes of the real positions does not depend on it."""
    return not bool((mask[:, 1:] & ~mask[:, :-1]).any())


def _refusing_misfits(method: Callable[..., Any]) -> Callable[..., Any]:
    """``scan`` or ``step`` that looks at its x and state first; in a graph there is nobody to refuse."""

    @functools.wraps(method)
    def checked(self: StreamingMixer, x: Tensor, state: State, *arguments: Any, **inputs: Any) -> Any:
        if not torch.compiler.is_compiling():
            if not x.is_floating_point():
                raise ValueError(f"x must be floating-point numbers, got {x.dtype}")
            form = self.__dict__.get("_form_of_state")
            if form is None:
                form = self.__dict__["_form_of_state"] = _form(self.initial_state(1))
            _check_state(state, form, x.shape[0], "state")
        return method(self, x, state, *arguments, **inputs)

    return checked


def _form(state: State) -> Any:
    """What a state is made of: of a tensor its number of sizes and kind of numbers, of the rest its type and what is in it."""
    if isinstance(state, Tensor):
        return state.ndim, _kind(state)
    if isinstance(state, Mapping):
        return type(state), {name: _form(part) for name, part in state.items()}
    if isinstance(state, tuple | list):
        return type(state), dict(enumerate(map(_form, state)))
    return type(state), {}


def _check_state(state: State, form: Any, batch_size: int, name: str) -> None:
    expected, parts = form
    if isinstance(expected, int):
        if not isinstance(state, Tensor) or (state.ndim, _kind(state)) != form:
            found = f"{_kind(state)} of {state.ndim} sizes" if isinstance(state, Tensor) else type(state).__name__
            raise ValueError(f"{name} must be {parts} of {expected} sizes, as initial_state gives, got {found}")
        if state.shape[0] != batch_size:
            raise ValueError(f"{name} must hold the {batch_size} examples of x, got {state.shape[0]}")
        return
    alike = issubclass(expected, tuple | list) and isinstance(state, tuple | list)  # a graph gives back a named tuple without its names
    if not (alike or type(state) is expected) or (parts and len(state) != len(parts)):
        found = f"{type(state).__name__} of {len(state)}" if isinstance(state, tuple | list | Mapping) else type(state).__name__
        raise ValueError(f"{name} must be a {expected.__name__} of {len(parts)}, as initial_state gives, got {found}")
    for key, part in parts.items():
        if isinstance(state, Mapping) and key not in state:
            raise ValueError(f"{name} must have {key!r}, as initial_state gives, got {', '.join(map(repr, state))}")
        _check_state(state[key], part, batch_size, f"{name}[{key!r}]")


def _kind(tensor: Tensor) -> str:
    dtype = tensor.dtype
    if dtype.is_floating_point:
        return "floating-point numbers"
    return "complex numbers" if dtype.is_complex else "booleans" if dtype == torch.bool else "integers"
