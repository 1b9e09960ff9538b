"""`parse`: constraints as text, ``rows * columns <= 64; size % rows == 0 | rows == [1, 2]``."""

from __future__ import annotations

import re

from assay.ops.constraints.expressions import Expression, Remainder, Variable, expression
from assay.ops.constraints.relations import All, Any, Constraint

_TOKEN = re.compile(r"\s*(?:(\d+)|([A-Za-z_]\w*)|(<=|>=|==|\*\*|[-+*^%|;(),\[\]<>/]))")
_COMMENT = re.compile(r"#[^\n]*")


def parse(text: str) -> Constraint:
    """A constraint from text.

    From loosest to tightest: ``;`` all of several, ``|`` any of several, comparisons ``<= >= < > ==``, ``%``, ``+``, ``*``, ``^`` (``**``).
    So ``a % b * c == 0`` says that b·c divides a. Brackets group; ``[8, 16, 32]`` is any of these; what follows ``#`` in a line is a
    comment. Integers are positive, only a remainder is compared with 0, and there is no minus and no division: write ``a + b == c``.

    Raises:
        ValueError: text that is none of this, with the place.
    """
    return _Parser(text).whole()


class _Parser:
    """Recursive descent, a method a level."""

    def __init__(self, text: str) -> None:
        self.text = _COMMENT.sub(lambda comment: " " * len(comment[0]), text)
        self.tokens: list[tuple[str, int]] = []
        at = 0
        while self.text[at:].strip():
            found = _TOKEN.match(self.text, at)
            if found is None:
                raise self.error("an unknown character", at + len(self.text[at:]) - len(self.text[at:].lstrip()))
            self.tokens.append((found[0].strip(), found.start(found.lastindex or 0)))
            at = found.end()
        self.at = 0

    def error(self, what: str, place: int | None = None) -> ValueError:
        if place is None:
            place = self.tokens[self.at][1] if self.at < len(self.tokens) else len(self.text)
        return ValueError(f"{what} at character {place + 1} of {self.text.strip()!r}")

    def next(self) -> str:
        return self.tokens[self.at][0] if self.at < len(self.tokens) else ""

    def take(self, *wanted: str) -> str:
        """The next token if it is one of these, else nothing."""
        token = self.next()
        if token not in wanted or not token:
            return ""
        self.at += 1
        return token

    def whole(self) -> Constraint:
        found = self.several()
        if self.next():
            raise self.error(f"{self.next()!r} is not expected")
        return found

    def several(self) -> Constraint:
        parts = [self.constraint(self.alternatives())]
        while self.take(";"):
            if self.next() in ("", ")"):  # a last semicolon
                break
            parts.append(self.constraint(self.alternatives()))
        return parts[0] if len(parts) == 1 else All(parts)

    def alternatives(self) -> Expression | Constraint | Remainder:
        first = self.comparison()
        if self.next() != "|":
            return first
        parts = [self.constraint(first)]
        while self.take("|"):
            parts.append(self.constraint(self.comparison()))
        return Any(parts)

    def comparison(self) -> Expression | Constraint | Remainder:
        left = self.remainder()
        if self.next() in ("-", "/"):
            raise self.error("there is no minus and no division")
        sign = self.take("<=", ">=", "==", "<", ">")
        if not sign:
            return left
        if isinstance(left, Remainder):
            if sign != "==" or self.take("0") != "0":
                raise self.error("a remainder can only be == 0")
            return left == 0
        left, right = self.term(left), self.term(self.remainder())
        return {"<=": left.__le__, ">=": left.__ge__, "==": left.__eq__, "<": left.__lt__, ">": left.__gt__}[sign](right)

    def remainder(self) -> Expression | Constraint | Remainder:
        left = self.sum()
        return self.term(left) % self.term(self.sum()) if self.take("%") else left

    def sum(self) -> Expression | Constraint | Remainder:
        found = self.product()
        while self.take("+"):
            found = self.term(found) + self.term(self.product())
        return found

    def product(self) -> Expression | Constraint | Remainder:
        found = self.power()
        while self.take("*"):
            found = self.term(found) * self.term(self.power())
        return found

    def power(self) -> Expression | Constraint | Remainder:
        base = self.atom()
        if not self.take("^", "**"):
            return base
        if not self.next().isdigit():
            raise self.error("an exponent must be a positive integer")
        return self.term(base) ** int(self.take(self.next()))

    def atom(self) -> Expression | Constraint | Remainder:
        token = self.next()
        if self.take("("):
            found = self.several() if self._holds_constraint() else self.alternatives()
            if not self.take(")"):
                raise self.error("a closing bracket is missing")
            return found
        if self.take("["):
            return expression(self.numbers())
        if token.isdigit():
            self.at += 1
            return expression(int(token))
        if token.isidentifier():
            self.at += 1
            return Variable(token)
        raise self.error(f"{token!r} is not expected" if token else "something is missing")

    def _holds_constraint(self) -> bool:
        """Whether what stands in the bracket just opened has a semicolon, which only constraints have."""
        depth = 1
        for token, _ in self.tokens[self.at :]:
            depth += (token == "(") - (token == ")")
            if not depth:
                return False
            if depth == 1 and token == ";":
                return True
        return False

    def numbers(self) -> list[int]:
        found = []
        while self.next().isdigit():
            found.append(int(self.take(self.next())))
            if not self.take(","):
                break
        if not self.take("]"):
            raise self.error("a list must be integers between commas and end with ]")
        return found

    def term(self, found: Expression | Constraint | Remainder) -> Expression:
        if not isinstance(found, Expression):
            raise self.error("a number is expected, not a constraint or a remainder")
        return found

    def constraint(self, found: Expression | Constraint | Remainder) -> Constraint:
        if not isinstance(found, Constraint):
            raise self.error("a comparison is missing")
        return found
