"""`Problem`: variables, constraints, and the search for solutions in the order that is preferred."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Literal

from assay.ops.constraints.domain import MOST, Domain, domain, values_domain
from assay.ops.constraints.expressions import Domains, Variable
from assay.ops.constraints.relations import All, Constraint, Empty
from assay.ops.constraints.text import parse

Preference = Literal["smallest", "largest"]
Solution = dict[str, int]


class Problem:
    """Positive integers to be found.

    What each variable can be is narrowed by every constraint until nothing changes; then the variables are tried in the order they were
    named, each from its preferred end, and all is narrowed again after every choice.
    """

    def __init__(self) -> None:
        self.domains: dict[str, Domain] = {}
        self.preferences: dict[str, Preference] = {}
        self.constraints: list[Constraint] = []
        self.nodes = 0
        """Choices that the last search tried."""

    def variable(
        self,
        name: str,
        low: int = 1,
        high: int = MOST,
        *,
        factor: int = 1,
        primes: Iterable[int] | None = None,
        values: Iterable[int] | None = None,
        prefer: Preference = "smallest",
    ) -> Variable:
        """A variable for terms and constraints.

        Args:
            name: its name in solutions and in text.
            low: the smallest it can be.
            high: the largest it can be.
            factor: divides it.
            primes: no other primes divide it; by default any may.
            values: all that it can be.
            prefer: which values are tried first.

        Raises:
            ValueError: a name that is taken, numbers below 1, or an unknown preference.
        """
        if name in self.domains:
            raise ValueError(f"there is a variable {name!r} already")
        if min(low, factor) < 1 or any(value < 1 for value in (*(primes or ()), *(values or ()))):
            raise ValueError(f"variable {name!r} needs positive integers")
        if prefer not in ("smallest", "largest"):
            raise ValueError(f"prefer must be smallest or largest, got {prefer!r}")
        known = domain(low, high, factor, None if primes is None else frozenset(primes))
        self.domains[name] = known if values is None else known & values_domain(values)
        self.preferences[name] = prefer
        return Variable(name)

    def require(self, *constraints: Constraint | str) -> None:
        """Add constraints, made with Python's operators or as text (`assay.ops.constraints.parse`).

        Raises:
            ValueError: a variable that is not this problem's; text that cannot be read.
        """
        for constraint in constraints:
            made = parse(constraint) if isinstance(constraint, str) else constraint
            unknown = made.variables() - set(self.domains)
            if unknown:
                raise ValueError(f"{made!r} names {', '.join(sorted(unknown))}: the problem has {', '.join(self.domains)}")
            self.constraints.append(made)

    def narrowed(self, divisibility: bool = True) -> dict[str, Domain]:
        """What the constraints leave of every variable, before any choice.

        Raises:
            RuntimeError: nothing; the message names the constraint that nothing meets.
        """
        domains = Domains(dict(self.domains), divisibility)
        try:
            for name, known in self.domains.items():
                if known.empty:
                    raise RuntimeError(f"unsatisfiable: {name} can be nothing")
            All(self.constraints).narrow(domains)
        except Empty as empty:
            raise RuntimeError(f"unsatisfiable: {empty.constraint!r}") from None
        return domains.known

    def solve(self, count: int = 1, *, exclude: Iterable[Mapping[str, int]] = (), divisibility: bool = True) -> list[Solution]:
        """The first ``count`` different solutions in the preferred order; fewer where there are no more.

        Args:
            count: how many.
            exclude: solutions that do not count.
            divisibility: narrow by factors, primes and quotients too, not by ranges alone: the same solutions, found sooner.

        Raises:
            ValueError: a count below 1.
            RuntimeError: there is none before anything is tried; the message names the constraint that nothing meets.
        """
        if count < 1:
            raise ValueError(f"count must be at least 1, got {count}")
        excluded = {tuple(solution[name] for name in self.domains) for solution in exclude}
        self.nodes = 0
        start = Domains(self.narrowed(divisibility), divisibility)
        wanted = (solution for solution in self._search(start, list(self.domains)) if tuple(solution.values()) not in excluded)
        return list(islice(wanted, count))

    def _search(self, domains: Domains, open_names: list[str]) -> Iterator[Solution]:
        if not open_names:
            solution = {name: known.low for name, known in domains.items()}
            if all(constraint.holds(solution) for constraint in self.constraints):
                yield solution
            return
        name, *later = open_names
        candidates = domains[name]
        for value in reversed(candidates) if self.preferences[name] == "largest" else candidates:
            self.nodes += 1
            branch = domains.copy()
            branch[name] = values_domain((value,))
            try:
                All(self.constraints).narrow(branch)
            except Empty:
                continue
            yield from self._search(branch, later)
