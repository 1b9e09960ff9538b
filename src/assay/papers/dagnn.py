"""Claims of: Towards Deeper Graph Neural Networks.

Laptop scale: nouns of WordNet (14,169 nodes, 18,881 edges, 7 classes) where the environment variable ASSAY_WORDNET names the fetched
package, else a degree-corrected block model of 3,000 nodes, and the reason says which. 20 labels a class, 150 epochs of Adam 0.01,
best validation kept. Two pairs of dropout and weight decay are tried on the first seed and chosen on validation, for every network
alike. Thresholds were set before the runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import cache
from itertools import pairwise
from typing import Literal

import numpy as np
import scipy.stats
import torch
from torch import Tensor, nn

from assay.contracts import Claim, Class, Graph, Measured, Paper, Scale, SplitName
from assay.errors import UserError
from assay.inspection.smoothness import Estimate, smoothness
from assay.measure import parameter_count
from assay.models.graph import DAGNN, DecoupledGNN, EntangledGCN, NodePredictor
from assay.nn.graph.propagation import mean_hop
from assay.ops.propagation import normalised_operator, propagate
from assay.papers.experiment import Trained, trained, without_paper_scale
from assay.tasks.graphs import GraphTask
from assay.tasks.synthetic.block_model import block_model
from assay.tasks.wordnet import wordnet, wordnet_file
from assay.theory.propagation import largest_component, propagation_limit, second_eigenvalue

OFFLINE_REASON = "the published setting is 100 runs on Cora, CiteSeer and PubMed, which no package ships"
EPOCHS = {"smoke": 15, "laptop": 150}
SEEDS = {"smoke": (10,), "laptop": (10, 11, 12, 13, 14)}
SETTINGS = {"strong": (0.8, 5e-3), "weak": (0.5, 5e-4)}  # dropout, weight decay: those of the official Cora run, and those usual for GCN
FAMILIES: dict[str, Callable[..., nn.Module]] = {"mlp": DecoupledGNN, "decoupled": DecoupledGNN, "dagnn": DAGNN, "gcn": EntangledGCN}
DEFAULTS = {"mlp": {"num_hops": 0}, "decoupled": {"num_hops": 10}, "dagnn": {"num_hops": 10}, "gcn": {"depth": 2}}


# ------------------------------------------------------------------------------------------------ runs that claims share


@cache
def _task(scale: Scale, seed: int, labels: int = 20) -> GraphTask:
    if scale == "smoke":
        return block_model(nodes=700, labels_per_class=min(labels, 10), validation_per_class=10, seed=seed)
    if _has_wordnet():
        return wordnet(labels_per_class=labels, seed=seed)
    return block_model(labels_per_class=labels, seed=seed)


def _has_wordnet() -> bool:
    try:
        wordnet_file()
    except UserError:
        return False
    return True


def _where(scale: Scale) -> str:
    return f"on {_task(scale, SEEDS[scale][0]).description}"


@cache
def _run(scale: Scale, family: str, seed: int, labels: int, setting: str, options: tuple[tuple[str, object], ...]) -> Trained:
    task = _task(scale, seed, labels)
    dropout, decay = SETTINGS[setting]
    torch.manual_seed(seed)
    kind = task.signature.input
    assert isinstance(kind, Graph)  # both tasks are
    core = FAMILIES[family](kind.features, task.signature.output.size, **{**DEFAULTS[family], **dict(options)}, dropout=dropout)
    return _fit(core, task, EPOCHS[scale], seed, decay)


def _fit(core: nn.Module, task: GraphTask, epochs: int, seed: int, decay: float, select: Literal["best", "last"] = "best") -> Trained:
    def adam(parameters: Iterable[nn.Parameter], rate: float) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=rate, weight_decay=decay)

    return trained(
        NodePredictor(core),
        task,
        steps=epochs,
        learning_rate=0.01,
        seed=seed,
        optimizer=adam,
        schedule="constant",
        validate_every=5,
        select=select,
    )


@cache
def _setting(scale: Scale, family: str) -> str:
    """The setting with the better validation accuracy on the first seed."""
    first = SEEDS[scale][0]
    return max(SETTINGS, key=lambda setting: _run(scale, family, first, 20, setting, ()).history.best_validation)


def _runs(scale: Scale, family: str, seeds: int = 5, labels: int = 20, **options: object) -> list[Trained]:
    chosen = tuple(sorted(item for item in options.items() if DEFAULTS[family].get(item[0]) != item[1]))
    return [_run(scale, family, seed, labels, _setting(scale, family), chosen) for seed in SEEDS[scale][:seeds]]


def _accuracies(runs: list[Trained]) -> np.ndarray:
    return np.array([run.value for run in runs])


def _percent(values: np.ndarray | float) -> str:
    return f"{100 * float(np.mean(values)):.1f}"


# ------------------------------------------------------------------------------------------------ accuracy


@without_paper_scale(OFFLINE_REASON, seeds=0)
def beats_company(scale: Scale) -> Measured:
    """DAGNN with K = 10 or 20 (by validation) against GCN-2 and the MLP on the same seeds."""
    by_hops = {hops: _runs(scale, "dagnn", num_hops=hops) for hops in (10, 20)}
    hops = max(by_hops, key=lambda k: np.mean([run.history.best_validation for run in by_hops[k]]))
    ours, gcn, mlp = _accuracies(by_hops[hops]), _accuracies(_runs(scale, "gcn")), _accuracies(_runs(scale, "mlp"))
    named = {"MLP": mlp, "GCN, 2 layers": gcn, **{f"DAGNN, K = {k}": _accuracies(runs) for k, runs in by_hops.items()}}
    signs = int((ours > gcn).sum())
    needed = math.ceil(0.8 * len(ours))
    holds = ours.mean() >= gcn.mean() + 0.02 and ours.mean() >= mlp.mean() + 0.15 and signs >= needed
    reason = (
        f"{_where(scale)}: K = {hops} (by validation) must beat GCN by 2 points, the MLP by 15, and GCN on {needed} of {len(ours)} seeds; "
        f"it leads by {_percent(ours - gcn)} and {_percent(ours - mlp)}, on {signs} seeds"
    )
    values = {name: float(value.mean()) for name, value in named.items()}
    spread = {name: float(value.std()) for name, value in named.items()}
    return Measured(values, "holds" if holds else "fails", reason, spread, seeds=len(ours))


@without_paper_scale(OFFLINE_REASON, seeds=0)
def adaptive_against_fixed(scale: Scale) -> Measured:
    """The adaptive scores alone: DAGNN against the decoupled network with the same K = 10."""
    ours, fixed = _accuracies(_runs(scale, "dagnn")), _accuracies(_runs(scale, "decoupled"))
    difference = ours - fixed
    needed = math.ceil(0.8 * len(ours))
    if abs(difference.mean()) < 0.005:
        verdict = "undecided"
    else:
        verdict = "holds" if difference.mean() > 0 and int((difference > 0).sum()) >= needed else "fails"
    reason = f"{_where(scale)}: a lead of 0.5 points, on {needed} of {len(ours)} seeds, is a gain, less a tie; it is {_percent(difference)}"
    values = {"DAGNN, K = 10": float(ours.mean()), "decoupled, K = 10": float(fixed.mean()), "difference": float(difference.mean())}
    return Measured(values, verdict, reason, {"difference": float(difference.std())}, seeds=len(ours))


@without_paper_scale(OFFLINE_REASON, seeds=0)
def depth(scale: Scale) -> Measured:
    """GCN by depth, decoupled network and DAGNN by hops, on the same graph; deep GCN's training accuracy and smoothness beside."""
    seeds = {2: 2, 4: 1, 6: 1, 10: 2}
    gcn = {layers: _runs(scale, "gcn", count, depth=layers) for layers, count in seeds.items()}
    decoupled = {hops: _runs(scale, "decoupled", 2, num_hops=hops) for hops in (10, 20, 30)}
    ours = {hops: _runs(scale, "dagnn", 2, num_hops=hops) for hops in (5, 10, 20)}
    residual = _runs(scale, "gcn", 1, depth=10, residual=True, norm="layer")
    task = _task(scale, SEEDS[scale][0])
    best = {
        name: max(_accuracies(runs).mean() for runs in group.values()) for name, group in (("gcn", gcn), ("dec", decoupled), ("own", ours))
    }
    drop = best["gcn"] - _accuracies(gcn[10]).mean()
    worst = best["dec"] - min(_accuracies(runs).mean() for runs in decoupled.values())
    short = best["own"] - _accuracies(ours[20]).mean()
    values = {f"GCN, {layers} layers": float(_accuracies(runs).mean()) for layers, runs in gcn.items()}
    values |= {f"decoupled, K = {hops}": float(_accuracies(runs).mean()) for hops, runs in decoupled.items()}
    values |= {f"DAGNN, K = {hops}": float(_accuracies(runs).mean()) for hops, runs in ours.items()}
    values["GCN, 10 layers, residual and normalised"] = residual[0].value
    values["GCN, 10 layers, training accuracy"] = task.evaluate(gcn[10][0].model, "train").metrics["accuracy"]
    for layers in (2, 10):
        values[f"GCN, {layers} layers, output smoothness"] = _output_smoothness(gcn[layers][0].model, task)
    holds = drop >= 0.10 and worst <= 0.02 and short <= 0.015
    reason = (
        f"{_where(scale)}: GCN must lose 10 points from its best at 10 layers (lost {_percent(drop)}), decoupled K = 10 … 30 stay within "
        f"2 of its best ({_percent(worst)}), DAGNN K = 20 within 1.5 of its best ({_percent(short)})"
    )
    return Measured(values, "holds" if holds else "fails", reason, seeds=2)


