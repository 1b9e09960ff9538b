"""Pöppel, Beck, Hochreiter (2024), FlashRNN: Optimizing Traditional RNNs on Modern Hardware: the claims, executable."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from assay.contracts import Claim, Measured, Paper, Scale, Verdict
from assay.measure import medians
from assay.nn.recurrent import drop_in
from assay.ops.affine import affine
from assay.ops.constraints import Problem
from assay.ops.recurrent_cells import CELLS
from assay.ops.recurrent_plan import Plan
from assay.ops.recurrent_scan import Conditions, recurrent_scan, scan_states
from assay.ops.recurrent_scan_compiled import Compiled, library
from assay.papers.experiment import trained, without_paper_scale
from assay.tasks.python_source import python_source
from assay.tasks.synthetic.state_tracking import parity

NO_GPU = "the published kernels are CUDA on an H100; run the laptop scale"
NO_COMPILER = "there is no C++ compiler here, so there is nothing to time"
SMOKE = "smoke scale shows only that the experiment runs"


def _judged(holds: bool, scale: Scale) -> Verdict:
    if scale == "smoke":
        return "undecided"  # a few steps show that it runs, nothing more
    return "holds" if holds else "fails"


def _problem(function: str, batch: int, length: int, heads: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, weights and bias, random."""
    cell, generator = CELLS[function], torch.Generator().manual_seed(0)
    inputs = torch.randn(batch, length, cell.inputs, heads, size, generator=generator)
    weights = torch.randn(cell.recurrent, heads, size, size, generator=generator) / math.sqrt(size)
    return inputs, weights, torch.randn(cell.biases, heads, size, generator=generator)


# ------------------------------------------------------------------------------------------------ speed

LOOPS = {(16, 1, 96): 5.0, (16, 12, 64): 10.0}
"""(batch, heads, size) and how many times as fast as a loop the kernel must be."""
SHOWN = ((1, 1, 96), (1, 12, 64), (1, 12, 16))
"""Shapes that are measured beside them: streams of one sequence."""


@without_paper_scale(NO_GPU)
def _loop(scale: Scale) -> Measured:
    """An LSTM over a sequence in one call, and the same equations a step at a time, no gradient."""
    if library() is None:
        return Measured({}, "not-run", NO_COMPILER)
    length, repeats = (512, 5) if scale == "laptop" else (16, 1)
    ratios, shares, rows, square = {}, {}, torch.randn(2048, 512), torch.randn(512, 512)
    with torch.no_grad():
        product = medians({"product": lambda: affine(rows, square)}, repeats)["product"] / (2 * 2048 * 512**2)
        for shape in (*LOOPS, *SHOWN):
            batch, heads, size = shape
            tensors = _problem("lstm", batch, length, heads, size)
            taken = medians(
                {
                    "kernel": lambda tensors=tensors: scan_states(*tensors, None, "lstm", "compiled"),
                    "loop": lambda tensors=tensors: scan_states(*tensors, None, "lstm", "reference"),
                },
                repeats,
            )
            ratios[shape] = taken["loop"] / taken["kernel"]
            shares[shape] = 8 * batch * length * heads * size**2 * product / taken["kernel"]
    values = {f"batch {batch}, {heads} × {size}": ratio for (batch, heads, size), ratio in ratios.items()}
    values |= {f"share of a product's speed, batch {batch}, {heads} × {size}": shares[batch, heads, size] for batch, heads, size in LOOPS}
    reason = (
        f"processor time of one thread, {length} steps, medians of {repeats}; required: at least 5 at batch 16 with one head of 96 and 10 "
        "with 12 heads of 64; batch 1 is shown beside them, and the arithmetic's speed as a share of a large matrix product's: a "
        "ratio divided by its share is the most that any kernel can reach here"
    )
    return Measured(values, _judged(all(ratios[shape] >= least for shape, least in LOOPS.items()), scale), reason)


