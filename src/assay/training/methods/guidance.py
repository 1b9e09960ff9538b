"""Guidance: the inner geometry of another network, trained or not, helps a network to learn.

Subramaniam et al., Training the Untrainable: Introducing Inductive Bias via Representational Alignment, 2024.

What it does: adds, for each hidden layer of a frozen guide, one minus its similarity (CKA) to a layer of the trained network on the same
batch. When to use it: networks that overfit, do not start, or lack the bias of an architecture that does well on the data; for the first
steps alone where only a better start is wanted. The similarity ignores the scale of activations, so a network without normalisation layers
may let it drift: clip gradients then, lower the weight, or take the distance ``cka-log-norm``, which draws it to the guide's, for better
or worse: an untrained guide with norms may draw a plain network's activations towards nothing.

What it costs: a forward pass of the guide, and products of the size of the batch squared times the layers' numbers, most of them of
``project_to`` numbers at most; the trained network runs once, and predicts as always when training is over. With ``remember`` the guide
runs once for each example.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from assay.contracts import Batch, Method, Objective, Output, Task, Tokens, Update
from assay.measure import parameter_count
from assay.models.activations import Activations, Layer, example_count
from assay.models.reference import referred
from assay.models.remembered import RememberedLayers
from assay.ops.similarities import (
    KINDS,
    PROJECTED,
    AccumulatedAlignment,
    Kind,
    check_projection,
    kernel_distance,
    layer_kernel,
    token_counts,
)

GUIDE_INPUTS = ("same", "noise")
COLLISIONS = ("sum", "last")
NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.instancenorm._InstanceNorm)

MAPS = ("auto", "aligned")
ALIGNED_BATCHES = 4
"""First batches on which ``aligned`` looks at the layers before it maps them."""

Layers = Literal["auto", "aligned"] | Sequence[str] | Mapping[str, str]


def map_layers(guide_count: int, target_count: int) -> list[int]:
    """The layer of the target that each layer i of the guide is compared with: ``I(i) = round(i (M − 1) / (S − 1))``, half to even.

    Args:
        guide_count: S. A single guide layer is compared with the target's first.
        target_count: M.

    Raises:
        ValueError: one of them has no layer.
    """
    if guide_count < 1 or target_count < 1:
        raise ValueError(f"guide and target need at least one hidden layer each, got {guide_count} and {target_count}")
    step = (target_count - 1) / (guide_count - 1) if guide_count > 1 else 1.0
    return [min(round(index * step), target_count - 1) for index in range(guide_count)]


def best_map(alignment: Tensor) -> list[int]:
    """The map I that keeps the order of depth and is most alike in all: the greatest ``Σ_i A_{i I(i)}`` with ``I(i) ≤ I(i + 1)``.

    Exact, by dynamic programming over the target's layers.

    Args:
        alignment: A, how alike each layer of the guide is to each of the target, (guide layers, target layers).

    Raises:
        ValueError: one of them has no layer.
    """
    if alignment.ndim != 2 or not alignment.numel():
        raise ValueError(f"guide and target need at least one hidden layer each, got alignments {tuple(alignment.shape)}")
    total, choices = alignment[0], []
    for row in alignment[1:]:
        best, choice = total.cummax(0)
        choices.append(choice)
        total = best + row
    layers = [int(total.argmax())]
    for choice in reversed(choices):
        layers.insert(0, int(choice[layers[0]]))
    return layers


def noise_like(batch: Any, generator: torch.Generator, vocabulary: int | None = None) -> Any:
    """The batch with noise in place of its inputs: ``clip(a + 0.1 b, 0, 1)``, a and b standard normal; tokens drawn at random.

    Args:
        batch: a tensor, or named tensors; masks, targets, and a graph's edges and selection stay as they are.
        generator: of the draws, on the CPU.
        vocabulary: of the tokens; by default one more than the largest in the batch.
    """
    if isinstance(batch, dict):
        kept = ("target", "mask", "edge", "selected", "group")
        return {
            name: tensor if any(word in name for word in kept) else noise_like(tensor, generator, vocabulary)
            for name, tensor in batch.items()
        }
    if batch.is_floating_point():
        draws = [torch.randn(batch.shape, generator=generator) for _ in range(2)]
        return (draws[0] + 0.1 * draws[1]).clamp(0, 1).to(batch)
    return torch.randint(vocabulary or int(batch.max()) + 1, batch.shape, generator=generator).to(batch)


class Guidance(Method):
    """Add ``α Σ_i (1 − similarity(T_{I(i)}(x), G_i(x)))`` over the guide's hidden layers i to the loss; see `map_layers` for I.

    T are layers of the trained network, recorded in the forward pass that the loss needs anyway, G those of the guide, in evaluation mode
    and without gradient. Where none are named, they are those of `assay.models.activations.KINDS` in the order in which they run, without
    the last, which gives the prediction.

    In a plain loop::

        guidance = Guidance(guide)
        with guidance.watch(model):
            for x, y in loader:
                loss = task_loss(model(x), y) + guidance.loss(x)
                ...

    Over several processes each compares its own share of the batch, and maps layers by it; with accumulated gradients, each part of it.

    Args:
        guide: a frozen network; or the name of a registered model or mixer, which is made for the task's signature with random weights; or
            the folder of a run, with the weights it was trained to.
        layers: ``auto``, by depth; or ``aligned``: by depth for the first `ALIGNED_BATCHES` batches, then each layer of the guide to the
            one that is most like it, in the order of depth (`best_map` of debiased CKA); or names of the target's modules, in order, that
            the guide's layers are mapped onto; or the pairs themselves, guide module → target module.
        weight: α.
        distance: ``cka``, ``cka-debiased``, ``rsa``, or ``cka-log-norm``, which also draws the scale of each layer to the guide's, for
            networks without normalisation layers; the guide's scale must suit then (a layer in front of a norm may have any).
        until_step: optimiser steps with guidance; after them training goes on without, and the guide no longer runs. None: to the end.
        decay: factor on α after each step, or None.
        guide_input: ``same``, or ``noise`` in place of the batch (`noise_like`), so that nothing the guide knows of data can count.
        collisions: where several guide layers are mapped onto one target layer, all count (``sum``), or only the last of them (``last``, as
            in the authors' code).
        per_token: compare position by position, summed over positions; both networks must have layers (examples, length, ...).
        parameters: size of a guide that is made; by default the target's.
        seed: of a guide that is made, and of the noise.
        remember: GiB in which what the guide's layers gave is kept by example, so that it runs once for each; 0 keeps nothing. For guides
            whose output depends on the example alone, and data that are not changed at random (`RememberedLayers`).
        project_to: numbers that wider layers are projected to at random before they are compared, where that saves work; 0: never. At 4,096
            it puts a similarity off by ``0.044 + r / 2048`` at most (root mean square), of layers whose kernels spread over r directions;
            `assay.ops.similarities` has the bound.

    Raises:
        ValueError: an argument out of its range; a guide that requires gradients, or is the target or shares parameters with it; (while
            training) no layers that can be compared, or fewer than eight examples.
        UserError: there is no such guide, or it reads other data.
    """

    def __init__(
        self,
        guide: nn.Module | str = "mlp",
        layers: Layers = "auto",
        weight: float = 1.0,
        distance: Kind = "cka",
        until_step: int | None = None,
        decay: float | None = None,
        guide_input: Literal["same", "noise"] = "same",
        collisions: Literal["sum", "last"] = "sum",
        per_token: bool = False,
        parameters: int | None = None,
        seed: int = 0,
        remember: float = 0.0,
        project_to: int = PROJECTED,
    ) -> None:
        _check(weight, distance, until_step, decay, guide_input, collisions)
        if not remember >= 0 or (remember and guide_input == "noise"):
            raise ValueError(f"remember must be at least 0 GiB, and 0 with noise, which is new in each step, got {remember}")
        check_projection(project_to)
        if isinstance(layers, str) and layers not in MAPS:
            raise ValueError(f"layers must be 'auto', 'aligned', names of the target's modules, or guide → target names, got {layers!r}")
        if isinstance(guide, nn.Module) and any(parameter.requires_grad for parameter in guide.parameters()):
            raise ValueError("the guide's parameters require gradients, so training could change it: call guide.requires_grad_(False)")
        self.guide, self.layers, self.weight = guide, layers, weight
        self.distance: Kind = distance
        self.until_step, self.decay, self.guide_input, self.collisions = until_step, decay, guide_input, collisions
        self.per_token, self.parameters, self.seed, self.remember, self.project_to = per_token, parameters, seed, remember, project_to
        self.step = 0
        self.map: list[int] | None = None
        """The target's layer of each of the guide's, once ``aligned`` has found it."""
        self._alignment = AccumulatedAlignment(project_to)
        self.generator = torch.Generator().manual_seed(seed)
        self._network: nn.Module | None = None
        self._model: nn.Module | None = None
        self._recording: Activations | None = None
        self._remembered: RememberedLayers | None = None
        self._vocabulary: int | None = None

    # -------------------------------------------------------------------------------------------- as a method

    def setup(self, model: nn.Module, task: Task | None = None) -> None:
        """Make or load the guide, and see that it fits the model."""
        self._network = self._made_guide(model, task)
        _check_guide(self._network, model, task)
        self._remembered = RememberedLayers(self._guide_layers, self.remember) if self.remember else None
        if task is not None and isinstance(task.signature.input, Tokens):
            self._vocabulary = task.signature.input.vocabulary
        self._model = model
        self._record()  # says now what would fail later
        if self.active and self.distance != "cka-log-norm" and not any(isinstance(module, NORMS) for module in model.modules()):
            logging.getLogger(__name__).warning(
                "%s has no normalisation layer, and %s does not hold the scale of activations: clip gradients, or lower weight",
                type(model).__name__,
                self.distance,
            )

    def objective(self, next: Objective) -> Objective:
        """Record the target while the loss is computed, then add the distances."""

        def guided(model: nn.Module, batch: Batch) -> Output:
            if not self.active:
                return next(model, batch)
            with self._record() as recording:
                output = next(model, batch)
            if output.loss is None:
                raise ValueError("the objective inside Guidance returned an output without loss")
            distance = self.strength * self.distances(batch, recording).sum()
            output.losses = {**output.losses, "guidance": distance}
            output.loss = output.loss + distance
            return output

        return guided

    def update(self, next: Update) -> Update:
        """Count the optimiser's steps."""

        def counted(optimizer: torch.optim.Optimizer) -> None:
            next(optimizer)
            self.step += 1

        return counted

    def finish(self, model: nn.Module) -> None:
        """Let the guide go."""
        self._network = self._model = self._recording = self._remembered = None

    def state_dict(self) -> dict[str, Any]:
        """The steps done, the state of the noise, and what is known of the map of layers."""
        return {
            "step": self.step,
            "generator": self.generator.get_state(),
            "map": self.map,
            "batches": self._alignment.batches,
            "alignment": dict(self._alignment.sums),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved step."""
        self.step = state["step"]
        self.generator.set_state(state["generator"])
        self.map = state["map"]
        self._alignment.batches, self._alignment.sums = state["batches"], dict(state["alignment"])

    # -------------------------------------------------------------------------------------------- in a plain loop

    def watch(self, model: nn.Module) -> Activations:
        """A context in which the model's forward passes are recorded for `loss`."""
        self.setup(model)
        self._recording = self._record()
        return self._recording

    def loss(self, batch: Any) -> Tensor:
        """``α Σ_i (1 − similarity)`` for the batch that the model has just run on; counts as one step. Zero when guidance is over."""
        if not self.active:
            return torch.zeros(())
        if self._recording is None:
            raise ValueError("no model is watched: run it inside `with guidance.watch(model)`")
        distance = self.strength * self.distances(batch, self._recording).sum()
        self.step += 1
        return distance

    # -------------------------------------------------------------------------------------------- the distances

    @property
    def active(self) -> bool:
        """Whether anything is added in this step."""
        return self.weight != 0 and (self.until_step is None or self.step < self.until_step)

    @property
    def strength(self) -> float:
        """α in this step."""
        return self.weight * (1.0 if self.decay is None else self.decay**self.step)

    def distances(self, batch: Any, recording: Activations) -> Tensor:
        """One distance for each compared pair of layers, (pairs,), from the record of the model's forward pass on this batch."""
        count, mask = example_count(batch), batch.get("mask") if isinstance(batch, dict) else None
        target = recording.hidden(count) if isinstance(self.layers, str) else recording.layers(count)
        guide = (self._remembered or self._guide_layers)(batch)
        if self.layers == "aligned" and self.map is None:
            self._align(guide, target)
        pairs = self._pairs(guide, target)
        options: dict[str, Any] = {"kind": self.distance, "mask": mask, "per_token": self.per_token, "project_to": self.project_to}
        if self.per_token:
            _check_positions([target[t] for _, t in pairs] + [guide[i] for i, _ in pairs])
        counts = token_counts(mask) if self.per_token else None
        kernels = {t: layer_kernel(target[t].output, **options) for t in dict.fromkeys(t for _, t in pairs)}
        with torch.no_grad():
            own = [layer_kernel(guide[i].output, **options) for i, _ in pairs]
        return torch.stack([kernel_distance(kernels[t], k, counts, self.distance) for (_, t), k in zip(pairs, own, strict=True)])

    def _align(self, guide: list[Layer], target: list[Layer]) -> None:
        """Take in one batch more; once there are enough, map the layers."""
        if self._alignment.batches < ALIGNED_BATCHES:
            self._alignment.add([layer.output for layer in guide], [layer.output for layer in target])
            return
        self.map = best_map(self._alignment.matrix())
        names = ", ".join(f"{layer.name} to {target[place].name}" for layer, place in zip(guide, self.map, strict=True))
        logging.getLogger(__name__).info("the guide's layers are compared with those that are most like them: %s", names)

    def _pairs(self, guide: list[Layer], target: list[Layer]) -> list[tuple[int, int]]:
        """Guide and target layers to compare, as indices."""
        if isinstance(self.layers, Mapping):
            at = ({layer.name: index for index, layer in enumerate(layers)} for layers in (guide, target))
            first, second = at
            _check_seen([*self.layers.keys()], first, "guide")
            _check_seen([*self.layers.values()], second, "target")
            return [(first[one], second[other]) for one, other in self.layers.items()]
        pairs = list(enumerate(self.map or map_layers(len(guide), len(target))))
        return [(i, t) for t, i in {t: i for i, t in pairs}.items()] if self.collisions == "last" else pairs

    def _guide_layers(self, batch: Any) -> list[Layer]:
        assert self._network is not None  # made by `setup`, without which nothing is recorded
        count = example_count(batch)
        named = [*self.layers.keys()] if isinstance(self.layers, Mapping) else None
        first = next(iter(batch.values())) if isinstance(batch, dict) else batch
        network = self._network.to(first.device)
        with torch.no_grad(), Activations(network, named) as activations:
            network(noise_like(batch, self.generator, self._vocabulary) if self.guide_input == "noise" else batch)
        return activations.hidden(count) if named is None else activations.layers(count)

    def _made_guide(self, model: nn.Module, task: Task | None) -> nn.Module:
        if isinstance(self.guide, nn.Module):
            return self.guide.eval()
        signature = task.signature if task is not None else getattr(model, "signature", None)
        if signature is None:
            raise ValueError(f"the guide {self.guide!r} is a name: a task or a model with a signature must say what it reads")
        return referred(self.guide, signature, self.parameters or parameter_count(model), self.seed)

    def _record(self) -> Activations:
        if self._model is None:
            raise ValueError("Guidance has not seen the network: call setup(model) or watch(model) before training")
        if isinstance(self.layers, str):
            return Activations(self._model)
        return Activations(self._model, list(self.layers.values() if isinstance(self.layers, Mapping) else self.layers))


def _check(weight: float, distance: str, until_step: int | None, decay: float | None, guide_input: str, collisions: str) -> None:
    if not weight >= 0:
        raise ValueError(f"weight must be at least 0, got {weight}")
    if until_step is not None and until_step < 0:
        raise ValueError(f"until_step must be at least 0, got {until_step}")
    if decay is not None and not 0 < decay <= 1:
        raise ValueError(f"decay must be above 0 and at most 1, got {decay}")
    for name, value, known in (
        ("distance", distance, KINDS),
        ("guide_input", guide_input, GUIDE_INPUTS),
        ("collisions", collisions, COLLISIONS),
    ):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")


def _check_guide(guide: nn.Module, model: nn.Module, task: Task | None) -> None:
    """Refuse a guide that training would change, or that reads something else."""
    shared = {id(parameter) for parameter in guide.parameters()} & {id(parameter) for parameter in model.parameters()}
    if guide is model or shared:
        raise ValueError("the guide is the network in training, or shares parameters with it: it must be another, frozen one")
    reads = getattr(guide, "signature", None)
    wanted = task.signature if task is not None else getattr(model, "signature", None)
    if reads is not None and wanted is not None and reads.input != wanted.input:
        raise ValueError(f"the guide reads {reads.input}, but here {wanted.input} comes in")


def _check_seen(names: Sequence[str], found: Mapping[str, int], whose: str) -> None:
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(f"the {whose}'s module {missing[0]!r} gave nothing to compare: name one that runs and gives examples first")


def _check_positions(layers: Sequence[Layer]) -> None:
    lengths = {layer.name: layer.output.shape[1] if layer.output.ndim > 2 else 0 for layer in layers}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise ValueError(f"per_token needs layers (examples, length, …) of one length in both networks, got lengths {lengths}: name layers")
