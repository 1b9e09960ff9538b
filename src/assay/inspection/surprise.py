"""How surprised memories that learn while they read are, position by position."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from assay.contracts import Batch, Finding, Task
from assay.errors import UserError
from assay.nn.memory.neural_memory import NeuralMemory


class Surprise:
    """``‖M(k_t) − v_t‖² / ‖v_t‖²`` of every neural memory of a network, by position: where it learns, and where it knows already.

    Args:
        examples: of the test split that are read.
        shown: positions in the table, the most surprising ones of each memory.
    """

    def __init__(self, examples: int = 16, shown: int = 10) -> None:
        self.examples = examples
        self.shown = shown

    def __call__(self, model: nn.Module, task: Task) -> Finding:
        """Read the first examples; the model is left as it was.

        Raises:
            UserError: the network has no neural memory.
        """
        found = surprises(model, next(iter(task.batches("test", self.examples))))
        means = {name: numbers.mean((0, 1)) for name, numbers in found.items()}
        table: list[dict[str, Any]] = [
            {"memory": name, "position": place, "surprise": float(mean[place])}
            for name, mean in means.items()
            for place in mean.argsort(descending=True)[: self.shown].tolist()
        ]
        early, late = (float(torch.stack([part(mean).mean() for mean in means.values()]).mean()) for part in (_first_half, _second_half))
        sentence = (
            f"Over {self.examples} examples the memories' mean surprise is {early:.2f} in the first half and {late:.2f} in the second "
            "(1: nothing is known; 0: nothing is new)."
        )
        return Finding(sentence, table, {name: mean.tolist() for name, mean in means.items()})


def surprises(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """The surprise (batch, heads, length) of each neural memory of a network, by its name, as it reads a batch.

    What a memory reads before the input, persistent tokens say, is left out.

    Raises:
        UserError: the network has no neural memory.
    """
    memories = {name: module for name, module in model.named_modules() if isinstance(module, NeuralMemory)}
    if not memories:
        raise UserError(f"{type(model).__name__} has no memory that learns while it reads: name one of neural-memory or titans-mac.")
    read: dict[str, list[tuple[Tensor, Tensor | None]]] = {name: [] for name in memories}

    def recording(name: str, scan: Any) -> Any:
        def recorded(x: Tensor, state: Any, mask: Tensor | None = None) -> Any:
            read[name].append((x, mask))
            return scan(x, state, mask)

        return recorded

    training = model.training
    try:
        for name, memory in memories.items():
            memory.scan = recording(name, memory.scan)  # pyright: ignore[reportAttributeAccessIssue]
        with torch.no_grad():
            model.eval()(batch)
    finally:
        for memory in memories.values():
            memory.__dict__.pop("scan", None)
        model.train(training)
    with torch.no_grad():
        return {name: _surprise(memories[name], calls, _length(batch)) for name, calls in read.items()}


def _surprise(memory: NeuralMemory, calls: list[tuple[Tensor, Tensor | None]], length: int) -> Tensor:
    x = torch.cat([x for x, _ in calls], 1)
    real = [torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if mask is None else mask for x, mask in calls]
    return memory.surprise(x, torch.cat(real, 1))[:, :, -length:]


def _length(batch: Batch) -> int:
    return next(batch[key] for key in ("tokens", "series") if key in batch).shape[1]


def _first_half(x: Tensor) -> Tensor:
    return x[: max(1, len(x) // 2)]


def _second_half(x: Tensor) -> Tensor:
    return x[len(x) // 2 :]