@without_paper_scale(NO_GPU)
def _layer(scale: Scale) -> Measured:
    """A whole layer, its input projection included, beside ``torch.nn.LSTM`` with the same weights."""
    if library() is None:
        return Measured({}, "not-run", NO_COMPILER)
    length, repeats = (512, 5) if scale == "laptop" else (8, 1)
    values = {}
    for size in (96, 192) if scale == "laptop" else (8,):
        torch.manual_seed(0)
        layers = {"kernel": drop_in.LSTM(size, size, batch_first=True), "torch": nn.LSTM(size, size, batch_first=True)}
        x = torch.randn(16, length, size)
        with torch.no_grad():
            taken = medians({name: lambda layer=layer, x=x: layer(x) for name, layer in layers.items()}, repeats)
        values[f"forward, size {size}"] = taken["kernel"] / taken["torch"]
        taken = medians({name: lambda layer=layer, x=x: _train(layer, x) for name, layer in layers.items()}, repeats)
        values[f"forward and backward, size {size}"] = taken["kernel"] / taken["torch"]
    reason = (
        f"time beside torch.nn.LSTM's (below 1 is faster), processor time of one thread, batch 16, {length} steps, medians of {repeats}; "
        "required: every one at most 0.9"
    )
    return Measured(values, _judged(max(values.values()) <= 0.9, scale), reason)


def _train(layer: nn.Module, x: Tensor) -> None:
    layer.zero_grad()
    layer(x)[0].sum().backward()


FIXED = Plan(rows=4, vectors=3, depth=2**30, task_rows=4)
"""The largest tile of four rows that fits the sixteen registers of any x86 processor, chosen for no shape."""
TILED = ((16, 1, 128), (16, 4, 32), (1, 1, 192), (3, 2, 33), (32, 1, 256))


def _tiles(scale: Scale) -> Measured:
    """Tiles that the solver chose for a shape, and one tile for all of them."""
    if library() is None:
        return Measured({}, "not-run", NO_COMPILER)
    length, repeats = (128, 25) if scale != "smoke" else (4, 1)
    values = {}
    for batch, heads, size in TILED:
        rivals = {"chosen": Compiled(), "fixed": Compiled(FIXED)}
        taken = medians({name: _walk(engine, batch, length, heads, size) for name, engine in rivals.items()}, repeats)
        values[f"batch {batch}, {heads} × {size}"] = taken["fixed"] / taken["chosen"]
    middle = float(np.median(list(values.values())))
    values["median"] = middle
    reason = (
        f"times as fast as a tile of {FIXED.rows} × {FIXED.vectors}, processor time of one thread, {length} steps, medians of {repeats}; "
        "required: a median of at least 1.05, and nowhere below 0.9"
    )
    return Measured(values, _judged(middle >= 1.05 and min(values.values()) >= 0.9, scale), reason)


def _walk(engine: Compiled, batch: int, length: int, heads: int, size: int) -> Callable[[], object]:
    inputs, weights, bias = _problem("lstm", batch, length, heads, size)
    initial = torch.zeros(2, batch, heads, size)
    return lambda: engine.forward("lstm", inputs, weights, bias, initial, None, Conditions(), keep=False)


# ------------------------------------------------------------------------------------------------ sizes


def _large(scale: Scale) -> Measured:
    """A head forty times as large as the largest that the paper's Triton kernels take."""
    size = 2560 if scale != "smoke" else 256
    tensors = _problem("lstm", 2, 4, 1, size)
    with torch.no_grad():
        found, _ = recurrent_scan(*tensors, None, "lstm", "compiled")
        expected, _ = recurrent_scan(*tensors, None, "lstm", "reference")
    error = float((found - expected).abs().max())
    try:
        recurrent_scan(*tensors, None, "lstm", "triton")
        refused = False
    except ValueError:
        refused = True
    reason = f"a head of {size}, batch 2, 4 steps; required: within 1e-4 of the equations, and the Triton form refuses the size in words"
    return Measured({"largest error": error, "refused by Triton": float(refused)}, _judged(error <= 1e-4 and refused, scale), reason)


