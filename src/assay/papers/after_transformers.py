"""Schneider (2024), What comes after transformers? A selective survey connecting ideas in deep learning: its theses, made executable.

The survey has no experiments and no figures of its own: each claim is a reading of a sentence of its abstract, with a threshold of ours
that was set before the runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from assay import registry
from assay.bench.statistics import Comparison
from assay.catalogue.ideas import FAMILIES, PART_KINDS, PATTERNS, Idea, graph, ideas
from assay.contracts import Batch, Claim, Measured, Output, Paper, Scale, SplitName, Task, Verdict
from assay.measure import parameter_count, state_bytes
from assay.models import build
from assay.models.estimators import Hyperdimensional
from assay.models.vision.capsules import CapsuleNetwork
from assay.papers.experiment import Trained, trained, without_paper_scale
from assay.tasks.builtin import digits
from assay.tasks.python_source import python_source
from assay.tasks.synthetic.first_symbol import first_symbol
from assay.tasks.synthetic.recall import multi_query_recall
from assay.training.methods.forward_forward import ForwardForward, goodness_predictor
from assay.training.methods.weight_averaging import WeightAveraging

NO_FIGURES = "the survey has no experiments, so there is no published scale; run the laptop scale"
SMOKE = "smoke scale shows only that the experiment runs"
SEEDS = 3


def _verdict(holds: bool) -> Verdict:
    return "holds" if holds else "fails"


def _absent(names: Sequence[str]) -> Measured | None:
    """The answer where this installation lacks a mixer."""
    missing = [name for name in names if not registry.known("mixer", name)]
    return Measured({}, "not-run", f"not registered: {', '.join(missing)}") if missing else None


# ------------------------------------------------------------------------------------------------ the catalogue

SHEETS = 38


def _comprehensive(scale: Scale) -> Measured:
    """Counts of the catalogue."""
    import networkx

    entries = ideas()
    families, patterns = {idea.family for idea in entries}, {pattern for idea in entries for pattern in idea.patterns}
    slugs = {slug for idea in entries for slug in idea.slugs}
    runnable = sum(_runs(idea) for idea in entries) / len(entries)
    pieces = networkx.number_weakly_connected_components(graph())
    values = {
        "ideas": float(len(entries)),
        "families": float(len(families)),
        "patterns": float(len(patterns)),
        "papers linked": float(len(slugs)),
        "connected components": float(pieces),
        "share that runs": runnable,
    }
    complete = families == set(FAMILIES) and patterns == set(PATTERNS)
    holds = len(entries) >= 90 and complete and len(slugs) >= SHEETS and pieces == 1 and runnable >= 0.7
    reason = (
        f"required: at least 90 ideas, none of {len(FAMILIES)} families and {len(PATTERNS)} patterns empty, {SHEETS} papers linked, one "
        "connected component, at least 70 % of the ideas with a part that is registered"
    )
    return Measured(values, _verdict(holds), reason)


def _runs(idea: Idea) -> bool:
    return bool(idea.parts) and all(any(registry.known(kind, part) for kind in PART_KINDS if kind in registry.TABLE) for part in idea.parts)


# ------------------------------------------------------------------------------------------------ patterns

Run = Callable[[bool, int, Scale], Trained]


@cache
def _digits() -> Task:
    return digits()


@cache
def _bytes(scale: Scale, window: int) -> Task:
    return python_source(20_000 if scale == "smoke" else 400_000, window)


def _trained(model: str | nn.Module, task: Task, steps: int, seed: int, scale: Scale, **more: Any) -> Trained:
    """The last weights after so many steps: with one validation only, at the end, the steps are all that takes time."""
    steps = 2 if scale == "smoke" else steps
    return trained(model, task, steps=steps, learning_rate=3e-3, seed=seed, select="last", validate_every=steps, **more)


def _on_bytes(seed: int, scale: Scale, **more: Any) -> Trained:
    return _trained("attention", _bytes(scale, 64), 300, seed, scale, parameters=40_000, batch_size=16, **more)


def _multi_x(on: bool, seed: int, scale: Scale) -> Trained:
    return _on_bytes(seed, scale, options={"heads": 8 if on else 1})


def _higher_order(on: bool, seed: int, scale: Scale) -> Trained:
    return _on_bytes(seed, scale, options={"heads": 4, "activation": "swiglu" if on else "gelu"})


def _moving_average(on: bool, seed: int, scale: Scale) -> Trained:
    return _on_bytes(seed, scale, options={"heads": 4}, schedule="constant", methods=[WeightAveraging()] if on else [])


def _decompose(on: bool, seed: int, scale: Scale) -> Trained:
    torch.manual_seed(seed)
    return _trained(_Pictures(_convolutions(on)), _digits(), 300, seed, scale)


def _weigh(on: bool, seed: int, scale: Scale) -> Trained:
    options = {"heads": 4, "depth": 12} | ({"layer_scale": 0.1} if on else {})
    return _trained("attention", _digits(), 300, seed, scale, parameters=60_000, options=options)


class _Pictures(nn.Module):
    """A network on pictures as a model of the digits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: Batch) -> Output:
        return Output(self.network(batch["image"]))


