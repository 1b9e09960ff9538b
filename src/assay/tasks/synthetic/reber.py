"""`reber` and `embedded_reber`: is a string grammatical? Two small languages that recurrent networks are measured on."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from random import Random

import torch

from assay.contracts import Class, Signature, Tokens
from assay.tasks.base import ArrayTask

Automaton = Mapping[int, tuple[tuple[str, int], ...]]

GRAMMAR: Automaton = {
    0: (("T", 1), ("P", 2)),
    1: (("S", 1), ("X", 3)),
    2: (("T", 2), ("V", 4)),
    3: (("X", 2), ("S", 5)),
    4: (("P", 3), ("V", 5)),
    5: (),
}
"""The automaton between the first symbol B and the last symbol E: state → (symbol, next state); state 5 accepts."""

INNER = "PSTVX"
FOREIGN = "ACDFGHIJKLMNOQRUWYZ"
FOREIGN_SHARE = 0.56
VOCABULARY = 128
SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}
NEGATIVES = {"reber": ("substitution", "thesis"), "embedded-reber": ("memory", "substitution")}


def _relabelled(symbols: Mapping[int, str]) -> Automaton:
    """The same automaton with other symbols on the two transitions that leave each of the given states."""
    return {
        state: tuple(zip(symbols.get(state, [symbol for symbol, _ in leaving]), [to for _, to in leaving], strict=True))
        for state, leaving in GRAMMAR.items()
    }


ALTERED = tuple(_relabelled(symbols) for symbols in ({1: "TV", 2: "SX"}, {0: "PT"}, {3: "PV", 4: "XS"}, {1: "XS", 2: "VT"}))
"""The automata that spell the published set's ungrammatical strings inside the alphabet; found by fitting relabelled automata to it."""

ALTERED_WEIGHTS = (4, 3, 3, 1)
RENAMED = tuple(_relabelled({state: FOREIGN[first + 2 * state :][:2] for state in range(5)}) for first in (0, 3, 6, 9))
"""Automata with a letter of its own, from outside the alphabet, on each of the ten transitions."""


def is_reber(string: str) -> bool:
    """Whether the automaton accepts a string, from B to E."""
    if len(string) < 2 or string[0] != "B" or string[-1] != "E":
        return False
    state = 0
    for symbol in string[1:-1]:
        following = dict(GRAMMAR[state])
        if symbol not in following:
            return False
        state = following[symbol]
    return state == 5


def is_embedded_reber(string: str) -> bool:
    """Whether a string is B, T or P, a grammatical string, the same T or P again, E."""
    return len(string) > 4 and string[0] == "B" and string[1] in "TP" and string[-2:] == string[1] + "E" and is_reber(string[2:-2])


def reber(n: int = 5000, seed: int = 0, negatives: str = "substitution", shortest: int = 11, longest: int = 53) -> ArrayTask:
    """Grammatical or not: n / 2 distinct strings of the Reber grammar, and each of them spoilt.

    A grammatical string takes each branch of the automaton with equal chance. By default its spoilt twin has one inner symbol
    replaced. With ``thesis`` an altered automaton spells the same walk, as in the published set: in 56 % of the twins every transition
    has a letter from outside the alphabet, in the others the symbols of some states have changed places. Such strings are wrong in
    many places, often from the second symbol on, and much easier to tell. Either way both classes have the same lengths; in the
    published set they do not, and length alone tells 77 % of it. Only strings of ``shortest`` … ``longest`` symbols are used, no
    string occurs twice, and symbols are ASCII codes, padded with 0 on the right.

    Args:
        n: number of strings, even: 70 % to train, 10 % to validate, 20 % to test.
        seed: the same seed gives the same strings.
        negatives: ``substitution`` (inside the alphabet) or ``thesis``.
        shortest: fewest symbols of a string, B and E included.
        longest: most symbols of a string.

    Raises:
        ValueError: fewer than 20 strings or an odd number, unknown negatives, or lengths that cannot be.

    Source: Reber 1967, Implicit Learning of Artificial Grammars; data as in Darji 2024, Investigating Sparsity in Recurrent Neural
    Networks.
    """

    def spoil(string: str, random: Random) -> str:
        return _altered(string, random) if negatives == "thesis" else _substitute(string, random, is_reber)

    return _task("reber", n, seed, negatives, (shortest, longest), draw_string, spoil)


def embedded_reber(n: int = 5000, seed: int = 0, negatives: str = "memory", shortest: int = 11, longest: int = 53) -> ArrayTask:
    """Long memory: whether the last symbol but one is the same as the second, however long the Reber string between them.

    Strings are B, T or P, a Reber string, the same T or P, E. ``memory`` spoils only the symbol that must be remembered: a network
    without memory of the second symbol stays at chance. ``substitution`` replaces any inner symbol. Otherwise as `reber`.

    Raises:
        ValueError: as `reber`.

    Source: Hochreiter and Schmidhuber 1997, Long Short-Term Memory, experiment 1; Cleeremans, Servan-Schreiber and McClelland 1989.
    """

    def draw(random: Random, longest: int) -> str | None:
        inner = draw_string(random, longest - 4)
        side = random.choice("TP")
        return None if inner is None else f"B{side}{inner}{side}E"

    def spoil(string: str, random: Random) -> str:
        if negatives == "memory":
            return string[:-2] + ("P" if string[-2] == "T" else "T") + "E"
        return _substitute(string, random, is_embedded_reber)

    return _task("embedded-reber", n, seed, negatives, (shortest, longest), draw, spoil)


