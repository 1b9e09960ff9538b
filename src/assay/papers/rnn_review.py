"""Claims of: A Critical Review of Recurrent Neural Networks for Sequence Learning.

The review's statements are about kinds of networks; each is made measurable here on a task small enough for a laptop. Networks are one
layer of the named kind between an encoder and a linear read-out at every position, without positions added and without feed-forward nets,
trained by AdamW with the gradient's norm clipped at 1, if nothing else is said. Thresholds were set before any run; sizes and steps of some
experiments (peepholes, reversed source, captions, clipping, long lags) followed pilots of one seed.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from assay.contracts import Claim, Measured, Output, Paper, Scale, Series, Signature, Task, Values, Verdict
from assay.inspection.gradient_flow import decay_rate, gradient_flow
from assay.models.build import build_network
from assay.nn.memory.associative import HopfieldNetwork
from assay.nn.recurrent.finite_state import parity
from assay.nn.recurrent.initialisation import initialise_recurrent_
from assay.nn.recurrent.reference import Elman
from assay.papers import rnn_strokes
from assay.papers.experiment import Trained, trained, without_paper_scale
from assay.tasks.base import ArrayTask
from assay.tasks.digit_strings import digit_strings
from assay.tasks.python_tags import python_tags
from assay.tasks.synthetic.adding import adding
from assay.tasks.synthetic.captions import captions
from assay.tasks.synthetic.continual_reber import continual_reber
from assay.tasks.synthetic.copying import copying
from assay.tasks.synthetic.delayed_bit import delayed_bit
from assay.tasks.synthetic.timed_spikes import timed_spikes
from assay.tasks.synthetic.transduction import transduction
from assay.tasks.synthetic.window_sign import window_sign
from assay.tasks.translation import translation
from assay.training.methods.clipping import Clipping, clip_gradients_
from assay.training.methods.hessian_free import HessianFree

NO_SCALE = "the review publishes no runs of its own; run the laptop scale"
NO_PEN = "the pen strokes of the published runs are not at hand; run the laptop scale"
SMOKE = "smoke scale shows only that the experiment runs"
SEEDS = 3


def _run(
    mixer: str, task: Task, steps: int, seed: int, *, width: int = 16, rate: float = 1e-2, methods: Sequence[Any] = (), **options: Any
) -> Trained:
    """One layer of a mixer, trained."""
    torch.manual_seed(seed)
    network = build_network(mixer, task.signature, 1, 0, width=width, hidden="none", depth=1, positions="none", **options)
    return trained(network, task, steps=steps, learning_rate=rate, seed=seed, methods=[*methods, Clipping()])


def _written(task: Task, steps: int, seed: int, rate: float = 1e-2, width: int = 8, **options: Any) -> Trained:
    """An encoder–decoder of width 8·``width``, trained."""
    torch.manual_seed(seed)
    network = build_network("encoder-decoder", task.signature, width, 0, **options)
    return trained(network, task, steps=steps, learning_rate=rate, seed=seed, methods=[Clipping()])


def _seeds(scale: Scale) -> range:
    return range(1 if scale == "smoke" else SEEDS)


def _summary(found: dict[str, list[float]]) -> tuple[dict[str, float], dict[str, float]]:
    """Means and standard deviations over seeds."""
    return {name: float(np.mean(each)) for name, each in found.items()}, {name: float(np.std(each)) for name, each in found.items()}


def _judged(scale: Scale, holds: bool, found: dict[str, list[float]], reason: str) -> Measured:
    values, spread = _summary(found)
    if scale == "smoke":
        return Measured(values, "undecided", SMOKE, spread)
    verdict: Verdict = "holds" if holds else "fails"
    return Measured(values, verdict, reason, spread, len(next(iter(found.values()))))


# ------------------------------------------------------------------------------------------------ memory and gradients


def _bits(scale: Scale, delay: int) -> Task:
    sizes = (32, 8) if scale == "smoke" else (2_000, 300)
    return delayed_bit((20, 100), (delay, delay), train=sizes[0], test=sizes[1])


@without_paper_scale(NO_SCALE)
def _memory(scale: Scale) -> Measured:
    """One bit kept over delays that were trained, and over twice the longest."""
    found: dict[str, list[float]] = {f"accuracy after {delay}": [] for delay in (100, 200)}
    for seed in _seeds(scale):
        run = _run("lstm-forget", _bits(scale, 100), 2 if scale == "smoke" else 150, seed, forget_bias=5.0)
        found["accuracy after 100"].append(run.value)
        found["accuracy after 200"].append(_bits(scale, 200).evaluate(run.model, "test").metrics["accuracy"])
    values, _ = _summary(found)
    holds = values["accuracy after 100"] >= 0.95 and values["accuracy after 200"] >= 0.6
    return _judged(
        scale, holds, found, "LSTM of 16 cells, forget bias 5, 150 steps on delays of 20 to 100; required: ≥ 0.95 at 100, ≥ 0.6 at 200"
    )


FACTORS = (0.5, 1.0, 1.5)
RADII = (0.5, 1.0, 2.0)


def _positive_series(length: int) -> ArrayTask:
    """Positive numbers, and nothing to learn: rectified units with positive weights are linear on them."""
    generator = torch.Generator().manual_seed(0)
    rows = {"series": torch.rand(8, length, 1, generator=generator), "target": torch.zeros(8, length, 1)}
    signature = Signature(Series(1, length), Values(1), per_position=True)
    return ArrayTask("positive", signature, {"train": rows, "validation": rows, "test": rows})


@without_paper_scale(NO_SCALE)
def _gradients(scale: Scale) -> Measured:
    """Slopes of the log gradient per step back in time: a scalar linear network, and tanh networks by their spectral radius."""
    length = 30
    task = _positive_series(length)
    batch = next(task.training_batches(8, 0))
    found: dict[str, list[float]] = {}
    for factor in FACTORS:
        scalar = Elman(1, nonlinearity="relu", bias=False)
        nn.init.constant_(scalar.recurrence.weight_ih_l0, 1.0)  # pyright: ignore[reportArgumentType]
        nn.init.constant_(scalar.recurrence.weight_hh_l0, factor)  # pyright: ignore[reportArgumentType]
        found[f"linear, w {factor}"] = [decay_rate(gradient_flow(scalar, batch, task))]
    sums = adding(length, train=32, test=8)
    for radius in RADII:
        found[f"tanh, radius {radius:g}"] = []
        for seed in _seeds(scale):
            torch.manual_seed(seed)
            network = build_network("elman", sums.signature, 1, 0, width=32, hidden="none", depth=1, positions="none")
            initialise_recurrent_(network, "orthogonal", radius)
            found[f"tanh, radius {radius:g}"].append(decay_rate(gradient_flow(network, next(sums.training_batches(32, seed)), sums)))
    values, _ = _summary(found)
    exact = all(abs(values[f"linear, w {factor}"] - np.log(factor)) <= 0.01 * max(abs(np.log(factor)), 0.1) for factor in FACTORS)
    slopes = [values[f"tanh, radius {radius:g}"] for radius in RADII]
    reason = "T = 30; required: linear slopes equal log w to 1 % (of 0.1 for w = 1), tanh slopes grow with the radius"
    return _judged(scale, exact and slopes == sorted(slopes), found, reason)


@without_paper_scale(NO_SCALE)
def _long_lags(scale: Scale) -> Measured:
    """The adding problem and streams of embedded Reber strings: a gated and a simple network of the same width."""
    smoke = scale == "smoke"
    found: dict[str, list[float]] = {}
    task = adding(50, *((32, 8) if smoke else (4_000, 500)))
    for mixer in ("lstm-forget", "elman"):
        found[f"{mixer}, adding"] = [_run(mixer, task, 2 if smoke else 700, seed).value for seed in _seeds(scale)]
    streams = continual_reber(60 if smoke else 200, None, *((8, 4) if smoke else (600, 40)))
    for mixer in ("lstm-forget", "elman"):
        found[f"{mixer}, Reber"] = [_run(mixer, streams, 2 if smoke else 300, seed).value for seed in _seeds(scale)]
    values, _ = _summary(found)
    sums = values["lstm-forget, adding"] <= 0.02 and values["elman, adding"] >= 0.1
    kept = values["lstm-forget, Reber"] >= 0.99 and values["elman, Reber"] <= 0.75
    reason = (
        "adding, 50 positions, 700 steps, squared error (0.167 without memory): LSTM ≤ 0.02, Elman ≥ 0.1 required; streams of embedded "
        "Reber strings, 300 steps, accuracy at the symbols that need memory (0.5 without): LSTM ≥ 0.99, Elman ≤ 0.75 required; adding "
        f"{'holds' if sums else 'fails'}, Reber {'holds' if kept else 'fails'}"
    )
    return _judged(scale, sums and kept, found, reason)


# ------------------------------------------------------------------------------------------------ the cell's parts

STREAM = 1_000


@without_paper_scale(NO_SCALE)
def _forgetting(scale: Scale) -> Measured:
    """Endless streams: the cell of 1997 and the one with a forget gate, on streams five times as long as trained."""
    smoke = scale == "smoke"
    task = continual_reber(60 if smoke else 200, 60 if smoke else STREAM, *((8, 4) if smoke else (600, 40)))
    found: dict[str, list[float]] = {}
    for mixer in ("lstm-original", "lstm-forget"):
        errors, growth = [], []
        for seed in _seeds(scale):
            run = _run(mixer, task, 2 if smoke else 300, seed)
            errors.append(1 - run.value)
            growth.append(_state_growth(run.model, task))
        found |= {f"{mixer}, error": errors, f"{mixer}, growth": growth}
    values, _ = _summary(found)
    better = values["lstm-forget, error"] <= 0.5 * values["lstm-original, error"]
    holds = better and values["lstm-original, growth"] > 1.5
    reason = (
        f"300 steps on streams of 200, tested on {STREAM}; error at the symbols that need memory (0.5 without); growth: the cell's length "
        "at the end over that at a fifth of the stream; required: with a forget gate at most half the error, and 1997's cell grows by more "
        "than 1.5"
    )
    return _judged(scale, holds, found, reason)


def _state_growth(network: Any, task: Task) -> float:
    """Length of the first layer's cell at the end of the test streams, over that at a fifth of them."""
    tokens = next(iter(task.batches("test", 256)))["tokens"]
    lengths = []
    with torch.no_grad():
        for end in (tokens.shape[1] // 5, tokens.shape[1]):
            _, state = network.scan(tokens[:, :end], network.initial_state(len(tokens)))
            lengths.append(float(state["blocks"][0][1].norm(dim=1).mean()))
    return lengths[1] / lengths[0]


@without_paper_scale(NO_SCALE)
def _timing(scale: Scale) -> Measured:
    """Spikes every four to eight steps, with and without peepholes."""
    smoke = scale == "smoke"
    task = timed_spikes((4, 8), 40, *((16, 8) if smoke else (1_000, 200)))
    found: dict[str, list[float]] = {}
    for mixer in ("lstm-peephole", "lstm-forget"):
        runs = [_run(mixer, task, 2 if smoke else 1_000, seed) for seed in _seeds(scale)]
        found[f"{mixer}, log loss"] = [run.evaluation.metrics["log_loss"] for run in runs]
    wins = sum(np.array(found["lstm-peephole, log loss"]) <= np.array(found["lstm-forget, log loss"]))
    reason = f"16 cells, 1,000 steps; required: the peephole LSTM's log loss is no larger on at least 2 of 3 seeds; it is on {wins}"
    return _judged(scale, bool(wins >= 2), found, reason)


@without_paper_scale(NO_SCALE)
def _bidirectional(scale: Scale) -> Measured:
    """A label that depends on both sides, and, not judged, the tags of real source code."""
    smoke = scale == "smoke"
    signs = window_sign(5, 60, *((16, 8) if smoke else (1_500, 200)))
    tags = python_tags(64, 40 if smoke else 2_000)
    found: dict[str, list[float]] = {}
    for mixer in ("bilstm", "lstm"):
        found[f"{mixer}, error"] = [1 - _run(mixer, signs, 2 if smoke else 400, seed).value for seed in _seeds(scale)]
        found[f"{mixer}, error on tags"] = [1 - _run(mixer, tags, 2 if smoke else 200, 0, width=24).value]
    values, _ = _summary(found)
    reason = (
        "sign of the sum of five values to either side, 400 steps; who sees the past alone must err at 23.5 %; required: the bidirectional "
        "network errs at most half as often as the forward one; beside it, not judged, the tags of Python's source, one seed"
    )
    return _judged(scale, values["bilstm, error"] <= 0.5 * values["lstm, error"], found, reason)


# ------------------------------------------------------------------------------------------------ training

CLIPPED_STEPS = 400


@without_paper_scale(NO_SCALE)
def _clipping(scale: Scale) -> Measured:
    """A bare tanh network on the adding problem by plain gradient descent, with and without clipping."""
    steps = 4 if scale == "smoke" else CLIPPED_STEPS
    found: dict[str, list[float]] = {}
    for name, limit in (("clipped", 1.0), ("unclipped", None)):
        losses = [_descent(steps, limit, seed) for seed in _seeds(scale)]
        found[f"{name}, spikes"] = [_spikes(row) for row in losses]
        found[f"{name}, last loss"] = [float(np.nan_to_num(row, nan=LOST, posinf=LOST)[-max(1, steps // 10) :].mean()) for row in losses]
    values, _ = _summary(found)
    holds = values["clipped, spikes"] < values["unclipped, spikes"] and values["clipped, last loss"] < values["unclipped, last loss"]
    reason = (
        f"adding problem of 50 positions; Elman network of 32 units, spectral radius 1.5, rate 0.1, {steps} steps of 32; a loss above ten "
        f"times the median, or not finite, is a spike; the last loss is the mean of the last tenth, {LOST:g} where not finite; required: "
        "fewer spikes and a lower last loss with the norm clipped at 1. On digits read pixel by pixel, tried first, neither run had a spike"
    )
    return _judged(scale, holds, found, reason)


LOST = 1e6


def _spikes(losses: np.ndarray) -> float:
    finite = losses[np.isfinite(losses)]
    return float(len(losses) - len(finite) + (finite > 10 * np.median(finite)).sum())


def _descent(steps: int, limit: float | None, seed: int) -> np.ndarray:
    """The loss of every step of plain gradient descent at rate 0.1."""
    task = adding(50, *((32, 8) if steps < CLIPPED_STEPS else (4_000, 8)))
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(2, 32), Elman(32), nn.Linear(32, 1))
    initialise_recurrent_(network, "orthogonal", 1.5)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    losses = []
    for batch in itertools.islice(task.training_batches(32, seed), steps):
        optimizer.zero_grad()
        loss = task.loss(Output(network(batch["series"])), batch)
        loss.backward()
        if limit is not None:
            clip_gradients_(network.parameters(), limit)
        optimizer.step()
        losses.append(float(loss.detach()))
    return np.array(losses)


SECOND_ORDER_STEPS, ITERATIONS = 60, 50


@without_paper_scale(NO_SCALE)
def _curvature(scale: Scale) -> Measured:
    """The adding problem by a simple network: Hessian-free steps, and as many gradient steps as those have iterations inside."""
    smoke = scale == "smoke"
    task = adding(10 if smoke else 50, *((32, 8) if smoke else (4_000, 500)))
    steps, inside = (1, 2) if smoke else (SECOND_ORDER_STEPS, ITERATIONS)
    found: dict[str, list[float]] = {"Hessian-free": [], "AdamW": []}
    for seed in range(1 if smoke else 2):
        found["Hessian-free"].append(_simple(task, steps, seed, [HessianFree(iterations=inside)], batch_size=1_000))
        found["AdamW"].append(_simple(task, steps * inside, seed, [Clipping()]))
    values, _ = _summary(found)
    holds = values["Hessian-free"] <= 0.1 and values["Hessian-free"] < values["AdamW"]
    reason = (
        f"50 positions, Elman network of 32 units that begins with a rotation, squared error (0.167 without memory); {SECOND_ORDER_STEPS} "
        f"Hessian-free steps of 1,000 examples with up to {ITERATIONS} iterations each, against {SECOND_ORDER_STEPS * ITERATIONS:,} AdamW "
        "steps of 32, clipped; two seeds; required: Hessian-free at most 0.1, and below AdamW"
    )
    return _judged(scale, holds, found, reason)


def _simple(task: Task, steps: int, seed: int, methods: Sequence[Any], **options: Any) -> float:
    """The test error of a simple recurrent network whose recurrent weights begin as a rotation."""
    torch.manual_seed(seed)
    network = build_network("elman", task.signature, 1, 0, width=32, hidden="none", depth=1, positions="none")
    initialise_recurrent_(network, "orthogonal")
    return trained(network, task, steps=steps, learning_rate=3e-3, seed=seed, methods=methods, **options).value


# ------------------------------------------------------------------------------------------------ encoder and decoder


@without_paper_scale("WMT'14 English–French and days on GPUs; run the laptop scale")
def _reversal(scale: Scale) -> Measured:
    """Digits to words by an encoder–decoder that reads forwards, or backwards; beside it, one that looks back."""
    smoke = scale == "smoke"
    task = transduction((4, 8), *((32, 8) if smoke else (20_000, 300)))
    found: dict[str, list[float]] = {}
    for name, options in (
        ("reversed", {}),
        ("forwards", {"reverse_source": False}),
        ("forwards, attention", {"reverse_source": False, "attention": True}),
    ):
        seeds = _seeds(scale) if "attention" not in options else range(1)
        found[name] = [_written(task, 2 if smoke else 700, seed, **options).value for seed in seeds]
    values, _ = _summary(found)
    reason = (
        "strings of 4 to 8 digits, LSTM of 64 cells, 700 steps of 32, exact matches written greedily; required: reversed at least 0.05 "
        "above forwards; beside it, not judged, attention, one seed"
    )
    return _judged(scale, values["reversed"] >= values["forwards"] + 0.05, found, reason)


@without_paper_scale("MS COCO and a pretrained image network; run the laptop scale")
def _captions(scale: Scale) -> Measured:
    """Shapes described in words, the picture injected first or at every word."""
    smoke = scale == "smoke"
    task = captions(*((32, 8) if smoke else (8_000, 300)))
    found: dict[str, list[float]] = {}
    for inject in ("first", "every"):
        found[f"injected {inject}"] = [_written(task, 2 if smoke else 3_000, 0, width=4, inject=inject).value]
    holds = min(each[0] for each in found.values()) >= 0.9
    return _judged(
        scale, holds, found, "3,000 steps of 32 pictures, LSTM of 32 cells, one seed; exact captions; required: ≥ 0.9 either way"
    )


@without_paper_scale("the published corpora are not at hand; run the laptop scale")
def _attention(scale: Scale) -> Measured:
    """Real messages, English to German, character by character: with and without looking back."""
    smoke = scale == "smoke"
    task = translation(longest=24, count=200 if smoke else 8_000)
    found: dict[str, list[float]] = {}
    for name, attention in (("attention", True), ("last state alone", False)):
        run = _written(task, 2 if smoke else 700, 0, attention=attention)
        found[f"{name}, bits a character"] = [run.value]
        found[f"{name}, exact"] = [run.evaluation.metrics["exact_match"]]
    with_it, without = (found[f"{name}, bits a character"][0] for name in ("attention", "last state alone"))
    reason = (
        "messages of up to 24 characters that this machine's programs hold in both languages, LSTM of 64 cells, 700 steps of 32, one seed; "
        "required: attention saves 5 % of the bits a character"
    )
    return _judged(scale, with_it <= 0.95 * without, found, reason)


@without_paper_scale(NO_PEN)
def _handwriting(scale: Scale) -> Measured:
    """Rows of real handwritten digits, read without being told where each stands: both ways, and from the left alone."""
    smoke = scale == "smoke"
    task = digit_strings((1, 2) if smoke else (1, 5), 3, *((32, 8) if smoke else (4_000, 400)))
    found: dict[str, list[float]] = {}
    for mixer in ("bilstm", "lstm"):
        found[f"{mixer}, exact"] = []
        for seed in _seeds(scale):
            torch.manual_seed(seed)
            network = build_network("ctc", task.signature, 1, 0, mixer=mixer, width=48, hidden="none", depth=1, positions="none")
            run = trained(network, task, steps=2 if smoke else 800, learning_rate=1e-2, seed=seed, methods=[Clipping()])
            found[f"{mixer}, exact"].append(run.value)
    values, _ = _summary(found)
    both, forwards = values["bilstm, exact"], values["lstm, exact"]
    reason = (
        "strings of 1 to 5 digits of scikit-learn's, up to 3 empty columns between them, a column a frame, no test picture in training; "
        "one layer of width 48 and connectionist temporal classification, 800 steps of 32; strings without any error; required: both ways "
        "at least 0.8, and not below the forward network"
    )
    return _judged(scale, both >= 0.8 and both >= forwards, found, reason)


@without_paper_scale(NO_PEN)
def _strokes(scale: Scale) -> Measured:
    """What a pen does next, as the density of one Gaussian and of several."""
    found = rnn_strokes.log_densities(scale, _seeds(scale))
    return _judged(scale, rnn_strokes.holds(found), found, rnn_strokes.REASON)


# ------------------------------------------------------------------------------------------------ memories and automata


@without_paper_scale("the published runs take days on a processor; run the laptop scale")
def _copying(scale: Scale) -> Measured:
    """Copying one to six symbols, tested on ten."""
    smoke = scale == "smoke"
    task = copying((1, 6), (10, 10), symbols=8, train=64 if smoke else 40_000, test=16 if smoke else 200)
    found: dict[str, list[float]] = {}
    machine = _run("ntm", task, 2 if smoke else 1_500, 0, width=32, slots=16, slot_width=12)
    found["ntm, error at 10"] = [1 - machine.value]
    found["lstm, error at 10"] = [1 - _run("lstm", task, 2 if smoke else 1_500, 0, width=64, rate=5e-3).value]
    holds = found["ntm, error at 10"][0] <= 0.5 * found["lstm, error at 10"][0]
    reason = (
        "eight symbols, 1,500 steps of 32, one seed; a Turing machine of 16 slots with a controller of 32 cells against an LSTM of 64; "
        "error in symbols (0.875 by chance); required: at most half of the LSTM's"
    )
    return _judged(scale, holds, found, reason)


@without_paper_scale(NO_SCALE)
def _associative(scale: Scale) -> Measured:
    """Patterns with a tenth of their units spoilt, recalled at a small and at a large load."""
    units = 60 if scale == "smoke" else 200
    found: dict[str, list[float]] = {}
    for load in (0.05, 0.3):
        found[f"recalled at load {load}"] = []
        for seed in _seeds(scale):
            patterns = torch.randint(2, (int(load * units), units), generator=torch.Generator().manual_seed(seed)).float() * 2 - 1
            network, spoilt = HopfieldNetwork(units), patterns.clone()
            network.store(patterns)
            spoilt[:, : units // 10] *= -1
            found[f"recalled at load {load}"].append(float((network(spoilt) == patterns).all(1).float().mean()))
    values, _ = _summary(found)
    holds = values["recalled at load 0.05"] >= 0.95 and values["recalled at load 0.3"] <= 0.05
    reason = "200 units, 10 % spoilt; required: ≥ 95 % of the patterns exact at 0.05 patterns a unit, ≤ 5 % at 0.3 (capacity: 0.138)"
    return _judged(scale, holds, found, reason)


@without_paper_scale(NO_SCALE)
def _automaton(scale: Scale) -> Measured:
    """Parity by weights that were written down, on every string of up to twelve."""
    longest = 4 if scale == "smoke" else 12
    network, wrong, total = parity(), 0, 0
    for length in range(1, longest + 1):
        strings = torch.tensor(list(itertools.product((0, 1), repeat=length)))
        wrong += int((network(strings) != strings.cumsum(1) % 2).any(1).sum())
        total += len(strings)
    found = {"strings": [float(total)], "wrong": [float(wrong)]}
    return _judged(
        scale, wrong == 0, found, f"a network of four rectified units on all {total:,} strings of up to {longest}; required: none wrong"
    )


def _published(scale: Scale) -> Measured:
    return Measured({}, "not-run", "WMT'14 and four layers of 1,000 cells: printed, not run")


PAPER = Paper(
    slug="rnn-review",
    title="A Critical Review of Recurrent Neural Networks for Sequence Learning",
    authors="Lipton, Berkowitz, Elkan",
    year=2015,
    claims=(
        Claim(
            "memory",
            "A recurrent network keeps information over windows of any length, longer ones than it was trained on included.",
            "a state that can represent information from an arbitrarily long context window",
            "abstract",
            _memory,
        ),
        Claim(
            "gradients",
            "Going back in time gradients vanish or explode exponentially, by the size of the recurrent weight.",
            "|w|^(T − t)",
            "the review's section on training",
            _gradients,
        ),
        Claim(
            "long-lags",
            "The LSTM solves tasks with long lags on which a simple recurrent network of the same width fails.",
            "solved, where earlier recurrent networks fail",
            "Hochreiter, Schmidhuber (1997), as the review reports it",
            _long_lags,
        ),
        Claim(
            "forget-gate",
            "On streams without resets the cell of 1997 grows and errs; a forget gate mends it.",
            "needed for continual prediction",
            "Gers, Schmidhuber, Cummins (2000), as the review reports it",
            _forgetting,
        ),
        Claim(
            "peepholes",
            "Peepholes help where precise timing is asked for.",
            "better timing",
            "Gers, Schraudolph, Schmidhuber (2002), as the review reports it",
            _timing,
        ),
        Claim(
            "bidirectional",
            "Where the future counts, a network that reads both ways labels better than one that reads forwards.",
            "state of the art in labelling",
            "abstract (bidirectional networks)",
            _bidirectional,
        ),
        Claim(
            "clipping",
            "Clipping the gradient's norm makes the training of a simple recurrent network stable.",
            "stable training",
            "Pascanu, Mikolov, Bengio (2013), as the review reports it",
            _clipping,
        ),
        Claim(
            "hessian-free",
            "Hessian-free steps train a simple recurrent network over lags at which gradient steps fail.",
            "solved up to 200 positions, as remembered: not verified",
            "Martens, Sutskever (2011), as the review reports it",
            _curvature,
        ),
        Claim(
            "reversed-source",
            "An encoder–decoder translates better when it reads the source backwards.",
            "BLEU 30.6 reversed, 25.9 not",
            "Sutskever, Vinyals, Le (2014), as remembered: not verified",
            _reversal,
        ),
        Claim(
            "captions",
            "An LSTM describes pictures whose features it is given, at the first word or at every one.",
            "plausible captions",
            "the review's section on image captioning",
            _captions,
        ),
        Claim(
            "attention",
            "On real messages, looking back at the source saves bits over its last state alone.",
            "none",
            "ours",
            _attention,
        ),
        Claim(
            "handwriting",
            "Handwriting is read without knowing where its signs are, best by a network that reads both ways.",
            "state of the art in handwriting recognition",
            "abstract; Graves et al. (2009), as the review reports it",
            _handwriting,
        ),
        Claim(
            "strokes",
            "A recurrent network with a mixture density writes pen strokes: it gives real ones a higher density than a single Gaussian "
            "does.",
            "none comparable",
            "Graves (2013), as remembered: not verified",
            _strokes,
        ),
        Claim(
            "turing-machine",
            "A neural Turing machine learns to copy, and copies longer sequences than it was trained on better than an LSTM.",
            "copies far beyond the trained length",
            "Graves, Wayne, Danihelka (2014), as remembered: not verified",
            _copying,
        ),
        Claim(
            "hopfield",
            "A Hopfield network recalls spoilt patterns, up to a load.",
            "recall of stored patterns; capacity 0.138 a unit",
            "the review's section on early networks; capacity: Amit, Gutfreund, Sompolinsky (1985)",
            _associative,
        ),
        Claim(
            "automata",
            "A finite recurrent network with the right weights computes what a finite automaton computes: parity, exactly.",
            "universality of recurrent networks",
            "the review's section on their power",
            _automaton,
        ),
        Claim(
            "bleu",
            "BLEU of English to French with reversed sources.",
            "34.8 (ensemble), 30.6 (single, reversed), 25.9 (not reversed)",
            "Sutskever, Vinyals, Le (2014), as remembered: not verified",
            _published,
        ),
    ),
)