def _convolutions(separable: bool) -> nn.Module:
    """Two layers of 3 × 3 on a first one, full or split into one a channel and one across channels, both near 6,500 parameters."""

    def layer(width: int) -> list[nn.Module]:
        if separable:
            return [nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False), nn.Conv2d(width, width, 1), nn.ReLU()]
        return [nn.Conv2d(width, width, 3, padding=1), nn.ReLU()]

    width = 47 if separable else 18
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)]
    return nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), *layer(width), nn.MaxPool2d(2), *layer(width), *pool)


PAIRS: dict[str, Run] = {
    "multi-x: 8 heads, not 1": _multi_x,
    "higher-order: gated feed-forward, not plain": _higher_order,
    "moving average: averaged weights, not the last": _moving_average,
    "decompose: separable convolutions, not full": _decompose,
    "weigh: LayerScale in 12 layers, not none": _weigh,
}


@without_paper_scale(NO_FIGURES)
def _patterns(scale: Scale) -> Measured:
    """A pair of networks a pattern, one with it and one without, alike in all else."""
    seeds = range(1 if scale == "smoke" else SEEDS)
    values: dict[str, float] = {}
    spread: dict[str, float] = {}
    helped = []
    for name, run in PAIRS.items():
        runs = {on: {seed: run(on, seed, scale) for seed in seeds} for on in (True, False)}
        sizes = {on: parameter_count(runs[on][0].model) for on in runs}
        sign = 1 if name.startswith(("decompose", "weigh")) else -1  # accuracy on digits, bits a byte on source code
        scores = {str(on): {seed: sign * found.evaluation.scores for seed, found in of_seeds.items()} for on, of_seeds in runs.items()}
        gain = Comparison(scores).paired("True", "False")
        values |= {f"{name}: gain": gain.difference, f"{name}: parameters": sizes[True] / sizes[False]}
        spread[f"{name}: gain"] = (gain.high - gain.low) / 2
        if gain.low > 0:
            helped.append(name.split(":")[0])
    if scale == "smoke":
        return Measured(values, "undecided", SMOKE, spread, len(seeds))
    reason = (
        "gain in accuracy on digits (decompose, weigh) or in bits a byte on source code (the others), 300 steps, spread: half the 95 % "
        "interval over test examples and seeds; parameters: with the pattern over without; required: the interval is above 0 for at least "
        f"3 of 5; it is for {', '.join(helped) or 'none'}"
    )
    return Measured(values, _verdict(len(helped) >= 3), reason, spread, len(seeds))


# ------------------------------------------------------------------------------------------------ state spaces

LAG_MIXERS = ("s4d", "mamba", "retention", "attention")
LAGS = ((32, 300, 32), (256, 200, 16), (1_024, 250, 8))
"""(positions, steps, examples a step), one after the other: on 1,024 positions alone neither attention nor S4D learned in 400 steps, after
shorter lags both did (on validation)."""
LAG_RATES = (1e-2, 3e-2)


@without_paper_scale(NO_FIGURES)
def _long_lag(scale: Scale) -> Measured:
    """The first of 1,024 symbols, named at the end."""
    names = [*LAG_MIXERS, *(["lssl"] if registry.known("mixer", "lssl") else [])]
    if absent := _absent(LAG_MIXERS):
        return absent
    values: dict[str, float] = {}
    for name in names:
        values |= _over_lags(name, scale)
    if scale == "smoke":
        return Measured(values, "undecided", SMOKE)
    reached = {name: values[f"{name}, {LAGS[-1][0]} positions"] for name in names}
    best = max(reached.get("lssl", 0.0), reached["s4d"])
    rest = max(value for name, value in reached.items() if name not in ("s4d", "lssl"))
    level = [name for name, value in reached.items() if name not in ("s4d", "lssl") and value == best]
    stages = ", then ".join(f"{steps} steps of {batch} × {length}" for length, steps, batch in LAGS)
    reason = (
        f"accuracy, guessing: 0.125; 20,000 parameters; {stages} positions, the last at the better of the rates {LAG_RATES} on validation "
        f"before it; required: S4D (or LSSL, where it is there) at least 0.5 at {LAGS[-1][0]} positions and no less than any other"
    )
    return Measured(values, _verdict(best >= 0.5 and best >= rest), reason + (f"; level with it: {', '.join(level)}" if level else ""))


