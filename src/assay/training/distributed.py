"""Several devices, processes and nodes: how a Fabric is made from the command line's words, and how sharded weights come together."""

from __future__ import annotations

from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import ModelParallelStrategy
from torch import Tensor, nn

from assay.errors import UserError

STRATEGIES = ("auto", "ddp", "fully-shard")


def make_fabric(devices: int = 1, strategy: str = "auto", nodes: int = 1, precision: str = "32-true") -> Fabric:
    """A Fabric for CUDA devices where there are any, else for CPU processes.

    Args:
        devices: devices (or CPU processes) a node.
        strategy: ``auto`` (one device, or data parallel for several), ``ddp`` (a replica a process), ``fully-shard`` (parameters,
            gradients and optimiser state sharded over all processes by ``torch.distributed.fsdp.fully_shard``).
        nodes: machines; start the same command on each with the usual ``MASTER_ADDR`` and ``NODE_RANK``.
        precision: Fabric's words: ``32-true``, ``bf16-mixed``, ``bf16-true``, ``16-mixed``, ``64-true``.

    Raises:
        UserError: an unknown strategy or precision, or counts below 1.
    """
    if strategy not in STRATEGIES:
        raise UserError(f"--strategy must be one of {', '.join(STRATEGIES)}, not {strategy!r}.")
    if devices < 1 or nodes < 1:
        raise UserError(f"--devices and --nodes must be at least 1, not {devices} and {nodes}.")
    accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    chosen: Any = "ddp" if strategy == "auto" and devices * nodes > 1 else strategy
    if chosen == "fully-shard":
        chosen = ModelParallelStrategy(shard_blocks, data_parallel_size=devices * nodes, tensor_parallel_size=1)
    try:
        return Fabric(accelerator=accelerator, devices=devices, strategy=chosen, num_nodes=nodes, precision=precision)  # pyright: ignore[reportArgumentType]
    except (ValueError, TypeError) as error:
        raise UserError(f"These training options do not go together: {error}") from error


def shard_blocks(model: nn.Module, mesh: Any) -> nn.Module:
    """Shard each block of a model, then what is left, over the mesh's data-parallel axis."""
    from torch.distributed.fsdp import fully_shard

    for block in getattr(model, "blocks", []):
        fully_shard(block, mesh=mesh["data_parallel"])
    fully_shard(model, mesh=mesh["data_parallel"])
    return model


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    """The model's state with sharded tensors gathered; every process must call it."""
    return {name: tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor for name, tensor in model.state_dict().items()}
