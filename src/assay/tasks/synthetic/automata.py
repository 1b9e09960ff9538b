"""Random probabilistic finite automata: drawn, minimised, brought to a canonical form, and strings drawn from many of them at once.

An automaton over symbols 0 … V − 1 is a table of transitions (states, V): the state that a symbol leads to, or −1 where there is no
edge. It starts in state 0, every state accepts, and every edge of a state is equally likely. Minimal and numbered breadth-first with
symbols in order, a table is canonical: two automata have one language if and only if their tables are equal.

Many automata are one array (automata, states, V), filled up with states that have no edges.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Tables = NDArray[np.int64]
AT_ONCE = 2048
"""Automata minimised together: the table of state pairs is (automata, states, states, symbols)."""


@dataclass(frozen=True)
class AutomatonShape:
    """What `random_automata` draws; every pair is a range with both ends.

    Args:
        states: number of states, before minimisation.
        alphabet: number of different symbols that an automaton may use.
        edges: number of edges that leave a state; at most as many as there are other states.
        symbols: symbols that an alphabet is drawn from.

    Raises:
        ValueError: an empty range, more edges than an alphabet has symbols or than there can be other states, or too few symbols.
    """

    states: tuple[int, int] = (4, 12)
    alphabet: tuple[int, int] = (4, 18)
    edges: tuple[int, int] = (1, 4)
    symbols: int = 18

    def __post_init__(self) -> None:
        for name in ("states", "alphabet", "edges"):
            low, high = getattr(self, name)
            if not 1 <= low <= high:
                raise ValueError(f"{name} must be a range from 1 upwards, got {low} to {high}")
        if self.edges[1] > self.alphabet[0]:
            raise ValueError(f"{self.edges[1]} edges need as many symbols, but an alphabet may have only {self.alphabet[0]}")
        if self.edges[1] > self.states[1] - 1 or self.edges[0] > self.states[0] - 1:
            raise ValueError(
                f"{self.edges[0]} to {self.edges[1]} edges need as many other states, but there are {self.states[0]} to {self.states[1]}"
            )
        if self.alphabet[1] > self.symbols:
            raise ValueError(f"an alphabet of {self.alphabet[1]} cannot be drawn from {self.symbols} symbols")


def random_automata(count: int, shape: AutomatonShape, random: np.random.Generator) -> Tables:
    """``count`` canonical automata whose languages are pairwise different, (count, states, symbols).

    Each has n states and an alphabet of c different symbols; a state has m edges, with m different symbols of the alphabet, to m different
    states other than itself. n, c and every m are uniform in their ranges. Equal languages are drawn again.

    Raises:
        ValueError: a count below 1, or a shape that does not have that many languages.

    Source: Akyürek, Wang, Kim, Andreas (2024), In-Context Language Learning: Architectures and Algorithms.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    found: dict[bytes, NDArray[np.int64]] = {}
    misses = 0
    while len(found) < count:
        before = len(found)
        for table in canonical(_drawn(min(AT_ONCE, 2 * (count - before)), shape, random)):
            if len(found) < count:
                found.setdefault(table.tobytes(), table)
        misses = misses + 1 if len(found) == before else 0
        if misses == 20:
            raise ValueError(f"{count} different languages were asked for, and only {before} were found: widen states, alphabet or edges")
    return np.stack(list(found.values()))


def canonical(tables: Tables) -> Tables:
    """The minimal automata of the same languages, without unreachable states, numbered breadth-first with symbols in order.

    Raises:
        ValueError: an array that is not (automata, states, symbols), or edges to states that are not there.
    """
    tables = np.asarray(tables, dtype=np.int64)
    if tables.ndim != 3:
        raise ValueError(f"tables must have shape (automata, states, symbols), got {tables.shape}")
    if tables.size and not (tables.min() >= -1 and tables.max() < tables.shape[1]):
        raise ValueError(f"an edge leads to a state outside 0 … {tables.shape[1] - 1}")
    parts = [_canonical(tables[start : start + AT_ONCE]) for start in range(0, len(tables), AT_ONCE)]
    return np.concatenate(parts) if parts else tables


def states_of(tables: Tables) -> NDArray[np.int64]:
    """Number of states of each automaton in canonical form, (automata,)."""
    return 1 + tables.max(axis=(1, 2), initial=0)  # every state but the first is some edge's end


