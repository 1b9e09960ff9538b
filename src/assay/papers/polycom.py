"""Zhuo, Wang, Zeng, Li, Zhou, Ma (2024), Polynomial Composition Activations: the claims, executable."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from assay.contracts import Claim, Measured, Paper, Scale, Verdict
from assay.nn.channel.activation import activation as make_activation
from assay.papers.experiment import Trained, trained, without_paper_scale
from assay.tasks.python_source import python_source
from assay.theory import approximation
from assay.training.methods.clipping import Clipping

NOT_INSTALLED = "1B-parameter models on 200 to 250 billion tokens take hundreds of accelerators; run the laptop scale"
ACTIVATIONS = ("relu", "gelu", "swiglu", "squared-relu", "poly-relu", "poly-norm")
SEEDS = 3
PARAMETERS, STEPS, EXPERT_STEPS, BATCH, CORPUS = 100_000, 1_500, 1_000, 8, 1_500_000
MODEL: Mapping[str, Any] = {"depth": 3, "positions": "rotary", "norm": "rms"}
METRIC = "bits_per_token"
EXPERTS: Mapping[str, Any] = {"experts": 8, "active": 2}

# ------------------------------------------------------------------------------------------------ language models


@cache
def _language_model(activation: str, seed: int, scale: Scale, experts: bool = False) -> Trained:
    """One small Llama-like byte model; kept, for several claims look at the same runs."""
    steps = 2 if scale == "smoke" else EXPERT_STEPS if experts else STEPS
    options = {**MODEL, **(EXPERTS if experts else {}), "activation": activation}
    task = _corpus(30_000 if scale == "smoke" else CORPUS)
    settings: Any = {"steps": steps, "learning_rate": 3e-3, "seed": seed, "batch_size": BATCH, "validate_every": max(1, steps // 10)}
    parameters = 20_000 if scale == "smoke" else PARAMETERS * (2 if experts else 1)
    return trained("attention", task, parameters=parameters, options=options, methods=[Clipping(1.0)], **settings)


@cache
def _corpus(size: int) -> Any:
    return python_source(size)


def _runs(activations: tuple[str, ...], scale: Scale, experts: bool = False) -> dict[str, list[Trained]]:
    seeds = range(SEEDS if scale == "laptop" else 1)
    return {name: [_language_model(name, seed, scale, experts) for seed in seeds] for name in activations}


def _losses(runs: Mapping[str, list[Trained]]) -> tuple[dict[str, float], dict[str, float]]:
    """Mean and standard deviation of the test loss over seeds."""
    found = {f"{METRIC}, {name}": [run.value for run in each] for name, each in runs.items()}
    return {name: float(np.mean(each)) for name, each in found.items()}, {name: float(np.std(each)) for name, each in found.items()}


def _judged(holds: bool, scale: Scale) -> Verdict:
    return "undecided" if scale == "smoke" else "holds" if holds else "fails"


@without_paper_scale(NOT_INSTALLED, SEEDS)
def _better(scale: Scale) -> Measured:
    """Test loss of six activations at equal parameters."""
    values, spread = _losses(_runs(ACTIVATIONS, scale))
    loss = {name: values[f"{METRIC}, {name}"] for name in ACTIVATIONS}
    holds = loss["poly-norm"] <= 0.995 * loss["gelu"] and loss["poly-norm"] <= 1.01 * loss["swiglu"]
    order = " < ".join(sorted(loss, key=lambda name: loss[name]))
    reason = (
        f"{PARAMETERS} parameters, {STEPS} steps of {BATCH} × 128 bytes, {SEEDS} seeds; required: PolyNorm at most 0.995 × GELU's loss and "
        f"1.01 × SwiGLU's; the order is {order}"
    )
    return Measured(values, _judged(holds, scale), reason, spread, SEEDS if scale == "laptop" else 1)


@without_paper_scale(NOT_INSTALLED, SEEDS)
def _faster(scale: Scale) -> Measured:
    """Steps that PolyNorm needs to the loss at which GELU ends, as a share of GELU's, by the mean validation curves."""
    runs = _runs(("gelu", "poly-norm"), scale)
    (steps, gelu), (_, poly_norm) = (_mean_curve(runs[name]) for name in ("gelu", "poly-norm"))
    share = _first_step_at(steps, poly_norm, gelu[-1]) / steps[-1]
    values = {"share of GELU's steps": share, "GELU's last validation loss": gelu[-1], "PolyNorm's last validation loss": poly_norm[-1]}
    reason = f"mean validation curves of {SEEDS} seeds, linear between validations; required: at most 0.9; 1.1 means never reached"
    return Measured(values, _judged(share <= 0.9, scale), reason, seeds=SEEDS if scale == "laptop" else 1)


