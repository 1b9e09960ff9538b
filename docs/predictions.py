"""Ten predictions of `assay.theory`, each made before its experiment, and what happened; written to docs/data/predictions.json.

    python docs/generate.py --predict

A prediction is a number with a tolerance that was set with it (a share of it, or an interval that the theory itself gives).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from assay import models, tasks
from assay.bench.kernel_trials import KernelTrials
from assay.theory.criticality import critical_initialization, susceptibilities
from assay.theory.dual_activation import DualActivation
from assay.theory.ensembles import empirical_moments, sampled_kurtosis
from assay.theory.finite_width import propagate, scale_invariant_kurtosis
from assay.theory.hierarchical_kernels import hierarchical_kernel
from assay.theory.kernels import WideNetwork
from assay.theory.learning_curves import fit_learning_curve
from assay.theory.spectrum import learning_exponent
from assay.theory.teacher_student import teacher_student_errors
from assay.training import fit, predictor

SEEDS = 5


@dataclass(frozen=True)
class Prediction:
    """What was said before and found after.

    Args:
        question: what is asked, in a sentence.
        formula: that answers it.
        low: end of the predicted range.
        predicted: the number itself.
        high: end of the predicted range.
        measured: what the experiment found.
        error: its standard error, or None.
        experiment: what was run.
    """

    question: str
    formula: str
    low: float
    predicted: float
    high: float
    measured: float
    error: float | None
    experiment: str

    @property
    def came_true(self) -> bool:
        """Whether the measurement lies in the predicted range."""
        return self.low <= self.measured <= self.high


def within(share: float, predicted: float) -> dict[str, float]:
    """The range of a prediction with a relative tolerance."""
    ends = sorted((predicted * (1 - share), predicted * (1 + share)))
    return {"low": ends[0], "predicted": predicted, "high": ends[1]}


def kurtosis() -> Prediction:
    """Deep narrow networks are far from Gaussian."""
    predicted = scale_invariant_kurtosis(torch.relu, 17, 32) - 1
    found = sampled_kurtosis(torch.relu, 17, 32, 2.0, networks=40_000)[-1]
    return Prediction(
        "How far from Gaussian is a ReLU network of 16 hidden layers of 32?", "E z⁴ / 3 (E z²)² − 1 = (1 + 5/n)^{L−1} − 1",
        **within(0.1, predicted), measured=found.value - 1, error=found.error, experiment="40,000 random networks",
    )  # fmt: skip


def half_stable() -> Prediction:
    """GELU keeps one variance."""
    return _variance_of_a_layer("critical GELU", nn.GELU(), 30, "K* = C_b + C_W ⟨σ²⟩, χ_∥ = χ_⊥ = 1")


def power_law() -> Prediction:
    """tanh loses its variance as one over the depth."""
    return _variance_of_a_layer("critical tanh", nn.Tanh(), 50, "K' = ⟨tanh²⟩_K, about 1/(2ℓ)")


def _variance_of_a_layer(name: str, activation: nn.Module, depth: int, formula: str, width: int = 1000, networks: int = 20) -> Prediction:
    """The mean over networks, whose spread the theory predicts too: two standard errors of it are the range."""
    point = critical_initialization(activation)
    first = point.kernel or 1.0
    profile = propagate(activation, depth, weight_variance=point.weight_variance, bias_variance=point.bias_variance,
                        input_square=(first - point.bias_variance) / point.weight_variance)  # fmt: skip
    share = 2 * math.sqrt(float(profile.fluctuation(width)[-1]) / networks)
    found = [_forward(activation, depth, width, point.weight_variance, point.bias_variance, first, seed) for seed in range(networks)]
    return Prediction(
        f"What variance has layer {depth} of a {name} network?", f"{formula}; ± 2 √(V / (n K² · {networks}))",
        **within(share, float(profile.kernel[-1])), measured=statistics.mean(found), error=_standard_error(found),
        experiment=f"{networks} networks of width {width:,}",
    )  # fmt: skip


def vanishing() -> Prediction:
    """PyTorch's default lets gradients vanish."""
    depth, width = 12, 512
    variance = 1 / 3
    kernels = propagate(torch.relu, depth, input_square=1.0, weight_variance=variance, bias_variance=variance / width).kernel
    growth = [susceptibilities(torch.relu, float(kernel), variance).perpendicular for kernel in kernels[:-1]]
    predicted = math.prod(growth)
    found = [_gradient_ratio(nn.ReLU(), depth, width, seed) for seed in range(SEEDS)]
    return Prediction(
        "What of a gradient's square passes 11 ReLU layers as PyTorch makes them?", "Π χ_⊥ = Π C_W ⟨σ'²⟩, C_W = 1/3",
        **within(0.2, predicted), measured=statistics.mean(found), error=_standard_error(found),
        experiment=f"{SEEDS} stacks of torch.nn.Linear of width 512",
    )  # fmt: skip


