"""The tangent kernel of a network before and after its training: whether it learnt features, and those that the task asks for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from assay import models
from assay.contracts import Batch, Class, Finding, Signature, Task, Values
from assay.errors import UserError
from assay.measure import parameter_count
from assay.ops.similarities import LEAST, kernel, similarity

NUMBERS = 2**27
"""Of gradients held at a time: half a gigabyte."""
LAZY = 0.1
"""A kernel that moved by less follows its start: the network is close to its own linearisation."""


class TangentKernel:
    """``K(x, x') = mean over directions v of ∇(v·f)(x) · ∇(v·f)(x')``, of the network as it is and of a fresh one of the same recipe.

    A wide network moves its kernel little and learns as a kernel machine does; one that learns features turns its kernel towards the
    targets. Three numbers tell: how far the kernel moved, ``1 − CKA(K_0, K)``; its alignment with the targets, ``CKA(K, Y Yᵀ)``, before and
    after; and its effective dimension ``(tr K)² / ‖K‖²``.

    Sources: Jacot, Gabriel, Hongler (2018), Neural Tangent Kernel; Fort et al. (2020), Deep Learning versus Kernel Learning; Baratin et al.
    (2021), Implicit Regularization via Neural Feature Alignment.

    Args:
        examples: of the training split that are looked at; fewer where the network is so large that their gradients do not fit.
        directions: random directions v of the outputs, signs of ±1.
        seed: of the directions and of the fresh network.

    Raises:
        ValueError: fewer than eight examples, or no direction.
        UserError: the network does not answer once an example, or it has no recipe to make a fresh one from.
    """

    def __init__(self, examples: int = 128, directions: int = 2, seed: int = 0) -> None:
        if examples < LEAST or directions < 1:
            raise ValueError(f"examples must be at least {LEAST} and directions at least 1, got {examples} and {directions}")
        self.examples, self.directions, self.seed = examples, directions, seed

    def __call__(self, model: nn.Module, task: Task) -> Finding:
        """Compare the kernels; the model is left as it was."""
        signature = task.signature
        if not isinstance(signature.output, Class | Values) or signature.per_position:
            raise UserError("The tangent kernel is looked at in networks that answer once an example; this one answers at every position.")
        batch = self._batch(model, task)
        kernels = [self.kernel(network, batch) for network in (self._fresh(model), model)]
        before, after = (kernel(_root(matrix)) for matrix in kernels)
        wanted = kernel(_targets(signature, batch["target"]))
        moved = 1 - float(similarity(before, after))
        aligned = [float(similarity(matrix, wanted)) for matrix in (before, after)]
        table = [
            {"network": name, "alignment with the targets": alignment, "effective dimension": _dimension(matrix)}
            for name, alignment, matrix in zip(("fresh", "as it is"), aligned, kernels, strict=True)
        ]
        return Finding(_sentence(moved, aligned), [*table, {"moved": moved, "examples": len(batch["target"])}], _figure(kernels))

    def kernel(self, model: nn.Module, batch: Batch) -> Tensor:
        """K on the examples of a batch, (examples, examples), float64; gradients over all trained parameters, in evaluation mode."""
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        generator = torch.Generator().manual_seed(self.seed)
        training, count = model.training, len(batch["target"])
        total = torch.zeros(count, count, dtype=torch.float64)
        model.eval()
        for _ in range(self.directions):
            rows: list[Tensor] = []
            direction: Tensor | None = None
            for index in range(count):
                with torch.enable_grad():
                    answer: Tensor = model({name: value[index : index + 1] for name, value in batch.items()}).prediction.flatten()
                    if direction is None:
                        direction = torch.randint(2, answer.shape, generator=generator).to(answer) * 2 - 1
                    found = torch.autograd.grad(answer @ direction, parameters, allow_unused=True, materialize_grads=True)
                rows.append(torch.cat([part.flatten() for part in found]))
            gradients = torch.stack(rows)
            total += (gradients @ gradients.T).double().cpu() / self.directions
        model.train(training)
        if not bool(torch.isfinite(total).all()):
            raise UserError("The network's gradients are not finite: it has diverged, and there is no tangent kernel to look at.")
        return total

    def _batch(self, model: nn.Module, task: Task) -> Batch:
        count = max(LEAST, min(self.examples, NUMBERS // parameter_count(model)))
        batch = next(iter(task.batches("train", count)))
        if "nodes" in batch:
            raise UserError("The tangent kernel is looked at in networks that read separate examples, not a graph.")
        if len(batch["target"]) < LEAST:
            raise UserError(f"The training split has {len(batch['target'])} examples; a tangent kernel needs at least {LEAST}.")
        return batch

    def _fresh(self, model: Any) -> nn.Module:
        recipe = getattr(model, "config", {}).get("build")
        if recipe is None:
            raise UserError(f"{type(model).__name__} has no recipe, so that no fresh network can stand beside it: use assay.models.build.")
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            signature = Signature.from_json(recipe["signature"])
            return models.build_network(recipe["name"], signature, recipe["coarse"], recipe["fine"], **recipe["options"])


def _root(matrix: Tensor) -> Tensor:
    """Rows whose inner products are the kernel's, (n, n): what the similarities take."""
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.clamp(min=0).sqrt()


def _targets(signature: Signature, target: Tensor) -> Tensor:
    if isinstance(signature.output, Class) and not signature.multi_label:
        return nn.functional.one_hot(target, signature.output.size).double()
    return target.flatten(1).double()


def _dimension(matrix: Tensor) -> float:
    return float(matrix.trace() ** 2 / matrix.square().sum()) if bool(matrix.any()) else 0.0


def _sentence(moved: float, aligned: list[float]) -> str:
    if moved < LAZY:
        kind = "hardly moved in training, so that the network is close to a kernel machine"
    else:
        kind = "moved in training, so that features were learnt"
    change = "more" if aligned[1] > aligned[0] else "less"
    return (
        f"The tangent kernel {kind} (1 − CKA {moved:.2f}); it is {change} aligned with the targets than a fresh one's "
        f"({aligned[1]:.2f} against {aligned[0]:.2f})."
    )


def _figure(kernels: list[Tensor]) -> dict[str, Any]:
    """The spectra, each divided by its sum."""
    data = []
    for name, matrix in zip(("fresh", "as it is"), kernels, strict=True):
        values = torch.linalg.eigvalsh(matrix).flip(0).clamp(min=0)
        shares = (values / values.sum().clamp(min=torch.finfo(values.dtype).tiny)).tolist()
        data.append({"type": "scatter", "name": name, "x": list(range(1, len(shares) + 1)), "y": shares, "mode": "lines"})
    layout = {"xaxis": {"title": {"text": "eigenvalue"}, "type": "log"}, "yaxis": {"title": {"text": "share of the trace"}, "type": "log"}}
    return {"data": data, "layout": layout}