def _mean_curve(runs: list[Trained]) -> tuple[list[float], list[float]]:
    name = f"validation_{METRIC}"
    curves = [[entry[name] for entry in run.history.curve] for run in runs]
    return [entry["step"] for entry in runs[0].history.curve], np.mean(curves, 0).tolist()


def _first_step_at(steps: list[float], losses: list[float], level: float) -> float:
    """The step at which a falling curve first reaches a level; a tenth more than all steps if it does not."""
    for place, loss in enumerate(losses):
        if loss <= level:
            if place == 0:
                return steps[0]
            part = (losses[place - 1] - level) / (losses[place - 1] - loss)
            return steps[place - 1] + part * (steps[place] - steps[place - 1])
    return 1.1 * steps[-1]


@without_paper_scale(NOT_INSTALLED, SEEDS)
def _with_experts(scale: Scale) -> Measured:
    """Test loss of PolyNorm and SwiGLU experts, 8 of which a position uses 2."""
    values, spread = _losses(_runs(("swiglu", "poly-norm"), scale, experts=True))
    poly_norm, swiglu = (values[f"{METRIC}, {name}"] for name in ("poly-norm", "swiglu"))
    reason = f"{2 * PARAMETERS} parameters, {EXPERT_STEPS} steps, {SEEDS} seeds; required: PolyNorm at most 1.005 × SwiGLU's loss"
    return Measured(values, _judged(poly_norm <= 1.005 * swiglu, scale), reason, spread, SEEDS if scale == "laptop" else 1)


@without_paper_scale(NOT_INSTALLED, SEEDS)
def _rank(scale: Scale) -> Measured:
    """Effective rank of the feed-forward matrices, and the cosine similarity of what enters and leaves each block."""
    runs = _runs(("gelu", "poly-norm"), scale)
    ranks = {name: [_effective_rank(run.model) for run in each] for name, each in runs.items()}
    alike = {name: [_layer_similarity(run.model, scale) for run in each] for name, each in runs.items()}
    values = {f"effective rank, {name}": float(np.mean(each)) for name, each in ranks.items()}
    values |= {f"similarity of layers, {name}": float(np.mean(each)) for name, each in alike.items()}
    spread = {f"effective rank, {name}": float(np.std(each)) for name, each in ranks.items()}
    wins = sum(mine > other for mine, other in zip(ranks["poly-norm"], ranks["gelu"], strict=True))
    reason = (
        f"exp of the singular values' entropy, mean over matrices; required: PolyNorm's above GELU's on all {SEEDS} seeds; it is on {wins}"
    )
    return Measured(values, _judged(wins == SEEDS, scale), reason, spread, SEEDS if scale == "laptop" else 1)


def _effective_rank(model: Any) -> float:
    found = []
    for block in model.blocks:
        for layer in (block.feed_forward.expand, block.feed_forward.contract):
            share = torch.linalg.svdvals(layer.weight.detach().double())
            share = share / share.sum()
            found.append(float(torch.exp(-(share * share.log()).sum())))
    return float(np.mean(found))