# ------------------------------------------------------------------------------------------------ heads

HIDDEN = 192
HEADS = (1, 3, 12)
LANGUAGE_STEPS = 250
BYTES = 600_000


@without_paper_scale("the paper's language models take GPUs; run the laptop scale")
def _heads(scale: Scale) -> Measured:
    """The same hidden size as 1 × 192, 3 × 64 and 12 × 16: time of the recurrence, bits per byte of text, parity."""
    steps, bytes_read, length, repeats = (LANGUAGE_STEPS, BYTES, 256, 5) if scale == "laptop" else (1, 30_000, 8, 1)
    task, values, times, bits, solved = python_source(bytes_read), {}, [], [], []
    for heads in HEADS:
        size = HIDDEN // heads
        tensors = _problem("lstm", 16, length, heads, size)
        with torch.no_grad():
            times.append(medians({"scan": lambda tensors=tensors: scan_states(*tensors)}, repeats)["scan"])
        options = {"width": 96, "depth": 1, "heads": heads, "head_width": size, "hidden": 0}
        run = trained(
            "multi-head-lstm", task, steps=steps, learning_rate=5e-3, seed=0, parameters=0, batch_size=16, options=options, split="test"
        )
        bits.append(run.value)
        solved.append(_tracked("multi-head-lstm", scale, 0, heads))
        name = f"{heads} × {size}"
        values |= {f"milliseconds, {name}": times[-1], f"bits per byte, {name}": bits[-1], f"parity, {name}": solved[-1]}
    falls = times[0] > times[1] > times[2]
    change = max(abs(value / bits[0] - 1) for value in bits)
    reason = (
        f"LSTM, hidden size {HIDDEN}, {steps} steps of 16 × 128 bytes of Python source; required: the recurrence's time falls with more "
        f"heads, bits change by less than 5 % (they change by {change:.1%}), and parity beyond the trained length is at least 95 % for all"
    )
    return Measured(values, _judged(falls and change < 0.05 and min(solved) >= 0.95, scale), reason)


# ------------------------------------------------------------------------------------------------ state tracking

PARAMETERS = 10_000
SEEDS = 3
PARITY_STEPS = 400
TRACKERS = ("multi-head-lstm", "slstm", "multi-head-elman", "attention")
RATE = 1e-2


