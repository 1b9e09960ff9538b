"""Training methods by name: one file each; `make_method` reads ``name`` or ``name:option=value,option=value``."""

from __future__ import annotations

from assay import registry
from assay.contracts import Method


def make_method(text: str) -> Method:
    """A method from its command-line form, for example ``gradient-noise:eta=0.05,gamma=0.55`` or ``mine.py:MyMethod``.

    Raises:
        UserError: the method or one of its options is unknown, or an option's value is refused.
    """
    return registry.make("method", text)
