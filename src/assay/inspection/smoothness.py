"""Over-smoothing measured: how far apart the directions of node vectors are, layer by layer and hop by hop."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from assay.contracts import Batch, Finding, Graph, Task
from assay.errors import UserError
from assay.ops.propagation import hops, normalised_operator
from assay.theory.propagation import mixing_hops, second_eigenvalue

_HOPS = (0, 1, 2, 3, 5, 8, 10, 15, 20, 30, 50, 75, 100)
_SMOOTHED = 0.1  # below this share of its value after one hop, a representation counts as smoothed


@dataclass(frozen=True)
class Estimate:
    """A smoothness value and its standard error (0 where every pair was looked at)."""

    value: float
    standard_error: float = 0.0


def smoothness(x: Tensor, max_pairs: int | None = None, seed: int = 0, chunk: int = 1024) -> Estimate:
    """The mean distance of directions over all pairs of rows (the smoothness metric value).

    ``D(x_i, x_j) = ½ ‖x_i/‖x_i‖ − x_j/‖x_j‖‖`` in [0, 1]; ``SMV_i = Σ_{j≠i} D / (n − 1)``; ``SMV = mean_i SMV_i``. 0: all rows have
    one direction (smoothed); larger: more distinct. The lengths of rows play no part. A zero row has no direction: it is at 0 from
    other zero rows and at ½ from all others, and that is warned of once.

    Args:
        x: (nodes, width), nodes >= 2.
        max_pairs: look at so many random pairs instead of all n (n - 1) / 2.
        seed: of the random pairs.
        chunk: rows compared at once; memory is chunk × nodes.

    Raises:
        ValueError: ``x`` is not (nodes >= 2, width) or not finite, or ``max_pairs`` < 2.

    Source: Liu, Gao and Ji 2020, Towards deeper graph neural networks, section 3.1.
    """
    if max_pairs is None:
        return Estimate(float(node_smoothness(x, chunk).mean()))
    if max_pairs < 2:
        raise ValueError(f"max_pairs must be >= 2, not {max_pairs}")
    directions = _directions(x)
    nodes = len(directions)
    generator = torch.Generator().manual_seed(seed)
    one = torch.randint(0, nodes, (max_pairs,), generator=generator).to(x.device)
    step = torch.randint(1, nodes, (max_pairs,), generator=generator).to(x.device)  # never back to the same node
    distance = (directions[one] - directions[(one + step) % nodes]).norm(dim=1) / 2
    return Estimate(float(distance.mean()), float(distance.std()) / math.sqrt(max_pairs))


def node_smoothness(x: Tensor, chunk: int = 1024) -> Tensor:
    """``SMV_i`` (nodes,), float64: the mean distance of each row's direction to all others; arguments as `smoothness`."""
    directions = _directions(x)
    nodes = len(directions)
    sums = torch.empty(nodes, dtype=torch.float64, device=x.device)
    for start in range(0, nodes, chunk):
        rows = slice(start, start + chunk)
        # Differences, not inner products: those lose half the digits exactly where everything is nearly smoothed.
        sums[rows] = torch.cdist(directions[rows], directions, compute_mode="donot_use_mm_for_euclid_dist").sum(1)
    return sums / 2 / (nodes - 1)


def _directions(x: Tensor) -> Tensor:
    if x.ndim != 2 or len(x) < 2:
        raise ValueError(f"x must have shape (nodes >= 2, width), not {tuple(x.shape)}")
    x = x.detach().double()
    if not bool(torch.isfinite(x).all()):
        raise ValueError("x holds a value that is not finite")
    largest = x.abs().amax(1, keepdim=True)  # first: the squares of very small rows would vanish
    zero = largest == 0
    if bool(zero.any()):
        message = f"{int(zero.sum())} of {len(x)} rows are zero and have no direction: they count as ½ from all others, 0 from each other"
        warnings.warn(message, stacklevel=4)
    scaled = x / torch.where(zero, 1.0, largest)
    return scaled / torch.where(zero, 1.0, scaled.norm(dim=1, keepdim=True))


def smoothness_over_hops(
    x: Tensor, edges: Tensor, at: tuple[int, ...] = _HOPS, max_pairs: int | None = None, **options: Any
) -> dict[int, Estimate]:
    """The smoothness of ``Â^k x`` at chosen hops k.

    Args:
        x: (nodes, width).
        edges: (2, edges), both directions.
        at: the hops, increasing.
        max_pairs: as in `smoothness`.
        options: of `assay.ops.propagation.normalised_operator` (``edge_weight``, ``normalization``).
    """
    operator = normalised_operator(edges, len(x), dtype=x.dtype, **options)
    wanted = set(at)
    return {k: smoothness(hop, max_pairs) for k, hop in enumerate(hops(x, operator, max(at))) if k in wanted}


