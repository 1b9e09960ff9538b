"""What is refused, imputed or warned of when data are opened: one table, from which checks and docs take their sentences."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from typing import Any

from assay.errors import UserError
from assay.tasks.file_rules import FILE_RULES
from assay.tasks.graph_rules import GRAPH_RULES
from assay.tasks.rule import Rule
from assay.tasks.series_rules import SERIES_RULES

RULES: tuple[Rule, ...] = (*FILE_RULES, *SERIES_RULES, *GRAPH_RULES)
"""Every row; names are unique across the rooms."""
_BY_NAME = {rule.name: rule for rule in RULES}


def refuse(name: str, **facts: Any) -> UserError:
    """The error of a refusing rule, its sentence filled with the facts."""
    rule = _BY_NAME[name]
    if rule.outcome != "refused":
        raise ValueError(f"rule {name!r} says {rule.outcome}, so it cannot refuse")
    return UserError(rule.sentence.format(**facts).replace("?.", "?").replace("\n", "\\n"))


def note(name: str, **facts: Any) -> str:
    """The sentence of an imputing or warning rule, filled with the facts."""
    rule = _BY_NAME[name]
    if rule.outcome == "refused":
        raise ValueError(f"rule {name!r} refuses, so it cannot be a note")
    return rule.sentence.format(**facts)


def some(items: Sequence[object], most: int = 5) -> str:
    """The first few items in words: ``'a', 'b' and 7 more``."""
    shown = ", ".join(repr(item) if isinstance(item, str) else str(item) for item in items[:most])
    return f"{shown} and {len(items) - most:,} more" if len(items) > most else shown


def counted(count: int, noun: str) -> str:
    """``1 column``, ``1,200 columns``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def as_markdown() -> str:
    """The whole table as the docs page shows it."""
    lines = ["| data | when | outcome | what is said |", "|---|---|---|---|"]
    for rule in RULES:
        said = re.sub(r"\{(\w+)[^}]*\}", r"‹\1›", rule.sentence)
        lines.append(f"| {_cell(rule.kind)} | {_cell(rule.condition)} | **{rule.outcome}** | {_cell(said)} |")
    return "\n".join(lines)


def _cell(text: str) -> str:
    """Plain words as a cell of a Markdown table."""
    return re.sub(r"([|*_`])", r"\\\1", html.escape(text, quote=False))