def draw_string(random: Random, longest: int) -> str | None:
    """A grammatical string, or None when the walk grows too long."""
    symbols, state = ["B"], 0
    while GRAMMAR[state]:
        symbol, state = random.choice(GRAMMAR[state])
        symbols.append(symbol)
        if len(symbols) >= longest:
            return None
    return "".join(symbols) + "E"


def _altered(string: str, random: Random) -> str:
    """The walk of a grammatical string as an altered automaton spells it, drawn again while that is grammatical too."""
    while True:
        foreign = random.random() < FOREIGN_SHARE
        spoilt = _spelt(string, random.choice(RENAMED) if foreign else random.choices(ALTERED, ALTERED_WEIGHTS)[0])
        if not is_reber(spoilt):
            return spoilt


def _spelt(string: str, automaton: Automaton) -> str:
    """The string's walk through `GRAMMAR`, each transition with the symbol that it has in the other automaton."""
    spelt, state = "B", 0
    for symbol in string[1:-1]:
        branch, following = next((i, to) for i, (label, to) in enumerate(GRAMMAR[state]) if label == symbol)
        spelt += automaton[state][branch][0]
        state = following
    return spelt + "E"


def _substitute(string: str, random: Random, accepts: Callable[[str], bool]) -> str:
    """One symbol between B and E replaced, drawn again while the string is still grammatical."""
    while True:
        place = random.randrange(1, len(string) - 1)
        spoilt = string[:place] + random.choice(INNER) + string[place + 1 :]
        if not accepts(spoilt):
            return spoilt


def _task(
    name: str,
    n: int,
    seed: int,
    negatives: str,
    lengths: tuple[int, int],
    draw: Callable[[Random, int], str | None],
    spoil: Callable[[str, Random], str],
) -> ArrayTask:
    if n < 20 or n % 2:
        raise ValueError(f"n must be an even number of strings, at least 20, got {n}")
    if negatives not in NEGATIVES[name]:
        raise ValueError(f"negatives must be one of {', '.join(NEGATIVES[name])}, got {negatives!r}")
    random, (shortest, longest) = Random(seed), lengths
    valid = _distinct(n // 2, random, shortest, longest, draw)
    spoilt: dict[str, None] = {}
    for string in valid:
        spoilt[_unseen(string, random, spoil, spoilt)] = None
    strings, labels = [*valid, *spoilt], [1] * len(valid) + [0] * len(spoilt)
    order = random.sample(range(n), n)
    tokens = torch.zeros(n, longest, dtype=torch.long)
    for row, index in enumerate(order):
        tokens[row, : len(strings[index])] = torch.tensor([ord(symbol) for symbol in strings[index]])
    everything = {"tokens": tokens, "mask": tokens > 0, "target": torch.tensor(labels)[order]}
    ends = [0, round(n * SHARES["train"]), round(n * (SHARES["train"] + SHARES["validation"])), n]
    splits = {split: {key: tensor[ends[i] : ends[i + 1]] for key, tensor in everything.items()} for i, split in enumerate(SHARES)}
    return ArrayTask(
        name,
        Signature(Tokens(VOCABULARY, longest), Class(2)),
        splits,  # pyright: ignore[reportArgumentType]  # the keys are the split names
        description=f"{n:,} strings of {shortest}–{longest} symbols, grammatical or not ({negatives} negatives)",
        encoding={"labels": ["ungrammatical", "grammatical"]},
    )


def _distinct(count: int, random: Random, shortest: int, longest: int, draw: Callable[[Random, int], str | None]) -> list[str]:
    """So many different grammatical strings; the more are wanted, the longer they get, for short ones are few."""
    found: dict[str, None] = {}
    misses = 0
    while len(found) < count:
        string = draw(random, longest)
        if string is None or len(string) < shortest or string in found:
            misses += 1
            if misses > 20_000:
                raise ValueError(f"{count} different strings of {shortest} to {longest} symbols were not found: widen the lengths")
            continue
        found[string] = None
        misses = 0
    return list(found)


def _unseen(string: str, random: Random, spoil: Callable[[str, Random], str], seen: Container[str]) -> str:
    """The string spoilt in a way that is not in use yet."""
    for _ in range(100):
        spoilt = spoil(string, random)
        if spoilt not in seen:
            return spoilt
    raise ValueError(f"every spoilt form of {string} is in use already: ask for fewer strings or wider lengths")
