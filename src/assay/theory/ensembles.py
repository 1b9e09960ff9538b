"""Ensembles of random networks, measured: what the expansion in depth over width is checked against, with error bars.

`sampled_kurtosis` draws a layer's preactivations given those before, which are exactly Gaussian, so that no weights are needed:

    z^{ℓ+1}_i | z^ℓ ~ N(γ z_i, C_b + C_W |σ(z^ℓ)|² / n).

`empirical_moments` draws whole networks and differentiates them.

Source: Roberts, Yaida, Hanin (2022), The Principles of Deep Learning Theory, for what is measured; resampling: Del Moral (2004),
Feynman-Kac Formulae.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.func import jacrev, jvp, vmap

from assay.theory.criticality import check_variances
from assay.theory.gaussian_expectation import DTYPE, Pointwise

GROUPS = 20
"""Independent groups of networks, whose spread gives the error bars."""
CHUNK = 50
"""Networks whose Jacobians are held at a time."""


@dataclass(frozen=True)
class Estimate:
    """A measured mean and its standard error."""

    value: float
    error: float


def sampled_kurtosis(
    activation: Pointwise,
    depth: int,
    width: int,
    weight_variance: float,
    bias_variance: float = 0.0,
    input_square: float = 1.0,
    residual: float = 0.0,
    networks: int = 20_000,
    seed: int = 0,
) -> list[Estimate]:
    """``E[z⁴] / (3 E[z²]²)`` at layers 1 … L of random networks of equal width, with the input's x·x / n_0.

    Its tails are so heavy that plain averages fail from L/n of about ¼: at every layer each group of networks is drawn anew in proportion
    to what the layer added to ``v²``, v being the variance given the layer before, and the product of the mean weights is an unbiased
    estimate of ``E[v²]`` (without residual connections ``E[z⁴] = 3 E[v²]``). With them networks are not drawn anew.

    Args:
        activation: σ.
        depth: L.
        width: n, of every layer.
        weight_variance: C_W.
        bias_variance: C_b.
        input_square: x·x / n_0.
        residual: γ.
        networks: in all; a multiple of `GROUPS`.
        seed: of the draws.

    Raises:
        ValueError: an argument out of range.
    """
    check_variances(weight_variance, bias_variance, residual)
    _check_sizes(depth, width, networks)
    generator = torch.Generator().manual_seed(seed)
    if residual:
        return _plain_kurtosis(activation, depth, width, weight_variance, bias_variance, input_square, residual, networks, generator)
    first = bias_variance + weight_variance * input_square
    moments = [
        [_branching_moments(power, activation, depth, width, weight_variance, bias_variance, first, networks // GROUPS, generator)
         for _ in range(GROUPS)]
        for power in (1, 2)
    ]  # fmt: skip
    second, fourth = (np.array(found) for found in moments)
    return [_ratio(fourth[:, layer], second[:, layer]) for layer in range(depth)]


def _branching_moments(
    power: int,
    activation: Pointwise,
    depth: int,
    width: int,
    weight_variance: float,
    bias_variance: float,
    first: float,
    count: int,
    generator: torch.Generator,
) -> list[float]:
    """``E[v^power]`` at every layer: the product of mean weights, networks drawn anew in proportion to them."""
    variance = torch.full((count,), first, dtype=DTYPE)
    level, levels = first**power, [first**power]
    for _ in range(1, depth):
        z = variance.sqrt()[:, None] * torch.randn(count, width, dtype=DTYPE, generator=generator)
        after = bias_variance + weight_variance * activation(z).square().mean(1)
        weight = (after / variance) ** power
        level *= float(weight.mean())
        levels.append(level)
        variance = after[_systematic(weight, generator)]
    return levels


def _systematic(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Indices drawn in proportion to weights, by one uniform number and equal steps: less noise than independent draws."""
    count = len(weight)
    places = (torch.rand((), dtype=DTYPE, generator=generator) + torch.arange(count, dtype=DTYPE)) / count
    return torch.searchsorted(weight.cumsum(0) / weight.sum(), places).clamp(max=count - 1)


