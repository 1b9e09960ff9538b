"""Forward-Forward: every layer learns alone.

Hinton, The Forward-Forward Algorithm: Some Preliminary Investigations, 2022.

What it does: shows every layer examples with their right label in the input and the same with a wrong one, and teaches it to be more
excited by the first; no gradient passes from one layer to another. When to use it: to study learning without a backward pass; it does not
reach what back-propagation does. What it costs: each hidden layer runs three times a step instead of once, and no layer waits for those
behind it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from assay.contracts import Batch, Class, Method, Objective, Output, Predictor, Task

ACCEPTED = "a network whose `layers` are nn.Sequential(Linear, ReLU, …, Linear), as `mlp` is with its own activation"


def labelled(x: Tensor, label: Tensor, strength: float) -> Tensor:
    """x (batch, inputs) with its labels (batch,) in the first inputs: ``strength`` is added to input number ``label``."""
    return x.scatter_add(1, label[:, None], torch.full_like(x[:, :1], strength))


def goodness(layers: Sequence[nn.Linear], x: Tensor) -> Iterator[Tensor]:
    """Each layer's mean square activity, (batch,), for inputs x (batch, inputs); no gradient crosses from a layer to the one before.

    ``h ← relu(W h / √(mean of h²))`` without biases: scaled to mean square 1, a layer cannot read off how good the one before was.
    """
    for layer in layers:
        x = x.detach()
        x = x * x.square().mean(1, keepdim=True).clamp(min=1e-12).rsqrt()
        # the biases have no part, but an exact zero as gradient: replicas that wait for every parameter's gradient do not wait for ever
        x = torch.relu(F.linear(x, layer.weight, None if layer.bias is None else 0 * layer.bias))
        yield x.square().mean(1)


def forward_forward_loss(
    layers: Sequence[nn.Linear], x: Tensor, label: Tensor, wrong: Tensor, threshold: float = 2.0, strength: float = 4.0
) -> Tensor:
    """The sum over layers of ``mean softplus(θ − g⁺) + mean softplus(g⁻ − θ)``, g the `goodness` with the right and with a wrong label.

    Args:
        layers: the hidden layers, in order.
        x: inputs (batch, inputs).
        label: right labels, (batch,).
        wrong: wrong labels, (batch,).
        threshold: θ.
        strength: of the label within the input.
    """
    both = torch.cat([labelled(x, label, strength), labelled(x, wrong, strength)])
    total = x.new_zeros(())
    for good in goodness(layers, both):
        right, false = good.chunk(2)
        total = total + F.softplus(threshold - right).mean() + F.softplus(false - threshold).mean()
    return total


def goodness_predictor(model: nn.Module, strength: float = 4.0) -> Predictor:
    """A predictor that tries every label: a class's logit is the sum over layers of the `goodness` with it; the first of several layers,
    which sees the label itself, does not count.

    Raises:
        ValueError: the network is not one that `ForwardForward` accepts.
    """
    layers, _, classes = _taken_apart(model)

    def predict(batch: Batch) -> Output:
        x = _inputs(batch)
        with torch.no_grad():
            scores = []
            for label in range(classes):
                labels = torch.full((len(x),), label, device=x.device)
                found = list(goodness(layers, labelled(x, labels, strength)))
                scores.append(torch.stack(found[1:] or found).sum(0))
        return Output(torch.stack(scores, 1))

    return predict


class ForwardForward(Method):
    """Train hidden layers by `forward_forward_loss`, each alone, and the head by the task's loss on what the last of them gives.

    ``loss = task loss(head(stop h)) + Σ_layers softplus(θ − g⁺) + softplus(g⁻ − θ)``; its gradient stays within each layer. The network
    predicts as always, by its head, and `goodness_predictor` by trying labels. Hidden biases are set to 0 and stay there: ReLU layers
    without biases only scale when their inputs do, so the network's own forward, which does not normalise, gives the same activities up
    to a factor. Dropout between hidden layers applies to the head's input alone.

    In a plain loop: ``method.setup(model)``, then a step ``method.objective(objective)(model, batch).loss.backward()``, where
    ``objective(model, batch)`` returns the model's output with its ``loss`` filled.

    Args:
        threshold: θ, of a layer's mean square activity.
        strength: what is added to the input that stands for the label; inputs are standardised, so it is in standard deviations.
        seed: of the wrong labels.

    Raises:
        ValueError: threshold or strength is not positive; (in ``setup``) the network is not a stack of linear maps and ReLUs, does not
            predict one class, or has fewer inputs than classes, so that the label has no place.
    """

    def __init__(self, threshold: float = 2.0, strength: float = 4.0, seed: int = 0) -> None:
        if not (threshold > 0 and strength > 0):
            raise ValueError(f"threshold and strength must be positive, got {threshold} and {strength}")
        self.threshold, self.strength = threshold, strength
        self.generator = torch.Generator().manual_seed(seed)
        self._layers: list[nn.Linear] = []
        self._head: nn.Linear | None = None
        self._classes = 0

    def setup(self, model: nn.Module, task: Task | None = None) -> None:
        """Find the layers and set the hidden biases to 0."""
        self._layers, self._head, self._classes = _taken_apart(model)
        with torch.no_grad():
            for layer in self._layers:
                if layer.bias is not None:
                    layer.bias.zero_()

    def objective(self, next: Objective) -> Objective:
        """Cut the gradient before the head and add every layer's own loss."""

        def local(model: nn.Module, batch: Batch) -> Output:
            if self._head is None:
                raise ValueError("ForwardForward has not seen the network: call setup(model) before training")
            cut = self._head.register_forward_pre_hook(lambda _, inputs: (inputs[0].detach(),))
            try:
                output = next(model, batch)
            finally:
                cut.remove()
            if output.loss is None:
                raise ValueError("the objective inside ForwardForward returned an output without loss")
            output.loss = output.loss + self.loss(batch)
            return output

        return local

    def loss(self, batch: Batch) -> Tensor:
        """The layers' own losses on a batch, with wrong labels drawn afresh."""
        label = batch["target"]
        shift = torch.randint(1, self._classes, label.shape, generator=self.generator).to(label.device)
        wrong = (label + shift) % self._classes
        return forward_forward_loss(self._layers, _inputs(batch), label, wrong, self.threshold, self.strength)

    def state_dict(self) -> dict[str, Any]:
        """The generator's state."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the wrong labels that would have come without interruption."""
        self.generator.set_state(state["generator"])