def _over_lags(name: str, scale: Scale) -> dict[str, float]:
    """Test accuracy at the longest lag, and validation accuracy at the one before it, where the rate is chosen."""
    lags = ((4, 2, 4), (8, 2, 4), (16, 2, 4)) if scale == "smoke" else LAGS
    tasks = {length: _first_symbol(length, scale) for length, _, _ in lags}
    before: dict[float, Trained] = {}
    for rate in LAG_RATES:
        torch.manual_seed(0)
        network = build(name, tasks[lags[-1][0]].signature, 20_000)
        for lag in lags[:-1]:
            before[rate] = _at_lag(network, tasks, lag, rate, "validation")
    rate = max(LAG_RATES, key=lambda rate: before[rate].value)
    last = _at_lag(before[rate].model, tasks, lags[-1], rate, "test")
    return {f"{name}, {lags[-2][0]} positions": before[rate].value, f"{name}, {lags[-1][0]} positions": last.value, f"{name}, rate": rate}


def _at_lag(network: nn.Module, tasks: dict[int, Task], lag: tuple[int, int, int], rate: float, split: SplitName) -> Trained:
    length, steps, batch = lag
    settings: dict[str, Any] = {"batch_size": batch, "validate_every": steps, "select": "last", "split": split}
    return trained(network, tasks[length], steps=steps, learning_rate=rate, seed=0, **settings)


@cache
def _first_symbol(length: int, scale: Scale) -> Task:
    return first_symbol(4, 4, length, train=64, test=16) if scale == "smoke" else first_symbol(length=length)


RECALL_MIXERS: dict[str, dict[str, int]] = {
    **{name: {"heads": 1} for name in ("attention", "retention", "linear-attention", "gated-delta")},
    **{name: {} for name in ("s4d", "mamba")},
}
DELTA_RULE = ("gated-delta",)
LONGEST = "accuracy_8_pairs_in_64"


@without_paper_scale(NO_FIGURES)
def _recall(scale: Scale) -> Measured:
    """Eight pairs in 64 positions; shorter examples among the training ones show first what is asked for."""
    if absent := _absent(tuple(RECALL_MIXERS)):
        return absent
    sizes = ((16, 2), (64, 8)) if scale == "smoke" else ((16, 2), (32, 4), (64, 8))
    task = multi_query_recall(sizes, vocabulary=72, train=64 if scale == "smoke" else 20_000, test=16 if scale == "smoke" else 200)
    values = {
        name: _trained(
            name, task, 500, 0, scale, parameters=20_000, batch_size=64, options={"hidden": "none", **options}
        ).evaluation.metrics[LONGEST]
        for name, options in RECALL_MIXERS.items()
    }
    if scale == "smoke":
        return Measured(values, "undecided", SMOKE)
    own = values["attention"]
    behind = all(own > value for name, value in values.items() if name not in ("attention", *DELTA_RULE))
    near = all(own >= values[name] - 0.05 for name in DELTA_RULE)
    reason = (
        "accuracy on 8 pairs in 64 positions (guessing among an example's values: 0.125), 20,000 parameters without channel mixing, one "
        "head, 500 steps of 64, rate 3e-3; required: attention above every mixer with a fixed state, and no more than 0.05 below the delta "
        "rule"
    )
    return Measured(values, _verdict(behind and near), reason)


@without_paper_scale(NO_FIGURES)
def _language(scale: Scale) -> Measured:
    """The next byte of source code."""
    names = ("attention", "mamba")
    if absent := _absent(names):
        return absent
    task = _bytes(scale, 128)
    values = {f"{name}, bits a byte": _trained(name, task, 400, 0, scale, parameters=80_000, batch_size=16).value for name in names}
    if scale == "smoke":
        return Measured(values, "undecided", SMOKE)
    ratio = values["mamba, bits a byte"] / values["attention, bits a byte"]
    reason = f"80,000 parameters, 400 steps of 16 × 128 bytes; required: at most 1.03 × attention's bits; it is {ratio:.3f} ×"
    return Measured(values | {"ratio": ratio}, _verdict(ratio <= 1.03), reason)


FIXED = ("retention", "rwkv", "s4d", "mamba", "h3", "gated-delta", "min-gru", "lru", "linear-attention")
GROWING = ("attention", "hyena", "base-conv")


