"""One row of the table of `assay.tasks.rules`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Outcome = Literal["refused", "imputed", "warned"]


@dataclass(frozen=True)
class Rule:
    """One row of the table.

    Args:
        name: unique; the checks name it.
        kind: the kind of data that it concerns.
        condition: when it applies, as a clause.
        outcome: refused (nothing is opened), imputed (mended, and said) or warned (said only).
        sentence: the message, with ``{named}`` places for file, row, column and counts.
    """

    name: str
    kind: str
    condition: str
    outcome: Outcome
    sentence: str