def _inputs(batch: Batch) -> Tensor:
    """The flattened inputs (batch, inputs), padding read as 0."""
    x = next(batch[key] for key in ("table", "image", "series") if key in batch)
    if "mask" in batch:
        x = torch.where(batch["mask"][..., None], x, 0.0)
    return x.flatten(1)


def _taken_apart(model: nn.Module) -> tuple[list[nn.Linear], nn.Linear, int]:
    """Hidden layers, head and number of classes of a network that Forward-Forward can train."""
    stack: Any = getattr(model, "layers", None)
    parts = list(stack) if isinstance(stack, nn.Sequential) else []
    linears = [part for part in parts if isinstance(part, nn.Linear)]
    if len(linears) < 2 or parts[-1] is not linears[-1]:
        raise ValueError(f"ForwardForward trains {ACCEPTED}; {type(model).__name__} is none")
    foreign = [type(part).__name__ for part in parts if not isinstance(part, nn.Linear | nn.ReLU | nn.Dropout)]
    if foreign:
        raise ValueError(f"ForwardForward trains {ACCEPTED}; this one has {', '.join(dict.fromkeys(foreign))}")
    signature = getattr(model, "signature", None)
    if signature is None or not isinstance(signature.output, Class) or signature.per_position or signature.multi_label:
        raise ValueError("ForwardForward needs a network whose signature asks for one class an example")
    classes = signature.output.size
    if classes < 2 or linears[0].in_features < classes:
        raise ValueError(f"the label is put into the first inputs: {classes} classes need 2 to {linears[0].in_features} of them")
    return linears[:-1], linears[-1], classes
