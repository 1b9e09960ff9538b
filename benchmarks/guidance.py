"""A guided step against one without and against the scheme of two target passes; CKA against the formula with its centring matrix.

Every figure is a ratio of medians from this one run. The rivals take turns, and processor time is taken: with one thread it is the time a
call needs, whatever else the machine does.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from assay.contracts import Batch, Output
from assay.measure import medians
from assay.models.activations import record
from assay.models.mlp import MLP
from assay.models.vision.adapter import VisionModel
from assay.models.vision.resnet import ResNet
from assay.ops.similarities import linear_cka, representational_distance
from assay.registry import resolve
from assay.training.methods.guidance import Guidance, map_layers

BATCH, REPEATS = 128, 15


def written_out(x: Tensor, y: Tensor) -> Tensor:
    """CKA with the centring matrix, as the authors' code has it."""
    centring = torch.eye(len(x)) - 1 / len(x)

    def hsic(a: Tensor, b: Tensor) -> Tensor:
        return ((centring @ (a @ a.T) @ centring) * (centring @ (b @ b.T) @ centring)).sum()

    return hsic(x, y) / (hsic(x, x).sqrt() * hsic(y, y).sqrt())


def steps(model: nn.Module, guide: nn.Module) -> dict[str, Callable[[], None]]:
    """A step of each kind on the same batch; the two-pass scheme runs the target once for the loss and once to be compared."""
    task = resolve("task", "digits")()
    batch = next(task.training_batches(BATCH, 0))

    def objective(network: nn.Module, batch: Batch) -> Output:
        output = network(batch)
        output.loss = task.loss(output, batch)
        return output

    method = Guidance(guide)
    method.setup(model, task)
    guided = method.objective(objective)

    def two_passes(network: nn.Module, batch: Batch) -> Output:
        output = objective(network, batch)
        own = [layer.output for layer in record(guide, batch)]
        with method._record() as recording:
            network(batch)
        target = [layer.output for layer in recording.hidden(BATCH)]
        for layer, place in zip(own, map_layers(len(own), len(target)), strict=True):
            output.loss = output.loss + 1 - written_out(target[place].flatten(1), layer.flatten(1))
        return output

    def step(function: Callable[[nn.Module, Batch], Output]) -> Callable[[], None]:
        def run() -> None:
            model.zero_grad()
            function(model, batch).loss.backward()

        return run

    return {"unguided": step(objective), "guided": step(guided), "two passes": step(two_passes)}


def compare_steps() -> None:
    task = resolve("task", "digits")()
    shape = task.signature
    torch.manual_seed(0)
    guide = VisionModel(ResNet(10, 1, (3,), (16,)), shape).requires_grad_(False).eval()
    plain = VisionModel(ResNet(10, 1, (4, 4, 4), (8, 16, 32), shortcuts=False), shape)
    print(f"a step on {BATCH} digits, one thread, guide of 7 layers of 16 channels")
    for name, model in (("20 layers of 64, fully connected", MLP(shape, 64, 20, norm="batch")), ("25 plain convolutions", plain)):
        taken = medians(steps(model, guide), REPEATS)
        print(
            f"  {name:33}  guided / unguided {taken['guided'] / taken['unguided']:.2f}   "
            f"two passes / guided {taken['two passes'] / taken['guided']:.2f}"
        )


def compare_similarities() -> None:
    print("CKA with its gradient, one thread: time of the written-out formula / ours")
    for examples, p, q in ((BATCH, 64, 1024), (BATCH, 2048, 2048), (1024, 32, 64), (256, 8192, 64)):
        x, y = torch.randn(examples, p, requires_grad=True), torch.randn(examples, q)

        def run(function: Callable[[Tensor, Tensor], Tensor], x: Tensor = x, y: Tensor = y) -> Callable[[], object]:
            return lambda: torch.autograd.grad(function(x, y), x)

        taken = medians({"written out": run(written_out), "ours": run(linear_cka)}, REPEATS)
        print(f"  {examples:5} examples, {p:5} and {q:5} numbers  {taken['written out'] / taken['ours']:.2f}")


def compare_positions() -> None:
    x, y = torch.randn(64, 32, 64, requires_grad=True), torch.randn(64, 32, 64)

    def one_by_one() -> object:
        return torch.autograd.grad(sum(1 - written_out(x[:, t], y[:, t]) for t in range(32)), x)

    def together() -> object:
        return torch.autograd.grad(representational_distance(x, y, per_token=True), x)

    taken = medians({"one by one": one_by_one, "together": together}, REPEATS)
    print(f"32 positions of 64 examples: one by one / together {taken['one by one'] / taken['together']:.2f}")


if __name__ == "__main__":
    torch.manual_seed(0)
    compare_steps()
    compare_similarities()
    compare_positions()
