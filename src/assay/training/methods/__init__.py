"""Training methods by name: one file each; `make_method` reads ``name`` or ``name:option=value,option=value``."""

from __future__ import annotations

import inspect
import json
from typing import Any

from assay import registry
from assay.contracts import Method
from assay.errors import UserError


def make_method(text: str) -> Method:
    """A method from its command-line form, for example ``gradient-noise:eta=0.05,gamma=0.55`` or ``mine.py:MyMethod``.

    Raises:
        UserError: the method or one of its options is unknown, or an option's value is refused.
    """
    name, options = _split(text)
    maker = registry.resolve("method", name)
    accepted = list(inspect.signature(maker).parameters)
    unknown = [option for option in options if option not in accepted]
    if unknown:
        raise UserError(f"Method {name} has no option {unknown[0]!r}: it takes {', '.join(accepted) or 'none'}.")
    try:
        return maker(**options)
    except (ValueError, TypeError) as error:
        raise UserError(f"Method {name}: {error}.") from error


def _split(text: str) -> tuple[str, dict[str, Any]]:
    if registry.is_file_reference(text):
        return text, {}
    name, colon, rest = text.rpartition(":") if "=" in text else (text, "", "")
    if not colon:
        return text, {}
    return name, dict(_option(text, part) for part in rest.split(","))


def _option(text: str, part: str) -> tuple[str, Any]:
    key, equals, value = part.partition("=")
    if not equals:
        raise UserError(f"In --methods {text!r}, {part!r} is not option=value.")
    try:
        return key.strip(), json.loads(value)
    except json.JSONDecodeError:
        return key.strip(), value