class Smoothness:
    """Probe that says whether a graph network is over-smoothing, and at which depth.

    Args:
        max_pairs: pairs looked at a layer; enough for a standard error of about 0.001.
    """

    def __init__(self, max_pairs: int = 100_000) -> None:
        self.max_pairs = max_pairs

    def __call__(self, model: nn.Module, task: Task) -> Finding:
        """Smoothness after each part of the network and over hops of what enters propagation; nothing is changed.

        Raises:
            UserError: the task is not one of a graph's nodes.
        """
        if not isinstance(task.signature.input, Graph):
            raise UserError(f"Smoothness looks at graph networks, and {task.name} has no graph: choose another probe.")
        batch = next(iter(task.batches("test", 1)))
        recorded = _outputs_by_layer(model, batch)
        table: list[dict[str, Any]] = []
        for name, value in recorded.items():
            estimate = smoothness(value, self.max_pairs)
            table.append({"after": name, "smoothness": estimate.value, "standard_error": estimate.standard_error})
        curve = self._over_hops(recorded, batch)
        table.extend({"after": f"hop {k}", "smoothness": e.value, "standard_error": e.standard_error} for k, e in curve.items())
        second = second_eigenvalue(batch["edges"], len(batch["nodes"]), batch.get("edge_weight"))
        return Finding(_sentence(table, curve, second), table, _figure(table, curve))

    def _over_hops(self, recorded: dict[str, Tensor], batch: Batch) -> dict[int, Estimate]:
        start = next(iter(recorded.values()))
        weight = batch.get("edge_weight")
        return smoothness_over_hops(start.float(), batch["edges"], max_pairs=self.max_pairs, edge_weight=weight)


def _outputs_by_layer(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """What each layer gives for every node, in the order of computation."""
    core = getattr(model, "core", model)
    layers = {}
    for name, part in core.named_children():
        layers.update({f"{name} {index + 1}": item for index, item in enumerate(part)} if isinstance(part, nn.ModuleList) else {name: part})
    nodes, found = len(batch["nodes"]), {}

    def keep(name: str) -> Any:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            value = output[0] if isinstance(output, tuple) else output
            if isinstance(value, Tensor) and value.ndim == 2 and len(value) == nodes:
                found[name] = value.detach()

        return hook

    handles = [layer.register_forward_hook(keep(name)) for name, layer in layers.items() if not isinstance(layer, nn.Identity)]
    training = model.training
    try:
        with torch.no_grad():
            model.eval()(batch)
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    if not found:
        raise UserError(f"{type(core).__name__} gives no vector a node in any of its parts, so there is no smoothness to measure.")
    return found


def _sentence(table: list[dict[str, Any]], curve: dict[int, Estimate], second: float) -> str:
    layers = [row for row in table if not row["after"].startswith("hop ")]
    last = layers[-1]
    smoothed = [k for k, estimate in curve.items() if k > 1 and estimate.value < _SMOOTHED * curve[1].value]
    tail = f"after {smoothed[0]} hops" if smoothed else f"not within {max(curve)} hops"
    limit = mixing_hops(_SMOOTHED, min(second, 1.0))
    theory = "never (some part of the graph does not mix)" if limit == math.inf else f"after about {limit:,} more hops"
    verdict = "over-smoothed" if last["smoothness"] < 0.02 else "distinct"
    return (
        f"Node vectors are {verdict} at the output (mean distance of directions {last['smoothness']:.3f} after {last['after']}, "
        f"0 = all alike); propagating the first layer further smooths it to a tenth {tail}, and |λ₂| = {second:.4f} says a tenth {theory}."
    )


def _figure(table: list[dict[str, Any]], curve: dict[int, Estimate]) -> dict[str, Any]:
    layers = [row for row in table if not row["after"].startswith("hop ")]
    over_hops = {
        "type": "scatter",
        "name": "hops of the first layer",
        "x": list(curve),
        "y": [estimate.value for estimate in curve.values()],
        "mode": "lines+markers",
    }
    names = {
        "type": "bar",
        "name": "layers",
        "x": [row["after"] for row in layers],
        "y": [row["smoothness"] for row in layers],
        "xaxis": "x2",
        "yaxis": "y2",
    }
    layout = {
        "grid": {"rows": 1, "columns": 2, "pattern": "independent"},
        "xaxis": {"title": {"text": "hops"}},
        "yaxis": {"title": {"text": "mean distance of directions"}, "type": "log"},
        "yaxis2": {"rangemode": "tozero"},
    }
    return {"data": [over_hops, names], "layout": layout}
