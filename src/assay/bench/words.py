"""Reading the command line's quantities: 200k, 60s, depth=1,2,4, parameters=0.5."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, overload

from assay.errors import UserError

_MULTIPLES = {"k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@overload
def parse_count(text: str, option: str) -> float: ...
@overload
def parse_count(text: str | None, option: str) -> float | None: ...
def parse_count(text: str | None, option: str) -> float | None:
    """``200k``, ``1.5M``, ``1e12`` as a number above 0; None stays None."""
    if text is None:
        return None
    return _positive(text, _MULTIPLES, option, "200k, 1.5M or 1e12")


def parse_seconds(text: str | None) -> float | None:
    """``60s``, ``5m``, ``1h`` or a bare number of seconds, as seconds; None stays None."""
    if text is None:
        return None
    return _positive(text, _UNITS, "--time", "60s, 5m or 1h")


def parse_axis(texts: Sequence[str]) -> dict[str, list[Any]]:
    """``["depth=1,2,4"]`` as ``{"depth": [1, 2, 4]}``; values are numbers, true/false, or words."""
    axes = {}
    for text in texts:
        name, equals, values = text.partition("=")
        if not equals or not values:
            raise UserError(f"--axis {text!r} is not name=value,value: write for example --axis depth=1,2,4.")
        axes[name.strip()] = [_value(value) for value in values.split(",")]
    return axes


def parse_shares(text: str) -> dict[str, float]:
    """``parameters=0.5,bytes=0.3`` as a dictionary of shares."""
    shares = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        try:
            shares[name.strip()] = float(value)
        except ValueError as error:
            raise UserError(f"--to {part!r} is not measure=share: write for example --to parameters=0.5.") from error
    return shares


def _positive(text: str, units: dict[str, float], option: str, example: str) -> float:
    unit = units.get(text[-1:].lower())
    try:
        value = float(text[:-1]) * unit if unit else float(text)
    except ValueError as error:
        raise UserError(f"{option} {text!r} is not a quantity: write for example {example}.") from error
    if not value > 0 or value == float("inf"):
        raise UserError(f"{option} must be above 0 and finite, not {text}.")
    return value


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text.strip()