def _plain_kurtosis(
    activation: Pointwise,
    depth: int,
    width: int,
    weight_variance: float,
    bias_variance: float,
    input_square: float,
    residual: float,
    networks: int,
    generator: torch.Generator,
) -> list[Estimate]:
    found = []
    for _ in range(GROUPS):
        size = (networks // GROUPS, width)
        z = math.sqrt(bias_variance + weight_variance * input_square) * torch.randn(size, dtype=DTYPE, generator=generator)
        moments = [(float(z.square().mean()), float(z.pow(4).mean()))]
        for _ in range(1, depth):
            variance = bias_variance + weight_variance * activation(z).square().mean(1, keepdim=True)
            z = residual * z + variance.sqrt() * torch.randn(size, dtype=DTYPE, generator=generator)
            moments.append((float(z.square().mean()), float(z.pow(4).mean())))
        found.append(moments)
    groups = np.array(found)
    return [_ratio(groups[:, layer, 1] / 3, groups[:, layer, 0]) for layer in range(depth)]


def _ratio(numerator: np.ndarray, root: np.ndarray) -> Estimate:
    """``E[a] / E[b]²``, with the error of leaving out one group at a time."""
    count = len(root)

    def without(values: np.ndarray) -> np.ndarray:
        return (values.sum() - values) / (count - 1)

    left = without(numerator) / without(root) ** 2
    return Estimate(float(numerator.mean() / root.mean() ** 2), float(math.sqrt((count - 1) * left.var())))


# ------------------------------------------------------------------------------------------------ whole networks


def empirical_moments(
    activation: Pointwise,
    depth: int,
    width: int,
    weight_variance: float,
    bias_variance: float = 0.0,
    weight_rate: float = 1.0,
    bias_rate: float = 1.0,
    input_square: float = 1.0,
    networks: int = 4_000,
    outputs: int = 3,
    seed: int = 0,
) -> dict[str, Estimate]:
    """The quantities of `assay.theory.finite_width` at layer L, from networks with weights: covariances times n, by their names there.

    Tangent kernels come from every network's Jacobian, their change from its directional second derivatives, all networks at once by
    ``torch.func.vmap``; ``kernel`` is E[z²], with its 1/n term, and ``tangent`` E[H].

    Args:
        activation: σ, differentiable by torch; kinks count as torch differentiates them, without point masses.
        depth: L ≥ 2.
        width: n, of the input too.
        weight_variance: C_W.
        bias_variance: C_b.
        weight_rate: λ_W.
        bias_rate: λ_b.
        input_square: x·x / n_0.
        networks: in all; a multiple of `GROUPS`.
        outputs: neurons of the last layer, at least 2; estimates average over their pairs.
        seed: of the draws.

    Raises:
        ValueError: an argument out of range.
    """
    check_variances(weight_variance, bias_variance)
    _check_sizes(depth, width, networks)
    if depth < 2 or outputs < 2:
        raise ValueError(f"depth and outputs must be at least 2, got {depth} and {outputs}")
    generator = torch.Generator().manual_seed(seed)
    shapes = [(width, width)] * (depth - 1) + [(outputs, width)]
    variance = _spread(shapes, weight_variance / width, bias_variance)
    rate = _spread(shapes, weight_rate / width, bias_rate)
    x = math.sqrt(input_square) * torch.ones(width, dtype=DTYPE)
    measure = vmap(
        lambda parameters: _one_network(lambda inner: _forward(inner, x, activation, shapes), parameters, rate), chunk_size=CHUNK
    )
    groups = []
    for _ in range(GROUPS):
        drawn = variance.sqrt() * torch.randn(networks // GROUPS, len(variance), dtype=DTYPE, generator=generator)
        groups.append(_raw_moments(*measure(drawn)))
    return _estimates(np.array(groups), width)


def _spread(shapes: list[tuple[int, int]], of_weights: float, of_biases: float) -> Tensor:
    """One number a parameter, in the order in which `_forward` reads them: each layer's weights, then its biases."""
    parts = [
        torch.tensor([of_weights, of_biases], dtype=DTYPE).repeat_interleave(torch.tensor([rows * columns, rows]))
        for rows, columns in shapes
    ]
    return torch.cat(parts)


def _forward(parameters: Tensor, x: Tensor, activation: Pointwise, shapes: list[tuple[int, int]]) -> Tensor:
    parts = parameters.split([size for rows, columns in shapes for size in (rows * columns, rows)])
    for layer, shape in enumerate(shapes):
        x = parts[2 * layer].view(shape) @ (activation(x) if layer else x) + parts[2 * layer + 1]
    return x


def _one_network(function: Pointwise, parameters: Tensor, rate: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """z (outputs,), H (outputs, outputs), and dH_{i;jj} and dH_{i;ij} (outputs, outputs) at row i, column j."""
    jacobian = jacrev(function)
    slopes = jacobian(parameters)
    assert isinstance(slopes, Tensor)  # of one tensor by one tensor
    steps = rate * slopes
    turned = torch.stack([jvp(jacobian, (parameters,), (step,))[1] for step in steps])  # (∇² z_i) λ ∂z_j, at row j, column i
    return function(parameters), steps @ slopes.T, torch.einsum("jip,jp->ij", turned, steps), torch.einsum("jip,ip->ij", turned, steps)


def _raw_moments(z: Tensor, tangent: Tensor, first: Tensor, second: Tensor) -> list[float]:
    """Group means from which `_estimates` makes covariances; sums over pairs i ≠ j."""
    outputs = z.shape[1]
    apart = ~torch.eye(outputs, dtype=torch.bool)
    own = torch.diagonal(tangent, dim1=1, dim2=2)
    pairs: list[Callable[[], Tensor]] = [
        lambda: z[:, :, None].square() * z[:, None].square(),
        lambda: z[:, :, None].square() * own[:, None],
        lambda: z[:, :, None] * z[:, None] * tangent,
        lambda: own[:, :, None] * own[:, None],
        lambda: tangent.square(),
        lambda: z[:, :, None] * first,
        lambda: z[:, None] * second,
    ]
    return [float(z.square().mean()), float(own.mean()), *(float(pair()[:, apart].mean()) for pair in pairs)]


def _estimates(groups: np.ndarray, width: int) -> dict[str, Estimate]:
    count = len(groups)
    left = [_from_raw((groups.sum(0) - group) / (count - 1), width) for group in groups]
    whole = _from_raw(groups.mean(0), width)
    errors = {name: math.sqrt((count - 1) * float(np.var([one[name] for one in left]))) for name in whole}
    return {name: Estimate(value, errors[name]) for name, value in whole.items()}


def _from_raw(raw: np.ndarray, width: int) -> dict[str, float]:
    kernel, tangent, squares, cross, flow, diagonal, off_diagonal, first, second = (float(value) for value in raw)
    return {
        "kernel": kernel,
        "tangent": tangent,
        "vertex": width * (squares - kernel**2),
        "cross": width * (cross - kernel * tangent),
        "flow": width * flow,
        "diagonal": width * (diagonal - tangent**2),
        "off_diagonal": width * off_diagonal,
        "first_change": width * first,
        "second_change": width * second,
    }


def _check_sizes(depth: int, width: int, networks: int) -> None:
    if depth < 1 or width < 2:
        raise ValueError(f"depth must be at least 1 and width at least 2, got {depth} and {width}")
    if networks < GROUPS or networks % GROUPS:
        raise ValueError(f"networks must be a multiple of {GROUPS}, got {networks}")
