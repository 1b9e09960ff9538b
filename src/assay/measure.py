"""What a model costs: parameters and operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def parameter_count(module: nn.Module) -> int:
    """Trainable numbers in a module, tied ones counted once."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def count_flops(function: Callable[..., Any], *args: Any) -> int:
    """Floating-point operations of one call."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        function(*args)
    return counter.get_total_flops()
