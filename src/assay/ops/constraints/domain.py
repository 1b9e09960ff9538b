"""`Domain`: what is known of a positive integer: its range, a factor, the primes that may divide it, or all it can be."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, reduce

MOST = 2**30
"""The largest integer that a variable takes unless it is told otherwise."""
NARROW = 2048
"""Ranges narrower than this are written out where divisibility thins them; as many pairs of values are looked at, at most."""
FEW = 8
"""With fewer values than this, their common factor and their primes are worth knowing."""


@cache
def prime_factors(number: int) -> frozenset[int]:
    """The primes that divide a positive integer."""
    found, divisor = set(), 2
    while divisor * divisor <= number:
        while number % divisor == 0:
            found.add(divisor)
            number //= divisor
        divisor += 1
    return frozenset(found | {number} - {1})


@cache
def divisors(number: int) -> tuple[int, ...]:
    """All divisors of a positive integer, in order."""
    small = [divisor for divisor in range(1, math.isqrt(number) + 1) if number % divisor == 0]
    return tuple(sorted({*small, *(number // divisor for divisor in small)}))


@dataclass(frozen=True)
class Domain:
    """A set of positive integers, or a set that holds it. Make one by `domain` or `values_domain`, which tidy it.

    Args:
        low: no element is smaller.
        high: no element is larger; below ``low`` the domain is empty.
        factor: divides every element.
        primes: no other prime divides any; None allows all.
        values: all elements, in order; None where they are too many to be written out.
    """

    low: int = 1
    high: int = MOST
    factor: int = 1
    primes: frozenset[int] | None = None
    values: tuple[int, ...] | None = None

    @property
    def empty(self) -> bool:
        """Whether nothing is left."""
        return self.low > self.high

    @property
    def size(self) -> int:
        """How many integers it holds at most."""
        return len(self.values) if self.values is not None else max(0, (self.high - self.low) // self.factor + 1)

    @property
    def fixed(self) -> bool:
        """Whether one integer is left."""
        return self.low == self.high

    def __contains__(self, number: int) -> bool:
        if self.values is not None:
            return number in self.values
        return self.low <= number <= self.high and self._divisible(number)

    def _divisible(self, number: int) -> bool:
        return number % self.factor == 0 and (self.primes is None or prime_factors(number) <= self.primes)

    def __iter__(self) -> Iterator[int]:
        return iter(self.values) if self.values is not None else filter(self.__contains__, range(self.low, self.high + 1, self.factor))

    def __reversed__(self) -> Iterator[int]:
        if self.values is not None:
            return reversed(self.values)
        return filter(self.__contains__, range(self.high, self.low - 1, -self.factor))

    def __and__(self, other: Domain) -> Domain:
        """The integers that are in both."""
        if self == other:
            return self
        primes = self.primes if other.primes is None else other.primes if self.primes is None else self.primes & other.primes
        factor, low, high = math.lcm(self.factor, other.factor), max(self.low, other.low), min(self.high, other.high)
        if self.values is None and other.values is None:
            return domain(low, high, factor, primes)
        fewer, test = (self, other) if other.values is None or (self.values and len(self.values) <= len(other.values)) else (other, self)
        return values_domain([value for value in fewer.values or () if value in test], factor, primes)

    def __or__(self, other: Domain) -> Domain:
        """A domain that holds the integers of both."""
        if self.empty or other.empty:
            return other if self.empty else self
        if self.values is not None and other.values is not None:
            return values_domain({*self.values, *other.values})
        primes = None if self.primes is None or other.primes is None else self.primes | other.primes
        return domain(min(self.low, other.low), max(self.high, other.high), math.gcd(self.factor, other.factor), primes)


EMPTY = Domain(1, 0, values=())


def domain(low: int = 1, high: int = MOST, factor: int = 1, primes: frozenset[int] | None = None) -> Domain:
    """The multiples of ``factor`` from ``low`` to ``high`` that no prime but these divides; written out where they are few."""
    low, high = -(-max(low, 1) // factor) * factor, high // factor * factor
    if low > high:
        return EMPTY
    found = Domain(low, high, factor, primes)
    if low == high or ((factor > 1 or primes is not None) and high - low < NARROW):
        return values_domain(found, factor, primes)
    return found


def values_domain(values: Iterable[int], factor: int = 1, primes: frozenset[int] | None = None) -> Domain:
    """Exactly these integers; what is known of them beside is kept."""
    found = tuple(sorted({*values}))
    if not found:
        return EMPTY
    if len(found) < FEW:
        factor = reduce(math.gcd, found)
        primes = frozenset[int]().union(*map(prime_factors, found))
    return Domain(found[0], found[-1], factor, primes, found)
