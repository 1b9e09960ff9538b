"""Terms of constraints: variables, constants, sums, products and powers, each with its domain from its parts' and back."""

from __future__ import annotations

import math
from collections.abc import Iterator, MutableMapping, Sequence
from typing import TYPE_CHECKING

from assay.ops.constraints.domain import NARROW, Domain, divisors, domain, prime_factors, values_domain

if TYPE_CHECKING:
    from assay.ops.constraints.relations import Constraint


class Domains(MutableMapping[str, Domain]):
    """What each variable can still be; with ``divisibility`` false, terms pass on ranges alone, not factors, primes and quotients."""

    def __init__(self, known: dict[str, Domain], divisibility: bool = True) -> None:
        self.known, self.divisibility = known, divisibility

    def __getitem__(self, name: str) -> Domain:
        return self.known[name]

    def __setitem__(self, name: str, found: Domain) -> None:
        self.known[name] = found

    def __delitem__(self, name: str) -> None:
        del self.known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.known)

    def __len__(self) -> int:
        return len(self.known)

    def copy(self) -> Domains:
        """One that can be narrowed by itself."""
        return Domains(dict(self.known), self.divisibility)


class Expression:
    """A term; ``+ * **`` make terms of terms and integers, ``== <= >= < >`` and ``a % b == 0`` make constraints."""

    def domain(self, domains: Domains) -> Domain:
        """What the term can be, from what its variables can be."""
        raise NotImplementedError

    def narrow(self, domains: Domains, result: Domain) -> bool:
        """Narrow the variables to what can give a result in this domain; whether anything changed."""
        raise NotImplementedError

    def value(self, solution: dict[str, int]) -> int:
        """The term with these integers put in."""
        raise NotImplementedError

    def variables(self) -> set[str]:
        """Names of the variables in the term."""
        raise NotImplementedError

    def __add__(self, other: Expression | int) -> Expression:
        return Sum(self, expression(other))

    def __mul__(self, other: Expression | int) -> Expression:
        return Product(self, expression(other))

    __radd__, __rmul__ = __add__, __mul__

    def __pow__(self, exponent: int) -> Expression:
        return Power(self, exponent)

    def __mod__(self, other: Expression | int) -> Remainder:
        return Remainder(self, expression(other))

    def __rmod__(self, other: int) -> Remainder:
        return Remainder(expression(other), self)

    def __eq__(self, other: object) -> Constraint:  # pyright: ignore[reportIncompatibleMethodOverride]
        from assay.ops.constraints.relations import Equal

        return Equal(self, expression(other))

    def __le__(self, other: Expression | int) -> Constraint:
        from assay.ops.constraints.relations import AtMost

        return AtMost(self, expression(other))

    def __ge__(self, other: Expression | int) -> Constraint:
        return expression(other) <= self

    def __lt__(self, other: Expression | int) -> Constraint:
        return self + 1 <= other

    def __gt__(self, other: Expression | int) -> Constraint:
        return expression(other) < self

    def __hash__(self) -> int:
        return id(self)


class Remainder:
    """``a % b``, which can only be set to 0."""

    def __init__(self, dividend: Expression, divisor: Expression) -> None:
        self.dividend, self.divisor = dividend, divisor

    def __eq__(self, other: object) -> Constraint:  # pyright: ignore[reportIncompatibleMethodOverride]
        from assay.ops.constraints.relations import Divides

        if other != 0:
            raise ValueError(f"a remainder can only be required to be 0, got {other!r}")
        return Divides(self.dividend, self.divisor)

    def __hash__(self) -> int:
        return id(self)


def expression(value: object) -> Expression:
    """A term as it is, an integer as a constant, a list or tuple of integers as any of them.

    Raises:
        ValueError: anything else, or an integer below 1.
    """
    if isinstance(value, Expression):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return OneOf((value,))
    if isinstance(value, list | tuple):
        return OneOf(tuple(value))
    raise ValueError(f"a constraint is made of variables and positive integers, got {value!r}")


