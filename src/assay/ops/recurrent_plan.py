"""`plan`: how the product in each step of a recurrence is cut for a processor, found by `assay.ops.constraints`.

In each step a task multiplies its rows of the batch, (task rows, depth), with one head's weights, (depth, columns). A register tile of
``rows`` × ``vectors`` sums is filled while a panel of the weights, ``vectors`` wide, runs by; the next tile of rows reads the same panel.

What must hold: the sums, a row of the panel and one factor are in registers at once; where several tiles of rows read a panel, a block of
it stays in half of the first-level cache meanwhile; at most a sixteenth of the columns is padding; as many tasks as a multiple of the
threads, where the batch has rows enough. What is preferred, in this order: few tasks, for each reads all weights; tiles that are not thin,
for each step of the sum loads rows + vectors operands for rows · vectors products, and more than ¾ of a load a product holds the arithmetic
up; few tiles of rows; wide tiles; few blocks; many heads in a task, as far as their weights stay in half of the second-level cache and
every thread has as many tasks as the others.

Source: Pöppel, Beck, Hochreiter (2024), FlashRNN: Optimizing Traditional RNNs on Modern Hardware; their model is of a GPU, this one ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from assay.ops.constraints import Problem
from assay.ops.processor import Processor

MOST_ROWS, MOST_VECTORS = 12, 6
"""The largest tile that the kernel has."""
PADDING = 16
"""One column in so many may be padding."""


@dataclass(frozen=True)
class Plan:
    """How a product is cut.

    Args:
        rows: of a register tile.
        vectors: columns of a register tile, in vectors.
        depth: of the sum, that a tile goes through before the next.
        task_rows: rows of the batch that one task takes through the whole sequence.
        tasks: bundles of heads times groups of rows.
        resident: whether a head's weights and a step's rows fit in half of the second-level cache, else they come from beyond it each step.
        bundle: heads that one task takes through the sequence together.
    """

    rows: int
    vectors: int
    depth: int
    task_rows: int
    tasks: int = 1
    resident: bool = True
    bundle: int = 1


@lru_cache(1024)
def plan(depth: int, columns: int, batch: int, heads: int, threads: int, processor: Processor) -> Plan:
    """The preferred way to cut a product (task rows, depth) × (depth, columns).

    Args:
        depth: numbers that each sum is over.
        columns: of the weights of one head.
        batch: rows that are dealt out to tasks.
        heads: heads, each with weights of its own.
        threads: that tasks are dealt out to.
        processor: its caches and registers.

    Raises:
        RuntimeError: nothing meets the constraints.
    """
    found = model(depth, columns, batch, heads, threads, processor).solve()[0]
    held = 4 * depth * found["vectors"] * found["panels"] * processor.lanes + 4 * found["task_rows"] * (2 * depth + columns)
    return Plan(
        found["rows"],
        found["vectors"],
        found["depth"],
        found["task_rows"],
        heads // found["bundle"] * found["groups"],
        held <= processor.second_level // 2,
        found["bundle"],
    )


def model(depth: int, columns: int, batch: int, heads: int, threads: int, processor: Processor) -> Problem:
    """The constraints of `plan`, arguments as there."""
    lanes, needed = processor.lanes, math.ceil(columns / processor.lanes)
    problem = Problem()
    groups = problem.variable("groups", high=batch)
    task_rows = problem.variable("task_rows", high=batch)
    thin = problem.variable("thin", high=2)  # 2 if so
    tiles = problem.variable("tiles", high=batch)
    rows = problem.variable("rows", high=min(MOST_ROWS, batch))
    vectors = problem.variable("vectors", high=MOST_VECTORS, prefer="largest")
    panels = problem.variable("panels", high=needed)
    blocks = problem.variable("blocks", high=depth)
    block = problem.variable("depth", high=depth)
    bundle = problem.variable("bundle", high=heads, prefer="largest")
    problem.require(f"{heads} % bundle == 0")
    problem.require(
        ((groups * heads) % threads == 0) | (groups == batch),
        groups * task_rows >= batch,
        groups * task_rows < groups + batch,
        tiles * rows >= task_rows,
        tiles * rows < tiles + task_rows,
        rows * vectors + vectors + 1 <= processor.registers,
        (thin == 2) | (4 * rows + 4 * vectors <= 3 * rows * vectors),
        panels * vectors >= needed,
        panels * vectors <= needed + needed // PADDING,
        blocks * block >= depth,
        blocks * block < blocks + depth,
        (bundle == 1) | ((groups * heads) % (threads * bundle) == 0),
        (bundle == 1) | (8 * depth * lanes * bundle * panels * vectors <= processor.second_level),
        (tiles == 1) | (block * (vectors * lanes + rows) * 8 <= processor.first_level),
    )
    return problem
