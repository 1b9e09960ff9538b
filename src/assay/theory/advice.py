"""What the theory of depth and width says of a plain network before it is built: how to initialise it, and whether its shape is sound.

It knows no data: a plan for some data, which asks it about the shape, is `assay.bench.advising`.

Source: Roberts, Yaida, Hanin (2022), The Principles of Deep Learning Theory.
"""

from __future__ import annotations

from dataclasses import dataclass

from assay.theory.criticality import Criticality, as_scalar_function, critical_initialization
from assay.theory.finite_width import OUTSIDE, STRAINED, Validity, fluctuation_rate, optimal_aspect_ratio, residual_scale_for
from assay.theory.gaussian_expectation import Pointwise, ScalarFunction

PYTORCH_WEIGHT_VARIANCE = 1 / 3
"""C_W of ``torch.nn.Linear`` as it comes."""


@dataclass(frozen=True)
class DepthAdvice:
    """What to do with a plain network of given depth, width and activation.

    Args:
        point: the activation's critical initialisation.
        weight_variance: C_W of all layers but the first.
        bias_variance: C_b.
        first_weight_variance: C_W of the layer that reads the input: with it K is K* from the start.
        ratio: L/n.
        best_ratio: r*, the edge of the regime in which first-order theory holds; None where nothing is critical.
        fluctuation: ν L / n, the predicted relative variance of a layer's mean square (kurtosis / 3 − 1); None where nothing is critical.
        validity: whether first-order figures can be trusted; None where nothing is critical.
        residual: γ of residual connections that would bring the network to r*; 0 where none are needed, None where nothing is critical.
        warnings: a sentence each.
    """

    point: Criticality
    weight_variance: float
    bias_variance: float
    first_weight_variance: float
    ratio: float
    best_ratio: float | None
    fluctuation: float | None
    validity: Validity | None
    residual: float | None
    warnings: tuple[str, ...]


def advise_depth(
    activation: Pointwise | ScalarFunction, depth: int, width: int, outputs: int = 1, input_square: float = 1.0
) -> DepthAdvice:
    """Initialisation and shape of a network of L layers of width n without norms, gates or attention; for those it has no advice.

    Args:
        activation: σ.
        depth: L ≥ 1, layers of weights.
        width: n ≥ 2.
        outputs: n_L.
        input_square: x·x / n_0 of the data.

    Raises:
        ValueError: an argument out of range, or an activation that is constant or not finite.
    """
    if depth < 1 or width < 2 or outputs < 1:
        raise ValueError(f"depth and outputs must be at least 1 and width at least 2, got {depth}, {outputs} and {width}")
    if not input_square > 0:
        raise ValueError(f"input_square must be above 0, got {input_square}")
    sigma = as_scalar_function(activation)
    point = critical_initialization(sigma)
    first = (point.kernel - point.bias_variance) / input_square if point.universality_class == "half-stable" and point.kernel else None
    shared = (point, point.weight_variance, point.bias_variance, first or point.weight_variance, depth / width)
    if point.heuristic:
        return DepthAdvice(*shared, None, None, None, None, tuple(_warnings(point, depth, width, None, None)))
    best = optimal_aspect_ratio(sigma, outputs, point=point)
    fluctuation = fluctuation_rate(sigma, point=point) * depth / width
    validity: Validity = "outside" if fluctuation >= OUTSIDE else "strained" if fluctuation >= STRAINED else "perturbative"
    residual = residual_scale_for(depth, width, sigma, outputs, point)
    return DepthAdvice(*shared, best, fluctuation, validity, residual, tuple(_warnings(point, depth, width, fluctuation, best)))


def _warnings(point: Criticality, depth: int, width: int, fluctuation: float | None, best: float | None) -> list[str]:
    found = []
    if fluctuation is None:
        found.append(
            "No initialisation of this activation keeps both signals and gradients: take another for a deep network; the variances are "
            "only the nearest."
        )
    elif fluctuation >= STRAINED:
        found.append(
            f"Networks of depth {depth} and width {width} differ from one another by {100 * fluctuation:.0f} % in mean square at the "
            f"start: make it wider, shallower or residual (depth over width up to {best:.3g})."
        )
    if point.stability == "unstable":
        found.append("The critical point is unstable: signals leave it with depth, by a power of it.")
    if point.universality_class == "half-stable":
        found.append(f"The critical point {point.stability} only: scale the inputs, or the first layer, so that the kernel starts at K*.")
    if depth > 3 and point.weight_variance > 2 * PYTORCH_WEIGHT_VARIANCE:
        shrink = (PYTORCH_WEIGHT_VARIANCE / point.weight_variance) ** (depth - 1)
        found.append(f"With torch.nn.Linear's own initialisation gradients of the first layer would be {shrink**0.5:.1e} of critical ones.")
    return found