def _output_smoothness(model: nn.Module, task: GraphTask) -> float:
    graph = task.graph
    with torch.no_grad():
        return smoothness(model.core(graph["nodes"], graph["edges"]), max_pairs=50_000).value  # type: ignore[operator]


@without_paper_scale(OFFLINE_REASON, seeds=0)
def few_labels_gain(scale: Scale) -> Measured:
    """The gain of DAGNN over GCN-2 with 2, 5, 10 and 20 labels a class."""
    gains: dict[int, np.ndarray] = {}
    for labels, seeds in ((2, 5), (5, 2), (10, 2), (20, 5)):
        gains[labels] = _accuracies(_runs(scale, "dagnn", seeds, labels)) - _accuracies(_runs(scale, "gcn", seeds, labels))
    holds = gains[2].mean() > gains[20].mean()
    values = {f"gain, {labels} labels a class": float(gain.mean()) for labels, gain in gains.items()}
    spread = {f"gain, {labels} labels a class": float(gain.std()) for labels, gain in gains.items()}
    reason = (
        f"{_where(scale)}: the gain with 2 labels a class ({_percent(gains[2])} points) must exceed that with 20 ({_percent(gains[20])}); "
        "5 seeds at 2 and 20, 2 seeds between"
    )
    return Measured(values, "holds" if holds else "fails", reason, spread, seeds=len(gains[2]))


