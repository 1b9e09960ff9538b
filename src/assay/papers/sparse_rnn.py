"""Claims of: Investigating Sparsity in Recurrent Neural Networks.

Laptop scale: 12,500 strings of the Reber grammar (8,750 train, 1,250 validation, 2,500 test), three layers of 50 units and batch 32 as
published, 1,365 updates instead of 29,300 (the LSTM is not at 99 % there; the weights of the best validation), three seeds,
read-out at the true length. The random-graph networks, of 10 to 30 units, see 2,002 strings of at most 24 symbols for four epochs of 31
updates at a learning rate of 0.01: at the thesis's 0.001 so few updates leave them at chance. Thresholds were set before any run.

Ungrammatical strings are of the published kind: the walk of a grammatical one as an altered automaton spells it. How much pruning a
network bears depends on that: against one-symbol substitutions, the harder default of the task, a GRU of two layers of 32 units loses
31 points of validation accuracy at 50 %, and 0.3 points on the published strings, after 600 updates of 32 strings either way. Unlike the
published ones both classes have the same lengths: read at the true length, length alone lets a network without any input weight reach
76 %. Retraining is counted in the thesis's epochs, 586 updates of 32 strings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from assay.compression.regain import RegainCurve, RegainPoint
from assay.contracts import Claim, Measured, Paper, Scale
from assay.inspection.wiring import property_correlations, property_regressions
from assay.models.recurrent import GraphRecurrentNetwork, RecurrentClassifier
from assay.nn.recurrent.layered import GENERATORS, graph_properties
from assay.nn.recurrent.masked import GATES
from assay.papers.experiment import Trained, trained
from assay.tasks.base import ArrayTask
from assay.tasks.synthetic.reber import reber
from assay.training.methods.clipping import Clipping

MODES = tuple(GATES)
GATED = ("gru", "lstm")
FRACTIONS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
CHANCE = 0.5
LEVEL = 0.03
"""A rise of up to three points counts as level in a collapse: three standard errors of an accuracy near chance on 2,500 strings."""

LEARNED = 0.55
"""Below this mean accuracy random-graph networks are at chance, and comparing them tells nothing."""


@dataclass(frozen=True)
class Size:
    """How large the experiments of a scale are."""

    strings: int
    hidden: tuple[int, ...]
    epochs: int
    batch: int
    seeds: int
    graphs: int
    nodes: tuple[int, int]
    graph_strings: int
    graph_epochs: int
    graph_longest: int
    graph_batch: int
    graph_rate: float
    published_epoch: int


SIZES: dict[Scale, Size] = {
    "smoke": Size(200, (8,), 1, 64, 1, 3, (10, 14), 200, 1, 24, 64, 1e-2, 2),
    "laptop": Size(12_500, (50, 50, 50), 5, 32, 3, 12, (10, 30), 2860, 4, 24, 64, 1e-2, 586),
    "paper": Size(25_000, (50, 50, 50), 50, 32, 1, 100, (10, 50), 25_000, 15, 53, 128, 1e-3, 586),
}


@cache
def _task(strings: int, longest: int = 53) -> ArrayTask:
    return reber(n=strings, negatives="thesis", longest=longest)


def _adam(parameters, rate: float) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=rate)


def _epoch(scale: Scale) -> int:
    """Updates an epoch."""
    size = SIZES[scale]
    return max(1, _task(size.strings).size("train") // size.batch)


@cache
def _dense(scale: Scale, mode: str, seed: int) -> Trained:
    """One dense network, the starting point of every pruning."""
    size = SIZES[scale]
    torch.manual_seed(seed)
    model = RecurrentClassifier(hidden=size.hidden, mode=mode, pad_readout=scale == "paper")
    steps = size.epochs * _epoch(scale)
    task = _task(size.strings)
    return _train(model, task, steps=steps, batch=size.batch, seed=seed, validate_every=_epoch(scale))


def _train(
    model: torch.nn.Module, task: ArrayTask, *, steps: int, batch: int, seed: int, validate_every: int, rate: float = 1e-3
) -> Trained:
    return trained(
        model,
        task,
        steps=steps,
        learning_rate=rate,
        seed=seed,
        batch_size=batch,
        methods=[Clipping(5.0)],
        optimizer=_adam,
        schedule="constant",
        validate_every=validate_every,
    )


@cache
def _curve(scale: Scale, mode: str, seed: int, kinds: str, fractions: tuple[float, ...], epochs: int = 0) -> list[RegainPoint]:
    """Test accuracy after pruning ``kinds`` (both, i2h, h2h) by each fraction, retrained for so many of the thesis's epochs."""
    size = SIZES[scale]
    curve = RegainCurve(
        fractions,
        steps=epochs * size.published_epoch,
        i2h=kinds != "h2h",
        h2h=kinds != "i2h",
        tolerance=0.01,
        validate_every=max(1, size.published_epoch // 10),
        batch_size=size.batch,
        seed=seed,
        split="test",
    )
    return curve(_dense(scale, mode, seed).model, _task(size.strings))


def _seeds(scale: Scale) -> range:
    return range(SIZES[scale].seeds)


def _sweep(scale: Scale, mode: str, kinds: str = "both") -> np.ndarray:
    """(seeds, fractions): test accuracy right after pruning."""
    return np.array([[point.at_once for point in _curve(scale, mode, seed, kinds, FRACTIONS)] for seed in _seeds(scale)])


def _base(scale: Scale, mode: str) -> np.ndarray:
    return np.array([_dense(scale, mode, seed).value for seed in _seeds(scale)])


def _safe(scale: Scale, mode: str, kinds: str) -> float:
    """The largest fraction up to which the mean accuracy lies within one point of the dense network's."""
    loss = _base(scale, mode).mean() - _sweep(scale, mode, kinds).mean(0)
    kept = np.cumprod(loss <= 0.01)
    return FRACTIONS[int(kept.sum()) - 1] if kept[0] else 0.0


def _retrained(scale: Scale, mode: str, kinds: str, fraction: float, epochs: int) -> list[RegainPoint]:
    return [_curve(scale, mode, seed, kinds, (fraction,), epochs)[0] for seed in _seeds(scale)]


def _values(points: Sequence[RegainPoint]) -> np.ndarray:
    return np.array([point.value for point in points])


def base_accuracy(scale: Scale) -> Measured:
    """All four cells trained densely."""
    found = {mode: _base(scale, mode) for mode in MODES}
    means = {mode: float(values.mean()) for mode, values in found.items()}
    gated = (means["gru"] + means["lstm"]) / 2
    holds = means["gru"] >= 0.99 and means["lstm"] >= 0.99 and gated >= means["rnn_tanh"]
    reason = f"GRU and LSTM must reach 99 % and their mean ({gated:.4f}) at least that of tanh ({means['rnn_tanh']:.4f})"
    return Measured(means, "holds" if holds else "fails", reason, _spread(found), seeds=len(_seeds(scale)))


def safe_pruning(scale: Scale) -> Measured:
    """Pruning both kinds of weights at once, no retraining."""
    values: dict[str, float] = {}
    holds = True
    for mode in MODES:
        accuracy = _sweep(scale, mode).mean(0)
        loss, everything = float(_base(scale, mode).mean() - accuracy[4]), float(accuracy[-1])
        values |= {f"{mode}, safe fraction": _safe(scale, mode, "both"), f"{mode}, loss at 50 %": loss, f"{mode}, at 100 %": everything}
        holds &= abs(everything - CHANCE) <= 0.05 and (mode not in GATED or loss <= 0.01)
    reason = "GRU and LSTM may lose at most 1 point at 50 %, and every cell must lie within 5 points of chance at 100 %"
    return Measured(values, "holds" if holds else "fails", reason, seeds=len(_seeds(scale)))


def collapse(scale: Scale) -> Measured:
    """The shape of the fall between 60 and 100 %, and which gated cell bears more."""
    values: dict[str, float] = {}
    worst = -1.0
    for mode in MODES:
        accuracy = _sweep(scale, mode).mean(0)
        values |= {f"{mode}, {100 * FRACTIONS[index]:.0f} %": float(accuracy[index]) for index in (6, 7, 8)}
        worst = max(worst, float(np.diff(accuracy[5:]).max()))
    borne = {mode: [_borne(row) for row in _sweep(scale, mode)] for mode in GATED}
    wins = sum(gru >= lstm for gru, lstm in zip(borne["gru"], borne["lstm"], strict=True))
    values |= {f"{mode}, 95 % kept up to": float(np.mean(fractions)) for mode, fractions in borne.items()}
    holds = worst <= LEVEL and 3 * wins >= 2 * len(borne["gru"])
    reason = (
        f"means must not rise by more than {100 * LEVEL:.0f} points from 60 to 100 % (largest step: {100 * worst:+.1f}), and GRU must keep "
        f"95 % up to at least LSTM's fraction in two thirds of the seeds ({wins} of {len(borne['gru'])})"
    )
    return Measured(values, "holds" if holds else "fails", reason, seeds=len(_seeds(scale)))


def _borne(accuracies: np.ndarray) -> float:
    kept = np.cumprod(accuracies >= 0.95)
    return FRACTIONS[int(kept.sum()) - 1] if kept[0] else 0.0


def regain(scale: Scale) -> Measured:
    """Both kinds pruned to 90 %, two published epochs of retraining."""
    values: dict[str, float] = {}
    worst = -1.0
    for mode in GATED:
        base, points = _base(scale, mode), _retrained(scale, mode, "both", 0.9, 2)
        after = _values(points)
        values |= {f"{mode}, dense": float(base.mean()), f"{mode}, at once": float(np.mean([point.at_once for point in points]))}
        values[f"{mode}, after {2 * SIZES[scale].published_epoch} updates"] = float(after.mean())
        back = [point.regained for point in points if point.regained is not None]
        values |= {f"{mode}, seeds regained": len(back), **({f"{mode}, updates to regain": float(np.median(back))} if back else {})}
        worst = max(worst, float((base - after).mean()))
    reason = f"GRU and LSTM must be back within 1 point after two epochs of the thesis's length; {100 * worst:.1f} points are the most lost"
    return Measured(values, "holds" if worst <= 0.01 else "fails", reason, seeds=len(_seeds(scale)))


def without_recurrence(scale: Scale) -> Measured:
    """All hidden-to-hidden weights gone, one published epoch of retraining."""
    found = {mode: _values(_retrained(scale, mode, "h2h", 1.0, 1)) for mode in MODES}
    values = {mode: float(accuracies.mean()) for mode, accuracies in found.items()}
    holds = all(values[mode] >= 0.95 if mode in GATED else values[mode] <= 0.70 for mode in MODES)
    reason = f"after {SIZES[scale].published_epoch} updates GRU and LSTM must be back at 95 %, tanh and ReLU must stay at 70 % or less"
    safe = {f"{mode}, safe fraction of h2h": _safe(scale, mode, "h2h") for mode in MODES}
    return Measured(values | safe, "holds" if holds else "fails", reason, _spread(found), seeds=len(_seeds(scale)))


def without_input(scale: Scale) -> Measured:
    """All input-to-hidden weights gone, one published epoch of retraining."""
    found = {mode: _values(_retrained(scale, mode, "i2h", 1.0, 1)) for mode in MODES}
    values = {mode: float(accuracies.mean()) for mode, accuracies in found.items()}
    worst = max(abs(value - CHANCE) for value in values.values())
    safe = {f"{mode}, safe fraction of i2h": _safe(scale, mode, "i2h") for mode in MODES}
    reason = f"every cell must stay within 5 points of chance; the farthest is {100 * worst:.1f} points away"
    return Measured(values | safe, "holds" if worst <= 0.05 else "fails", reason, _spread(found), seeds=len(_seeds(scale)))


@cache
def _wired(scale: Scale, kind: str, mode: str, embedding: int | None) -> list[tuple[dict[str, float], float]]:
    """Properties and test accuracy of every random graph of a kind; node counts are drawn uniformly."""
    size = SIZES[scale]
    task = _task(size.graph_strings, size.graph_longest)
    counts = np.random.default_rng(0).integers(size.nodes[0], size.nodes[1] + 1, size.graphs)
    steps = max(1, size.graph_epochs * (task.size("train") // size.graph_batch))
    results = []
    for seed, nodes in enumerate(counts):
        graph = GENERATORS[kind](int(nodes), seed)
        torch.manual_seed(seed)
        model = GraphRecurrentNetwork(graph, mode, embedding_dim=embedding, pad_readout=scale == "paper")
        run = _train(model, task, steps=steps, batch=size.graph_batch, seed=seed, validate_every=steps, rate=size.graph_rate)
        results.append((graph_properties(graph), run.value))
    return results


def random_graphs(scale: Scale) -> Measured:
    """Networks wired by Watts–Strogatz against Barabási–Albert graphs."""
    values: dict[str, float] = {}
    holds, learned = True, 0.0
    for mode in MODES if scale == "paper" else ("gru",):
        small_world, scale_free = (
            np.array([accuracy for _, accuracy in _wired(scale, kind, mode, None)]) for kind in ("watts-strogatz", "barabasi-albert")
        )
        difference = float(small_world.mean() - scale_free.mean())
        half = 1.96 * float(np.sqrt(small_world.var(ddof=1) / len(small_world) + scale_free.var(ddof=1) / len(scale_free)))
        values |= {f"{mode}, Watts–Strogatz": float(small_world.mean()), f"{mode}, Barabási–Albert": float(scale_free.mean())}
        values |= {f"{mode}, difference, low": difference - half, f"{mode}, difference, high": difference + half}
        holds &= difference > 0
        learned = max(learned, float(small_world.mean()), float(scale_free.mean()))
    if learned < LEARNED:
        return Measured(values, "undecided", f"neither kind learned: the best mean accuracy is {learned:.3f}", seeds=SIZES[scale].graphs)
    reason = "the mean accuracy of Watts–Strogatz graphs must be the higher one; the 95 % interval of the difference is given"
    return Measured(values, "holds" if holds else "fails", reason, seeds=SIZES[scale].graphs)


def graph_correlations(scale: Scale) -> Measured:
    """Which properties of the graph go with the accuracy of a GRU network, with the embedding's width free and fixed."""
    expected = {"nodes": 1, "edges": 1, "closeness_variance": -1, "node_betweenness_variance": -1}
    values: dict[str, float] = {}
    signs: dict[str, list[str]] = {}
    for name, embedding in (("free width", None), ("fixed width", 8)):
        rows = [row for kind in ("watts-strogatz", "barabasi-albert") for row in _wired(scale, kind, "gru", embedding)]
        properties, accuracies = [row[0] for row in rows], [row[1] for row in rows]
        values[f"mean accuracy, {name}"] = float(np.mean(accuracies))
        found = property_correlations(properties, accuracies)["correlation"].to_dict()
        values |= {f"{key}, {name}": float(found.get(key, 0.0)) for key in (*expected, "source_nodes")}
        values[f"forest R², {name}"] = property_regressions(properties, accuracies, repeats=3)["r2"].to_dict()["random_forest"]
        signs[name] = [key for key, sign in expected.items() if sign * found.get(key, 0.0) > 0]
    wrong = [key for key in expected if key not in signs["free width"]]
    reason = f"nodes and edges must correlate positively, both variances negatively; {'wrong: ' + ', '.join(wrong) if wrong else 'all do'}"
    reason += f"; with the width fixed, {len(signs['fixed width'])} of 4 signs stay"
    verdict = "undecided" if values["mean accuracy, free width"] < LEARNED else "fails" if wrong else "holds"
    return Measured(values, verdict, reason, seeds=2 * SIZES[scale].graphs)


def _spread(found: dict[str, np.ndarray]) -> dict[str, float]:
    return {name: float(values.std()) for name, values in found.items()}


CLAIMS: Sequence[Claim] = [
    Claim(
        "base-accuracy",
        "Gated cells learn the Reber grammar to 99 % or better, and at least as well as a tanh network.",
        "GRU, LSTM and ReLU 100 %, tanh 93.7 %",
        "result files of the repository",
        base_accuracy,
    ),
    Claim(
        "safe-pruning",
        "Half of all recurrent weights of a GRU or LSTM can be pruned without retraining at a loss of at most a point.",
        "safe up to 80 % (tanh), 70 % (ReLU), 60 % (LSTM), 80 % (GRU)",
        "thesis, pruning of both kinds",
        safe_pruning,
    ),
    Claim(
        "collapse",
        "Accuracy right after pruning falls steadily between 60 and 100 %, and the GRU bears at least as much as the LSTM.",
        "at 70/80/90 %: LSTM .803/.668/.495, GRU .998/.994/.551, ReLU .986/.549/.503, tanh .933/.919/.656",
        "result files of the repository",
        collapse,
    ),
    Claim(
        "regain",
        "A GRU or LSTM pruned to 90 % is back within a point after at most two epochs of retraining.",
        "one epoch up to 90 % (tanh, inputs only, at 90 %: two)",
        "thesis, epochs to regain",
        regain,
    ),
    Claim(
        "without-recurrence",
        "With every hidden-to-hidden weight pruned, GRU and LSTM recover by retraining; tanh and ReLU never do.",
        "after one epoch LSTM 98.8 %, GRU 97.4 %; tanh 51.8 %, ReLU 51.6 %",
        "thesis and result files of the repository",
        without_recurrence,
    ),
    Claim(
        "without-input",
        "With every input-to-hidden weight pruned, no cell recovers.",
        "never recovers; safe up to 70/70/70/80 % (tanh/ReLU/LSTM/GRU)",
        "thesis, pruning of inputs",
        without_input,
    ),
    Claim(
        "random-graphs",
        "Recurrent networks wired by Watts–Strogatz graphs are more accurate than those wired by Barabási–Albert graphs.",
        "tanh .893/.842, ReLU .829/.728, LSTM .976/.915, GRU .984/.928",
        "result files of the repository",
        random_graphs,
    ),
    Claim(
        "graph-properties",
        "Accuracy of a GRU network grows with the graph's nodes and edges and falls with the variance of closeness and betweenness.",
        "GRU: source nodes .74, closeness variance −.67, node-betweenness variance −.52, nodes .49, edges .49; forest R² .876",
        "thesis, Pearson correlations",
        graph_correlations,
    ),
]

PAPER = Paper(
    slug="sparse-rnn",
    title="Investigating Sparsity in Recurrent Neural Networks",
    authors="Harshil Darji",
    year=2024,
    claims=CLAIMS,
    official="https://github.com/harshildarji/thesis",
)
