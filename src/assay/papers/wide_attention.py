"""Brown, Zhao, Shumailov, Mullins (2022), Wide Attention Is The Way Forward For Transformers?: the claims, executable."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from assay import registry
from assay.bench.study import Study, compare
from assay.contracts import Claim, Measured, Paper, Scale
from assay.inspection.attention import attention_rollout
from assay.measure import count_flops, medians, parameter_bytes, parameter_count
from assay.models import build_network
from assay.nn.attention.softmax import SoftmaxAttention
from assay.nn.block import ResidualBlock
from assay.papers.experiment import trained, without_paper_scale
from assay.tasks.passages import passages
from assay.tasks.synthetic.listops import listops
from assay.tasks.synthetic.matching import document_matching
from assay.tasks.synthetic.planted_key import planted_key

# ------------------------------------------------------------------------------------------------ the study, as a user runs it


def aspect_ratio_study(
    data: Any,
    models: Sequence[str] = ("attention",),
    *,
    total_heads: int = 16,
    head_width: int = 16,
    width: int = 64,
    hidden: int | None = None,
    depths: Sequence[int] | None = None,
    axis: dict[str, Sequence[Any]] | None = None,
    **options: Any,
) -> Study:
    """The same heads in one wide layer, in several layers, in many: `assay.compare` along the axis ``depth``.

    Args:
        data: as `assay.compare`.
        models: names of attention kinds.
        total_heads: heads of all layers together.
        head_width: numbers per head, whatever the width.
        width: numbers per position.
        hidden: feed-forward size. Given, layers are alike and wide networks smaller, as in the paper; None turns it until all networks
            have the same number of parameters, which is the fairer question.
        depths: numbers of layers, by default all divisors of ``total_heads``.
        axis: further axes, ``{"causal": [False]}`` say.
        options: of `assay.compare`.

    Returns:
        The study, a line of its leaderboard for each kind and depth.

    Raises:
        UserError: as `assay.compare`.
    """
    chosen = depths or [depth for depth in range(1, total_heads + 1) if total_heads % depth == 0]
    fixed = {"total_heads": total_heads, "head_width": head_width, "width": width} | ({} if hidden is None else {"hidden": hidden})
    axes = {"depth": list(chosen), **{name: [value] for name, value in fixed.items()}, **(axis or {})}
    return compare(data, models=list(models), axis=axes, **options)


# ------------------------------------------------------------------------------------------------ wide competes with deep

KINDS: dict[str, dict[str, Any]] = {
    "attention": {"causal": False},
    "block-sparse-attention": {"block": 8, "random_blocks": 1},
    "linear-attention": {"causal": False},
    "low-rank-attention": {"rank": 32},
    "local-attention": {"causal": False, "block": 16},
    "sliding-window-attention": {"causal": False, "window": 16, "global_tokens": 1},
    "random-feature-attention": {"causal": False, "features": 32},
    "sinkhorn-attention": {"block": 16},
    "strided-sparse-attention": {"causal": False, "block": 16},
    "synthesizer": {},
}
"""The ten kinds, with blocks and windows in proportion to the short sequences here."""
TASKS: dict[str, Callable[[bool], Any]] = {
    "listops": lambda few: _sized(few, listops, shortest=12, length=48),
    "bytes": lambda few: passages("bytes", length=96, per_class=12 if few else 500),
    "words": lambda few: passages("words", length=96, per_class=12 if few else 500),
    "matching": lambda few: _sized(few, document_matching, topics=6, own_words=6, common_words=30, share=0.6, length=48),
}
"""By name; few examples show that a network runs."""
HEADS, HEAD_WIDTH, WIDTH, HIDDEN = 16, 8, 32, 64
DEEP, WIDE = 4, 1
STEPS, LEARNING_RATE, ALLOWED = 600, 3e-3, -1.0
LEARNT = 5.0  # points above the most frequent class that the networks must reach on average, for a difference to say anything
NOT_AT_HAND = "IMDb, the ListOps files and the AAN documents come with no installable package; run the laptop scale"


def _sized(few: bool, make: Callable[..., Any], **options: Any) -> Any:
    return make(**options, train=64 if few else 5_000, test=32 if few else 500)


@cache
def _task(name: str, scale: Scale) -> Any:
    return TASKS[name](scale == "smoke")


@cache
def _accuracy(kind: str, task: str, depth: int, seed: int, scale: Scale) -> float:
    """Test accuracy in per cent of one run; kept, for the claim on the average needs the runs of all others."""
    data, steps = _task(task, scale), 2 if scale == "smoke" else STEPS
    torch.manual_seed(seed)
    options = {"depth": depth, "total_heads": HEADS, "head_width": HEAD_WIDTH, "width": WIDTH, "hidden": HIDDEN, **KINDS[kind]}
    network = build_network(kind, data.signature, 1, 0, **options)
    return 100 * trained(network, data, steps=steps, learning_rate=LEARNING_RATE, seed=seed, validate_every=max(1, steps // 2)).value


def _differences(task: str, scale: Scale) -> tuple[dict[str, float], dict[str, float], list[str]]:
    """Wide − deep by kind in points, the accuracies behind them, and the kinds that are not registered."""
    found, values, missing = {}, {}, []
    for kind in KINDS if scale == "laptop" else list(KINDS)[:2]:
        if not registry.known("mixer", kind):
            missing.append(kind)
            continue
        deep, wide = (_accuracy(kind, task, depth, 0, scale) for depth in (DEEP, WIDE))
        values[f"{task}, {kind}, {DEEP}×{HEADS // DEEP}"], values[f"{task}, {kind}, {WIDE}×{HEADS // WIDE}"] = deep, wide
        found[kind] = wide - deep
    return found, values, missing


def _interval(differences: Sequence[float]) -> tuple[float, float]:
    """95 % of the mean, by resampling."""
    drawn = np.random.default_rng(0).choice(np.asarray(differences), (10_000, len(differences))).mean(1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def _judged(differences: Sequence[float], values: dict[str, float], missing: list[str], scale: Scale) -> Measured:
    if not differences:
        return Measured({}, "not-run", f"none of the kinds is registered: {', '.join(missing)}")
    low, high = _interval(differences)
    mean = float(np.mean(differences))
    better, worse = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    values |= {"wide − deep, points": mean, "low": low, "high": high, "wide better": float(better), "wide worse": float(worse)}
    if scale == "smoke":
        return Measured(values, "undecided", "two steps show that it runs, nothing more")
    absent = f"; not there: {', '.join(missing)}" if missing else ""
    reason = (
        f"{HEADS} heads of {HEAD_WIDTH}, width {WIDTH}, {STEPS} steps, one seed; wide − deep {mean:+.1f} points [{low:+.1f}, {high:+.1f}], "
        f"better in {better} and worse in {worse} of {len(differences)} pairs; required: mean ≥ {ALLOWED}{absent}"
    )
    return Measured(values, "holds" if mean >= ALLOWED else "fails", reason)


def _learnt(task: str, values: dict[str, float]) -> bool:
    """Whether the runs on a task are on average clearly better than always naming its most frequent class."""
    target = _task(task, "laptop").splits["test"]["target"]
    return float(np.mean(list(values.values()))) >= 100 * float(torch.bincount(target).max()) / len(target) + LEARNT


def _competes_on(task: str) -> Callable[[Scale], Measured]:
    @without_paper_scale(NOT_AT_HAND)
    def run(scale: Scale) -> Measured:
        found, values, missing = _differences(task, scale)
        learnt = scale == "smoke" or not values or _learnt(task, values)
        measured = _judged(list(found.values()), values, missing, scale)
        if not learnt:
            return replace(measured, verdict="undecided", reason=f"the networks did not learn the task; {measured.reason}")
        return measured

    return run


@without_paper_scale(NOT_AT_HAND)
def _competes(scale: Scale) -> Measured:
    """The mean over all kinds and the tasks that were learnt, and that of vanilla attention beside it."""
    if scale == "smoke":
        return Measured({}, "not-run", "the smoke scale trains nothing long enough to average")
    by_task = {task: _differences(task, scale) for task in TASKS}
    by_task = {task: found for task, found in by_task.items() if not found[1] or _learnt(task, found[1])}
    every = [difference for found, _, _ in by_task.values() for difference in found.values()]
    values = {f"wide − deep, {task}": float(np.mean(list(found.values()))) for task, (found, _, _) in by_task.items() if found}
    vanilla = [found["attention"] for found, _, _ in by_task.values() if "attention" in found]
    if vanilla:
        values["wide − deep, vanilla attention"] = float(np.mean(vanilla))
    missing = [kind for kind in KINDS if not registry.known("mixer", kind)]
    return _judged(every, values, missing, scale)


# ------------------------------------------------------------------------------------------------ size, time, memory

SHAPES = {"4×4 → 1×16": (256, 1024, 64, 16, 4), "6×8 → 1×48": (512, 2048, 64, 48, 6)}
"""Width, hidden size, head width, heads in all, layers of the deep network; as published."""
PUBLISHED = {"4×4 → 1×16": 0.5, "6×8 → 1×48": 4 / 9}


def _body(shape: str, layers: int) -> nn.Sequential:
    """The residual blocks alone, without embedding and head."""
    width, hidden, head_width, heads, _ = SHAPES[shape]

    def block() -> ResidualBlock:
        return ResidualBlock(SoftmaxAttention(width, heads // layers, head_width, causal=False), width, hidden)

    return nn.Sequential(*(block() for _ in range(layers)))


def _size(_scale: Scale) -> Measured:
    """Parameters of the published shapes."""
    values = {}
    for name, (*_, layers) in SHAPES.items():
        deep, wide = (parameter_count(_body(name, count)) for count in (layers, 1))
        values |= {f"{name}, deep": float(deep), f"{name}, wide": float(wide), f"{name}, ratio": wide / deep}
    holds = all(abs(values[f"{name}, ratio"] - expected) <= 0.01 for name, expected in PUBLISHED.items())
    return Measured(values, "holds" if holds else "fails", "blocks without embeddings; required: 0.50 ± 0.01 and 0.444 ± 0.01")


def _speed(scale: Scale) -> Measured:
    """Inference of one sequence, one thread, the two networks in turn."""
    lengths, repeats = ({"4×4 → 1×16": 64}, 3) if scale == "smoke" else ({"4×4 → 1×16": 1000, "6×8 → 1×48": 512}, 30)
    values = {}
    for name, length in lengths.items():
        networks = {layers: _body(name, layers).eval() for layers in (SHAPES[name][-1], 1)}
        x = torch.randn(1, length, SHAPES[name][0], generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            deep, wide = medians({str(layers): partial(network, x) for layers, network in networks.items()}, repeats).values()
        values |= {f"{name}, deep, ms": deep, f"{name}, wide, ms": wide, f"{name}, times faster": deep / wide}
        more, fewer = (count_flops(network, x) for network in networks.values())
        values[f"{name}, times fewer operations"] = more / fewer
    least = min(value for name, value in values.items() if name.endswith("faster"))
    if scale == "smoke":
        return Measured(values, "undecided", "a short sequence is dominated by the cost of a call")
    fewer = min(value for name, value in values.items() if name.endswith("operations"))
    reason = (
        f"batch 1, processor time, medians of 30, fused attention; required: ≥ 1.5 × at both shapes; least found {least:.2f} ×, "
        f"where the wide network has {fewer:.2f} × fewer operations: only feed-forward nets and norms fall away, attention costs the same"
    )
    return Measured(values, "holds" if least >= 1.5 else "fails", reason)


def _graphics(scale: Scale) -> Measured:
    """The same on a GPU, where there is one."""
    if not torch.cuda.is_available():
        return Measured({}, "not-run", "this machine has no GPU")
    if scale == "smoke":
        return Measured({}, "not-run", "the smoke scale measures nothing on a GPU")
    name, times = "6×8 → 1×48", []
    x = torch.randn(32, 512, SHAPES[name][0], device="cuda")
    for layers in (SHAPES[name][-1], 1):
        network, taken = _body(name, layers).eval().cuda(), []
        with torch.no_grad():
            for _ in range(35):
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                network(x)
                end.record()
                torch.cuda.synchronize()
                taken.append(start.elapsed_time(end))
        times.append(statistics.median(taken[5:]))
    values = {"deep, ms": times[0], "wide, ms": times[1], "times faster": times[0] / times[1]}
    reason = "batch 32 of 512 positions, medians of 30; required: ≥ 1.5 ×"
    return Measured(values, "holds" if times[0] / times[1] >= 1.5 else "fails", reason)


def _memory(scale: Scale) -> Measured:
    """What a training step must hold: weights, their gradients, Adam's two moments, and what is kept for the backward pass."""
    length, batch = (32, 1) if scale == "smoke" else (512, 4)
    values = {}
    for name, (width, *_, layers) in SHAPES.items():
        x = torch.randn(batch, length, width, generator=torch.Generator().manual_seed(0))
        for word, count in (("deep", layers), ("wide", 1)):
            network = _body(name, count)
            values[f"{name}, {word}, MB"] = (4 * parameter_bytes(network) + _kept_bytes(network, x)) / 1e6
        values[f"{name}, ratio"] = values[f"{name}, wide, MB"] / values[f"{name}, deep, MB"]
    worst = max(values[f"{name}, ratio"] for name in SHAPES)
    reason = f"batch {batch} of {length} positions, float32, by adding up tensors; required: wide ≤ 0.7 × deep at both shapes"
    return Measured(values, "holds" if worst <= 0.7 else "fails", reason)