def tangent_mean() -> Prediction:
    """The tangent kernel of a finite network."""
    profile = propagate(torch.tanh, 4, input_square=1.2, weight_variance=1.3, bias_variance=0.1, bias_rate=0.5)
    found = empirical_moments(torch.tanh, 4, 32, 1.3, 0.1, 1.0, 0.5, 1.2, networks=2000)["tangent"]
    return Prediction(
        "What is the mean tangent kernel of a 4-layer tanh network of width 32?", "Θ' = λ_b + λ_W ⟨σ²⟩ + χ_⊥ Θ",
        **within(0.1, float(profile.tangent[-1])), measured=found.value, error=found.error, experiment="2,000 networks",
    )  # fmt: skip


def tangent_spread() -> Prediction:
    """How much the tangent kernel differs from network to network."""
    profile = propagate(torch.tanh, 4, input_square=1.2, weight_variance=1.3, bias_variance=0.1, bias_rate=0.5)
    found = empirical_moments(torch.tanh, 4, 32, 1.3, 0.1, 1.0, 0.5, 1.2, networks=4000, seed=1)["off_diagonal"]
    return Prediction(
        "How strongly does that kernel mix two outputs (times the width)?", "B' = C_W² ⟨σ'⁴⟩ Θ² + χ_⊥² B",
        **within(0.15, float(profile.off_diagonal[-1])), measured=found.value, error=found.error, experiment="4,000 networks",
    )  # fmt: skip


def exponent() -> Prediction:
    """How fast the error of a convolutional kernel falls."""
    beta = learning_exponent((2, 2), (2, 2, 2))
    sizes = tuple(2**power for power in range(6, 11))
    kernels = [partial(hierarchical_kernel, filters=filters) for filters in ((2, 2), (2, 2, 2))]
    errors = np.array([teacher_student_errors(*kernels, 8, 2, sizes, 500, seed, fields=10) for seed in range(4)])
    found = fit_learning_curve(sizes, np.exp(np.log(errors).mean(0)), offset=False, draws=1).slope
    return Prediction(
        "With which power of n does a deep patch kernel learn a target on patches of 4?", "β = 2ν_T/(2ν_S + d_T) · (2ν_S + d_S)/d_S",
        low=beta - 0.05, predicted=beta, high=beta + 0.12, measured=float(found), error=None,
        experiment="64 to 1,024 examples, 4 seeds; finite sizes are known to add up to 0.12",
    )  # fmt: skip


