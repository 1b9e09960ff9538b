"""`Kept`: what is made of parameters and costs more than a step of a stream, made once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn

Made = TypeVar("Made")


class Kept:
    """Values by name, each kept until a parameter of its module changes; with a gradient they are made anew, for it flows through them.

    A graph for export is to hold the values and not how they are made: see `as_constants`.
    """

    def __init__(self) -> None:
        self._values: dict[str, tuple[Hashable, Hashable, Any]] = {}
        self.constant = False

    def get(self, name: str, module: nn.Module, make: Callable[[], Made], *settings: Hashable) -> Made:
        """What ``make`` gives, or gave when parameters and ``settings`` were the same."""
        before, version, found = self._values.get(name, (None, None, None))
        if torch.compiler.is_exporting():  # parameters have no addresses here: that they are the same is what `as_constants` is for
            return found if self.constant and before == settings else make()
        if torch.is_grad_enabled():
            return make()
        now = tuple((tensor.data_ptr(), tensor._version, tensor.dtype) for tensor in module.parameters())
        if (before, version) != (settings, now):
            found = make()
            self._values[name] = settings, now, found
        return found


@contextmanager
def as_constants(model: nn.Module, *arguments: Any) -> Iterator[None]:
    """Run a network once, and let graphs that are exported in this context hold what its parts keep as constants."""
    found = [value for part in model.modules() for value in vars(part).values() if isinstance(value, Kept)]
    if found:
        with torch.no_grad():
            model(*arguments)
    for kept in found:
        kept.constant = True
    try:
        yield
    finally:
        for kept in found:
            kept.constant = False