@without_paper_scale(NO_FIGURES)
def _stream(scale: Scale) -> Measured:
    """Bytes of one stream's state, by positions read."""
    if absent := _absent((*FIXED, *GROWING)):
        return absent
    marks = (64, 128, 256) if scale == "smoke" else (1_024, 2_048, 4_096, 8_192)
    values: dict[str, float] = {}
    exponents: dict[str, float] = {}
    for name in chain(FIXED, GROWING):
        sizes = _bytes_after(name, marks)
        values |= {f"{name}, {mark} positions": float(size) for mark, size in zip(marks, sizes, strict=True)}
        exponents[name] = float(np.polyfit(np.log(marks), np.log(sizes), 1)[0])
    values |= {f"{name}, exponent": exponents[name] for name in GROWING}
    flat = all(len({values[f"{name}, {mark} positions"] for mark in marks}) == 1 for name in FIXED)
    holds = flat and abs(exponents["attention"] - 1) <= 0.15
    reason = (
        f"width 32, one stream; required: the same bytes at every length for {', '.join(FIXED)}; attention's grow with exponent 1 ± 0.15. "
        "Long convolutions, shown beside, keep every input too"
    )
    return Measured(values, _verdict(holds), reason)


def _bytes_after(name: str, marks: Sequence[int]) -> list[int]:
    torch.manual_seed(0)
    make = registry.resolve("mixer", name)
    mixer = make(32, length=marks[-1]) if name in ("hyena", "base-conv") else make(32)
    state, read, sizes = mixer.initial_state(1), 0, []
    with torch.no_grad():
        for mark in marks:
            while read < mark:
                chunk = min(512, mark - read)
                _, state = mixer.scan(_noise(chunk), state)
                read += chunk
            sizes.append(state_bytes(state))
    return sizes


def _noise(length: int) -> Tensor:
    return torch.randn(1, length, 32, generator=torch.Generator().manual_seed(length))


# ------------------------------------------------------------------------------------------------ far out

FAR_OUT = ("Forward-Forward", "hyperdimensional", "capsules")


@without_paper_scale("the reading is of MNIST, which no package ships; the laptop scale is on scikit-learn's 1,797 digits")
def _far_out(scale: Scale) -> Measured:
    """Three ideas against a multi-layer perceptron trained by back-propagation, on digits."""
    task, runs = _digits(), {name: [] for name in ("MLP", *FAR_OUT, "Forward-Forward, by its head")}
    for seed in range(1 if scale == "smoke" else SEEDS):
        mlp, forward, capsules = _far_out_networks(seed, scale)
        runs["MLP"].append(mlp.value)
        runs["Forward-Forward"].append(task.evaluate(goodness_predictor(forward.model), "test").metrics["accuracy"])
        runs["Forward-Forward, by its head"].append(forward.value)
        runs["capsules"].append(capsules.value)
        runs["hyperdimensional"].append(task.evaluate(Hyperdimensional().fit(task, seed), "test").metrics["accuracy"])
    values = {name: float(np.mean(found)) for name, found in runs.items()}
    spread = {name: float(np.std(found)) for name, found in runs.items()}
    if scale == "smoke":
        return Measured(values, "undecided", SMOKE, spread)
    below, least = max(values[name] for name in FAR_OUT) <= values["MLP"], min(values[name] for name in FAR_OUT)
    reason = (
        f"accuracy on 8 × 8 digits, {SEEDS} seeds; Forward-Forward by trying every label, as published; required: each at least 0.85 "
        f"({'so' if least >= 0.85 else 'not so'}) and none above the MLP ({'so' if below else 'not so'})"
    )
    return Measured(values, _verdict(below and least >= 0.85), reason, spread, SEEDS)


def _far_out_networks(seed: int, scale: Scale) -> tuple[Trained, Trained, Trained]:
    task = _digits()
    mlp = _trained("mlp", task, 1_000, seed, scale, parameters=50_000)
    forward = _trained("mlp", task, 1_000, seed, scale, parameters=50_000, methods=[ForwardForward(seed=seed)])
    torch.manual_seed(seed)
    return mlp, forward, _trained(CapsuleNetwork(task.signature, 2, 16), task, 500, seed, scale)


def _claim(name: str, text: str, experiment: Callable[[Scale], Measured]) -> Claim:
    return Claim(name, text, "no figure; our reading of a thesis", "abstract", experiment)


PAPER = Paper(
    slug="after-transformers",
    title="What comes after transformers? A selective survey connecting ideas in deep learning",
    authors="Schneider",
    year=2024,
    claims=(
        _claim("comprehensive", "The field's ideas can be listed comprehensively and are connected.", _comprehensive),
        _claim("patterns", "A few patterns summarise successful innovation: adding one helps.", _patterns),
        _claim("long-lag", "State-space models keep over a long lag what other mixers of their size lose.", _long_lag),
        _claim("recall", "Attention recalls by content better than mixers with a fixed state.", _recall),
        _claim("language", "A selective state space models text about as well as attention.", _language),
        _claim("stream", "Transformers are inefficient on streams: their memory grows, that of their successors does not.", _stream),
        _claim("far-out", "Far-out ideas are promising although not the state of the art.", _far_out),
    ),
)