@cache
def _tracked(name: str, scale: Scale, seed: int, heads: int = 4) -> float:
    """Accuracy of running parity at positions 41 to 256 after training on sequences of 40."""
    task = parity() if scale == "laptop" else parity(8, 12, train=64, test=8)
    steps = PARITY_STEPS if scale == "laptop" else 2
    options: dict[str, Any] = {"depth": 2, "heads": heads} if name == "attention" else {"depth": 1}
    if name == "multi-head-lstm":
        options |= {"heads": heads, "head_width": 24 // heads}
    return trained(name, task, steps=steps, learning_rate=RATE, seed=seed, parameters=PARAMETERS, batch_size=64, options=options).value


@without_paper_scale("the paper tracks states with larger models on GPUs; run the laptop scale", SEEDS)
def _parity(scale: Scale) -> Measured:
    """Parity of up to 256 bits by networks that were trained on 40."""
    seeds = SEEDS if scale == "laptop" else 1
    runs = {name: [_tracked(name, scale, seed) for seed in range(seeds)] for name in TRACKERS}
    values = {name: float(np.mean(found)) for name, found in runs.items()}
    spread = {name: float(np.std(found)) for name, found in runs.items()}
    recurrent = min(min(runs[name]) for name in TRACKERS[:-1])
    reason = (
        f"{PARAMETERS:,} parameters, {PARITY_STEPS} steps of 64, sequences of 40 bits, judged at positions 41 to 256, {seeds} seeds; "
        f"required: every recurrent run at least 95 % (the worst has {recurrent:.1%}), attention at most 65 % on average"
    )
    return Measured(values, _judged(recurrent >= 0.95 and values["attention"] <= 0.65, scale), reason, spread, seeds)


# ------------------------------------------------------------------------------------------------ constraints

SIZES = (64, 96, 128, 192, 256, 384, 768, 1024)
BATCHES = (1, 12, 16)


def _exact_tiles(size: int, batch: int) -> Problem:
    """An LSTM's tiles without padding, for 16 lanes, 32 registers and a first-level cache of 32 KiB: all must divide what they tile."""
    problem = Problem()
    problem.variable("vectors", high=6, prefer="largest")
    problem.variable("rows", high=batch, prefer="largest")
    problem.variable("depth", high=size, prefer="largest")
    problem.variable("tasks", high=batch)
    problem.require(
        f"{4 * size} % (vectors * 16) == 0; {size} % depth == 0; tasks * rows == {batch}",
        "rows * vectors + vectors + 1 <= 32; depth * (vectors * 16 + rows) * 8 <= 32768",
    )
    return problem


def _constraints(scale: Scale) -> Measured:
    """Choices that the search tries with and without the rules for factors, primes and quotients."""
    nodes, same = {"with": 0, "without": 0}, True
    for size in SIZES if scale != "smoke" else SIZES[:2]:
        for batch in BATCHES:
            problem = _exact_tiles(size, batch)
            first = problem.solve()
            nodes["with"] += problem.nodes
            same &= problem.solve(divisibility=False) == first
            nodes["without"] += problem.nodes
    ratio = nodes["without"] / nodes["with"]
    values = {"choices with divisibility": float(nodes["with"]), "choices by ranges alone": float(nodes["without"]), "ratio": ratio}
    reason = (
        f"the first tiling of an LSTM for {len(SIZES)} sizes and {len(BATCHES)} batches on a CPU without padding; required: the same "
        f"solutions ({'so it is' if same else 'not so'}) and at most a fifth of the choices"
    )
    return Measured(values, _judged(same and ratio >= 5, scale), reason)


PAPER = Paper(
    slug="flashrnn",
    title="FlashRNN: Optimizing Traditional RNNs on Modern Hardware",
    authors="Pöppel, Beck, Hochreiter",
    year=2024,
    claims=(
        Claim(
            "loop",
            "A recurrence in one kernel is many times as fast as the same equations a step at a time in PyTorch.",
            "up to 50 × on a GPU",
            "abstract",
            _loop,
        ),
        Claim(
            "layer",
            "A recurrent layer made of it is faster than the library's own.",
            "faster than cuDNN's LSTM for some sizes, as remembered: not verified",
            "speed experiments",
            _layer,
        ),
        Claim(
            "large-heads",
            "Heads can be 40 times as large as Triton kernels that hold the weights on the chip allow.",
            "40 × larger hidden sizes than the authors' Triton form",
            "abstract",
            _large,
        ),
        Claim(
            "heads",
            "Splitting a hidden state into heads saves time and costs little quality.",
            "heads of 64 at several hidden sizes; no single figure",
            "introduction and experiments",
            _heads,
        ),
        Claim(
            "state-tracking",
            "Nonlinear recurrence tracks parity at lengths it was not trained on, attention does not.",
            "the motivation; figures are of earlier work",
            "introduction",
            _parity,
        ),
        Claim(
            "constraints",
            "Narrowing by divisibility speeds the search for block sizes.",
            "no figure",
            "the section on ConstrINT",
            _constraints,
        ),
        Claim("tiles", "Tiles that are chosen for a shape beat one tile for all shapes.", "none", "ours", _tiles),
    ),
    official="https://github.com/NX-AI/flashrnn",
)
