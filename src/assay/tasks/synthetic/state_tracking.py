"""A state that every symbol changes, to be named after each: parity, counting round a circle, shuffling. Tested on longer sequences."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from assay.contracts import Class, Signature, Tokens
from assay.tasks.base import ArrayTask


def parity(length: int = 40, test_length: int = 256, train: int = 5_000, test: int = 300, seed: int = 0, name: str = "parity") -> ArrayTask:
    """Bits, and after each whether an odd number of ones was read.

    One bit of state is all it takes; a sum over the whole past, as attention makes one, must tell ever larger numbers of ones apart.

    Hochreiter, Schmidhuber (1997), Long Short-Term Memory, among many; as a test of length: Delétang et al. (2023), Neural Networks and the
    Chomsky Hierarchy.

    Args:
        length: positions of training and validation sequences.
        test_length: positions of test sequences, longer; judged are those that no training sequence reaches.
        train: training examples.
        test: test examples, and as many for validation.
        seed: of all examples.
        name: the task's name.

    Raises:
        ValueError: a length below 1, a test length that is not larger, or no examples.
    """
    return _task(name, [[0, 1], [1, 0]], ["even", "odd"], "bits", length, test_length, train, test, seed)


def modular_counting(
    modulus: int = 5,
    length: int = 40,
    test_length: int = 256,
    train: int = 5_000,
    test: int = 300,
    seed: int = 0,
    name: str = "modular-counting",
) -> ArrayTask:
    """Symbols 0, 1, 2 for stay, forward, back on a circle of ``modulus`` places, and after each the place.

    Args:
        modulus: places on the circle; guessing gives 1 / modulus.
        length: as `parity`'s.
        test_length: as `parity`'s.
        train: training examples.
        test: test examples, and as many for validation.
        seed: of all examples.
        name: the task's name.

    Raises:
        ValueError: fewer than two places; otherwise as `parity`.
    """
    if modulus < 2:
        raise ValueError(f"modulus must be at least 2, got {modulus}")
    moves = [[(place + move) % modulus for move in (0, 1, -1)] for place in range(modulus)]
    return _task(name, moves, [str(place) for place in range(modulus)], "moves on a circle", length, test_length, train, test, seed)


def permutations(
    degree: int = 5,
    length: int = 40,
    test_length: int = 128,
    train: int = 5_000,
    test: int = 300,
    seed: int = 0,
    name: str = "permutations",
) -> ArrayTask:
    """Symbols 0, 1, 2 for nothing, swapping the first two of ``degree`` things, moving the first to the end; after each, the order.

    The word problem of the symmetric group. From five things on the group is not solvable, and the problem is complete for NC¹: models
    of constant depth, attention and diagonal linear recurrences among them, are believed to need more layers for longer words.

    Merrill, Petty, Sabharwal (2024), The Illusion of State in State-Space Models.

    Args:
        degree: things that are shuffled, 2 to 6; there are degree! classes.
        length: as `parity`'s.
        test_length: as `parity`'s.
        train: training examples.
        test: test examples, and as many for validation.
        seed: of all examples.
        name: the task's name.

    Raises:
        ValueError: a degree out of range; otherwise as `parity`.
    """
    if not 2 <= degree <= 6:
        raise ValueError(f"degree must be 2 to 6, got {degree}")
    orders = list(itertools.permutations(range(degree)))
    number = {order: index for index, order in enumerate(orders)}
    moves = [[number[order], number[(order[1], order[0], *order[2:])], number[(*order[1:], order[0])]] for order in orders]
    labels = ["".join(str(thing + 1) for thing in order) for order in orders]
    return _task(name, moves, labels, f"shuffles of {degree}", length, test_length, train, test, seed)


def walked(moves: Tensor, tokens: Tensor) -> Tensor:
    """The state after each symbol, from state 0.

    Args:
        moves: (states, symbols), the state that a symbol leads to.
        tokens: (batch, length).
    """
    state, states = tokens.new_zeros(len(tokens)), torch.empty_like(tokens)
    for t in range(tokens.shape[1]):
        state = states[:, t] = moves[state, tokens[:, t]]
    return states


def _task(
    name: str,
    moves: Sequence[Sequence[int]],
    labels: Sequence[str],
    what: str,
    length: int,
    test_length: int,
    train: int,
    test: int,
    seed: int,
) -> ArrayTask:
    if not 1 <= length < test_length:
        raise ValueError(f"test_length must be larger than length, and that at least 1, got {test_length} and {length}")
    if min(train, test) < 1:
        raise ValueError(f"train and test must be at least 1, got {train} and {test}")
    table, generator = torch.tensor(moves), torch.Generator().manual_seed(seed)

    def examples(count: int, positions: int, judged_from: int) -> dict[str, Tensor]:
        tokens = torch.randint(table.shape[1], (count, positions), generator=generator)
        judged = (torch.arange(positions) >= judged_from).expand(count, -1)
        return {"tokens": tokens, "target": walked(table, tokens), "target_mask": judged}

    splits: Any = {
        "train": examples(train, length, 0),
        "validation": examples(test, length, 0),
        "test": examples(test, test_length, length),
    }
    return ArrayTask(
        name,
        Signature(Tokens(table.shape[1], test_length), Class(len(labels)), per_position=True),
        splits,
        description=f"{train + 2 * test:,} sequences of {what}, {length} long and for the test {test_length}; {len(labels)} states",
        encoding={"labels": list(labels)},
        notes=[f"test accuracy is that of positions {length + 1} to {test_length}, which no training sequence reaches"],
    )
