"""Constraints: equality, order, divisibility, and any or all of several; each narrows what its variables can be."""

from __future__ import annotations

from collections.abc import Sequence

from assay.ops.constraints.domain import MOST, NARROW, Domain, domain, values_domain
from assay.ops.constraints.expressions import Domains, Expression, OneOf


class Empty(Exception):
    """Nothing is left that one of a constraint's terms could be."""

    def __init__(self, constraint: Constraint) -> None:
        super().__init__(repr(constraint))
        self.constraint = constraint


class Constraint:
    """A condition on variables; ``&`` and ``|`` join constraints."""

    cost = 1
    """Constraints are used in ascending order of this."""

    def narrow(self, domains: Domains) -> bool:
        """Narrow the variables; whether anything changed.

        Raises:
            Empty: the constraint cannot be met.
        """
        raise NotImplementedError

    def holds(self, solution: dict[str, int]) -> bool:
        """Whether these integers meet it."""
        raise NotImplementedError

    def variables(self) -> set[str]:
        """Names of the variables in it."""
        raise NotImplementedError

    def __and__(self, other: Constraint) -> Constraint:
        return All((self, other))

    def __or__(self, other: Constraint) -> Constraint:
        return Any((self, other))

    def __bool__(self) -> bool:
        raise TypeError("a constraint is neither true nor false: join constraints by & and |, not by and, or, or a chain of comparisons")


class _Relation(Constraint):
    """A constraint on two terms."""

    sign = ""

    def __init__(self, left: Expression, right: Expression) -> None:
        self.left, self.right = left, right

    def narrow(self, domains: Domains) -> bool:
        """Narrow both terms to what the other allows."""
        left, right = self.left.domain(domains), self.right.domain(domains)
        if left.empty or right.empty:
            raise Empty(self)
        of_left, of_right = self.allowed(left, right, domains.divisibility)
        if (left & of_left).empty or (right & of_right).empty:
            raise Empty(self)
        changed = self.left.narrow(domains, of_left)
        changed |= self.right.narrow(domains, of_right)
        if any(domains[name].empty for name in self.variables()):
            raise Empty(self)
        return changed

    def allowed(self, left: Domain, right: Domain, divisibility: bool) -> tuple[Domain, Domain]:
        """What the constraint leaves of the two domains."""
        raise NotImplementedError

    def variables(self) -> set[str]:
        """Those of both terms."""
        return self.left.variables() | self.right.variables()

    def __repr__(self) -> str:
        return f"{self.left!r} {self.sign} {self.right!r}"


class Equal(_Relation):
    """``left == right``; a list of constants on a side means any of them."""

    sign, cost = "==", 2

    def allowed(self, left: Domain, right: Domain, divisibility: bool) -> tuple[Domain, Domain]:
        """What is in both."""
        both = left & right
        return both, both

    def holds(self, solution: dict[str, int]) -> bool:
        """Whether both are the same."""
        if isinstance(self.right, OneOf):
            return self.left.value(solution) in self.right.values
        if isinstance(self.left, OneOf):
            return self.right.value(solution) in self.left.values
        return self.left.value(solution) == self.right.value(solution)


class AtMost(_Relation):
    """``left <= right``."""

    sign = "<="

    def allowed(self, left: Domain, right: Domain, divisibility: bool) -> tuple[Domain, Domain]:
        """Up to the other's largest, from the other's smallest."""
        return domain(1, right.high), domain(left.low, max(right.high, MOST))

    def holds(self, solution: dict[str, int]) -> bool:
        """Whether left is not larger."""
        return self.left.value(solution) <= self.right.value(solution)


class Divides(_Relation):
    """``left % right == 0``."""

    cost = 3

    def allowed(self, left: Domain, right: Domain, divisibility: bool) -> tuple[Domain, Domain]:
        """A divisor is not larger, has no other primes, and its factor divides the dividend."""
        if not divisibility:
            if left.fixed and right.fixed and left.low % right.low:
                return values_domain(()), values_domain(())
            return domain(right.low, left.high), domain(1, left.high)
        if left.values and right.values and left.size * right.size <= NARROW:
            pairs = [(a, b) for a in left.values for b in right.values if a % b == 0]
            return values_domain(a for a, _ in pairs), values_domain(b for _, b in pairs)
        return domain(right.low, left.high, right.factor), domain(1, left.high, 1, left.primes)

    def holds(self, solution: dict[str, int]) -> bool:
        """Whether nothing remains."""
        return self.left.value(solution) % self.right.value(solution) == 0

    def __repr__(self) -> str:
        return f"{self.left!r} % {self.right!r} == 0"


class All(Constraint):
    """Every one of several."""

    def __init__(self, parts: Sequence[Constraint]) -> None:
        self.parts = sorted(parts, key=lambda part: part.cost)
        self.cost = sum(part.cost for part in self.parts)

    def narrow(self, domains: Domains) -> bool:
        """One after the other, cheap ones first, until nothing changes."""
        changed, again = False, True
        while again:
            again = False
            for part in self.parts:
                again |= part.narrow(domains)
            changed |= again
        return changed

    def holds(self, solution: dict[str, int]) -> bool:
        """Whether each holds."""
        return all(part.holds(solution) for part in self.parts)

    def variables(self) -> set[str]:
        """Those of all."""
        return set().union(*(part.variables() for part in self.parts))

    def __repr__(self) -> str:
        return "; ".join(map(repr, self.parts))


class Any(Constraint):
    """At least one of several."""

    def __init__(self, parts: Sequence[Constraint]) -> None:
        self.parts = list(parts)
        self.cost = 10 + sum(part.cost for part in self.parts)

    def narrow(self, domains: Domains) -> bool:
        """Each on a copy; a variable can be what one of them leaves it."""
        branches = []
        for part in self.parts:
            branch = domains.copy()
            try:
                part.narrow(branch)
            except Empty:
                continue
            branches.append(branch)
        if not branches:
            raise Empty(self)
        changed = False
        for name in self.variables():
            found = branches[0][name]
            for branch in branches[1:]:
                found = found | branch[name]
            found = found & domains[name]
            changed |= found != domains[name]
            domains[name] = found
        return changed

    def holds(self, solution: dict[str, int]) -> bool:
        """Whether one holds."""
        return any(part.holds(solution) for part in self.parts)

    def variables(self) -> set[str]:
        """Those of all."""
        return set().union(*(part.variables() for part in self.parts))

    def __repr__(self) -> str:
        return " | ".join(map(repr, self.parts))