# ------------------------------------------------------------------------------------------------ smoothing


@without_paper_scale(OFFLINE_REASON, seeds=0)
def smoothing_is_late(scale: Scale) -> Measured:
    """Smoothness of Â^k Z, Z fixed Gaussian, on largest components; and where the decoupled network's accuracy falls."""
    block = block_model(nodes=700, labels_per_class=10, validation_per_class=10, seed=10) if scale == "smoke" else block_model(seed=10)
    graphs = {"block model": block} | ({"WordNet": _task(scale, 10)} if scale != "smoke" and _has_wordnet() else {})
    values: dict[str, float] = {}
    decreasing, error = True, 0.0
    for name, task in graphs.items():
        estimates, slope, expected, longest = _smoothing_curve(task, 2_000 if scale == "smoke" else 20_000)
        early = [estimates[k] for k in sorted(estimates) if 2 <= k <= 500]
        # Estimated from random pairs, a value may seem to rise by chance: a rise counts beyond three standard errors.
        decreasing &= all(later.value <= earlier.value + 3 * earlier.standard_error for earlier, later in pairwise(early))
        curve = {k: estimate.value for k, estimate in estimates.items()}
        error = max(error, abs(slope / expected - 1))
        tenth = next((k for k in sorted(curve) if curve[k] < 0.1 * curve[1]), math.inf)
        values |= {f"{name}, smoothness at k = 1": curve[1], f"{name}, smoothness at k = {longest}": curve[longest]}
        values |= {f"{name}, hops to a tenth": tenth, f"{name}, tail slope": slope, f"{name}, log |λ₂|": expected}
    falls = _falls(block, scale, values)
    holds = decreasing and error <= 0.10 and not falls
    does = "it does" if decreasing else "it does not"
    reason = (
        f"on {' and '.join(graphs)}: smoothness must decrease from k = 2 to 500 ({does}), its log-slope in the tail equal "
        f"log |λ₂| within 10 % (off by {100 * error:.1f} %), and accuracy fall by 2 points only where smoothness is below a "
        f"tenth of k = 1 (exceptions: {', '.join(f'K = {k}' for k in falls) or 'none'})"
    )
    return Measured(values, "holds" if holds else "fails", reason)