def sample_rows(
    tables: Tables, strings: tuple[int, int], string_length: tuple[int, int], separator: int, random: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each automaton a row of strings, joined by a separator, and the state after each symbol.

    Args:
        tables: (automata, states, symbols); every state that can be reached has an edge.
        strings: range of the number of strings in a row.
        string_length: range of a string's length.
        separator: token between two strings.
        random: source of all choices.

    Returns:
        Tokens and states, both (automata, longest row), with −1 behind a row's end. The state is −1 at separators too.

    Raises:
        ValueError: a range that is empty or begins below 1.
    """
    for name, (low, high) in (("strings", strings), ("string_length", string_length)):
        if not 1 <= low <= high:
            raise ValueError(f"{name} must be a range from 1 upwards, got {low} to {high}")
    numbers = random.integers(strings[0], strings[1], len(tables), endpoint=True)
    lengths = random.integers(string_length[0], string_length[1], (len(tables), strings[1]), endpoint=True)
    lengths[np.arange(strings[1]) >= numbers[:, None]] = 0
    ends = np.cumsum(lengths + 1, 1) - 1  # where the separator behind each string would stand
    total = ends[np.arange(len(tables)), numbers - 1]
    breaks = np.zeros((len(tables), int(total.max())), dtype=bool)
    row, string = np.nonzero((lengths > 0) & (ends < total[:, None]))
    breaks[row, ends[row, string]] = True
    inside = np.arange(breaks.shape[1]) < total[:, None]
    return _walks(tables, inside, breaks, separator, random)


def _walks(
    tables: Tables, inside: NDArray[np.bool_], breaks: NDArray[np.bool_], separator: int, random: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """One random walk a row, which goes back to the start at every break."""
    rows = np.arange(len(tables))
    edges = (tables >= 0).sum(2)
    symbols = np.argsort(tables < 0, axis=2, kind="stable")  # a state's symbols first
    tokens, states = np.full(inside.shape, -1), np.full(inside.shape, -1)
    state = np.zeros(len(tables), dtype=np.int64)
    chance = random.random(inside.shape)
    for t in range(inside.shape[1]):
        choice = (chance[:, t] * edges[rows, state]).astype(np.int64)
        symbol = symbols[rows, state, choice]
        state = np.where(breaks[:, t], 0, tables[rows, state, symbol])
        tokens[:, t] = np.where(breaks[:, t], separator, symbol)
        states[:, t] = np.where(breaks[:, t], -1, state)
    return np.where(inside, tokens, -1), np.where(inside, states, -1)


# ------------------------------------------------------------------------------------------------ drawing, minimising


def _drawn(count: int, shape: AutomatonShape, random: np.random.Generator) -> Tables:
    most, symbols = shape.states[1], shape.symbols
    sizes = random.integers(*shape.states, count, endpoint=True)
    alphabets = random.integers(*shape.alphabet, count, endpoint=True)
    edges = random.integers(shape.edges[0], np.minimum(shape.edges[1], sizes - 1)[:, None], (count, most), endpoint=True)
    # m different elements of a set: those of the m smallest random numbers, with infinity outside the set
    letters = random.random((count, symbols)).argsort(1).argsort(1) < alphabets[:, None]
    order = np.where(letters[:, None], random.random((count, most, symbols)), np.inf).argsort(2)
    allowed = (np.arange(most) < sizes[:, None])[:, None] & ~np.eye(most, dtype=bool)
    ends = np.where(allowed, random.random((count, most, most)), np.inf).argsort(2)
    tables = np.full((count, most, symbols), -1)
    for edge in range(shape.edges[1]):
        row, state = np.nonzero((edge < edges) & (np.arange(most) < sizes[:, None]))
        tables[row, state, order[row, state, edge]] = ends[row, state, edge]
    return tables


def _canonical(tables: Tables) -> Tables:
    """Merge equivalent states into the first of them, then number what the start reaches."""
    count, size, _ = tables.shape
    first = (~_distinguishable(tables)).argmax(2)  # a state's first equivalent
    merged = np.where(tables >= 0, np.take_along_axis(first, tables.clip(min=0).reshape(count, -1), 1).reshape(tables.shape), -1)
    return _numbered(merged, size)


def _distinguishable(tables: Tables) -> NDArray[np.bool_]:
    """Moore's table filling: two states differ if their symbols do, or if a symbol leads them to states that differ."""
    rows = np.arange(len(tables))[:, None, None, None]
    present = tables >= 0
    apart = (present[:, :, None] != present[:, None, :]).any(3)
    both = present[:, :, None] & present[:, None, :]
    one, other = tables[:, :, None], tables[:, None, :]
    while True:
        wider = apart | (apart[rows, one, other] & both).any(3)
        if (wider == apart).all():
            return apart
        apart = wider


def _numbered(tables: Tables, size: int) -> Tables:
    """Breadth-first numbers from state 0, symbols in order; states that are not reached are dropped."""
    count, _, symbols = tables.shape
    rows = np.arange(count)
    number = np.full((count, size), -1)
    number[:, 0] = 0
    queue = np.zeros((count, size), dtype=np.int64)
    reached = np.ones(count, dtype=np.int64)
    for place in range(size):
        waiting = place < reached
        for symbol in range(symbols):
            end = tables[rows, queue[:, place], symbol]
            new = waiting & (end >= 0) & (number[rows, end] < 0)
            number[rows[new], end[new]] = reached[new]
            queue[rows[new], reached[new]] = end[new]
            reached[new] += 1
    moved = np.take_along_axis(tables, queue[:, :, None], 1)
    moved = np.where(moved >= 0, np.take_along_axis(number, moved.clip(min=0).reshape(count, -1), 1).reshape(moved.shape), -1)
    moved[np.arange(size) >= reached[:, None]] = -1
    return moved
