"""`Magnitude`: the smallest weights, or the weakest units, are taken out and the rest is trained on."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from assay.compression.pruning import (
    Scope,
    eligible_recurrent,
    open_entries,
    prunable_weights,
    prune_recurrent,
    prune_smallest,
    prune_weights,
    sparsity,
)
from assay.compression.regain import RegainCurve, RegainPoint, retrain
from assay.compression.sparse_file import dense_bytes, sparse_bytes
from assay.compression.units import HasUnits, compile_sparse, unit_count, weakest_units
from assay.contracts import Edit, Task, TrailPoint
from assay.errors import UserError
from assay.measure import count_flops, latency, parameter_count
from assay.models import surgery
from assay.models.masking import nonzero_parameters, weight_of

__all__ = ["Magnitude", "RegainCurve", "RegainPoint", "compile_sparse", "prune_recurrent"]

SINGLE = ("parameters", "bytes")
"""Targets that single zeros meet."""
TARGETS = (*SINGLE, "flops", "latency")


class Magnitude:
    """Prunes a trained network by magnitude and trains what is left on.

    What it does: for ``parameters`` and ``bytes`` the smallest weights get masks: non-zero numbers and the bytes of the sparse file
    (`save_sparse`) fall, the time of a forward does not. For ``flops`` and ``latency`` whole hidden units go, where the network has
    units that can be taken out; otherwise such a target is refused. When to use it: first; it is cheap and hard to beat. What it costs:
    ``rounds · retrain_steps`` updates.

    Args:
        retrain_steps: updates after each round, with masks held.
        rounds: pruning in this many steps, each taking the same share of what is left (iterative magnitude pruning).
        weights: ``all`` (linear, convolution, attention, recurrent) or only ``recurrent`` ones.
        i2h: of recurrent weights, prune input-to-hidden ones; used with ``weights="recurrent"``.
        h2h: likewise hidden-to-hidden ones.
        gates: likewise only these gates.
        scope: of the threshold; see `prune_recurrent`.
        structured: take whole units out for every target, not only for flops and latency.
        rewind_to: a ``state_dict`` of the unpruned network from early in its training; after each round the surviving weights go back
            to it (Frankle et al. 2020). Masks only: it cannot be used with ``structured``.
        learning_rate: of retraining, Adam, constant.
        batch_size: examples an update.
        seed: of the order of the batches.

    Source: Han et al. 2015, Learning both Weights and Connections for Efficient Neural Networks; Darji 2024, Investigating Sparsity in
    Recurrent Neural Networks; Frankle et al. 2020, Linear Mode Connectivity and the Lottery Ticket Hypothesis.
    """

    def __init__(
        self,
        retrain_steps: int = 200,
        rounds: int = 1,
        *,
        weights: Literal["all", "recurrent"] = "all",
        i2h: bool = True,
        h2h: bool = True,
        gates: Sequence[str] | None = None,
        scope: Scope = "global",
        structured: bool = False,
        rewind_to: Mapping[str, Tensor] | None = None,
        learning_rate: float = 1e-3,
        batch_size: int = 32,
        seed: int = 0,
    ) -> None:
        if rounds < 1:
            raise ValueError(f"rounds must be at least 1, got {rounds}")
        if retrain_steps < 0:
            raise ValueError(f"retrain_steps must not be negative, got {retrain_steps}")
        if weights not in ("all", "recurrent"):
            raise ValueError(f"weights must be 'all' or 'recurrent', got {weights!r}")
        if weights == "all" and not (i2h and h2h and gates is None):
            raise ValueError("i2h, h2h and gates choose among recurrent weights: give weights='recurrent' with them")
        if structured and rewind_to is not None:
            raise ValueError("rewind_to fits masks only: a network that lost units has other shapes than the weights to rewind to")
        self.retrain_steps, self.rounds, self.weights, self.structured = retrain_steps, rounds, weights, structured
        self.kinds: dict[str, Any] = {"i2h": i2h, "h2h": h2h, "gates": gates}
        self.scope: Scope = scope
        self.rewind_to = rewind_to
        self.training: dict[str, Any] = {"learning_rate": learning_rate, "batch_size": batch_size, "seed": seed}

    def __call__(self, model: nn.Module, task: Task, target: Mapping[str, float]) -> tuple[nn.Module, list[TrailPoint]]:
        """Prune a copy of the model to the target.

        Args:
            model: a trained network.
            task: what it was trained on; retraining and the measures use its train and validation splits.
            target: the fractions that may remain: ``parameters``, ``bytes``, ``flops``, ``latency``, or several.

        Returns:
            The pruned and retrained network, and a trail: the network as it came, then one point a round.

        Raises:
            UserError: a target is unknown, outside (0, 1], or cannot be met, with the reason.
        """
        _check(target)
        if self.structured or not set(target) <= set(SINGLE):
            if not isinstance(model, HasUnits):
                name = next((key for key in target if key not in SINGLE), "structured")
                raise UserError(
                    f"Magnitude pruning cannot meet {name} on {type(model).__name__}: single zeros do not make a dense product smaller, "
                    "and this network has no whole units that can be dropped; ask for parameters or bytes."
                )
            return self._drop_units(model, task, target)
        return self._mask_weights(model, task, target)

    # -------------------------------------------------------------------------------------------- masks

    def _mask_weights(self, model: nn.Module, task: Task, target: Mapping[str, float]) -> tuple[nn.Module, list[TrailPoint]]:
        trail = [_point(model, task)]
        eligible = self._eligible(model)
        base = {"parameters": nonzero_parameters(model), "bytes": sparse_bytes(model)}
        pruned = surgery.apply(copy.deepcopy(model), {"edit": "mask", "fraction": 0.0, "names": list(eligible)})
        total = open_entries(pruned, eligible)
        keep = self._entries_to_keep(pruned, eligible, {name: share * base[name] for name, share in target.items()})
        for number in range(1, self.rounds + 1):
            remaining = round(total * (keep / total) ** (number / self.rounds)) if number < self.rounds else keep
            _prune_to(pruned, eligible, remaining, self.scope)
            at_once = task.evaluate(pruned, "validation").metrics[task.metric]
            self._rewind(pruned, model)
            self._retrain(pruned, task)
            _edits(pruned)[-1]["fraction"] = round(1 - remaining / total, 6)
            trail.append(_point(pruned, task, at_once=at_once, sparsity=sparsity(pruned)))
        return pruned.eval(), trail

    def _eligible(self, model: nn.Module) -> dict[str, Tensor]:
        if self.weights == "recurrent":
            return eligible_recurrent(model, **self.kinds)
        names = prunable_weights(model)
        if not names:
            raise UserError(f"{type(model).__name__} has no linear, convolutional or recurrent weight to prune.")
        return {name: torch.ones_like(weight_of(model, name), dtype=torch.bool) for name in names}

    def _entries_to_keep(self, pruned: nn.Module, eligible: Mapping[str, Tensor], allowed: Mapping[str, float]) -> int:
        """How many eligible entries may stay so that every target is met; the file's size is linear in them, so one trial tells it."""
        total = open_entries(pruned, eligible)
        limits = {}
        if "parameters" in allowed:
            limits["parameters"] = total - (nonzero_parameters(pruned) - math.floor(allowed["parameters"]))
        if "bytes" in allowed:
            trial = copy.deepcopy(pruned)
            _prune_to(trial, eligible, total // 2, self.scope)
            size = next(weight_of(pruned, name).element_size() for name in eligible)
            excess = sparse_bytes(trial) - math.floor(allowed["bytes"]) + 16  # values are padded to whole words in the file
            limits["bytes"] = open_entries(trial, eligible) - math.ceil(excess / size)
            if sparse_bytes(pruned) <= allowed["bytes"]:
                limits["bytes"] = total  # a mask that hides nothing takes no space
        name = min(limits, key=lambda key: limits[key])
        if limits[name] < 0:
            raise UserError(
                f"The target for {name} cannot be met: {total:,} of {nonzero_parameters(pruned):,} numbers are weights that may be pruned, "
                f"and without them the network is still too large; allow more."
            )
        return min(limits[name], total)

    def _rewind(self, pruned: nn.Module, model: nn.Module) -> None:
        if self.rewind_to is None:
            return
        with torch.no_grad():
            for name, _ in model.named_parameters():
                if name not in self.rewind_to:
                    raise ValueError(f"rewind_to lacks the weight {name!r}")
                weight_of(pruned, name).copy_(self.rewind_to[name])

    # -------------------------------------------------------------------------------------------- units

    def _drop_units(self, model: nn.Module, task: Task, target: Mapping[str, float]) -> tuple[nn.Module, list[TrailPoint]]:
        trail = [_point(model, task)]
        sizes = _sizes(task, target)
        allowed = {name: share * sizes[name](model) for name, share in target.items()}
        start = {name: sizes[name](model) for name in target}
        pruned = copy.deepcopy(model)
        for number in range(1, self.rounds + 1):
            progress = number / self.rounds
            limit = {name: start[name] * (allowed[name] / start[name]) ** progress for name in target}
            pruned = _smallest_cut(pruned, lambda candidate, limit=limit: all(sizes[name](candidate) <= limit[name] for name in limit))
            at_once = task.evaluate(pruned, "validation").metrics[task.metric]
            self._retrain(pruned, task)
            trail.append(_point(pruned, task, at_once=at_once, units=unit_count(pruned)))
        return pruned.eval(), trail

    def _retrain(self, pruned: nn.Module, task: Task) -> None:
        if self.retrain_steps:
            retrain(pruned, task, self.retrain_steps, **self.training)


def _check(target: Mapping[str, float]) -> None:
    if not target:
        raise UserError(f"Magnitude pruning needs a target: one of {', '.join(TARGETS)}, as in parameters=0.5.")
    for name, share in target.items():
        if name not in TARGETS:
            raise UserError(f"Magnitude pruning has no target {name!r}: it must be one of {', '.join(TARGETS)}.")
        if not 0 < share <= 1:
            raise UserError(f"{name}={share:g} is not a fraction that may remain: give a number above 0 and at most 1.")


def _prune_to(model: nn.Module, eligible: Mapping[str, Tensor], remaining: int, scope: Scope) -> None:
    """Prune until at most so many eligible entries are open; what equal weights and rounding per group leave over goes one by one."""
    excess = open_entries(model, eligible) - remaining
    if excess > 0:
        prune_weights(model, eligible, 1.0 if remaining <= 0 else excess / (excess + remaining - 1), scope)
        prune_smallest(model, eligible, max(open_entries(model, eligible) - remaining, 0))


def _smallest_cut(model: nn.Module, fits: Callable[[nn.Module], bool]) -> nn.Module:
    """The network with the fewest weakest units taken out that fits, by bisection."""

    def cut(count: int) -> nn.Module:
        candidate = copy.deepcopy(model)
        for edit in weakest_units(candidate, count):
            candidate = surgery.apply(candidate, edit)
        return candidate

    assert isinstance(model, HasUnits)  # checked by the caller
    low, high = 0, unit_count(model) - len(model.layers)
    if not fits(cut(high)):
        raise UserError(f"The target cannot be met: {type(model).__name__} is still too large with one unit a layer; allow more.")
    while low < high:
        middle = (low + high) // 2
        if fits(cut(middle)):
            high = middle
        else:
            low = middle + 1
    return cut(high)


def _sizes(task: Task, target: Mapping[str, float]) -> dict[str, Callable[[nn.Module], float]]:
    """What each target measures, on one validation example where an input is needed."""
    batch = next(iter(task.batches("validation", 1)))

    def median_latency(model: nn.Module) -> float:
        model.eval()
        with torch.no_grad():
            return latency(lambda: model(batch), repeats=30)[0]

    sizes: dict[str, Callable[[nn.Module], float]] = {
        "parameters": parameter_count,
        "bytes": dense_bytes,
        "flops": lambda model: count_flops(model, batch),
        "latency": median_latency,
    }
    return {name: sizes[name] for name in target}


def _point(model: nn.Module, task: Task, **more: float) -> TrailPoint:
    """The network as it is now: the edits that rebuild it, what it measures on validation, its weights."""
    training = model.training
    model.eval()
    measures = {
        "parameters": float(nonzero_parameters(model)),
        "bytes": float(sparse_bytes(model)),
        "flops": float(count_flops(model, next(iter(task.batches("validation", 1))))),
        task.metric: task.evaluate(model, "validation").metrics[task.metric],
        **{name: float(value) for name, value in more.items()},
    }
    model.train(training)
    weights = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
    return TrailPoint(copy.deepcopy(_edits(model)), measures, weights)


def _edits(model: nn.Module) -> list[Edit]:
    config: Any = getattr(model, "config", {"edits": []})
    return config["edits"]