def _smoothing_curve(task: GraphTask, most: int) -> tuple[dict[int, Estimate], float, float, int]:
    """Smoothness at growing k until a millionth of that at k = 1, the log-slope over its last three decades, and log |λ₂|.

    Exact up to 3,000 nodes, from 20,000 random pairs beyond.
    """
    kept, edges = largest_component(task.graph["edges"], len(task.graph["nodes"]))
    operator = normalised_operator(edges, len(kept), dtype=torch.float64)
    x = torch.randn(len(kept), 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pairs = None if len(kept) <= 3_000 else 20_000
    curve: dict[int, Estimate] = {}
    k = 0
    while k < most and (len(curve) < 2 or curve[k].value > 1e-6 * curve[1].value):
        step = max(1, k // 12)
        x, k = propagate(x, operator, step), k + step
        curve[k] = smoothness(x, pairs)
    tail = [(hops, math.log(found.value)) for hops, found in curve.items() if 0 < found.value < 1e-3 * curve[1].value]
    slope = float(np.polyfit([hops for hops, _ in tail], [value for _, value in tail], 1)[0]) if len(tail) >= 3 else math.nan
    return curve, slope, math.log(second_eigenvalue(edges, len(kept))), k


def _falls(task: GraphTask, scale: Scale, values: dict[str, float]) -> list[int]:
    """Hops K beyond the best where accuracy is 2 points below it although smoothness is still above a tenth of that at k = 1."""
    every, epochs = ((1, 10), 15) if scale == "smoke" else ((1, 3, 10, 30, 100), 500)  # many hops shrink the logits: training takes longer
    kept, edges = largest_component(task.graph["edges"], len(task.graph["nodes"]))
    operator = normalised_operator(edges, len(kept), dtype=torch.float64)
    z = torch.randn(len(kept), 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    first = smoothness(propagate(z, operator, 1), max_pairs=20_000).value
    accuracy, share = {}, {}
    for hops in every:
        torch.manual_seed(0)
        core = DecoupledGNN(task.graph["nodes"].shape[1], task.signature.output.size, num_hops=hops, dropout=0.5)
        accuracy[hops] = _fit(core, task, epochs, 0, 5e-4).value
        share[hops] = smoothness(propagate(z, operator, hops), max_pairs=20_000).value / first
        values |= {f"decoupled on block model, K = {hops}": accuracy[hops], f"share of smoothness left, K = {hops}": share[hops]}
    best = max(accuracy, key=lambda hops: accuracy[hops])
    return [hops for hops in every if hops > best and accuracy[hops] < accuracy[best] - 0.02 and share[hops] >= 0.1]


def limits(scale: Scale) -> Measured:
    """Â^2000 against the closed form on random graphs of 6 to 50 nodes, both normalisations, float64."""
    errors: dict[str, float] = {"sym": 0.0, "rw": 0.0}
    slowest = 0.0
    for seed, nodes in enumerate((6, 12, 25, 50)):
        upper = (torch.rand(nodes, nodes, generator=torch.Generator().manual_seed(seed)) < 0.3).triu(1).nonzero().T
        edges = torch.cat([upper, upper.flip(0)], dim=1)
        slowest = max(slowest, second_eigenvalue(edges, nodes))
        for normalization in ("sym", "rw"):
            operator = normalised_operator(edges, nodes, normalization=normalization, dtype=torch.float64)
            power = propagate(torch.eye(nodes, dtype=torch.float64), operator, 2_000)
            errors[normalization] = max(errors[normalization], float((power - propagation_limit(edges, nodes, normalization)).abs().max()))
    values = {f"largest error, {name}": error for name, error in errors.items()} | {"largest |λ₂|": slowest}
    holds = max(errors.values()) < 1e-10
    return Measured(values, "holds" if holds else "fails", f"the largest error must be below 1e-10; it is {max(errors.values()):.1e}")


# ------------------------------------------------------------------------------------------------ the rest


def parameters(scale: Scale) -> Measured:
    """The count of the batch-normalised network for ogbn-arxiv."""
    count = parameter_count(DAGNN(128, 40, 256, 16, dropout=0.2, norm="batch", input_dropout=0.0))
    reason = "the count must be exactly 43,857; the accuracy of 72.09 is not run: no package ships the data"
    return Measured({"parameters": count}, "holds" if count == 43_857 else "fails", reason)


def scores_adapt(scale: Scale) -> Measured:
    """The mean hop of each node of a barbell with hubs and leaves, from the trained scores."""
    variances, correlations = [], []
    for seed in (0,) if scale == "smoke" else (0, 1, 2):
        task, degree = _barbell_with_hubs(seed)
        torch.manual_seed(seed)
        core = DAGNN(task.graph["nodes"].shape[1], 2, 16, num_hops=10, dropout=0.5)
        # The last weights: validation is perfect after a few epochs, before the scores have moved.
        run = _fit(core, task, 30 if scale == "smoke" else 1_000, seed, 5e-4, select="last")
        with torch.no_grad():
            _, scores = run.model.core(task.graph["nodes"], task.graph["edges"], return_scores=True)  # type: ignore[operator]
        hop = mean_hop(scores)
        variances.append(float(hop.var()))
        correlations.append(float(scipy.stats.spearmanr(degree.numpy(), hop.numpy()).statistic))  # pyright: ignore[reportAttributeAccessIssue]
    holds = min(variances) > 0.05 and np.mean(correlations) < 0
    reason = (
        f"the mean hop must vary by more than 0.05 hop² on every seed (least {min(variances):.3f}) and fall with degree "
        f"(mean rank correlation below 0: {np.mean(correlations):.2f})"
    )
    if min(variances) <= 0.05:
        reason += "; one linear score cannot be high for the confident vectors of two opposite classes, so it stays nearly flat"
    values = {"variance of the mean hop": float(np.mean(variances)), "rank correlation with degree": float(np.mean(correlations))}
    spread = {"variance of the mean hop": float(np.std(variances)), "rank correlation with degree": float(np.std(correlations))}
    return Measured(values, "holds" if holds else "fails", reason, spread, seeds=len(variances))


def _barbell_with_hubs(seed: int) -> tuple[GraphTask, Tensor]:
    """Two cliques of 10 joined by a path of 6; three hubs on each clique with 25 leaves each; the class is the side."""
    links = [(i, j) for start in (0, 10) for i in range(start, start + 10) for j in range(i) if j >= start]
    links += [(9, 20), *[(20 + i, 21 + i) for i in range(5)], (25, 10)]
    side = [0] * 10 + [1] * 10 + [0] * 3 + [1] * 3
    for clique_node, which in ((0, 0), (1, 0), (2, 0), (11, 1), (12, 1), (13, 1)):
        hub = len(side)
        links += [(clique_node, hub), *[(hub, hub + 1 + leaf) for leaf in range(25)]]
        side += [which] * 26
    target = torch.tensor(side)
    half = torch.tensor(links).T
    edges = torch.cat([half, half.flip(0)], dim=1)
    generator = torch.Generator().manual_seed(seed)
    nodes = torch.randn(len(side), 8, generator=generator) + 0.5 * (2 * target[:, None] - 1)
    order = torch.randperm(len(side), generator=generator)
    third = len(side) // 3
    parts: dict[SplitName, Tensor] = {"train": order[:third], "validation": order[third : 2 * third], "test": order[2 * third :]}
    task = GraphTask("barbell", Class(2), {"nodes": nodes, "edges": edges}, parts, target)
    return task, torch.bincount(edges[0], minlength=len(side))


def no_data(scale: Scale) -> Measured:
    """Not run: no package ships the co-author and co-purchase graphs."""
    return Measured({}, "not-run", "no package ships these graphs; one's own copy opens with `assay compare data.pt`", seeds=0)


PAPER = Paper(
    slug="dagnn",
    title="Towards Deeper Graph Neural Networks",
    authors="Liu, Gao, Ji",
    year=2020,
    official="https://github.com/mengliu1998/DeeperGNN",
    claims=[
        Claim("parameters", "The ogbn-arxiv variant is small", "43,857 parameters; 72.09 ± 0.25 %", "repository README", parameters),
        Claim(
            "limits",
            "Repeated propagation ends at a closed form",
            "Â_rw^k → 1 πᵀ with π ∝ degree; Â^k → v vᵀ with v ∝ sqrt(degree)",
            "theorems of section 3.3",
            limits,
        ),
        Claim(
            "smoothing-is-late",
            "Once decoupled, over-smoothing appears only at very large hop counts",
            "several tens of hops on Cora (figure not verified)",
            "section 3.2",
            smoothing_is_late,
        ),
        Claim(
            "beats-company",
            "DAGNN is more accurate than GCN-like networks on citation graphs",
            "84.4 ± 0.5 Cora, 73.3 ± 0.6 CiteSeer, 80.5 ± 0.5 PubMed, fixed split",
            "table 2, as quoted in DGL pull request 2545",
            beats_company,
        ),
        Claim(
            "adaptive",
            "Adaptive scores are better than one fixed number of hops",
            "stated; no figure at equal K",
            "section 4",
            adaptive_against_fixed,
        ),
        Claim(
            "depth",
            "Deep entangled networks collapse, decoupled ones do not",
            "figure of accuracy against depth; no number quoted",
            "abstract, section 3",
            depth,
        ),
        Claim(
            "few-labels",
            "A larger receptive field helps most when labels are few",
            "table over training set sizes (figures not verified)",
            "section 5",
            few_labels_gain,
        ),
        Claim("scores", "Scores adapt to each node", "figure of scores; no number quoted", "section 4", scores_adapt),
        Claim(
            "co-author-co-purchase",
            "DAGNN is accurate on co-author and co-purchase graphs",
            "Coauthor CS 92.8 ± 0.9, Physics 94.0 ± 0.6; Amazon Computers 84.5 ± 1.2, Photo 92.0 ± 0.8",
            "table 4, from memory",
            no_data,
        ),
    ],
)
