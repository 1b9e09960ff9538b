"""The operations of layers whose recurrence is element by element, which a count of matrix products does not see."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import nn

from assay.measure import register_flops


def register_recurrence(module_class: type[nn.Module], own: Callable[[Any], int]) -> None:
    """Count ``2 ·`` the weights of every linear map, and ``own(module)`` operations of the recurrence, at each position.

    Args:
        module_class: a mixer; the first argument of its forward is x (batch, length, width).
        own: operations a position beside the linear maps; a multiply-add is two.
    """

    def formula(module: nn.Module, args: tuple[Any, ...], _output: Any) -> int:
        maps = sum(2 * part.weight.numel() for part in module.modules() if isinstance(part, nn.Linear))
        return math.prod(args[0].shape[:-1]) * (maps + own(module))

    register_flops(module_class, formula)
