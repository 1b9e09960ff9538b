"""Options as people write them, held against the types that what takes them declares."""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal, Union

SCALARS: dict[type, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "a word", type(None): "null"}
"""What a command line can say in one word, and what to call it."""


def refuse_mistyped(maker: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Refuse a scalar where another type is declared: ``heads=two``, ``bias=maybe``, ``depth=1.5``.

    Only annotations made of scalars, words to choose from and their unions are judged; a whole number is also a number.

    Args:
        maker: a function or class; a class hands what it does not take itself to its base classes.
        options: values by name; names that the maker does not declare are not judged.

    Raises:
        ValueError: names the option, what it may be, and what it was.
    """
    hints = _hints(maker)
    for name, value in options.items():
        if type(value) in SCALARS and name in hints and not _fits(value, hints[name]):
            raise ValueError(f"{name} must be {_words(hints[name])}, got {value!r}")


def _hints(maker: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of a maker's arguments; none where they name what is imported for type checkers alone."""
    if isinstance(maker, functools.partial):
        return _hints(maker.func)
    if not isinstance(maker, type):
        return _resolved(maker)
    own = [vars(base)["__init__"] for base in maker.__mro__ if "__init__" in vars(base)]
    found: dict[str, Any] = {}
    for constructor in own:
        found = {**_resolved(constructor), **found}
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in inspect.signature(constructor).parameters.values()):
            break
    return found


def _resolved(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except (NameError, TypeError):
        return {}


def _alternatives(hint: Any) -> tuple[Any, ...]:
    """The members of a union; of anything else, itself."""
    return typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)


def _fits(value: Any, hint: Any) -> bool:
    for kind in _alternatives(hint):
        if typing.get_origin(kind) is Literal:
            if value in typing.get_args(kind):
                return True
        elif kind not in SCALARS or type(value) is kind or (kind is float and type(value) is int):
            return True
    return False


def _words(hint: Any) -> str:
    kinds = _alternatives(hint)
    said = [str(word) for kind in kinds if typing.get_origin(kind) is Literal for word in typing.get_args(kind)]
    said += [SCALARS[kind] for kind in kinds if kind in SCALARS]
    return " or ".join(said)