def majority() -> Prediction:
    """ReLU networks without end vote for the majority."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(150, 4))
    x = np.abs(x) / np.linalg.norm(x, axis=1, keepdims=True)
    y = np.where((x[:, 0] > np.quantile(x[:, 0], 0.4)), 1.0, -1.0)
    network = WideNetwork(DualActivation.closed_form("relu"), 20_000, weight_variance=2.0)
    gram, across = network.kernel(x[:100]), network.kernel(x[100:], x[:100])
    votes = np.sign(across @ np.linalg.solve(gram, y[:100]))
    return Prediction(
        "How often does a ReLU kernel of depth 20,000 name the majority class?", "K^L / (L + 1) → 1/4 off the diagonal, 1 on it",
        low=1.0, predicted=1.0, high=1.0, measured=float((votes == np.sign(y[:100].sum())).mean()), error=None,
        experiment="100 training and 50 new points on a sphere",
    )  # fmt: skip


def accuracy() -> Prediction:
    """The kernel's validation accuracy as a forecast of the trained network's."""
    task = tasks.open("digits")
    trials = KernelTrials(task)
    trial = trials.kernel("relu", 2)
    spread = 1.96 * float(trial.scores.std()) / math.sqrt(len(trial.scores))
    found = []
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        network = models.build("mlp", task.signature, 200_000, depth=2)
        fit(network, task, steps=600, learning_rate=3e-3, seed=seed)
        found.append(task.evaluate(predictor(network), "test").metrics["accuracy"])
    return Prediction(
        "What test accuracy does a trained MLP reach on the digits?", "ridge regression with Θ², on validation, ± 1.96 standard errors",
        low=trial.value - spread, predicted=trial.value, high=min(trial.value + spread, 1.0), measured=statistics.mean(found),
        error=_standard_error(found), experiment=f"{SEEDS} MLPs of 200,000 parameters, 600 steps",
    )  # fmt: skip


def more_data() -> Prediction:
    """A learning curve carried on."""
    task = tasks.open("digits")
    trials = KernelTrials(task)
    trial = trials.kernel("relu", 1)
    sizes = [60, 85, 120, 170, 240, 340, 480, 960]
    values = 1 - trials.learning_curve(trial, sizes, 4)
    ahead = fit_learning_curve(sizes[:-1], values[:-1]).forecast(960)
    found = values[-1]
    return Prediction(
        "What error has that kernel after 960 digits, judged by its first 480?", "a n^{−β} + c, bootstrapped 95 % interval",
        low=ahead.low, predicted=ahead.value, high=ahead.high, measured=float(found.mean()), error=_standard_error(found.tolist()),
        experiment="four random orders of the training digits",
    )  # fmt: skip


PREDICTIONS: tuple[Callable[[], Prediction], ...] = (
    kurtosis, half_stable, power_law, vanishing, tangent_mean, tangent_spread, exponent, majority, accuracy, more_data,
)  # fmt: skip


def measure() -> list[dict[str, Any]]:
    """Make all ten, one after the other."""
    torch.set_num_threads(1)
    found = []
    for make in PREDICTIONS:
        prediction = make()
        found.append(asdict(prediction) | {"came_true": prediction.came_true})
        print(f"{prediction.question} {prediction.low:.4g} to {prediction.high:.4g}: {prediction.measured:.4g}", flush=True)
    return found


def _forward(activation: nn.Module, depth: int, width: int, weight: float, bias: float, first: float, seed: int) -> float:
    """Mean square of the last layer's sums in one random network whose first layer has variance ``first``."""
    generator = torch.Generator().manual_seed(seed)
    z = math.sqrt(first) * torch.randn(width, generator=generator)
    for _ in range(depth - 1):
        matrix = torch.randn(width, width, generator=generator) * math.sqrt(weight / width)
        z = matrix @ activation(z) + math.sqrt(bias) * torch.randn(width, generator=generator)
    return float(z.square().mean())


def _gradient_ratio(activation: nn.Module, depth: int, width: int, seed: int) -> float:
    """Square of the gradient at the first layer's sums over that at the last's, of PyTorch's own layers."""
    torch.manual_seed(seed)
    layers = [nn.Linear(width, width) for _ in range(depth)]
    sums = [layers[0](torch.randn(64, width))]
    for layer in layers[1:]:
        sums.append(layer(activation(sums[-1])))
    direction = torch.randn_like(sums[-1])
    (first,) = torch.autograd.grad((sums[-1] * direction).sum(), sums[0])
    return float(first.square().sum() / direction.square().sum())


def _standard_error(values: list[float]) -> float:
    return statistics.stdev(values) / math.sqrt(len(values))