def _kept_bytes(network: nn.Module, x: Tensor) -> int:
    """Bytes of the tensors that are kept for backward, beside the weights."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = network(x)  # held until all is counted, so that no address is used twice
    del output
    return sum(kept.values())


# ------------------------------------------------------------------------------------------------ what it looks at


def _interpretable(scale: Scale) -> Measured:
    """The share of the most attended positions that lie in the key, in one wide layer and in four."""
    seeds, steps, key = (2, 600, 4) if scale == "laptop" else (1, 2, 4)
    task = planted_key(key=key, length=48) if scale == "laptop" else planted_key(key=key, length=48, train=64, test=32)
    hits: dict[int, list[float]] = {DEEP: [], WIDE: []}
    accuracies: dict[int, list[float]] = {DEEP: [], WIDE: []}
    for depth in hits:
        for seed in range(seeds):
            torch.manual_seed(seed)
            options = {"depth": depth, "total_heads": HEADS, "head_width": HEAD_WIDTH, "width": WIDTH, "hidden": HIDDEN, "causal": False}
            network = build_network("attention", task.signature, 1, 0, **options)
            run = trained(network, task, steps=steps, learning_rate=LEARNING_RATE, seed=seed, validate_every=max(1, steps // 4))
            accuracies[depth].append(run.value)
            hits[depth].append(_hit_rate(run.model, task, key))
    names = {DEEP: f"{DEEP}×{HEADS // DEEP}", WIDE: f"{WIDE}×{HEADS // WIDE}"}
    values = {f"hit rate, {names[depth]}": float(np.mean(rates)) for depth, rates in hits.items()}
    values |= {f"accuracy, {names[depth]}": float(np.mean(rates)) for depth, rates in accuracies.items()}
    values["hit rate by chance"] = key / 48
    spread = {f"hit rate, {names[depth]}": float(np.std(rates)) for depth, rates in hits.items()}
    if scale == "smoke":
        return Measured(values, "undecided", "two steps show that it runs, nothing more", spread, seeds)
    reason = (
        f"{steps} steps, {seeds} seeds, attention rollout; required: hit rate of one wide layer ≥ that of four, and both accuracies ≥ 0.6"
    )
    if min(values[f"accuracy, {name}"] for name in names.values()) < 0.6:
        return Measured(values, "undecided", reason + "; the networks did not learn the task", spread, seeds)
    holds = values[f"hit rate, {names[WIDE]}"] >= values[f"hit rate, {names[DEEP]}"]
    return Measured(values, "holds" if holds else "fails", reason, spread, seeds)


def _hit_rate(network: nn.Module, task: Any, key: int) -> float:
    batch = task.batch_of("test", slice(0, 500))
    most = attention_rollout(network, batch).topk(key).indices
    start = batch["key_start"][:, None]
    return float(((most >= start) & (most < start + key)).float().mean())


PAPER = Paper(
    slug="wide-attention",
    title="Wide Attention Is The Way Forward For Transformers?",
    authors="Brown, Zhao, Shumailov, Mullins",
    year=2022,
    claims=(
        *(
            Claim(
                f"competes-{task}",
                f"On {words}, one wide layer is as good as four with the same heads, to one point, averaged over ten kinds of attention.",
                "+0.3 % on average over four tasks and ten kinds",
                "abstract",
                _competes_on(task),
            )
            for task, words in (
                ("listops", "nested lists (short ListOps)"),
                ("bytes", "passages of source code by byte (for IMDb by byte)"),
                ("words", "the same by word (for IMDb by token)"),
                ("matching", "pairs of documents by letter (for AAN)"),
            )
        ),
        Claim(
            "competes",
            "Averaged over four tasks and ten kinds of attention, one wide layer is as good as four with the same heads, to one point.",
            "+0.3 %; vanilla attention alone +0.4 %",
            "abstract and introduction",
            _competes,
        ),
        Claim("size", "The wide network is half the size.", "half the size on IMDb; 1.4 × smaller on average", "abstract", _size),
        Claim("speed-cpu", "It is faster on a CPU (here: at least 1.5 ×).", "3.1 × on IMDb by byte", "abstract", _speed),
        Claim("speed-gpu", "It is faster on a GPU (here: at least 1.5 ×).", "1.9 × on IMDb by byte", "abstract", _graphics),
        Claim("memory", "It needs less memory (here: a training step at most 0.7 of it).", "smaller", "abstract", _memory),
        Claim(
            "interpretable",
            "What one wide layer attends to is where the answer lies at least as often as what four layers attend to.",
            "more interpretable",
            "abstract",
            without_paper_scale("the paper shows single examples")(_interpretable),
        ),
    ),
)
