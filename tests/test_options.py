"""What a person writes for an option is held against its declared type: a word for a switch would be taken as true."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Literal

import pytest
from torch import nn

from assay import registry
from assay.errors import UserError
from assay.options import refuse_mistyped


class Base(nn.Module):
    def __init__(self, width: int, *, heads: int | None = None, bias: bool = True) -> None:
        super().__init__()


class Derived(Base):
    def __init__(
        self, width: int, *, rate: float = 0.1, kind: Literal["full", "low"] | None = None, pools: Any = (), **options: Any
    ) -> None:
        super().__init__(width, **options)


class Closed(Derived):
    """Hands nothing on: its own arguments are all that it has."""

    def __init__(self, width: int) -> None:
        super().__init__(width)


def plain(sizes: Sequence[int] = (), path: str = "") -> None: ...


@pytest.mark.parametrize(
    ("maker", "options", "words"),
    [
        (Base, {"heads": "two"}, "heads must be a whole number or null, got 'two'"),
        (Base, {"bias": "maybe"}, "bias must be true or false"),
        (Base, {"bias": 1}, "bias must be true or false, got 1"),
        (Base, {"heads": True}, "heads must be a whole number or null, got True"),
        (Derived, {"heads": 1.5}, "heads must be a whole number or null, got 1.5"),
        (Derived, {"rate": "fast"}, "rate must be a number, got 'fast'"),
        (Derived, {"kind": "middle"}, "kind must be full or low or null, got 'middle'"),
        (functools.partial(plain, path="a"), {"path": 3}, "path must be a word, got 3"),
    ],
)
def test_a_scalar_of_another_type_is_refused_with_what_it_may_be(maker: Any, options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        refuse_mistyped(maker, options)


@pytest.mark.parametrize(
    ("maker", "options"),
    [
        (Derived, {"heads": None, "bias": False, "rate": 1, "kind": "low"}),
        (Derived, {"pools": "any", "unknown": "x"}),
        (plain, {"sizes": [1, 2]}),
        (plain, {"sizes": "1"}),  # no scalar is declared: the maker judges
        (Closed, {"heads": "two"}),
    ],
)
def test_what_fits_or_is_not_declared_passes(maker: Any, options: dict) -> None:
    refuse_mistyped(maker, options)


def test_a_method_from_the_command_line_is_held_against_its_types() -> None:
    with pytest.raises(UserError, match="gradient-noise: eta must be a number, got 'much'"):
        registry.make("method", "gradient-noise:eta=much")
