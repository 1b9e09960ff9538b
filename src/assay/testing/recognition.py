"""`check`: recognise what kind of part it got, and hold it to that kind's contract."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from assay import registry
from assay.contracts import Method
from assay.errors import UserError
from assay.testing.compressor import compressor_report
from assay.testing.method import method_report
from assay.testing.mixer import mixer_report
from assay.testing.model import model_report
from assay.testing.rules import Report
from assay.testing.task import task_report

KINDS = ("mixer", "model", "estimator", "method", "task", "compressor")


def check(part: Any) -> Report:
    """The contract's rules, kept or broken, for whatever kind of part this is; nothing is raised for a broken rule.

    Recognised: a mixer (a ``torch.nn.Module`` class made from a width), a family (``accepts`` and ``network``), an estimator
    (``accepts`` and ``fit``), a built network, a `Method`, a task or a function that makes one, a compressor (called with model, task,
    target); or ``file.py:Class``, or a registered name.

    Raises:
        UserError: it is none of these.
    """
    if isinstance(part, str):
        part = registry.load_file_attribute(part) if registry.is_file_reference(part) else registered(part)
    if isinstance(part, _Named):
        return model_report(part.name)
    if isinstance(part, Method) or (isinstance(part, type) and issubclass(part, Method)):
        return method_report(part)
    if hasattr(part, "accepts") and (hasattr(part, "network") or hasattr(part, "fit")):
        return model_report(part)
    if isinstance(part, type) and issubclass(part, nn.Module):
        return mixer_report(part)
    if isinstance(part, nn.Module):
        return model_report(part)
    if hasattr(part, "training_batches") or _without_arguments(part):
        return task_report(part)
    if _compresses(part):
        return compressor_report(part)
    name = getattr(part, "__name__", type(part).__name__)
    raise UserError(
        f"{name} is no part that can be checked: name a mixer (a torch.nn.Module class made from a width), a family (accepts, network), an "
        "estimator (accepts, fit), a Method, a task or a function that makes one, or a compressor (called with model, task, target)."
    )


class _Named:
    """A registered model: its name is needed to build, save and load it."""

    def __init__(self, name: str) -> None:
        self.name = name


def registered(name: str) -> Any:
    """The part behind a registered name of any kind that can be checked; `check` takes what it returns.

    Raises:
        UserError: nothing that can be checked has that name.
    """
    for kind in KINDS:
        if registry.known(kind, name):
            return _Named(name) if kind in ("model", "estimator") else registry.resolve(kind, name)
    every = [known for kind in KINDS for known in registry.names(kind)]
    raise UserError(f"Nothing that can be checked is named {name!r}: name your own as file.py:Class, or one of {', '.join(every)}.")


def _without_arguments(part: Any) -> bool:
    """Whether it is a function that needs no arguments, as those that make tasks are."""
    return inspect.isroutine(part) and not _required(part)


def _compresses(part: Any) -> bool:
    call = part.__call__ if isinstance(part, type) else part
    return callable(part) and len([name for name in _required(call) if name != "self"]) == 3


def _required(function: Any) -> list[str]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in variable]