class Variable(Expression):
    """An integer to be found, by its name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def domain(self, domains: Domains) -> Domain:
        """What is left of it."""
        return domains[self.name]

    def narrow(self, domains: Domains, result: Domain) -> bool:
        """Leave only what is in ``result`` too."""
        found = domains[self.name] & result
        if found == domains[self.name]:
            return False
        domains[self.name] = found
        return True

    def value(self, solution: dict[str, int]) -> int:
        """Its integer."""
        return solution[self.name]

    def variables(self) -> set[str]:
        """Itself."""
        return {self.name}

    def __repr__(self) -> str:
        return self.name


class OneOf(Expression):
    """A constant, or any of several.

    Raises:
        ValueError: no integer, or one below 1.
    """

    def __init__(self, values: tuple[int, ...]) -> None:
        if not values or any(not isinstance(value, int) or value < 1 for value in values):
            raise ValueError(f"constants must be positive integers, got {values[0] if len(values) == 1 else list(values)!r}")
        self.values: Sequence[int] = values
        self.known = values_domain(values)

    def domain(self, domains: Domains) -> Domain:
        """The constants."""
        return self.known if domains.divisibility else Domain(self.known.low, self.known.high, values=self.known.values)

    def narrow(self, domains: Domains, result: Domain) -> bool:
        """Nothing to narrow; if no constant fits, the term that asks finds its own domain empty."""
        return False

    def value(self, solution: dict[str, int]) -> int:
        """The constant.

        Raises:
            ValueError: there are several: they have no value, and may stand beside ``==`` alone.
        """
        if len(self.values) > 1:
            raise ValueError(f"a list such as {list(self.values)} may only stand beside ==")
        return self.values[0]

    def variables(self) -> set[str]:
        """None."""
        return set()

    def __repr__(self) -> str:
        return str(self.values[0] if len(self.values) == 1 else list(self.values))


class _Pair(Expression):
    """A term of two terms."""

    sign = ""

    def __init__(self, left: Expression, right: Expression) -> None:
        self.left, self.right = left, right

    def domain(self, domains: Domains) -> Domain:
        """From the two sides'."""
        left, right = self.left.domain(domains), self.right.domain(domains)
        if left.empty or right.empty:
            return values_domain(())
        return self.joined(left, right, domains.divisibility)

    def narrow(self, domains: Domains, result: Domain) -> bool:
        """Each side by the other, the one with fewer values first."""
        changed = False
        sides = sorted(((self.left, self.right), (self.right, self.left)), key=lambda pair: pair[0].domain(domains).size)
        for side, other in sides:
            others = other.domain(domains)
            if result.empty or others.empty:
                return side.narrow(domains, values_domain(())) or changed
            changed |= side.narrow(domains, self.inverse(result, others, side.domain(domains), domains.divisibility))
        return changed

    def joined(self, left: Domain, right: Domain, divisibility: bool) -> Domain:
        """What the term can be."""
        raise NotImplementedError

    def inverse(self, result: Domain, other: Domain, side: Domain, divisibility: bool) -> Domain:
        """What one side can be, given the term's domain and the other side's."""
        raise NotImplementedError

    def variables(self) -> set[str]:
        """Those of both sides."""
        return self.left.variables() | self.right.variables()

    def __repr__(self) -> str:
        return f"({self.left!r} {self.sign} {self.right!r})"


class Sum(_Pair):
    """``left + right``."""

    sign = "+"

    def joined(self, left: Domain, right: Domain, divisibility: bool) -> Domain:
        """Sums of both."""
        if divisibility and left.values and right.values and left.size * right.size <= NARROW:
            return values_domain({a + b for a in left.values for b in right.values})
        factor = math.gcd(left.factor, right.factor) if divisibility else 1
        return domain(left.low + right.low, left.high + right.high, factor)

    def inverse(self, result: Domain, other: Domain, side: Domain, divisibility: bool) -> Domain:
        """Differences."""
        if divisibility and result.values and other.values and result.size * other.size <= NARROW:
            return values_domain({a - b for a in result.values for b in other.values if a > b})
        factor = math.gcd(result.factor, other.factor) if divisibility else 1
        return domain(result.low - other.high, result.high - other.low, factor)

    def value(self, solution: dict[str, int]) -> int:
        """The sum."""
        return self.left.value(solution) + self.right.value(solution)