def _layer_similarity(model: Any, scale: Scale) -> float:
    seen: list[Tensor] = []

    def record(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.append(torch.cosine_similarity(inputs[0], output, -1).mean())

    handles = [block.register_forward_hook(record) for block in model.blocks]
    with torch.no_grad():
        model(next(iter(_corpus(30_000 if scale == "smoke" else CORPUS).batches("test", 32))))
    for handle in handles:
        handle.remove()
    return float(torch.stack(seen).mean())


# ------------------------------------------------------------------------------------------------ approximation


def _exact(scale: Scale) -> Measured:
    """Constructed PolyReLU networks for x², xy and x³y on [−1, 1]², beside ReLU's construction of x²."""
    axis = torch.linspace(-1, 1, 201, dtype=torch.float64)
    pairs = torch.cartesian_prod(axis, axis)
    x, y = pairs.unbind(-1)
    cases = {"x²": (approximation.square(), x[:, None], x**2), "xy": (approximation.product(), pairs, x * y)}
    cases["x³y"] = (approximation.cubic_product(), pairs, x**3 * y)
    values: dict[str, float] = {}
    for name, (network, inputs, expected) in cases.items():
        values |= {f"{name}, error": float((network(inputs) - expected).abs().max()), f"{name}, units": float(network.units)}
    fine = torch.linspace(-1, 1, 2**12 + 1, dtype=torch.float64)[:, None]
    errors = []
    for depth in (1, 2, 3, 4, 5, 6):
        network = approximation.relu_square(depth)
        errors.append(float((network(fine) - fine[:, 0] ** 2).abs().max()))
        values[f"x² by ReLU, error with {network.units} units"] = errors[-1]
    falls = float(np.polyfit(range(len(errors)), np.log(errors), 1)[0] / math.log(4))
    values["x² by ReLU, powers of 4 a layer"] = falls
    exact = all(values[f"{name}, error"] <= 1e-12 and values[f"{name}, units"] <= 8 for name in cases)
    reason = "required: PolyReLU's errors ≤ 1e-12 with at most 8 units; ReLU's error falls as 4^(−depth), exponent −1 ± 0.05"
    return Measured(values, "holds" if exact and abs(falls + 1) <= 0.05 else "fails", reason)


def _steeper(scale: Scale) -> Measured:
    """Error of trained one-layer networks on a smooth function of two variables against their size, in log–log."""
    sizes, seeds = ((4, 8), 1) if scale == "smoke" else ((4, 8, 16, 32), SEEDS)
    values: dict[str, float] = {}
    slopes: dict[str, float] = {}
    for name in ("relu", "poly-relu"):
        best = [min(_fitted_error(name, size, seed, scale) for seed in range(seeds)) for size in sizes]
        values |= {f"{name}, error with {size} units": error for size, error in zip(sizes, best, strict=True)}
        slopes[name] = float(np.polyfit(np.log(sizes), np.log(best), 1)[0])
    values |= {f"{name}, slope": slope for name, slope in slopes.items()}
    reason = f"root mean square error of the best of {SEEDS} seeds; required: PolyReLU's slope below ReLU's by at least 0.2"
    return Measured(values, _judged(slopes["poly-relu"] <= slopes["relu"] - 0.2, scale), reason, seeds=seeds)


def _fitted_error(activation: str, size: int, seed: int, scale: Scale) -> float:
    """Trained by L-BFGS on a grid; the error on points between, float64."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(2, size), make_activation(activation), nn.Linear(size, 1)).double()
    axis = torch.linspace(-1, 1, 33, dtype=torch.float64)
    grid, between = torch.cartesian_prod(axis, axis), torch.cartesian_prod(axis[:-1] + 1 / 32, axis[:-1] + 1 / 32)

    def wanted(points: Tensor) -> Tensor:
        return (torch.sin(3 * points[:, 0] + points[:, 1]) * torch.exp(-(points[:, 1] ** 2)))[:, None]

    def loss() -> Tensor:
        return (network(grid) - wanted(grid)).square().mean()

    quasi_newton = torch.optim.LBFGS(  # its own tolerances and memory would end it while the error still falls
        network.parameters(),
        max_iter=5 if scale == "smoke" else 1_500,
        max_eval=10_000,
        history_size=50,
        tolerance_grad=1e-12,
        tolerance_change=1e-16,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        quasi_newton.zero_grad()
        value = loss()
        value.backward()
        return value

    quasi_newton.step(closure)  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        return float((network(between) - wanted(between)).square().mean().sqrt())


def _descend(network: nn.Module, loss: Callable[[], Tensor], steps: int, rate: float) -> None:
    """Adam with a rate that falls to zero."""
    adam = torch.optim.Adam(network.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    for _ in range(steps):
        adam.zero_grad()
        loss().backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        adam.step()
        schedule.step()


# ------------------------------------------------------------------------------------------------ interactions

WIDTHS = (4, 8, 16, 32, 64, 128, 256)
TRIPLES = ((0, 1, 2), (3, 4, 5))


@cache
def _needed_width(activation: str, scale: Scale) -> tuple[int, float]:
    """The least width at which one hidden layer explains 0.95 of the planted target on new inputs, and what it explains; 512 if none."""
    seeds, best = (1, 0.0) if scale == "smoke" else (SEEDS, 0.0)
    for width in WIDTHS[:2] if scale == "smoke" else WIDTHS:
        best = float(np.mean([_explained(activation, width, seed, scale) for seed in range(seeds)]))
        if best >= 0.95:
            return width, best
    return 2 * WIDTHS[-1], best


def _explained(activation: str, width: int, seed: int, scale: Scale) -> float:
    """R² on the test inputs at the rate that is best on the validation inputs."""
    found = []
    for rate in (3e-3, 1e-2, 3e-2):
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Linear(20, width), make_activation(activation), nn.Linear(width, 1))
        generator = torch.Generator().manual_seed(seed)

        def loss(network: nn.Module = network, generator: torch.Generator = generator) -> Tensor:
            inputs, target = _planted(512, generator)
            return (network(inputs) - target).square().mean()

        _descend(network, loss, 5 if scale == "smoke" else 1_500, rate)
        with torch.no_grad():
            errors = []
            for split in (10_001, 10_002):  # validation, test
                inputs, target = _planted(4_096, torch.Generator().manual_seed(split + seed * 10))
                errors.append(float((network(inputs) - target).square().mean() / target.var()))
        found.append(errors)
    return 1 - min(found)[1]


def _planted(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Twenty uniform inputs of variance 1, and the sum of two products of three of them."""
    inputs = math.sqrt(3) * (2 * torch.rand(count, 20, generator=generator) - 1)
    return inputs, sum((inputs[:, triple].prod(-1, keepdim=True) for triple in map(list, TRIPLES)), torch.zeros(count, 1))


def _interactions(activation: str, scale: Scale) -> Measured:
    """Width needed, against GELU's."""
    widths = {name: _needed_width(name, scale) for name in (activation, "gelu")}
    values = {f"width, {name}": float(width) for name, (width, _) in widths.items()}
    values |= {f"R² there, {name}": explained for name, (_, explained) in widths.items()}
    width, explained = widths[activation]
    holds = explained >= 0.95 and width <= widths["gelu"][0] / 2
    reason = (
        f"two products of three out of 20 inputs, {SEEDS} seeds, rate of three chosen on validation; required: at most half of GELU's width"
    )
    return Measured(values, _judged(holds, scale), f"{reason} (widths {WIDTHS[0]} … {WIDTHS[-1]}, {2 * WIDTHS[-1]}: none)", seeds=SEEDS)


# ------------------------------------------------------------------------------------------------ the paper

PAPER = Paper(
    slug="polycom",
    title="Polynomial Composition Activations: Unleashing the Dynamics of Large Language Models",
    authors="Zhuo, Wang, Zeng, Li, Zhou, Ma",
    year=2024,
    official="https://github.com/BryceZhuo/PolyCom",
    claims=(
        Claim(
            "better-language-models",
            "As the activation of a language model PolyNorm has a lower loss than GELU by 0.5 % and is not more than 1 % behind SwiGLU.",
            "loss 2.17 against SwiGLU's 2.19, 1B parameters, 250 billion tokens",
            "abstract; figures from public reviews of the paper",
            _better,
        ),
        Claim(
            "faster", "PolyNorm reaches the loss at which GELU ends in at most 0.9 of its steps.", "faster convergence", "abstract", _faster
        ),
        Claim(
            "experts",
            "In a mixture of experts PolyNorm's loss is at most 0.5 % above SwiGLU's.",
            "lower validation loss on 11 sets, by 0.02 on average",
            "text, OLMoE-1B-7B",
            _with_experts,
        ),
        Claim(
            "rank",
            "Feed-forward matrices under PolyNorm have a higher effective rank than under GELU.",
            "higher effective rank, less similar layers",
            "analysis section",
            _rank,
        ),
        Claim(
            "exact-polynomials",
            "PolyReLU networks of at most 8 units are x², xy and x³y exactly; ReLU networks come near x² by a factor of 4 a layer.",
            "optimal approximation rate, minimal parameters",
            "abstract, theorems",
            _exact,
        ),
        Claim(
            "steeper-rate",
            "On a smooth function of two variables the error of PolyReLU networks falls faster with their size than that of ReLU networks.",
            "ε^(−d/n) units against ε^(−d/n) ln(1/ε)",
            "abstract, theorems",
            _steeper,
        ),
        Claim(
            "interactions-poly-relu",
            "PolyReLU learns products of three inputs with at most half of GELU's width.",
            "higher-order interactions",
            "abstract",
            lambda scale: _interactions("poly-relu", scale),
        ),
        Claim(
            "interactions-poly-norm",
            "PolyNorm learns products of three inputs with at most half of GELU's width.",
            "higher-order interactions",
            "abstract",
            lambda scale: _interactions("poly-norm", scale),
        ),
    ),
)