class Product(_Pair):
    """``left · right``."""

    sign = "*"

    def joined(self, left: Domain, right: Domain, divisibility: bool) -> Domain:
        """Products of both."""
        if not divisibility:
            return domain(left.low * right.low, left.high * right.high)
        if left.values and right.values and left.size * right.size <= NARROW:
            return values_domain({a * b for a in left.values for b in right.values})
        primes = None if left.primes is None or right.primes is None else left.primes | right.primes
        return domain(left.low * right.low, left.high * right.high, left.factor * right.factor, primes)

    def inverse(self, result: Domain, other: Domain, side: Domain, divisibility: bool) -> Domain:
        """Quotients that divide; every prime of a side is one of the product."""
        low, high = -(-result.low // other.high), result.high // other.low
        if not divisibility:
            return domain(low, high)
        if result.values and other.values and result.size * other.size <= NARROW:
            return values_domain({a // b for a in result.values for b in other.values if a % b == 0})
        if result.values and result.size < FEW_RESULTS:
            return values_domain({d for value in result.values for d in divisors(value) if low <= d <= high})
        needed = result.factor // math.gcd(result.factor, other.low) if other.fixed else 1
        return domain(low, high, needed, result.primes)

    def value(self, solution: dict[str, int]) -> int:
        """The product."""
        return self.left.value(solution) * self.right.value(solution)


FEW_RESULTS = 32
"""Products with fewer possible values are taken apart into their divisors."""


class Power(Expression):
    """``base ** exponent`` with a constant exponent.

    Raises:
        ValueError: an exponent below 1.
    """

    def __init__(self, base: Expression, exponent: int) -> None:
        if not isinstance(exponent, int) or exponent < 1:
            raise ValueError(f"an exponent must be a positive integer, got {exponent!r}")
        self.base, self.exponent = base, exponent

    def domain(self, domains: Domains) -> Domain:
        """Powers of the base's."""
        base = self.base.domain(domains)
        if base.values is not None and domains.divisibility:
            return values_domain({value**self.exponent for value in base.values})
        factor, primes = (base.factor**self.exponent, base.primes) if domains.divisibility else (1, None)
        return domain(base.low**self.exponent, base.high**self.exponent, factor, primes)

    def narrow(self, domains: Domains, result: Domain) -> bool:
        """Exact roots."""
        if result.empty:
            return self.base.narrow(domains, result)
        if result.values is not None and domains.divisibility:
            roots = {root for value in result.values if (root := _root(value, self.exponent)) ** self.exponent == value}
            return self.base.narrow(domains, values_domain(roots))
        low, high = _root(result.low - 1, self.exponent) + 1, _root(result.high, self.exponent)
        if not domains.divisibility:
            return self.base.narrow(domains, domain(low, high))
        factor = math.prod(prime_factors(result.factor))  # every prime of a power's factor divides the base
        return self.base.narrow(domains, domain(low, high, factor, result.primes))

    def value(self, solution: dict[str, int]) -> int:
        """The power."""
        return self.base.value(solution) ** self.exponent

    def variables(self) -> set[str]:
        """Those of the base."""
        return self.base.variables()

    def __repr__(self) -> str:
        return f"{self.base!r} ^ {self.exponent}"


def _root(number: int, exponent: int) -> int:
    """The largest integer whose power is at most ``number``."""
    root = round(number ** (1 / exponent)) if number > 0 else 0
    while root**exponent > number:
        root -= 1
    while (root + 1) ** exponent <= number:
        root += 1
    return root
